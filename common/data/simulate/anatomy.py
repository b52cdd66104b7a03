"""Brain anatomy for simulated cohorts: the ICBM152 template, deformed by chance and sampled on any grid.

MONAI has random deformations of images that exist, but no anatomy to start from; this file turns the template's tissue maps into as many
different brains as wanted, with partial volume across thick slices. No intensities here: those belong to the modality.

Source of the maps: ICBM 2009a nonlinear symmetric template (Fonov et al., NeuroImage 2011), as shipped inside nilearn's wheel.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch.nn.functional import avg_pool3d, grid_sample

from common.errors import UserError

Array = NDArray[np.float32]

TISSUES = ("grey", "white", "csf", "brain")
_FILES = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
_PAD = 2  # voxels of 1 mm added around the maps
LATTICE_MM = 8.0
"""Spacing of the lattice that carries a random smooth field, template mm."""
_LOW, _HIGH = np.array([-80.0, -116.0, -80.0]), np.array([80.0, 84.0, 92.0])  # the box around the brain, template mm


@dataclass(frozen=True)
class Template:
    """Tissue fractions of the template at 2 mm.

    Attributes:
        maps: ``(4, X, Y, Z)`` float32 in [0, 1]: grey, white, cerebrospinal fluid (1 - grey - white, also outside the head), brain.
        first_mm: position of voxel (0, 0, 0) in template mm (MNI, x right, y front, z up), ``(3,)``.
        step_mm: voxel size in template mm.
    """

    maps: torch.Tensor
    first_mm: NDArray[np.float64]
    step_mm: float

    def points(self) -> Array:
        """Positions of the voxels in template mm, ``(X, Y, Z, 3)`` float32."""
        index = np.stack(np.meshgrid(*(np.arange(n) for n in self.maps.shape[1:]), indexing="ij"), axis=-1)
        return (self.first_mm + self.step_mm * index).astype(np.float32)


@dataclass(frozen=True)
class Grid:
    """An image grid in patient space (ITK's convention: left, back, up; slices along the third index).

    Attributes:
        shape: voxels ``(X, Y, Z)``.
        spacing_mm: voxel size, mm.
        origin_mm: position of voxel (0, 0, 0), mm.
        direction: ``(3, 3)`` orthonormal; column ``i`` is the direction of index ``i``.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: NDArray[np.float64]
    direction: NDArray[np.float64]

    def points(self) -> NDArray[np.float64]:
        """Positions of all voxels in patient space, ``(X, Y, Z, 3)``, mm."""
        index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in self.shape), indexing="ij"), axis=-1)
        return self.origin_mm + (index * np.asarray(self.spacing_mm)) @ self.direction.T


@functools.lru_cache(maxsize=1)
def load_template() -> Template:
    """Load the template once per process and reduce it to 2 mm.

    Raises:
        UserError: nilearn, or its maps, are not installed.
    """
    spec = importlib.util.find_spec("nilearn")  # found, not imported: the import alone takes seconds
    if spec is None or spec.origin is None:
        raise UserError(
            "Simulated cohorts need the brain template that comes with nilearn, which is not installed here: "
            "pip install 'brain-bundles[simulate]'."
        )
    folder = Path(spec.origin).parent / "datasets" / "data"
    t1, grey, white = (_load_map(folder / _FILES.format(kind)) for kind in ("t1", "gm", "wm"))
    brain = (t1 > 0).astype(np.float32)
    grey, white = grey * brain, white * brain
    fluid = np.clip(1.0 - grey - white, 0.0, 1.0)
    fine = torch.from_numpy(np.stack([grey, white, fluid, brain]))
    return Template(avg_pool3d(fine, 2), np.array([-97.5, -133.5, -71.5]) - _PAD, 2.0)


def _load_map(path: Path) -> Array:
    """Read one map as float32 in [0, 1]."""
    import nibabel

    if not path.is_file():
        raise UserError(
            f"{path} is missing: this nilearn does not ship the ICBM152 maps. Get one that does: pip install 'brain-bundles[simulate]'."
        )
    values = np.asarray(nibabel.load(path).dataobj, dtype=np.float32) / 255.0  # type: ignore[attr-defined]
    return np.pad(values, _PAD)  # so that a sample beyond the template's lower end is outside the brain


