"""Growth as files: one 4D NIfTI whose fourth axis is age, with the ages beside it, and a short animation; MONAI's saver knows no ages."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from common.atomic import write_atomic, write_json
from common.data.cases import volume_stem
from common.errors import UserError
from common.figures import _orient
from common.growth_pictures import AXES, PLANES, centre_of, planes_of


def save_growth(volumes: Any, ages_weeks: Sequence[float], affine: Any, path: str | os.PathLike[str], note: str = "") -> list[Path]:
    """Write a brain at many ages as one 4D NIfTI, and its ages as JSON of the same name.

    Args:
        volumes: ``(A, X, Y, Z)``, or ``(A, X, Y)`` of a slice, in [0, 1].
        ages_weeks: ``(A,)``, weeks, ascending; steps may differ.
        affine: of the grid, voxel index to mm, RAS, ``(4, 4)``.
        path: ends in ``.nii`` or ``.nii.gz``.
        note: what made it, such as "SIMULATED DATA"; into the JSON.

    Returns:
        The NIfTI, float32 ``(X, Y, Z, A)`` (Z = 1 for slices), whose step of the fourth axis is the ages' where it is one and 1
        otherwise, since NIfTI has no weeks; and the JSON with ``ages_weeks``.

    Raises:
        UserError: ages that do not rise, or another number of them than of volumes; another ending.
    """
    stack, ages = _checked(volumes, ages_weeks, path, (".nii", ".nii.gz"))
    voxels = np.moveaxis(stack if stack.ndim == 4 else stack[..., None], 0, -1)
    image = nibabel.Nifti1Image(np.ascontiguousarray(voxels), np.asarray(affine, dtype=np.float64))
    steps = np.diff(ages)
    step = float(steps[0]) if steps.size and np.allclose(steps, steps[0]) else 1.0
    image.header.set_zooms((*image.header.get_zooms()[:3], step))
    image.header.set_xyzt_units("mm", "unknown")
    written = write_atomic(path, lambda temporary: nibabel.save(image, temporary))
    content = {"volume": written.name, "axis": 3, "ages_weeks": ages.tolist(), "age": "post-menstrual, weeks", "note": note}
    return [written, write_json(written.with_name(f"{volume_stem(written)}.json"), content)]


def save_growth_gif(
    volumes: Any,
    ages_weeks: Sequence[float],
    spacing_mm: Sequence[float],
    path: str | os.PathLike[str],
    title: str = "",
    seconds: float = 4.0,
    axes: str = AXES,
) -> Path:
    """Write an animation of a growing brain: the slice, or three planes through the centre of the oldest, and the age.

    Args:
        volumes: ``(A, X, Y, Z)`` or ``(A, X, Y)``, in [0, 1].
        ages_weeks: ``(A,)``, weeks, ascending.
        spacing_mm: voxel edges, mm, 3 or 2.
        path: ends in ``.gif``.
        title: above the picture.
        seconds: from the youngest to the oldest; it then starts again.
        axes: where the axes of the grid point.

    Returns:
        ``path``.

    Raises:
        UserError: as :func:`save_growth`.
    """
    from matplotlib import rc_context, rcdefaults
    from matplotlib.animation import PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stack, ages = _checked(volumes, ages_weeks, path, (".gif",))
    centre = centre_of(stack[-1])
    frames = [planes_of(volume, centre) for volume in stack]
    names = list(PLANES)[: len(frames[0])]
    with rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        rcdefaults()
        figure = Figure(figsize=(2.2 * len(names), 3.0), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        shown = []
        for panel, name, plane in zip(figure.subplots(1, len(names), squeeze=False)[0], names, frames[0], strict=True):
            shown.append(panel.imshow(plane.T, cmap="gray", vmin=0, vmax=1, origin="lower", interpolation="nearest"))
            _orient(panel, [spacing_mm[axis] for axis in PLANES[name]], "".join(axes[axis] for axis in PLANES[name]), letters=True)
        heading = figure.suptitle("", fontsize=10)

        def write(temporary: Path) -> None:
            writer = PillowWriter(fps=max(1, round(len(frames) / seconds)))
            with writer.saving(figure, str(temporary), dpi=90):
                for age, planes in zip(ages, frames, strict=True):
                    for picture, plane in zip(shown, planes, strict=True):
                        picture.set_data(plane.T)
                    heading.set_text(f"{title}\n{age:.1f} weeks".strip())
                    writer.grab_frame()

        return write_atomic(path, write)


def _checked(
    volumes: Any, ages_weeks: Sequence[float], path: str | os.PathLike[str], endings: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Volumes ``(A, *grid)`` as float32 and ages as float64."""
    stack = np.asarray(volumes.detach().cpu() if hasattr(volumes, "detach") else volumes).astype(np.float32)
    ages = np.asarray(ages_weeks, dtype=np.float64).ravel()
    if stack.ndim not in (3, 4) or len(stack) != ages.size or not ages.size or (np.diff(ages) <= 0).any():
        raise UserError(
            f"growth: got volumes of shape {stack.shape} and ages {ages.tolist()[:8]}; expected (A, X, Y) or (A, X, Y, Z)"
            " and as many rising ages in weeks."
        )
    if not str(path).lower().endswith(endings):
        raise UserError(f"growth: got the file name {path}, expected one that ends in {' or '.join(endings)}.")
    return stack, ages
