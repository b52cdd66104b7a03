"""Write a CT volume as a series of DICOM files with ITK, the same bytes for the same content.

MONAI's writers know no DICOM. ITK takes geometry from the image and everything else from the dictionary; what it would invent (identifiers,
times) is given, so that a cohort can be repeated byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.data.simulate.anatomy import Grid

FIXED = {
    "0008|0016": "1.2.840.10008.5.1.4.1.1.2",  # CT image storage
    "0008|0060": "CT",
    "0010|0010": "SIMULATED^NOT A PATIENT",
    "0010|0040": "O",
    "0018|0015": "HEAD",
    "0028|0030": "",
    "0028|1050": "40",
    "0028|1051": "80",
    "0028|1052": "-1024",
    "0028|1053": "1",
    "0028|1054": "HU",
}


def uid(*parts: object) -> str:
    """A DICOM identifier under 2.25 that follows from its parts."""
    number = int.from_bytes(hashlib.sha256("/".join(str(p) for p in parts).encode()).digest()[:15], "big")
    return f"2.25.{number}"


def write_series(
    folder: Path, hu: NDArray[np.float32], grid: Grid, tags: dict[str, str], series_uid: str, order: Sequence[int] | None = None
) -> list[Path]:
    """Write one file per slice, ``CT000000.dcm``, ``CT000001.dcm``, ...

    Args:
        folder: made if it is not there.
        hu: ``(X, Y, Z)``, whole Hounsfield units from -1024 to 3071.
        grid: geometry in ITK's convention.
        tags: DICOM dictionary, "gggg|eeee" to text, the same for all slices; wins over ``FIXED``.
        series_uid: identifies the series; the slices' identifiers follow from it.
        order: slice numbers in the order of the files' names; all in rising order by default. Leaving one out makes an incomplete series.

    Returns:
        The files.
    """
    import itk

    folder.mkdir(parents=True, exist_ok=True)
    io = itk.GDCMImageIO.New()
    io.KeepOriginalUIDOn()
    columns = np.array(grid.spacing_mm) * grid.direction
    files = []
    for place, k in enumerate(range(hu.shape[2]) if order is None else order):
        image = itk.image_from_array(np.ascontiguousarray(np.rint(hu[:, :, k : k + 1]).astype(np.int16).transpose(2, 1, 0)))
        image.SetSpacing([float(s) for s in grid.spacing_mm])
        image.SetOrigin([round(float(v), 6) for v in grid.origin_mm + columns[:, 2] * k])
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(grid.direction)))
        dictionary = image.GetMetaDataDictionary()
        own = {"0008|0018": uid(series_uid, k), "0020|000e": series_uid, "0020|0013": str(place + 1)}
        for key, value in {**FIXED, **tags, **own}.items():
            if value:
                dictionary[key] = value
        files.append(folder / f"CT{place:06d}.dcm")
        itk.imwrite(image, str(files[-1]), imageio=io)
    return files
