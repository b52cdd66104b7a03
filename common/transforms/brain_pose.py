"""Pose of a brain against a reference brain of another size: MONAI's registration is a network, and ITK's alone would shrink or misplace.

A brain of 28 weeks is half as large as one of 40. For the registration only it is enlarged to the volume of the reference; of what is found
the rotation and the centre are kept, the size is not touched.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from common.atomic import write_atomic
from common.errors import UserError
from common.transforms.head_volume import Head, to_isotropic_ras
from common.transforms.itk_registration import WINDOW_HU, optimise_rigid
from common.transforms.load_case import read_volume
from common.transforms.reference_frame import straight_pose
from common.transforms.register_head import register_heads

SPACINGS_MM: Final = (4.0, 2.0)
"""Spacings at which brains are registered, mm: from many starts, then finely."""
_logger = logging.getLogger("brain_bundles")


@dataclass(frozen=True)
class Pose:
    """Where a brain lies.

    Attributes:
        matrix: ``(4, 4)`` float64, from the straight frame (x right, y front, z up, mm, the reference brain's middle at 0) to the world
            of the scan; a rotation and a shift, no scaling.
        ok: False where registration failed: the matrix then aligns centres only.
        reason: why it failed; empty where it did not.
        rotation_deg: angle of the rotation, degrees.
    """

    matrix: np.ndarray
    ok: bool
    reason: str
    rotation_deg: float


def brain_head(image: np.ndarray, brain: np.ndarray, affine: np.ndarray, driver: str = "mask", spacing_mm: float = SPACINGS_MM[1]) -> Head:
    """A brain at a spacing for registration, its intensities in the window that the registration of heads looks at.

    Args:
        image: ``(X, Y, Z)``, any unit.
        brain: ``(X, Y, Z)`` bool.
        affine: ``(4, 4)``, voxel index to mm, RAS.
        driver: "image" registers by intensities in the brain, "mask" by the mask alone, whatever the contrast of the age. On simulated
            children scanned twice the two poses then differ by 1.2 degrees (median of 8; by image 2.1, without alignment 7.8).
        spacing_mm: of the result.
    """
    top = float(np.percentile(image[brain], 99.0)) if brain.any() else 1.0
    content = np.where(brain, np.clip(image / max(top, 1e-6), 0.0, 1.0) if driver == "image" else 1.0, 0.0).astype(np.float32)
    low, high = WINDOW_HU
    return _head(low + (high - low) * content, brain, affine, spacing_mm)


def _head(hu: np.ndarray, brain: np.ndarray, affine: np.ndarray, spacing_mm: float) -> Head:
    volume, matrix = to_isotropic_ras(hu, affine, spacing_mm)
    share, _ = to_isotropic_ras(brain.astype(np.float32), affine, spacing_mm)
    mask = share > 0.5
    return Head(volume, matrix, mask, np.argwhere(mask) @ matrix[:3, :3].T + matrix[:3, 3])


@dataclass(frozen=True)
class BrainReference:
    """The brain that defines the straight frame: a small volume in it, to be kept beside the weights.

    Attributes:
        volume: ``(X, Y, Z)`` float32, intensities as in ``brain_head``.
        mask: ``(X, Y, Z)`` bool.
        affine: ``(4, 4)``, voxel index to the straight frame, mm: the mirror plane is x = 0, the brain's middle is 0.
        driver: "image" or "mask".
        source: id of the scan it was made of.
    """

    volume: np.ndarray
    mask: np.ndarray
    affine: np.ndarray
    driver: str
    source: str

    @functools.cached_property
    def heads(self) -> tuple[Head, Head]:
        """The reference at both spacings of the registration."""
        points = np.argwhere(self.mask) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return _head(self.volume, self.mask, self.affine, SPACINGS_MM[0]), Head(self.volume, self.affine, self.mask, points)

    @staticmethod
    def make(image: np.ndarray, brain: np.ndarray, affine: np.ndarray, driver: str = "mask", source: str = "") -> BrainReference:
        """Make a scan the reference: its mirror plane becomes x = 0, the middle of its brain the origin; pitch stays as it is.

        Args:
            image: ``(X, Y, Z)``, any unit.
            brain: ``(X, Y, Z)`` bool.
            affine: ``(4, 4)``, voxel index to mm, RAS.
            driver: see ``brain_head``.
            source: id of the scan.
        """
        head = brain_head(image, brain, affine, driver)
        pose = straight_pose(_head(head.hu, head.mask, head.affine, SPACINGS_MM[0]))
        straight = np.linalg.inv(pose) @ head.affine
        middle = (np.c_[np.argwhere(head.mask), np.ones(head.mask.sum())] @ straight.T).mean(axis=0)
        straight[1:3, 3] -= middle[1:3]  # along x the mirror plane stays at 0
        return BrainReference(head.hu, head.mask, straight, driver, source)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the reference as ``.npz``; the file appears whole or not at all."""
        parts: dict[str, Any] = {"volume": self.volume.astype(np.float16), "mask": self.mask, "affine": self.affine}
        parts |= {"driver": np.array(self.driver), "source": np.array(self.source)}
        return write_atomic(path, lambda temporary: np.savez_compressed(temporary, **parts))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> BrainReference:
        """Read what ``save`` wrote.

        Raises:
            UserError: no such file, or not a reference.
        """
        try:
            with np.load(path) as file:
                parts: dict[str, Any] = {name: file[name] for name in ("volume", "mask", "affine", "driver", "source")}
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{path}: no reference brain can be read from it ({error}). Train first, or give the file of the run."
            ) from error
        volume = parts["volume"].astype(np.float32)
        return BrainReference(volume, parts["mask"], parts["affine"], str(parts["driver"]), str(parts["source"]))


