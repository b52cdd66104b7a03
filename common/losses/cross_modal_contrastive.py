"""Contrast of modalities: samples of one modality are positives of each other; MONAI's ``ContrastiveLoss`` has one positive per sample."""

from __future__ import annotations

import logging
import math

import torch
import torch.distributed as dist
from monai.utils import evenly_divisible_all_gather
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, normalize

from common import flag
from common.errors import UserError

ENTROPIES = ("cross", "binary")
SCALINGS = ("divide", "exp")
logger = logging.getLogger("brain_bundles")


def similarity(features: torch.Tensor, temperature: float = 0.07, scaling: str = "divide") -> torch.Tensor:
    r"""Scaled cosine similarity of all pairs: :math:`z_i z_j^T / t`, or literally :math:`z_i z_j^T \exp(t)`.

    Args:
        features: ``(B, P)``, any length; normalised here.
        temperature: t > 0.
        scaling: ``divide`` (as CLIP; sharp at 0.07) or ``exp`` (Eq. 3; :math:`e^{0.07} = 1.07` hardly scales at all).

    Returns:
        ``(B, B)`` symmetric.

    Source: DAE, Eq. 3, with the cosine of its text; the released code multiplies features that are not normalised.
    """
    unit = normalize(features, dim=1)
    product = unit @ unit.T
    return product / temperature if scaling == "divide" else product * math.exp(temperature)


def same_modality(labels: torch.Tensor, self_pairs: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Which pairs are positive, and which count at all.

    Args:
        labels: modality of each sample, ``(B,)`` integers.
        self_pairs: count a sample as a positive of itself.

    Returns:
        Two ``(B, B)`` bool: same modality, counted.
    """
    counted = torch.ones(len(labels), len(labels), dtype=torch.bool, device=labels.device)
    if not self_pairs:
        counted.fill_diagonal_(False)
    return (labels[:, None] == labels[None]) & counted, counted


def multi_positive_cross_entropy(logits: torch.Tensor, positive: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    r"""Mean over the samples with a positive of :math:`-\frac{1}{|P_i|} \sum_{j \in P_i} \log \mathrm{softmax}_j(s_{ij})`.

    Similarities of one set of features are symmetric, so the cross entropy of the columns is that of the rows and their mean, the
    symmetric cross entropy, is either.

    Args:
        logits: s, ``(B, B)``, symmetric.
        positive: ``(B, B)`` bool, symmetric.
        counted: ``(B, B)`` bool; other pairs are in neither sum.

    Returns:
        A scalar; 0 where no sample has a positive.

    Source: DAE, Eq. 4, read as the symmetric cross entropy of its text (CLIP), targets normalised by rows. The released code takes
        class numbers for columns instead.
    """
    rows = positive.any(dim=1)
    if not bool(rows.any()):
        return logits.sum() * 0
    chance = log_softmax(logits[rows].masked_fill(~counted[rows], -torch.inf), dim=1)
    summed = torch.where(positive[rows], chance, 0).sum(dim=1)
    return -(summed / positive[rows].sum(dim=1)).mean()


def pairwise_binary_cross_entropy(logits: torch.Tensor, positive: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of each counted pair, same modality or not; arguments and result as above.

    Source: DAE, Eq. 4, read literally ("binary cross entropy", 0/1 matrix of same-modality pairs).
    """
    if not bool(positive.any()):
        return logits.sum() * 0
    return binary_cross_entropy_with_logits(logits[counted], positive[counted].to(logits.dtype))


def gather_samples(features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples of all processes, in the order of ranks; in one process those given.

    The own features keep their graph. Their gradient is taken times the number of processes, because distributed training averages the
    gradients of all processes, each of which sees the whole loss through its own samples only: the average is then the loss's gradient.

    Args:
        features: ``(B, P)``; B may differ between processes.
        labels: ``(B,)`` integers.

    Returns:
        ``(N, P)`` and ``(N,)``.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features, labels
    world, rank = dist.get_world_size(), dist.get_rank()
    others = evenly_divisible_all_gather(features.detach(), concat=False)
    own = features.detach() + (features - features.detach()) * world
    gathered = [own if number == rank else part for number, part in enumerate(others)]
    return torch.cat(gathered), torch.cat(evenly_divisible_all_gather(labels, concat=False))


class CrossModalContrastiveLoss(nn.Module):
    """Pull samples of one modality together and push modalities apart, over the batch of all processes.

    Args:
        temperature: t > 0.
        entropy: ``cross`` (symmetric, several positives) or ``binary`` (each pair by itself).
        scaling: ``divide`` or ``exp``; see :func:`similarity`. The paper's letter is ``binary`` with ``exp``.
        self_pairs: count each sample as a positive of itself.

    Attributes:
        batches: how many batches were seen.
        without_positive: in how many of them no two samples shared a modality; they give 0 with a gradient of 0, and say so once.

    Raises:
        UserError: another word, or a temperature that is not positive.

    Source: DAE, Eq. 3-4. Deviation: cross entropy, division by t and no self-pairs by default (methods/dae.md, section 10).
    """

    def __init__(self, temperature: float = 0.07, entropy: str = "cross", scaling: str = "divide", self_pairs: bool = False) -> None:
        super().__init__()
        if entropy not in ENTROPIES:
            raise UserError(f"entropy: got '{entropy}', expected one of {ENTROPIES}.")
        if scaling not in SCALINGS:
            raise UserError(f"scaling: got '{scaling}', expected one of {SCALINGS}.")
        if not temperature > 0:
            raise UserError(f"temperature: got {temperature}, expected a number > 0.")
        self.temperature, self.entropy, self.scaling = float(temperature), entropy, scaling
        self.self_pairs = flag(self_pairs, "self_pairs")
        self.batches = self.without_positive = 0

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of a batch.

        Args:
            features: pooled embeddings, ``(B, P)``, float; computed in float32 at least.
            labels: modality of each sample, ``(B,)`` integers.

        Returns:
            A scalar, the same in every process.

        Raises:
            UserError: not one label per sample.
        """
        if labels.shape != features.shape[:1]:
            raise UserError(f"labels: got shape {tuple(labels.shape)} for features {tuple(features.shape)}, expected one per sample.")
        with torch.autocast(features.device.type, enabled=False):
            features, labels = gather_samples(features.to(torch.promote_types(features.dtype, torch.float32)), labels)
            logits = similarity(features, self.temperature, self.scaling)
            positive, counted = same_modality(labels, self.self_pairs)
            self._count(positive)
            loss = multi_positive_cross_entropy if self.entropy == "cross" else pairwise_binary_cross_entropy
            return loss(logits, positive, counted)

    def _count(self, positive: torch.Tensor) -> None:
        self.batches += 1
        if bool(positive.any()):
            return
        if not self.without_positive:
            text = "No two samples of a batch of %d share a modality; its contrast is 0. Use larger batches."
            logger.warning(text, len(positive))
        self.without_positive += 1
