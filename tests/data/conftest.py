"""Tiny data sets on disk for the tests of readers; volumes have unequal axes and an oblique grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SHAPE = (5, 4, 3)


def write_mha(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (1.1, 1.2, 4.3)) -> Path:
    import itk

    path.parent.mkdir(parents=True, exist_ok=True)
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing)
    image.SetOrigin([-10.5, 20.25, 3.125])
    itk.imwrite(image, str(path))
    return path


def adc_map() -> np.ndarray:
    array = np.zeros(SHAPE, np.float32)
    array[1:4, 1:3, :] = 1200
    return array


def lesion_mask() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[2, 1, 1] = 1
    return array


@pytest.fixture
def disk() -> SimpleNamespace:
    """The helpers above for tests: ``write_mha``, ``adc_map``, ``lesion_mask``, ``shape``."""
    return SimpleNamespace(write_mha=write_mha, adc_map=adc_map, lesion_mask=lesion_mask, shape=SHAPE)


@pytest.fixture
def make_bonbid(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a BONBID-HIE tree with the visits given as (subject number, visit) and returns its root."""

    def make(*visits: tuple[str, str], labelled: bool = True, root: str = "BONBID2023_Train") -> Path:
        tree = tmp_path / root
        for number, visit in visits:
            stem = f"MGHNICU_{number}-{visit}"
            write_mha(tree / "1ADC_ss" / f"{stem}-ADC_ss.mha", adc_map())
            write_mha(tree / "2Z_ADC" / f"Zmap_{stem}-ADC_smooth2mm_clipped10.mha", np.where(adc_map() > 0, -1, 0).astype(np.float32))
            if labelled:
                write_mha(tree / "3LABEL" / f"{stem}_lesion.mha", lesion_mask())
        return tree

    return make


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., None]:
    """Function that makes empty files below ``tmp_path``: readers list files, they do not open them."""

    def make(*names: str) -> None:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return make