def ensure_reference(
    cases: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], age_weeks: float = 40.0, driver: str = "mask"
) -> str:
    """Make the scan that is nearest to an age the reference, once, and keep it in a file.

    Args:
        cases: training cases with ``id``, ``age``, ``image`` and ``brain`` (paths).
        path: ``.npz`` file; where it exists it is taken as it is.
        age_weeks: age of the reference, weeks (methods/neonatal_inr.md, section 2: a template of 40 weeks).
        driver: see ``brain_head``.

    Returns:
        The path.

    Raises:
        UserError: no case with a mask of the brain.
    """
    if Path(path).is_file():
        return os.fspath(path)
    usable = [case for case in cases if case.get("brain") and "age" in case]
    if not usable:
        raise UserError(f"reference: none of {len(cases)} cases has both an age and a mask of the brain; give masks, or align by 'centre'.")
    case = min(usable, key=lambda item: (abs(item["age"] - age_weeks), item["id"]))
    image, affine = read_volume(case["image"] if isinstance(case["image"], str) else case["image"][0])
    brain, _ = read_volume(case["brain"])
    if brain.shape != image[:1].shape:
        raise UserError(f"case {case['id']}: image {image.shape[1:]} and mask {brain.shape[1:]} lie on different grids.")
    _logger.info("Reference brain of the rigid alignment: %s, %.1f weeks", case["id"], case["age"])
    return os.fspath(BrainReference.make(image[0], brain[0] > 0, affine, driver, str(case["id"])).save(path))


def find_pose(image: np.ndarray, brain: np.ndarray, affine: np.ndarray, reference: BrainReference, seed: int = 0) -> Pose:
    """Rigid pose of a brain in the reference's straight frame, whatever its size.

    Args:
        image: ``(X, Y, Z)``, any unit.
        brain: ``(X, Y, Z)`` bool, not empty.
        affine: ``(4, 4)``, voxel index to mm, RAS.
        reference: the reference brain.
        seed: of the sample points.

    Returns:
        The pose; bit-equal for the same input and ``seed``.
    """
    centre = affine[:3, :3] @ np.argwhere(brain).mean(axis=0) + affine[:3, 3]
    volume = brain.sum() * abs(np.linalg.det(affine[:3, :3]))
    enlarge = np.eye(4)
    enlarge[:3, :3] *= (reference.mask.sum() * abs(np.linalg.det(reference.affine[:3, :3])) / volume) ** (1 / 3)
    enlarge[:3, 3] = centre - enlarge[:3, :3] @ centre
    coarse, fine = (brain_head(image, brain, enlarge @ affine, reference.driver, spacing) for spacing in SPACINGS_MM)
    rigid = register_heads(reference.heads[0], coarse, seed)
    matrix = np.eye(4)
    matrix[:3, 3] = centre
    if rigid.ok:
        found = optimise_rigid(reference.heads[1], fine, rigid.matrix, 1, 0.5 * SPACINGS_MM[1], seed)
        # the origin of the straight frame lies in the enlarged world; back to the world of the scan
        matrix[:3] = np.c_[found[:3, :3], (np.linalg.inv(enlarge) @ found[:, 3])[:3]]
    angle = np.rad2deg(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
    return Pose(matrix, rigid.ok, rigid.reason, float(angle))
