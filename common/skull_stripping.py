"""The brain of a scan from a hospital: a given mask, a scan that is stripped already, or a tool. MONAI ships no skull stripping."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from common.data.scan_input import read_scan
from common.errors import UserError
from common.transforms.bring_to_grid import bring_to_grid
from common.transforms.head_masks import fill_holes, largest_component
from common.transforms.head_volume import to_isotropic_ras
from common.transforms.save_like_source import save_volume
from common.transforms.t1_brain import STRIPPED_ML, STRIPPED_SHARE, extract_t1_brain

METHODS: Final = ("auto", "hd-bet", "synthstrip", "rough", "none")
APPROXIMATE: Final = "by thresholds (--strip rough): APPROXIMATE, rims and vessels are wrong; look at the picture"


@dataclass(frozen=True)
class Brain:
    """A mask ``(X, Y, Z)`` bool, how it was made, in words, and what must be known about it (empty: nothing)."""

    mask: np.ndarray
    how: str
    warning: str = ""


def find_brain(
    image: np.ndarray, affine: np.ndarray, name: str, how: str = "auto", mask: str | None = None, device: str | None = None
) -> Brain:
    """Mask of the brain on a scan's grid.

    Args:
        image: ``(X, Y, Z)``, any unit.
        affine: ``(4, 4)``, voxel index to mm, RAS.
        name: of the file, for errors.
        how: "auto" takes ``mask``, or the scan's own voxels where it is stripped already; "hd-bet" and "synthstrip" call
            brainles-preprocessing; "rough" finds the brain of a T1 by thresholds; "none" takes the whole volume.
        mask: file of a mask in the scan's world, on any grid; > 0 is brain.
        device: for the tools: "cpu", "cuda"; None takes the GPU where there is one.

    Raises:
        UserError: an unknown method, an empty mask, no brain found, or no tool installed; the text says what to do.
    """
    if how not in METHODS:
        raise UserError(f"--strip: got '{how}', expected one of {', '.join(METHODS)}.")
    if mask is not None:
        values, mask_affine, _ = read_scan(mask)
        found = Brain(bring_to_grid(values > 0, mask_affine, affine, image.shape) > 0.5, f"given mask {os.path.abspath(mask)}")
    elif how in ("hd-bet", "synthstrip"):
        found = Brain(_by_brainles(image, affine, how, device), f"brainles-preprocessing, {how}")
    elif how == "rough":
        found = Brain(_rough(image, affine), "thresholds on a T1", f"The brain of {name} was found {APPROXIMATE}.")
    elif how == "none":
        found = Brain(np.ones(image.shape, bool), "none: the whole volume", f"{name} was not stripped of its skull (--strip none).")
    else:
        found = Brain(_stripped(image, affine, name), "stripped already: voxels that are not 0")
    if not found.mask.any():
        raise UserError(f"{name}: the mask of the brain is empty ({found.how}); look at the scan, or give a mask by --brain FILE.")
    return found


def is_stripped(image: np.ndarray, affine: np.ndarray) -> bool:
    """Whether a scan is 0 outside something of a brain's size."""
    inside = image != 0
    volume_ml = float(inside.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
    return bool(inside.any()) and float(inside.mean()) <= 1 - STRIPPED_SHARE and volume_ml < STRIPPED_ML


def _stripped(image: np.ndarray, affine: np.ndarray, name: str) -> np.ndarray:
    if not is_stripped(image, affine):
        raise UserError(
            f"{name}: not stripped of its skull ({100 * (image != 0).mean():.0f} % of its voxels are not 0), and the method needs the brain"
            " alone. Give a mask by --brain FILE; or --strip hd-bet or synthstrip (pip install 'brain-bundles[clinical]', models are"
            " downloaded on first use); or, of a T1 and to try things only, --strip rough."
        )
    return fill_holes(largest_component(image != 0))


def _rough(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    coarse, matrix = to_isotropic_ras(np.maximum(image, 0), affine, 2.0)
    return bring_to_grid(extract_t1_brain(coarse, (2.0, 2.0, 2.0), superior_axis=2), matrix, affine, image.shape) > 0.5


def _by_brainles(image: np.ndarray, affine: np.ndarray, how: str, device: str | None) -> np.ndarray:
    """Mask by HD-BET or SynthStrip through files, which is what the package takes."""
    import torch

    try:
        from brainles_preprocessing import brain_extraction

        extractor: Any = getattr(brain_extraction, {"hd-bet": "HDBetExtractor", "synthstrip": "SynthStripExtractor"}[how])()
    except (ImportError, AttributeError) as error:
        extra = "pip install 'brain-bundles[clinical]'" + (" 'brainles-preprocessing[synthstrip]'" if how == "synthstrip" else "")
        raise UserError(
            f"--strip {how}: needs brainles-preprocessing, which is not installed here ({error}): {extra}. Its models are downloaded on"
            " first use. Or strip the scan with a tool of your own and give the mask by --brain FILE."
        ) from error
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"device": place}
    if how == "hd-bet":
        # HD-BET counts GPUs; on a CPU its accurate mode takes half an hour
        options = {"device": "cpu" if place == "cpu" else 0, "mode": "fast" if place == "cpu" else "accurate", "do_tta": place != "cpu"}
    with tempfile.TemporaryDirectory(prefix="brain_bundles_") as folder:
        scan, stripped, mask = (Path(folder) / f"{part}.nii.gz" for part in ("scan", "stripped", "brain"))
        save_volume(image, affine, scan, np.float32)
        try:
            extractor.extract(input_image_path=scan, masked_image_path=stripped, brain_mask_path=mask, **options)
        except Exception as error:  # it downloads its model, so anything may happen
            raise UserError(
                f"--strip {how}: brainles-preprocessing failed ({type(error).__name__}: {error}). Where the download of its model failed,"
                " do it on a machine with a network first, or give a mask by --brain FILE."
            ) from error
        return read_scan(mask)[0] > 0
