"""The four corruptions of the thesis for a batch, each sample by its own numbers, and test slices corrupted once for all.

MONAI's transforms take single cases. The draws of training are in ``rand_corruption``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from common.errors import UserError
from common.transforms.disruptions import scaled_noise

KINDS = ("dropout", "noise", "square", "blur")
"""In the order in which they act."""

ENDINGS = ("clip", "minmax")
SIDE = 128
"""Side of the thesis' slices, to which the squares' lengths refer; on other grids they scale."""


def per_sample(values: torch.Tensor, image: torch.Tensor, keep_dtype: bool = False) -> torch.Tensor:
    """``(B,)`` values as ``(B, 1, ...)`` beside an image ``(B, C, *spatial)``, on its device and of its dtype unless theirs is kept."""
    values = values.to(image.device) if keep_dtype else values.to(image)
    return values.reshape(-1, *[1] * (image.ndim - 1))


def drop_pixels(image: torch.Tensor, keep: torch.Tensor, rate: torch.Tensor | None = None) -> torch.Tensor:
    r"""Set pixels to 0: :math:`x' = x \odot m`, or :math:`x \odot m / (1 - r)`.

    Args:
        image: :math:`x`, ``(B, C, *spatial)``, float.
        keep: :math:`m`, same shape, bool; False drops.
        rate: :math:`r` in [0, 1), ``(B,)``; given, the survivors are rescaled as TensorFlow's dropout does.

    Returns:
        Shape and dtype of ``image``.
    """
    dropped = image * keep
    return dropped if rate is None else dropped / (1 - per_sample(rate, image))


def add_noise(image: torch.Tensor, noise: torch.Tensor, sd: torch.Tensor) -> torch.Tensor:
    r"""White noise: :math:`x'_b = x_b + \sigma_b \varepsilon_b`.

    Args:
        image: :math:`x`, ``(B, C, *spatial)``, float.
        noise: standard normal :math:`\varepsilon`, same shape.
        sd: :math:`\sigma` >= 0, ``(B,)``, in units of the image.

    Returns:
        Shape and dtype of ``image``; not clipped.
    """
    return image + scaled_noise(noise, 1.0, scale=sd)


def blank_square(image: torch.Tensor, start: torch.Tensor, stop: torch.Tensor) -> torch.Tensor:
    """Set a square (in 3D a cube) of every sample to 0.

    Args:
        image: ``(B, C, *spatial)``, float.
        start: first pixel on each axis, ``(B, d)``, int; may lie outside.
        stop: last pixel plus one; where it is not above ``start`` nothing is blanked.

    Returns:
        Shape and dtype of ``image``.
    """
    inside = torch.ones(len(image), 1, *[1] * (image.ndim - 2), dtype=torch.bool, device=image.device)
    for axis, side in enumerate(image.shape[2:]):
        place = torch.arange(side, device=image.device).reshape(-1, *[1] * (image.ndim - 3 - axis))
        first, last = (per_sample(edge[:, axis], image, keep_dtype=True) for edge in (start, stop))
        inside = inside & (place >= first) & (place < last)
    return image.masked_fill(inside, 0)


def blur_slices(image: torch.Tensor, which: torch.Tensor, sigma: float = 0.6) -> torch.Tensor:
    """Smooth some samples by a Gaussian of three pixels per axis, with zeros beyond the border.

    Args:
        image: ``(B, C, *spatial)``, float.
        which: ``(B,)`` bool; True is smoothed.
        sigma: standard deviation of the Gaussian, pixels, > 0.

    Returns:
        Shape and dtype of ``image``.
    """
    if not which.any():
        return image
    tap = float(np.exp(-1 / (2 * sigma**2)))
    chosen = image[which]
    for axis in range(2, image.ndim):
        total = chosen.clone()
        length = chosen.shape[axis] - 1
        # no convolution: its rounding depends on the batch and, in TF32, on the device
        total.narrow(axis, 1, length).add_(chosen.narrow(axis, 0, length), alpha=tap)
        total.narrow(axis, 0, length).add_(chosen.narrow(axis, 1, length), alpha=tap)
        chosen = total / (1 + 2 * tap)
    blurred = image.clone()
    blurred[which] = chosen
    return blurred


def finish(image: torch.Tensor, ending: str = "clip") -> torch.Tensor:
    """Bring a corrupted batch back to [0, 1]: ``clip`` it, or stretch each sample from its ``minmax``; a constant one becomes 0."""
    if ending == "clip":
        return image.clamp(0, 1)
    low, high = (per_sample(value, image) for value in (image.flatten(1).amin(1), image.flatten(1).amax(1)))
    return (image - low) / (high - low).clamp(min=torch.finfo(image.dtype).tiny)


@dataclass(frozen=True)
class Draw:
    """What chance gives one batch of B samples; None leaves a corruption out."""

    keep: torch.Tensor | None = None
    """Pixels that dropout keeps, shape of the image, bool."""
    rate: torch.Tensor | None = None
    """The share that it drops, ``(B,)``, where survivors are rescaled."""
    noise: torch.Tensor | None = None
    """Standard normal, shape of the image."""
    sd: torch.Tensor | None = None
    """Of the noise, ``(B,)``."""
    box: tuple[torch.Tensor, torch.Tensor] | None = None
    """Start and stop of the blanked square, ``(B, d)`` each."""
    blur: torch.Tensor | None = None
    """Samples that are blurred, ``(B,)`` bool."""


def corrupt(image: torch.Tensor, draw: Draw, blur_sigma: float = 0.6, ending: str = "clip") -> torch.Tensor:
    """Dropout, noise, square and blur in this order, as drawn, and back to [0, 1].

    Args:
        image: ``(B, C, *spatial)``, float, in [0, 1].
        draw: one draw for the batch.
        blur_sigma: pixels.
        ending: ``clip``, or ``minmax`` as in the released code.

    Returns:
        Shape and dtype of ``image``, in [0, 1].

    Source: methods/brain_autoencoder.md, section 4. Deviation: clipping; a stretched input has another black and scale than its target.
    """
    if draw.keep is not None:
        image = drop_pixels(image, draw.keep, draw.rate)
    if draw.noise is not None and draw.sd is not None:
        image = add_noise(image, draw.noise, draw.sd)
    if draw.box is not None:
        image = blank_square(image, *draw.box)
    if draw.blur is not None:
        image = blur_slices(image, draw.blur, blur_sigma)
    return finish(image, ending)


def square_box(centres: np.ndarray, sides: np.ndarray, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and stop, ``(B, d)`` each, of squares given on a grid of `SIDE` pixels per axis, on another grid.

    Args:
        centres: ``(B, d)``, pixels of `SIDE`; each axis scales by its own length.
        sides: ``(B,)``, pixels of `SIDE`, scaled by the shortest axis; at least one pixel stays, 0 has none.
        shape: the grid's sides.
    """
    length = np.where(sides > 0, np.maximum(1, np.rint(sides * (min(shape) / SIDE))), 0).astype(np.int64)[:, None]
    start = np.rint(centres * (np.asarray(shape) / SIDE)).astype(np.int64) - length // 2
    return torch.from_numpy(start), torch.from_numpy(start + length)


