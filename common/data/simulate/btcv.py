"""A simulated BTCV cohort: abdominal CTs with thirteen organs in ``RawData/Training``, to try readers and fine-tuning on (none in MONAI).

The bodies are `abdomen.py`'s. It proves that code works; it never supports a clinical claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.simulate.abdomen import AIR_HU, paint_abdomen
from common.data.simulate.anatomy import Grid
from common.data.simulate.ct_scanner import add_noise, add_table
from common.data.simulate.folder import publish_cohort
from common.errors import UserError

GENERATOR_VERSION = "1"
"""Raised whenever the same arguments would give other voxels."""
ROOT = "RawData"
NUMBERS = tuple(number for pair in zip(range(1, 11), range(21, 31), strict=True) for number in pair) + tuple(range(31, 41))
"""Numbers of the 30 labelled cases, 1-10 and 21-40, in the order in which cases are made: not contiguous from the second on."""
FIELD_MM, LENGTH_MM = 400.0, (220.0, 270.0)
"""Field of view in plane, and smallest and largest length of the body that is scanned."""
NOISE_HU, GRAIN_PX = (9.0, 15.0), (0.5, 0.9)
"""Smallest and largest standard deviation of the noise in a slice of 3 mm, and width of its grain."""


@dataclass(frozen=True)
class Scan:
    """One case: ``image`` ``(X, Y, Z)`` int16 in HU and ``label`` uint8 (0 to 13), axes to the left, front and top, and ``spacing_mm``."""

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to world, ``(4, 4)``, mm, RAS; the first axis points to the left, as in BTCV's files."""
        flip = np.diag([-1.0, 1.0, 1.0])
        out = np.eye(4)
        out[:3, :3] = flip * np.asarray(self.spacing_mm)
        out[:3, 3] = -flip @ ((np.array(self.image.shape) - 1) / 2 * np.asarray(self.spacing_mm))
        return out


def simulate_btcv(out_dir: str | Path, subjects: int = 6, seed: int = 0, spacing_mm: float = 1.5, slice_mm: float = 3.0) -> Path:
    """Write a simulated cohort as ``<out_dir>/RawData/Training/{img/img0001.nii.gz, label/label0001.nii.gz, ...}``.

    Same arguments give the same bytes; a case does not depend on ``subjects``. A complete cohort made with the same arguments is
    reused; the folder appears under its name only when it is complete.

    Args:
        out_dir: folder to create, with ``SIMULATED.txt`` in it; may exist when it is empty or holds this very cohort.
        subjects: 1 to 30; the second is number 21.
        seed: >= 0.
        spacing_mm: voxel size in plane, 0.75 to 8; 1.5 gives 267 x 267 voxels, 0.78 BTCV's 512 x 512.
        slice_mm: distance and thickness of the slices, 1 to 10.

    Returns:
        The folder ``<out_dir>/RawData``.

    Raises:
        UserError: an argument is out of range, or the folder holds something else.
    """
    for name, value, low, high in (("subjects", subjects, 1, len(NUMBERS)), ("seed", seed, 0, 2**32 - 1)):
        if int(value) != value or not low <= value <= high:
            raise UserError(f"{name}: got {value}, expected a whole number from {low} to {high}.")
    for title, number, least, most in (("spacing_mm", spacing_mm, 0.75, 8.0), ("slice_mm", slice_mm, 1.0, 10.0)):
        if not least <= number <= most:
            raise UserError(f"{title}: got {number}, expected a number from {least:g} to {most:g}.")
    parameters = {"layout": "btcv", "generator": GENERATOR_VERSION, "subjects": subjects, "seed": seed}
    parameters |= {"spacing_mm": float(spacing_mm), "slice_mm": float(slice_mm)}

    def write_subject(folder: Path, index: int) -> list[str]:
        files = _write(simulate_scan(index, seed, spacing_mm, slice_mm), folder / ROOT / "Training", NUMBERS[index])
        return [file.relative_to(folder).as_posix() for file in files]

    what = "abdominal CT (BTCV layout)"
    return publish_cohort(Path(out_dir), parameters, subjects, write_subject, what, origin="ellipsoids and tubes") / ROOT


def simulate_scan(index: int, seed: int, spacing_mm: float = 1.5, slice_mm: float = 3.0) -> Scan:
    """Simulate one case; it depends on nothing but the arguments.

    Args:
        index: which case, >= 0.
        seed: of the cohort.
        spacing_mm: voxel size in plane.
        slice_mm: distance of the slices.
    """
    rng = np.random.default_rng([seed, index, 1313])
    count = round(FIELD_MM / spacing_mm)
    spacing = (float(spacing_mm), float(spacing_mm), float(slice_mm))
    shape = (count, count, max(8, round(float(rng.uniform(*LENGTH_MM)) / slice_mm)))
    hu, label = paint_abdomen(rng, shape, spacing, float(rng.uniform(8.0, 22.0)))
    turned = hu[::-1, ::-1]  # the table is drawn below a body whose axes point to the left, back and top
    grid = Grid(shape, spacing, np.zeros(3), np.eye(3))
    clean = add_table(rng, turned, turned > AIR_HU + 200, grid)
    noise = float(rng.uniform(*NOISE_HU) * np.sqrt(3.0 / slice_mm))
    image = add_noise(rng, clean, noise, float(rng.uniform(*GRAIN_PX)))
    return Scan(np.ascontiguousarray(image[:, ::-1]).astype(np.int16), np.ascontiguousarray(label[::-1]), spacing)


def _write(scan: Scan, folder: Path, number: int) -> list[Path]:
    """Write image and organs of a case."""
    import nibabel

    files = []
    for kind, values in (("img", scan.image), ("label", scan.label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(values, scan.affine)
        image.header.set_xyzt_units("mm")
        files.append(folder / kind / f"{kind}{number:04d}.nii.gz")
        nibabel.save(image, files[-1])
    return files
