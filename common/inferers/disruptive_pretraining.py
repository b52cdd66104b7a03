"""The pre-training step of the disruptive autoencoder: disrupt clean crops and ask for them; fixed disruptions for its validation."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from monai.utils import convert_to_tensor
from torch import nn

from common.errors import UserError
from common.transforms.disruptions import RandDisruption
from common.transforms.local_masking import RandChannelMask, RandTokenMask
from common.transforms.pretext_views import RandCutOut, RandQuarterTurn

Prepared = tuple[torch.Tensor, dict[str, Any], tuple[()], dict[str, Any]]


class DisruptivePretraining(Randomizable):
    """``prepare_batch`` of MONAI's trainer and evaluator: from clean crops to (disrupted input, targets, (), arguments of the network).

    Each view is turned, disrupted (noise, resolution), cut out, in this order; the masks are for the network, which hides what they say.

    Args:
        disruption: noise and loss of resolution; None leaves the image as it is.
        channels: which embedding channels are hidden (local masking); None none.
        tokens: which tokens are hidden (MAE); None none.
        cut_out: boxes that are cut out of the input (Swin UNETR's inpainting); None none.
        turn: quarter turns to recognise, of input and clean image alike; None none.
        views: 1, or 2 for the contrast of two views (SimCLR): the batch twice, one behind the other, each drawn anew.
        outputs: the outputs that the network shall compute, e.g. ``PretrainingLoss.outputs``; None all of its default.
        fixed_seed: the draws depend on this number and on the crops alone: the same in each epoch, in any order. For validation.

    Source: DAE, section 2; Tang et al. 2022 (turns, cut-outs, views).
    """

    def __init__(
        self,
        disruption: RandDisruption | None = None,
        channels: RandChannelMask | None = None,
        tokens: RandTokenMask | None = None,
        cut_out: RandCutOut | None = None,
        turn: RandQuarterTurn | None = None,
        views: int = 1,
        outputs: Sequence[str] | None = None,
        fixed_seed: int | None = None,
    ) -> None:
        if views not in (1, 2):
            raise UserError(f"views: got {views}, expected 1, or 2 for the contrast of two views.")
        self.disruption, self.channels, self.tokens, self.cut_out, self.turn = disruption, channels, tokens, cut_out, turn
        self.views, self.fixed_seed = views, fixed_seed
        self.outputs = None if outputs is None else tuple(outputs)
        self.set_random_state(state=self.R)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> DisruptivePretraining:
        """Seed all draws; they share one stream of numbers, so that none repeats another's."""
        super().set_random_state(seed, state)
        for part in (self.disruption, self.channels, self.tokens, self.cut_out, self.turn):
            if part is not None:
                part.set_random_state(state=self.R)
        return self

    def fixed(self, seed: int) -> DisruptivePretraining:
        """The same step with draws that depend on ``seed`` and the crops alone, for validation; draws of its own, no shared parts."""
        twin = copy.deepcopy(self)
        twin.fixed_seed = seed
        return twin.set_random_state(seed)

    def __call__(self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any) -> Prepared:
        """Disrupt one batch.

        Args:
            batch: ``image``, clean normalised crops ``(B, C, X, Y, Z)``, and ``modality_index``, ``(B,)`` long, where modalities count.
            device: where the step runs.
            non_blocking: copy without waiting.
            kwargs: passed to ``Tensor.to``.

        Returns:
            The input ``(V B, C, X, Y, Z)``; the targets ``image`` (clean, turned as the input is), ``modality_index`` and ``rotation``
            ``(V B,)`` where there are any, ``views`` V; no positional arguments; and ``channel_mask``, ``token_mask`` (None where nothing
            is hidden) and ``tasks`` (where ``outputs`` are given) for the network.
        """
        image = convert_to_tensor(batch["image"], track_meta=False)
        if self.fixed_seed is not None:
            content = zlib.crc32(np.ascontiguousarray(image.cpu().numpy()).tobytes())
            self.set_random_state(int(np.random.SeedSequence((self.fixed_seed, content)).generate_state(1)[0]))
        image = image.to(device=device, non_blocking=non_blocking, **kwargs)
        modality = None
        if "modality_index" in batch:
            modality = torch.as_tensor(batch["modality_index"]).to(device=device, non_blocking=non_blocking).long().reshape(-1)
        with torch.no_grad():
            views = [self._view(image, modality) for _ in range(self.views)]
        inputs, clean = torch.cat([view[0] for view in views]), torch.cat([view[1] for view in views])
        targets: dict[str, Any] = {"image": clean, "views": self.views}
        turns = [view[2] for view in views if view[2] is not None]
        targets |= {"rotation": torch.cat(turns)} if turns else {}
        targets |= {} if modality is None else {"modality_index": modality.repeat(self.views)}
        masks = {"channel_mask": self.channels, "token_mask": self.tokens}
        arguments: dict[str, Any] = {name: None if draw is None else draw(inputs) for name, draw in masks.items()}
        return inputs, targets, (), arguments | ({} if self.outputs is None else {"tasks": self.outputs})

    def _view(self, image: torch.Tensor, modality: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Input, clean image and turns of one view."""
        clean, turns = (image, None) if self.turn is None else self.turn(image)
        disrupted = clean if self.disruption is None else self.disruption(clean, modality)
        return disrupted if self.cut_out is None else self.cut_out(disrupted), clean, turns


class PretrainingNetwork(nn.Module):
    """What a trainer calls: ``forward`` is the network's ``pretrain``, alone or inside ``DistributedDataParallel``.

    Its state is the network's own, without a prefix, so that what is saved loads into the bare network. In distributed training the
    segmentation head gets no gradient: ``find_unused_parameters`` has to be on.

    Args:
        network: e.g. ``DisruptiveSwinUNETR``.

    Raises:
        UserError: a network without ``pretrain``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(network, "pretrain", None)):
            raise UserError(f"network: got {type(network).__name__}, which has no 'pretrain'; use DisruptiveSwinUNETR.")
        self.network = network

    def forward(self, image: torch.Tensor, **arguments: Any) -> dict[str, torch.Tensor]:
        """Outputs by name of the disrupted ``image`` ``(B, C, X, Y, Z)``; arguments as ``pretrain`` takes them."""
        pretrain: Any = self.network.pretrain
        return pretrain(image, **arguments)

    def reset_parameters(self) -> None:
        """Nothing of its own to draw: the bare network's weights are drawn, or given, by those who hold it."""

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The bare network's."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Into the bare network."""
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)


def reconstructed(output: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """``output_transform`` of MONAI's ``MeanAbsoluteError`` handler: reconstruction and clean image of an engine's output, float.

    The evaluator needs ``decollate=False``.
    """
    return output["pred"]["image"].float(), output["label"]["image"].float()
