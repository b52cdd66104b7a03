"""ADC and its Z map from what a scanner gives, in the units and with the smoothing of BONBID-HIE; MONAI has neither."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from common.data.scan_input import bvals_beside, read_bvals, read_volumes
from common.errors import UserError
from common.prepared_sequences import Prepared, Scan, read_input
from common.provenance import Provenance
from common.skull_stripping import find_brain
from common.transforms.adc_map import adc_map, choose_volumes, geometric_mean, noise_floor, to_micro
from common.transforms.affine_registration import register_atlas
from common.transforms.bring_to_grid import bring_to_grid
from common.transforms.load_case import check_same_grid
from common.transforms.rigid_registration import register_sequences
from common.transforms.zscore_map import LIMIT, SMOOTHING_MM, own_norm, smooth_in_brain, zscore_map

APPROXIMATE = (
    "APPROXIMATE Z map: made from this scan's own parenchyma, not from healthy people of its age. Where the lesion is large or healthy"
    " tissue differs from region to region (it does), Z is wrong. Give a normative atlas by --norm_mean and --norm_sd."
)


@dataclass(frozen=True)
class DiffusionFiles:
    """What a user named; paths, None where not given. Either ``adc``, or ``b0`` and ``weighted``, or ``series`` (4D; ``bvals`` beside it).

    Attributes:
        adc: ADC map.
        b0: volume without diffusion weighting.
        weighted: volume with it.
        series: 4D file with both.
        bvals: its b-values; None takes the ``.bval`` beside it.
        b: b-value of ``weighted``, or the one wanted of ``series``, s/mm2.
        zadc: Z map that is there already.
        norm_mean: mean of a normative atlas, 1e-6 mm2/s.
        norm_sd: its standard deviation.
    """

    adc: str | None = None
    b0: str | None = None
    weighted: str | None = None
    series: str | None = None
    bvals: str | None = None
    b: float = 1000.0
    zadc: str | None = None
    norm_mean: str | None = None
    norm_sd: str | None = None


def prepare_diffusion(
    files: DiffusionFiles,
    record: Provenance,
    *,
    strip: str = "auto",
    brain: str | None = None,
    register: bool = True,
    floor: float | None = None,
    device: str | None = None,
) -> Prepared:
    """ADC (1e-6 mm2/s, 0 outside the brain) and Z map on the grid of the diffusion scan.

    Args:
        files: what there is.
        record: gets every step.
        strip: how the brain is found, on b = 0 where there is one.
        brain: file of a mask in the scan's world.
        register: False believes the headers, of the weighted volume and of the atlas.
        floor: mean signal of noise; None measures it in the air.
        device: for tools that strip the skull.

    Raises:
        UserError: files that are missing, do not belong together or cannot be used.
    """
    _check(files)
    if brain is not None:
        record.add_input("brain", brain)
    if files.adc is not None:
        scan = read_input("adc", files.adc, record)
        mask = _brain(scan, strip, brain, device, record)
        adc, unit = to_micro(scan.volume, mask, scan.path)
        mask &= np.isfinite(adc)
        low = int((mask & (adc < 1)).sum())
        adc = np.where(mask, np.maximum(adc, 1), 0).astype(np.float32)
        record.add_step("ADC", source="given map", unit_of_file=unit, unit="1e-6 mm2/s", voxels_raised_to_1=low)
    else:
        scan, weighted, b = _weighted(files, register, record)
        mask = _brain(scan, strip, brain, device, record)
        level = noise_floor(weighted, mask) if floor is None else floor
        adc, bounded = adc_map(scan.volume, weighted, b, mask, level)
        record.add_step("ADC", formula="ln(S0 / Sb) / b", b=b, noise_floor=level, unit="1e-6 mm2/s", voxels_at_a_bound=bounded)
        to_micro(adc, mask, scan.path)  # a wrong b-value gives a wrong median
    mask = mask & (adc > 0)
    return Prepared({"adc": adc, "zadc": _zscore(files, scan, adc, mask, register, record)}, mask, scan.affine, scan)


def _check(files: DiffusionFiles) -> None:
    """One source of ADC and at most one of Z, each whole."""
    ways = [files.adc is not None, files.b0 is not None or files.weighted is not None, files.series is not None]
    if sum(ways) != 1 or (files.b0 is None) != (files.weighted is None):
        raise UserError(
            "give the diffusion scan in one way: --adc FILE, or --b0 FILE and --b1000 FILE, or --dwi FILE (4D, with its .bval)."
        )
    if (files.norm_mean is None) != (files.norm_sd is None):
        raise UserError("--norm_mean and --norm_sd must be given together: mean and standard deviation of healthy ADC, 1e-6 mm2/s.")
    if files.zadc is not None and files.norm_mean is not None:
        raise UserError("give either --zadc or --norm_mean and --norm_sd, not both.")


def _brain(scan: Scan, strip: str, brain: str | None, device: str | None, record: Provenance) -> np.ndarray:
    found = find_brain(scan.volume, scan.affine, scan.path, strip, brain, device)
    record.add_step("brain mask", on=os.path.basename(scan.path), how=found.how, voxels=int(found.mask.sum()))
    if found.warning:
        record.warn(found.warning)
    return found.mask.copy()


def _weighted(files: DiffusionFiles, register: bool, record: Provenance) -> tuple[Scan, np.ndarray, float]:
    """Scan without weighting, volume with weighting on its grid, and the b-value."""
    if files.series is not None:
        return _from_series(files, record)
    assert files.b0 is not None and files.weighted is not None  # checked before
    plain, other = read_input("b0", files.b0, record), read_input("weighted", files.weighted, record)
    if plain.volume.shape == other.volume.shape and np.allclose(plain.affine, other.affine, atol=1e-3):
        record.add_step("b-values", b0=files.b0, weighted=files.weighted, b=files.b, registration="none: one grid, as of one series")
        return plain, other.volume, files.b
    world = np.eye(4)
    if register:
        found = register_sequences(plain.volume, plain.affine, other.volume, other.affine, (plain.path, other.path))
        world = found.matrix
    record.add_step("registration", moving="weighted", fixed="b0", used="rigid" if register else "headers", matrix=world)
    return plain, bring_to_grid(other.volume, other.affine, plain.affine, plain.volume.shape, world), files.b


def _from_series(files: DiffusionFiles, record: Provenance) -> tuple[Scan, np.ndarray, float]:
    assert files.series is not None
    volumes, affine, _ = read_volumes(files.series)
    record.add_input("dwi", files.series, volumes.shape[1:], affine)
    if len(volumes) < 2:
        raise UserError(f"{files.series}: one volume, expected a 4D series; give single volumes by --b0 and --b1000.")
    table = files.bvals or bvals_beside(files.series)
    bvals = read_bvals(table, len(volumes), files.series)
    record.add_input("bvals", table)
    plain, shell, b = choose_volumes(bvals, files.b)
    record.add_step("b-values", all=bvals, b0_volumes=plain, shell_volumes=shell, b=b, mean="geometric over the shell, plain over b = 0")
    if abs(b - files.b) > 0.05 * files.b:
        record.warn(f"b = {files.b:g} s/mm2 was not measured; the ADC was made with b = {b:g}, which gives other values.")
    s0 = volumes[plain].mean(axis=0)
    return Scan(os.path.abspath(files.series), s0, affine), geometric_mean(volumes[shell], 1e-3 * float(s0.max())), b


def _zscore(files: DiffusionFiles, scan: Scan, adc: np.ndarray, mask: np.ndarray, register: bool, record: Provenance) -> np.ndarray:
    """Z map on the scan's grid: given, by an atlas, or by the scan itself."""
    if files.zadc is not None:
        given = read_input("zadc", files.zadc, record)
        check_same_grid((scan.path, adc.shape, scan.affine), (given.path, given.volume.shape, given.affine), 1e-3)
        record.add_step("Z map", source="given")
        return np.where(mask, given.volume, np.float32(0))
    smoothed = smooth_in_brain(adc, mask, scan.spacing_mm.tolist())
    if files.norm_mean is None or files.norm_sd is None:
        norm = own_norm(smoothed, mask)
        record.warn(APPROXIMATE)
        record.add_step(
            "Z map", source="own parenchyma", approximate=True, median=norm.median, robust_sd=norm.sd,
            parenchyma_share=round(norm.share, 4), smoothing_fwhm_mm=SMOOTHING_MM, clipped=LIMIT,
        )  # fmt: skip
        return zscore_map(smoothed, norm.median, norm.sd, mask)
    mean, sd = read_input("norm_mean", files.norm_mean, record), read_input("norm_sd", files.norm_sd, record)
    check_same_grid((mean.path, mean.volume.shape, mean.affine), (sd.path, sd.volume.shape, sd.affine), 1e-3)
    same = mean.volume.shape == adc.shape and np.allclose(mean.affine, scan.affine, atol=1e-3)
    world = np.eye(4)
    if register and not same:
        world = register_atlas(adc, scan.affine, mean.volume, mean.affine, (scan.path, mean.path))
    levels, spreads = (bring_to_grid(part.volume, part.affine, scan.affine, adc.shape, world) for part in (mean, sd))
    unknown = float((spreads[mask] <= 0).mean())
    record.add_step(
        "Z map", source="normative atlas", approximate=False,
        registration="none: same grid" if same else "affine" if register else "headers", matrix=world,
        smoothing_fwhm_mm=SMOOTHING_MM, clipped=LIMIT, share_without_norm=round(unknown, 4),
    )  # fmt: skip
    if unknown > 0.5:
        raise UserError(
            f"{mean.path}: the atlas covers {100 * (1 - unknown):.0f} % of the brain; expected most of it. Look at its registration."
        )
    if unknown > 0.05:
        record.warn(f"The atlas knows nothing of {100 * unknown:.0f} % of the brain; Z is 0 there.")
    return zscore_map(smoothed, levels, spreads, mask)
