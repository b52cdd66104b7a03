"""Rigid registration of one patient's sequences of unlike contrast; MONAI's registration is a network that must be trained first.

``register_head`` finds heads that lie anywhere; sequences of one session nearly agree in the scanner's world, so the search begins there,
and what is found is only used where it is better than the headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from common.errors import UserError
from common.transforms.brain_pose import brain_head
from common.transforms.head_masks import fill_holes, largest_component
from common.transforms.head_volume import Head, to_isotropic_ras
from common.transforms.itk_registration import optimise_rigid
from common.transforms.register_head import information, overlap_share, sample_points
from common.transforms.t1_brain import otsu_threshold

SPACINGS_MM: Final = (4.0, 2.0)
"""Spacings of the coarse and of the fine registration, mm."""
KEEP_MM: Final = 1.0
"""A mean displacement of the head below this is no reason to interpolate: the files are then taken as they lie. Sequences of BraTS, which
were registered to each other by another tool, come out 0.4 to 0.8 mm off; this registration repeats itself to 0.2 to 0.4 mm."""
DOUBT_BELOW: Final = 0.5
"""Mutual information, nat, below which a registration is doubtful: two sequences of a stripped brain reach 0.8 to 1.4, a ball of noise 0.3.
Another patient's brain reaches 0.8 too and is not noticed."""
MIN_OVERLAP: Final = 0.6
MAX_ROTATION_DEG: Final = 60.0


@dataclass(frozen=True)
class Alignment:
    """Where one sequence lies against another.

    Attributes:
        matrix: ``(4, 4)`` float64, world of the fixed scan to world of the moving one, mm, RAS; identity where ``kept``.
        kept: the headers were right within the registration's error, so nothing is moved.
        moved_mm: mean displacement of the fixed head that was found, mm (also where it was not used).
        rotation_deg: angle that was found, degrees.
        information: mutual information under ``matrix``, nat; higher is better.
        header_information: the same as the headers say.
        overlap: share of the smaller head that the other one covers, in [0, 1].
    """

    matrix: np.ndarray
    kept: bool
    moved_mm: float
    rotation_deg: float
    information: float
    header_information: float
    overlap: float

    @property
    def doubtful(self) -> bool:
        """Whether the two images have so little in common that the registration may be wrong."""
        return self.information < DOUBT_BELOW


def foreground(volume: np.ndarray) -> np.ndarray:
    """Mask of the head in an MR volume, of the brain where it is stripped of its skull: ``(X, Y, Z)`` bool, one piece without holes.

    Args:
        volume: ``(X, Y, Z)``, any unit, >= 0, about 0 in air.
    """
    if not (volume > 0).any():
        return np.zeros(volume.shape, bool)
    stripped = (volume <= 0).mean() > 0.5
    threshold = 0.0 if stripped else 0.5 * otsu_threshold(np.minimum(volume, np.percentile(volume, 99.5)))
    return fill_holes(largest_component(volume > threshold))


def sequence_head(volume: np.ndarray, affine: np.ndarray, spacing_mm: float) -> Head:
    """A sequence at a spacing for registration; values outside the head, where noise and ghosts lie, become 0.

    Args:
        volume: ``(X, Y, Z)``, any unit.
        affine: ``(4, 4)``, voxel index to mm, RAS.
        spacing_mm: of the result.
    """
    coarse, matrix = to_isotropic_ras(np.maximum(volume, 0).astype(np.float32), affine, spacing_mm)
    return brain_head(coarse, foreground(coarse), matrix, "image", spacing_mm)


def register_sequences(
    fixed: np.ndarray,
    fixed_affine: np.ndarray,
    moving: np.ndarray,
    moving_affine: np.ndarray,
    names: tuple[str, str] = ("fixed", "moving"),
    seed: int = 0,
) -> Alignment:
    """Rigid transform between two sequences of one patient, by mutual information at 4 mm and 2 mm (ITK, one thread, bit-equal).

    Args:
        fixed: reference, ``(X, Y, Z)``, any contrast and unit.
        fixed_affine: ``(4, 4)``, voxel index to mm, RAS.
        moving: the other sequence, likewise; with the skull where the reference has it.
        moving_affine: its affine.
        names: of both files, for errors.
        seed: of the sample points.

    Returns:
        The alignment, better than that of the headers or equal to it.

    Raises:
        UserError: no head in a volume, or heads that could not be brought together.
    """
    (coarse, fine), (moving_coarse, moving_fine) = (
        [sequence_head(volume, affine, spacing) for spacing in SPACINGS_MM]
        for volume, affine in ((fixed, fixed_affine), (moving, moving_affine))
    )
    for name, head in zip(names, (coarse, moving_coarse), strict=True):
        if not head.mask.any():
            raise UserError(f"{name}: no head found in it (no voxel above 0 in one piece); is it an image of a head?")
    points = sample_points(fine, seed)

    def gain(matrix: np.ndarray) -> float:
        return information(points, moving_fine, matrix)

    header = np.eye(4)
    starts = [optimise_rigid(coarse, moving_coarse, start, 1, SPACINGS_MM[0], seed) for start in _starts(coarse, moving_coarse)]
    best = max((header, *starts), key=gain)
    # no smoothing: on simulated heads it costs accuracy
    found = max((best, optimise_rigid(fine, moving_fine, best, 1, 0.0, seed)), key=gain)
    moved = displacement_mm(found, fine.points[::50])
    kept = moved < KEEP_MM
    matrix = header if kept else found
    result = Alignment(matrix, kept, moved, rotation_deg(found), gain(matrix), gain(header), overlap_share(fine, moving_fine, matrix))
    if result.overlap < MIN_OVERLAP or result.rotation_deg > MAX_ROTATION_DEG:
        raise UserError(
            f"{names[1]}: could not be registered to {names[0]}: the heads overlap by {result.overlap:.2f} (expected {MIN_OVERLAP} or more)"
            f" after a rotation by {result.rotation_deg:.0f} degrees (expected {MAX_ROTATION_DEG:.0f} or less). Are both of one patient,"
            " with the skull in both or in neither? Where the headers are right, give --register false."
        )
    return result


def _starts(fixed: Head, moving: Head) -> list[np.ndarray]:
    """As the headers say; and with the centroids of the heads together, where those are more than 10 mm apart."""
    shift = moving.points.mean(axis=0) - fixed.points.mean(axis=0)
    centred = np.eye(4)
    centred[:3, 3] = shift
    return [np.eye(4), centred] if np.linalg.norm(shift) > 10.0 else [np.eye(4)]


def displacement_mm(matrix: np.ndarray, points: np.ndarray) -> float:
    """Mean distance by which a transform ``(4, 4)`` moves points ``(N, 3)``, mm."""
    return float(np.linalg.norm(points @ (matrix[:3, :3] - np.eye(3)).T + matrix[:3, 3], axis=1).mean())


def rotation_deg(matrix: np.ndarray) -> float:
    """Angle of a rigid transform ``(4, 4)``, degrees, in [0, 180]."""
    return float(np.rad2deg(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1))))