def chosen_kinds(kinds: str | Sequence[str]) -> tuple[str, ...]:
    """Names of corruptions: ``all``, ``none``, one of `KINDS`, or a list of them.

    Raises:
        UserError: another name.
    """
    named = {"all": list(KINDS), "none": []}.get(kinds, [kinds]) if isinstance(kinds, str) else list(kinds)
    if unknown := [name for name in named if name not in KINDS]:
        raise UserError(f"kinds: got {unknown}, expected 'all', 'none' or some of {KINDS}.")
    return tuple(name for name in KINDS if name in named)


def slice_seed(case_id: str, index: int, seed: int = 0) -> int:
    """A seed for one slice of one case: the same in every process and order, another for every slice.

    Args:
        case_id: the case's ``id``.
        index: of the slice, >= 0.
        seed: another one gives another test set.
    """
    return int(np.random.SeedSequence((seed, zlib.crc32(case_id.encode()), index)).generate_state(1)[0])


def corrupted_test(
    image: torch.Tensor,
    kind: str,
    seeds: Sequence[int],
    dropout: float = 0.04,
    noise: float = 0.04,
    square_side: int = 25,
    square_range: Sequence[int] = (10, 100),
    blur_sigma: float = 0.6,
) -> torch.Tensor:
    """Corrupt test slices at a fixed strength, each by its own seed: what a slice becomes does not depend on its batch.

    Args:
        image: ``(B, 1, *spatial)``, float, in [0, 1].
        kind: ``dropout``, ``noise``, ``square``, ``blur``, ``all`` (one behind the other) or ``none`` (the image itself).
        seeds: one per sample, e.g. of :func:`slice_seed`. A corruption is the same alone and within ``all``.
        dropout: share of dropped pixels, in [0, 1].
        noise: standard deviation, in units of the image.
        square_side: side of the one blanked square, pixels of a `SIDE` grid.
        square_range: its centre on each axis, drawn from the first to below the second, likewise.
        blur_sigma: pixels.

    Returns:
        Shape and dtype of ``image``, in [0, 1] (clipped).

    Raises:
        UserError: an unknown kind, or another number of seeds than of samples.

    Source: the thesis reports clean input only. Strengths are ours: the greatest of training for dropout and noise, the middle of the
        training's sides for the square, and the only one for blur.
    """
    kinds, shape = chosen_kinds(kind), image.shape[2:]
    if len(seeds) != len(image):
        raise UserError(f"seeds: got {len(seeds)} for {len(image)} slices, expected one per slice.")
    if not kinds:
        return image
    sizes = tuple(image.shape[1:])
    streams = [[np.random.default_rng((seed, place)) for place in range(3)] for seed in seeds]
    keep = noises = box = None
    if "dropout" in kinds:
        keep = torch.from_numpy(np.stack([draw.random(sizes, dtype=np.float32) >= dropout for draw, _, _ in streams])).to(image.device)
    if "noise" in kinds:
        noises = torch.from_numpy(np.stack([draw.standard_normal(sizes, dtype=np.float32) for _, draw, _ in streams])).to(image)
    if "square" in kinds:
        centres = np.stack([draw.integers(square_range[0], square_range[1], size=len(shape)) for _, _, draw in streams])
        box = square_box(centres, np.full(len(image), square_side), shape)
    blur = torch.ones(len(image), dtype=torch.bool) if "blur" in kinds else None
    return corrupt(image, Draw(keep, None, noises, torch.full((len(image),), noise), box, blur), blur_sigma)
