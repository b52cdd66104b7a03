"""Linear centred kernel alignment (CKA): how alike two networks, or one before and after training, see the same images.

MONAI has no similarity of representations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from common.errors import UserError

SAMPLES = ("images", "positions")
_CHUNK = 2**22  # values that are held in double precision at once


def feature_matrix(features: torch.Tensor, samples: str = "images") -> torch.Tensor:
    """Features of one stage as a table of samples.

    Args:
        features: ``(N, C, *spatial)``.
        samples: "images": a row per image, all its values as columns; "positions": a row per image and position, channels as columns,
            which compares what is seen at each place and needs few images, but takes neighbours for independent.

    Returns:
        ``(N, C S)`` or ``(N S, C)`` for S positions.

    Raises:
        UserError: another word, or features without batch and channels.
    """
    if samples not in SAMPLES:
        raise UserError(f"samples: got '{samples}', expected one of {', '.join(SAMPLES)}.")
    if features.ndim < 2:
        raise UserError(f"features: got shape {tuple(features.shape)}, expected (N, C, *spatial).")
    if samples == "images":
        return features.flatten(1)
    return features.flatten(2).transpose(1, 2).reshape(-1, features.shape[1]) if features.ndim > 2 else features


def linear_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    r"""Linear CKA of two tables of features of the same samples.

    With columns centred,

    .. math:: \mathrm{CKA}(X, Y) = \frac{\lVert Y^\top X \rVert_F^2}{\lVert X^\top X \rVert_F \, \lVert Y^\top Y \rVert_F}
        = \frac{\langle X X^\top, Y Y^\top \rangle}{\lVert X X^\top \rVert_F \, \lVert Y Y^\top \rVert_F}

    Args:
        first: X, ``(N, P)``.
        second: Y, ``(N, Q)``; its columns need not be those of X.

    Returns:
        In [0, 1]; 1 for tables that differ by a rotation and a factor. NaN where a table is the same for all samples. With far fewer
        samples than columns it is near 1 for unrelated tables too: compare like with like.

    Raises:
        UserError: not two tables of the same samples, or fewer than 2 samples.

    Source: S. Kornblith et al., "Similarity of neural network representations revisited", ICML 2019; DAE, appendix D, whose variant is not
        stated. Memory: the smaller of N x N and P x Q, and a few columns or rows in double precision at a time.
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 2:
        raise UserError(
            f"features: got shapes {tuple(first.shape)} and {tuple(second.shape)}, expected (N, P) and (N, Q) with the same N, at least 2."
        )
    if len(first) <= max(first.shape[1], second.shape[1]):
        grams = [_gram(table) for table in (first, second)]
        products = [float((grams[a] * grams[b]).sum()) for a, b in ((0, 1), (0, 0), (1, 1))]
    else:
        pairs = ((first, second), (first, first), (second, second))
        products = [float(_products(*pair).square().sum()) for pair in pairs]
    scale = math.sqrt(products[1]) * math.sqrt(products[2])
    return products[0] / scale if scale > 0 else math.nan


def stage_similarity(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor], samples: str = "images") -> list[float]:
    """Linear CKA stage by stage.

    Args:
        first: features of the same images, ``(N, C, *spatial)`` per stage, e.g. of ``DisruptiveSwinUNETR.stages`` after pre-training.
        second: the same after fine-tuning.
        samples: see :func:`feature_matrix`.

    Returns:
        One number per stage, see :func:`linear_cka`.

    Raises:
        UserError: other numbers of stages; see :func:`linear_cka`.

    Source: DAE, appendix D.
    """
    if len(first) != len(second):
        raise UserError(f"stages: got {len(first)} and {len(second)}, expected as many of both networks.")
    return [linear_cka(feature_matrix(a, samples), feature_matrix(b, samples)) for a, b in zip(first, second, strict=True)]


def _gram(table: torch.Tensor) -> torch.Tensor:
    """X X^T of centred columns, ``(N, N)`` double, summed over bunches of columns."""
    gram = torch.zeros(len(table), len(table), dtype=torch.float64, device=table.device)
    for columns in table.detach().split(max(1, _CHUNK // len(table)), dim=1):
        centred = columns.double() - columns.double().mean(dim=0)
        gram += centred @ centred.T
    return gram


def _products(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """X^T Y of centred columns, ``(P, Q)`` double, summed over bunches of rows."""
    first, second = first.detach(), second.detach()
    means = [table.mean(dim=0, dtype=torch.float64) for table in (first, second)]
    rows = max(1, _CHUNK // max(first.shape[1], second.shape[1]))
    result = torch.zeros(first.shape[1], second.shape[1], dtype=torch.float64, device=first.device)
    for a, b in zip(first.split(rows), second.split(rows), strict=True):
        result += (a - means[0]).T @ (b - means[1])
    return result
