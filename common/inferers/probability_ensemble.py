"""An ensemble of segmentation networks by mean softmax; ``MemberInferer`` stacks the members, which with 14 classes fills the memory.

MONAI's ``MeanEnsembled`` needs all members' volumes at once, too. Here one sum is kept, and one member's weights at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import nn

from common.data.file_stamps import file_stamps
from common.errors import UserError
from common.inferers.flip_averaging import FlipAveragingInferer
from common.inferers.member_voting import MemberInferer
from common.weights import load_weights, member_files

BLENDS = ("logits", "probabilities")


def softmax_(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the channels in place, ``(B, K, *spatial)``: a further copy of the volume would be the largest of all."""
    logits -= logits.amax(dim=1, keepdim=True)
    logits.exp_()
    logits /= logits.sum(dim=1, keepdim=True)
    return logits


class SoftmaxFlipInferer(FlipAveragingInferer):
    r"""Mean softmax over all flips: :math:`p(x) = \frac{1}{|F|} \sum_{f \in F} f^{-1}(\mathrm{softmax}(g(f(x))))`.

    Args:
        inferer: applies a network to all of the image, such as MONAI's ``SlidingWindowInferer``, ``(B, K, *spatial)``.
        flip_axes: see ``FlipAveragingInferer``; none by default.
        blend: overlapping windows are averaged as ``logits`` (as MONAI's examples do), or as ``probabilities``.

    Raises:
        UserError: another blend.
    """

    def __init__(self, inferer: Inferer, flip_axes: Sequence[int] = (), blend: str = "logits") -> None:
        super().__init__(inferer, flip_axes)
        if blend not in BLENDS:
            raise UserError(f"blend: got '{blend}', expected one of {BLENDS}.")
        self.blend = blend

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Probabilities ``(B, K, *spatial)`` float32, which sum to 1 over K, of a batch ``(B, C, *spatial)``."""
        return self.add(None, inputs, network, *args, **kwargs) / len(self.flips)

    def add(
        self, total: torch.Tensor | None, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Add the probabilities of all flips to a sum, in place; None begins one.

        Args:
            total: ``(B, K, *spatial)`` float32, or None.
            inputs: ``(B, C, *spatial)``.
            network: gives logits.
            args: further arguments of the network.
            kwargs: likewise.
        """
        for axes in self.flips:
            dims = [axis + 2 for axis in axes]
            found = self._probability(torch.flip(inputs, dims) if dims else inputs, network, *args, **kwargs)
            if total is None:
                total = torch.flip(found, dims) if dims else found
            else:
                for channel in range(found.shape[1]):  # one channel is copied, not the volume
                    total[:, channel] += torch.flip(found[:, channel], [dim - 1 for dim in dims])
            del found  # else it would be there beside the next one
        assert total is not None
        return total

    def _probability(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.blend == "probabilities":
            blended = self.inferer(inputs, lambda x, *a, **k: network(x, *a, **k).float().softmax(dim=1), *args, **kwargs)
            return convert_to_tensor(blended, track_meta=False)
        logits = convert_to_tensor(self.inferer(inputs, network, *args, **kwargs), track_meta=False).float()
        shared = logits.untyped_storage().data_ptr() == inputs.untyped_storage().data_ptr()  # a rule that passes its input on
        return softmax_(logits.clone() if shared else logits)


class ProbabilityEnsembleInferer(MemberInferer):
    """Mean softmax over members, flips and windows, in about three volumes of probabilities and one copy of the network, however many.

    The members' files are read at the first call, one after the other for every case, so that a config can be parsed before there are any,
    and looked for again where they have changed, see ``MemberInferer``.

    Args:
        inferer: gives logits ``(B, K, *spatial)`` for one network: MONAI's ``SlidingWindowInferer``, whose ``device`` is where the sum is
            kept, or ``SimpleInferer``.
        flip_axes: spatial axes that are flipped; none by default. See ``FlipAveragingInferer``.
        ckpt_dir: folder of the members' weights (n folds), or several such folders (n rounds); None runs the given network alone.
        members: how many of each folder, see ``common.weights.member_files``.
        blend: see ``SoftmaxFlipInferer``.

    Source: DAE, Sec. 3 and appendix F: five folds, for the leaderboard four rounds of them, test-time augmentation without details.
    """

    def __init__(
        self,
        inferer: Inferer,
        flip_axes: Sequence[int] = (),
        ckpt_dir: str | Sequence[str] | None = None,
        members: int | None = None,
        blend: str = "logits",
    ) -> None:
        super().__init__(inferer, None, members)
        self.flips = SoftmaxFlipInferer(inferer, flip_axes, blend)
        self.folders = [] if ckpt_dir is None else [ckpt_dir] if isinstance(ckpt_dir, str) else list(ckpt_dir)
        self.files: list[Path] = []
        self.held: Path | None = None

    def load(self, network: nn.Module) -> None:
        """Find the members and read each once, so that missing weights are said before the first case.

        Args:
            network: of the config; it stays as it is, a copy takes the weights. One without parameters (a rule) needs no file.

        Raises:
            UserError: see ``common.weights.load_weights`` and ``member_files``.
        """
        if not any(True for _ in network.parameters()):
            return
        self.copies, self.held = [copy.deepcopy(network).eval()], None
        self.files, self.stamps = self._found(), self._stamps()
        for file in self.files:
            self._member(file)

    def _found(self) -> list[Path]:
        return [file for folder in self.folders for file in member_files(folder, self.members)]

    def _stamps(self) -> list[tuple[str, int, int]]:
        return file_stamps(self._found())

    def _member(self, file: Path) -> nn.Module:
        """The copy of the network with the weights of a file."""
        if file != self.held:
            self.held = None  # nothing is held where reading fails
            load_weights(self.copies[0], file)
            self.held = file
        return self.copies[0]

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Probabilities ``(B, K, *spatial)`` float32, which sum to 1 over K, of a batch ``(B, C, *spatial)``."""
        if self.folders and (not self.files or self._changed()):
            assert isinstance(network, nn.Module)
            self.load(network)
        inputs = convert_to_tensor(inputs, track_meta=False)
        total: torch.Tensor | None = None
        for file in self.files:
            total = self.flips.add(total, inputs, self._member(file), *args, **kwargs)
        if total is None:
            total = self.flips.add(None, inputs, network, *args, **kwargs)
        total /= max(len(self.files), 1) * len(self.flips.flips)
        return total
