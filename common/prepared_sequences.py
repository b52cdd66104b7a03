"""Sequences of one patient, each on its own grid, onto one grid, as a method with several channels reads. MONAI registers nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from common.data.scan_input import read_scan
from common.errors import UserError
from common.provenance import Provenance
from common.skull_stripping import find_brain, is_stripped
from common.transforms.bring_to_grid import bring_to_grid, head_grid
from common.transforms.rigid_registration import register_sequences


@dataclass(frozen=True)
class Scan:
    """One scan as it came: where from, voxels ``(X, Y, Z)`` float32, affine ``(4, 4)`` (voxel to mm, RAS)."""

    path: str
    volume: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        """Size of a voxel per axis, mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


@dataclass(frozen=True)
class Prepared:
    """A case on one grid.

    Attributes:
        volumes: by name of the input, ``(X, Y, Z)`` float32, 0 outside the brain where it was stripped.
        brain: ``(X, Y, Z)`` bool, None where no brain was looked for.
        affine: of the grid, ``(4, 4)``, mm, RAS.
        native: the reference scan as it came, to whose grid results can be brought back.
    """

    volumes: dict[str, np.ndarray]
    brain: np.ndarray | None
    affine: np.ndarray
    native: Scan


def read_input(name: str, path: str, record: Provenance) -> Scan:
    """Read a scan and note it.

    Raises:
        UserError: see ``read_scan``.
    """
    volume, affine, notes = read_scan(path)
    record.add_input(name, path, volume.shape, affine)
    for note in notes:
        record.add_step("corrected while reading", input=name, note=note)
    return Scan(os.path.abspath(path), volume, affine)


def prepare_sequences(
    paths: Mapping[str, str],
    reference: str,
    record: Provenance,
    *,
    spacing: str = "native",
    strip: str | None = "auto",
    brain: str | None = None,
    register: bool = True,
    device: str | None = None,
) -> Prepared:
    """Co-register sequences to a reference, strip the skull, and resample all to one grid, each by one interpolation.

    Args:
        paths: file or DICOM folder by name of the input.
        reference: name of the input that stays where it is and on whose grid results are wanted.
        record: gets every step.
        spacing: "native" takes the reference's grid as it is; a number of mm a grid like that of BraTS around the brain, along the
            reference's axes. A reference of 240 x 240 x 155 voxels of that size is on such a grid already.
        strip: how the brain is found (``find_brain``); None looks for none unless ``brain`` is given.
        brain: file of a mask in the reference's world.
        register: False believes the headers.
        device: for tools that strip the skull.

    Raises:
        UserError: an input that cannot be used, no brain, or scans that could not be registered.
    """
    if reference not in paths:
        raise UserError(f"--reference: got '{reference}', expected one of {', '.join(paths)}.")
    scans = {name: read_input(name, path, record) for name, path in paths.items()}
    fixed = scans[reference]
    mask = None
    if strip is not None or brain is not None:
        if brain is not None:
            record.add_input("brain", brain)
        found = find_brain(fixed.volume, fixed.affine, fixed.path, strip or "auto", brain, device)
        mask = found.mask
        record.add_step("brain mask", on=reference, how=found.how, volume_ml=_volume_ml(mask, fixed.affine))
        if found.warning:
            record.warn(found.warning)
    worlds = {name: _aligned(name, scan, reference, fixed, register, record) for name, scan in scans.items()}
    affine, shape = _grid(fixed, mask, spacing, record)
    volumes = {name: bring_to_grid(scan.volume, scan.affine, affine, shape, worlds[name]) for name, scan in scans.items()}
    on_grid = None if mask is None else bring_to_grid(mask, fixed.affine, affine, shape) > 0.5
    record.add_step("resampling", interpolation="linear, averaged where the grid is coarser", shape=shape, affine=affine)
    if on_grid is not None:
        volumes = {name: np.where(on_grid, volume, np.float32(0)) for name, volume in volumes.items()}
        for name, volume in volumes.items():
            _check_cover(name, volume, on_grid, record)
    return Prepared(volumes, on_grid, affine, fixed)


def _aligned(name: str, scan: Scan, reference: str, fixed: Scan, register: bool, record: Provenance) -> np.ndarray:
    """World of the reference to world of a scan, ``(4, 4)``."""
    if name == reference or not register:
        if name != reference:
            record.add_step("registration", moving=name, fixed=reference, used="headers (--register false)", matrix=np.eye(4))
        return np.eye(4)
    if is_stripped(scan.volume, scan.affine) != is_stripped(fixed.volume, fixed.affine):
        record.warn(
            f"Of {name} and {reference} one is stripped of its skull and the other is not: check their registration in the picture."
        )
    found = register_sequences(fixed.volume, fixed.affine, scan.volume, scan.affine, (fixed.path, scan.path))
    record.add_step(
        "registration",
        moving=name,
        fixed=reference,
        used="headers: what was found is within the registration's error" if found.kept else "rigid, Mattes mutual information (ITK)",
        matrix=found.matrix,
        found_mean_displacement_mm=round(found.moved_mm, 3),
        found_rotation_deg=round(found.rotation_deg, 3),
        mutual_information=round(found.information, 4),
        mutual_information_of_headers=round(found.header_information, 4),
        overlap=round(found.overlap, 4),
    )
    if found.doubtful:
        record.warn(
            f"{name} has little in common with {reference} (mutual information {found.information:.2f}): its registration may be wrong."
        )
    return found.matrix


def _grid(fixed: Scan, mask: np.ndarray | None, spacing: str, record: Provenance) -> tuple[np.ndarray, tuple[int, ...]]:
    """Affine and sides of the grid for all."""
    shape: tuple[int, ...] = fixed.volume.shape
    if spacing == "native":
        record.add_step("grid", kind="that of the reference")
        return fixed.affine, shape
    try:
        size = float(spacing)
    except ValueError:
        size = 0.0
    if not 0.2 <= size <= 10:
        raise UserError(f"--spacing: got '{spacing}', expected 'native' or a size in mm from 0.2 to 10, such as 1.")
    affine, wanted = head_grid(fixed.affine, np.ones(shape, bool) if mask is None else mask, size)
    expected = tuple(int(side) for side in np.rint(np.array([240, 240, 155]) / size))
    if np.allclose(fixed.spacing_mm, size, rtol=1e-3) and shape == expected:
        record.add_step("grid", kind=f"that of the reference, which is BraTS's at {size:g} mm already")
        return fixed.affine, shape
    record.add_step("grid", kind=f"like BraTS's around the brain, along the reference's axes, {size:g} mm", shape=wanted, affine=affine)
    return affine, wanted


def _check_cover(name: str, volume: np.ndarray, brain: np.ndarray, record: Provenance) -> None:
    """Say so where a scan does not cover the brain."""
    share = float((volume[brain] == 0).mean())
    if share > 0.9:
        raise UserError(f"{name}: covers {100 * (1 - share):.0f} % of the brain of the reference; expected all of it. Give another scan.")
    if share > 0.02:
        record.warn(f"{name} is 0 in {100 * share:.0f} % of the brain: it does not cover it, or was stripped with another mask.")


def _volume_ml(mask: np.ndarray, affine: np.ndarray) -> float:
    return round(float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000), 1)
