"""The weighted sum of the pre-training tasks' losses, by name; MONAI's deep supervision weights levels of one output, not tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.losses import ContrastiveLoss
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss

from common.errors import UserError
from common.losses.cross_modal_contrastive import CrossModalContrastiveLoss
from common.losses.part_means import PartMeans

Tensors = Mapping[str, Any]
OUTPUTS = {"reconstruction": "image", "cross_modal": "embedding", "rotation": "rotation", "views": "projection"}
"""Which output of the network each task looks at."""


def reconstruction_loss(outputs: Tensors, targets: Tensors) -> torch.Tensor:
    """Mean absolute error of ``image`` over the whole volume against the clean one, ``(B, C, X, Y, Z)`` both.

    Source: DAE, section 2 (L1); Tang et al. 2022 for the inpainting of cut-outs, which is this loss on another disruption.
    """
    return l1_loss(outputs["image"].float(), targets["image"].float())


def rotation_loss(outputs: Tensors, targets: Tensors) -> torch.Tensor:
    """Cross entropy of ``rotation`` logits ``(B, 4)`` against the number of quarter turns, ``(B,)``.

    Source: Tang et al. 2022.
    """
    return cross_entropy(outputs["rotation"].float(), targets["rotation"].long())


class ViewsLoss(nn.Module):
    """SimCLR's contrast of two views: the first half of ``projection`` ``(2 B, P)`` holds the first views, the second the second.

    Args:
        temperature: t > 0.

    Source: Tang et al. 2022 and its code (temperature 0.5). The views of other processes are no negatives, as there.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.contrast = ContrastiveLoss(temperature=float(temperature))

    def forward(self, outputs: Tensors, targets: Tensors) -> torch.Tensor:
        """The loss; a scalar.

        Raises:
            UserError: the batch holds no second views.
        """
        views = int(targets["views"])
        if views != 2:
            raise UserError(f"views: got batches of {views} view of each crop, expected 2; set views to 2 in the pre-training step.")
        first, second = outputs["projection"].float().chunk(2)
        return torch.as_tensor(self.contrast(first, second))


class PretrainingLoss(PartMeans):
    r""":math:`L = \sum_k w_k L_k` over the outputs of ``DisruptiveSwinUNETR.pretrain``, each part kept by its name.

    Args:
        weights: a factor per task, of ``reconstruction``, ``cross_modal``, ``rotation`` and ``views`` (SimCLR); tasks left out or of weight
            0 are not computed. The paper has reconstruction 1 and cross_modal 0.05, Swin UNETR's own pre-training 1 for each of
            reconstruction (inpainting), rotation and views.
        cross_modal: the contrast of modalities; None takes the default.
        temperature: of ``views``.

    Attributes:
        outputs: which outputs of the network are needed, sorted.
        parts: the unweighted losses of the last batch by name, detached.

    Raises:
        UserError: an unknown task, a negative weight, or nothing to train.

    Source: DAE, Eq. 5 (alpha is the weight of ``cross_modal``); Tang et al. 2022, Eq. 4.
    """

    def __init__(
        self, weights: Mapping[str, float], cross_modal: CrossModalContrastiveLoss | None = None, temperature: float = 0.5
    ) -> None:
        unknown = sorted(set(weights) - set(OUTPUTS))
        if unknown:
            raise UserError(f"weights: got task {unknown}, expected some of {sorted(OUTPUTS)}.")
        if any(not weight >= 0 for weight in weights.values()) or not any(weights.values()):
            raise UserError(f"weights: got {dict(weights)}, expected numbers >= 0 and one at least above 0.")
        super().__init__(weights)
        self.cross_modal, self.views = cross_modal or CrossModalContrastiveLoss(), ViewsLoss(temperature)
        self.losses: dict[str, Callable[[Tensors, Tensors], torch.Tensor]] = {
            "reconstruction": reconstruction_loss,
            "cross_modal": self._cross_modal,
            "rotation": rotation_loss,
            "views": self.views,
        }
        self.outputs = sorted(OUTPUTS[name] for name in self.weights)

    def _cross_modal(self, outputs: Tensors, targets: Tensors) -> torch.Tensor:
        return torch.as_tensor(self.cross_modal(outputs["embedding"], targets["modality_index"]))

    def forward(self, outputs: Tensors, targets: Tensors) -> torch.Tensor:
        """Loss of a batch.

        Args:
            outputs: of the network: ``image`` ``(B, C, X, Y, Z)``, ``embedding`` and ``projection`` ``(B, P)``, ``rotation`` ``(B, 4)``.
            targets: what ``DisruptivePretraining`` gives: clean ``image``, ``modality_index`` and ``rotation`` ``(B,)``, ``views``.

        Returns:
            A scalar.

        Raises:
            UserError: the network lacks an output that a task needs, or the step a target.
        """
        needed = {OUTPUTS[name] for name in self.weights}
        if not needed <= set(outputs):
            found = f"outputs {sorted(outputs)}, but {sorted(self.weights)} need {sorted(needed)}"
            raise UserError(f"The network gave {found}; ask it for these tasks or set their weights to 0.")
        parts = {}
        for name in self.weights:
            try:
                parts[name] = self.losses[name](outputs, targets)
            except KeyError as error:
                raise UserError(f"Task {name} needs the target {error}, the step gave {sorted(targets)}; switch it on there.") from error
        self.note(parts)
        return self.weighted(parts)
