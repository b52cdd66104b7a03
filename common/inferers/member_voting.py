"""An ensemble by voting: each member segments on its own, then the voxel is lesion if at least half of them say so."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.inferers import Inferer
from monai.transforms import MapTransform
from torch import nn

from common.data.file_stamps import file_stamps
from common.weights import load_members, member_files


def vote_share(probabilities: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """Share of the members that call a voxel lesion.

    Args:
        probabilities: one channel per member, ``(M, *spatial)``, in [0, 1].
        threshold: a member votes lesion at or above it.

    Returns:
        ``(1, *spatial)`` float32 in {0, 1/M, ..., 1}.
    """
    return (probabilities >= threshold).float().mean(dim=0, keepdim=True)


def majority(share: torch.Tensor) -> torch.Tensor:
    """Lesion where at least half of the members vote for it; a tie is lesion.

    Args:
        share: vote share, any shape, in [0, 1].

    Returns:
        uint8, shape of ``share``.

    Source: LADP, Sec. II.D and its released rule (4 of 8). MONAI's ``VoteEnsemble`` decides a tie the other way.
    """
    return (share >= 0.5).to(torch.uint8)


class MemberInferer(Inferer):
    """Run an inferer once per member of an ensemble and stack the results as channels.

    The members' weights are read at the first call, so that a config can be parsed before there are any, and again where the files have
    changed: a server such as MONAI Label keeps this object while it trains.

    Args:
        inferer: gives ``(B, 1, *spatial)`` probabilities for one network.
        ckpt_dir: folder of the members' weights; None runs the given network as the only member.
        members: how many of them, see ``common.weights.member_files``.
    """

    def __init__(self, inferer: Inferer, ckpt_dir: str | None = None, members: int | None = None) -> None:
        super().__init__()
        self.inferer, self.ckpt_dir, self.members = inferer, ckpt_dir, members
        self.copies: list[nn.Module] = []
        self.stamps: list[tuple[str, int, int]] = []

    def load(self, network: nn.Module) -> None:
        """Read the members' weights into copies of the network, so that missing weights are said before the first case.

        Raises:
            UserError: see ``common.weights.load_members``.
        """
        if self.ckpt_dir is None:
            return
        self.copies, self.stamps = [], self._stamps()
        for state in load_members(network, self.ckpt_dir, self.members):
            member = copy.deepcopy(network).eval()
            member.load_state_dict(state)
            self.copies.append(member)

    def _stamps(self) -> list[tuple[str, int, int]]:
        """What tells the members' files from those of a later training."""
        return [] if self.ckpt_dir is None else file_stamps(member_files(self.ckpt_dir, self.members))

    def _changed(self) -> bool:
        """Whether there are other weights than those that are held; while a training has moved them away, these serve on."""
        stamps = self._stamps()
        return stamps != self.stamps and all(size >= 0 for _, size, _ in stamps)

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Probabilities ``(B, members, *spatial)`` of a batch ``(B, C, *spatial)``."""
        if self.ckpt_dir is None:
            return self.inferer(inputs, network, *args, **kwargs)
        if not self.copies or self._changed():
            assert isinstance(network, nn.Module)
            self.load(network)
        return torch.cat([self.inferer(inputs, member, *args, **kwargs) for member in self.copies], dim=1)


class VoteLesiond(MapTransform):
    """Turn the members' probabilities into a lesion mask, the vote share and the mean probability.

    Args:
        keys: the members' probabilities, ``(M, X, Y, Z)``; becomes the mask, ``(1, X, Y, Z)`` uint8.
        share_key: where the vote share goes, ``(1, X, Y, Z)`` float32.
        probability_key: where the mean probability goes, ``(1, X, Y, Z)`` float32.
        threshold: a member votes lesion at or above it.
        brain_key: brain on the same grid; nothing outside is lesion.

    Deviation: the released code does not mask its output; outside the brain the network sees a constant.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        share_key: str = "vote_share",
        probability_key: str = "probability",
        threshold: float = 0.5,
        brain_key: str = "brain",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.share_key, self.probability_key, self.threshold, self.brain_key = share_key, probability_key, threshold, brain_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case with mask, share and probability."""
        result = dict(data)
        for key in self.key_iterator(result):
            brain = torch.as_tensor(result[self.brain_key], device=result[key].device)
            result[self.probability_key] = result[key].float().mean(dim=0, keepdim=True) * brain
            result[self.share_key] = vote_share(result[key], self.threshold) * brain
            result[key] = majority(result[self.share_key])
        return result