@dataclass(frozen=True)
class SmoothField:
    """A random field that varies smoothly in template space, mean 0, root mean square ``amplitude``.

    Attributes:
        lattice: ``(C, X, Y, Z)`` float32 values at the lattice's nodes.
    """

    lattice: torch.Tensor

    @staticmethod
    def draw(rng: np.random.Generator, length_mm: float, amplitude: float, channels: int = 1) -> SmoothField:
        """Draw white noise on the lattice and smooth it.

        Args:
            rng: source of chance.
            length_mm: standard deviation of the smoothing, template mm.
            amplitude: root mean square of the field, in the field's unit.
            channels: independent fields (3 for a displacement).
        """
        shape = tuple(int(n) for n in np.ceil((_HIGH - _LOW) / LATTICE_MM) + 1)
        noise = rng.standard_normal((channels, *shape))
        smooth = np.stack([gaussian_filter(n, length_mm / LATTICE_MM, mode="wrap") for n in noise])
        smooth *= amplitude / np.sqrt(np.mean(smooth**2, axis=(1, 2, 3), keepdims=True))
        return SmoothField(torch.from_numpy(smooth.astype(np.float32)))

    def at(self, points: Array) -> Array:
        """Sample the field at template positions ``(..., 3)``, mm; returns ``(C, ...)``."""
        return sample_volume(self.lattice, points, _LOW, LATTICE_MM)


def sample_volume(volume: torch.Tensor, points: Array, first_mm: NDArray[np.float64], step_mm: float) -> Array:
    """Trilinear interpolation of ``volume`` ``(C, X, Y, Z)`` at ``points`` ``(..., 3)``; beyond the border the border's value holds."""
    size = np.asarray(volume.shape[1:], dtype=np.float64)
    scaled = (points - first_mm.astype(np.float32)) * (2.0 / (step_mm * (size - 1))).astype(np.float32) - np.float32(1.0)
    grid = torch.from_numpy(np.ascontiguousarray(scaled[..., ::-1], dtype=np.float32)).reshape(1, 1, 1, -1, 3)  # grid_sample wants z, y, x
    values = grid_sample(volume[None], grid, mode="bilinear", padding_mode="border", align_corners=True)
    return values.reshape(volume.shape[0], *points.shape[:-1]).numpy()


@dataclass(frozen=True)
class Anatomy:
    """One person's brain: how a point of patient space maps to template space.

    Attributes:
        matrix: ``(3, 3)`` patient mm to template mm; holds size, pose and the flip between the two conventions.
        warp: smooth displacement in template space, 3 channels, template mm.
    """

    matrix: NDArray[np.float64]
    warp: SmoothField

    @staticmethod
    def draw(rng: np.random.Generator, scale: float = 0.6, warp_mm: float = 4.0, length_mm: float = 32.0, pose_deg: float = 6.0) -> Anatomy:
        """Draw a brain.

        Args:
            rng: source of chance.
            scale: mean size of the brain in units of the adult template (0.6: a term neonate, about 370 ml).
            warp_mm: root mean square of the smooth deformation, template mm.
            length_mm: its correlation length, template mm.
            pose_deg: standard deviation of each of the three head rotations, degrees.
        """
        from scipy.spatial.transform import Rotation

        stretch = scale * (1.0 + 0.03 * np.clip(rng.standard_normal(), -2, 2)) * (1.0 + 0.02 * np.clip(rng.standard_normal(3), -2, 2))
        pose = Rotation.from_euler("xyz", pose_deg * np.clip(rng.standard_normal(3), -2, 2), degrees=True).as_matrix()
        flip = np.diag([-1.0, -1.0, 1.0])  # left, back, up (ITK) to right, front, up (MNI)
        return Anatomy(np.diag(1.0 / stretch) @ flip @ pose, SmoothField.draw(rng, length_mm, warp_mm, 3))

    def to_template(self, grid: Grid, centre_mm: tuple[float, float, float] = (0.0, -18.0, 18.0)) -> Array:
        """Template positions of a grid's voxels, ``(X, Y, Z, 3)`` float32, mm; patient position 0 lies at ``centre_mm`` before the warp."""
        straight = (grid.points() @ self.matrix.T + np.asarray(centre_mm)).astype(np.float32)
        return straight + np.moveaxis(self.warp.at(straight), 0, -1)

    def slice_step(self, grid: Grid) -> Array:
        """Template displacement of one step along the slice axis, ``(3,)``, mm."""
        return (self.matrix @ grid.direction[:, 2] * grid.spacing_mm[2]).astype(np.float32)


def sample_slices(volume: torch.Tensor, points: Array, slice_step: Array, samples: int = 3) -> Array:
    """Average template-space maps over the thickness of each slice (partial volume).

    Args:
        volume: ``(C, X, Y, Z)`` float32 on the template's grid, such as ``load_template().maps``.
        points: template positions of the voxels' centres, ``(..., 3)``, mm.
        slice_step: template displacement from one slice to the next, ``(3,)``, mm.
        samples: positions across the slice, >= 1.

    Returns:
        ``(C, ...)`` float32.
    """
    template = load_template()
    offsets = (np.arange(samples, dtype=np.float32) + 0.5) / samples - 0.5
    total = sample_volume(volume, points + offsets[0] * slice_step, template.first_mm, template.step_mm)
    for offset in offsets[1:]:
        total = total + sample_volume(volume, points + offset * slice_step, template.first_mm, template.step_mm)
    return (total / np.float32(samples)).astype(np.float32)
