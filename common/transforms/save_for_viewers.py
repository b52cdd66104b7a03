"""Write results a second time as viewers and archives want them: for 3D Slicer, and as DICOM where the source is DICOM.

``SaveLikeSourced`` has written the result before. What goes wrong here is logged and costs no result.
"""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import SaveImaged
from monai.utils import ensure_tuple_rep

from common import __version__
from common.data.dicom_source import RESEARCH, source_images
from common.data.segments import read_segments, save_labels_csv, segments_of
from common.errors import UserError
from common.transforms.derived_series import save_derived_series
from common.transforms.dicom_segmentation import Algorithm, save_dicom_segmentation
from common.transforms.map_style import NAME_LENGTH, MapStyle, read_styles
from common.transforms.save_like_source import affine_of, as_array, is_dicom, result_name
from common.transforms.slicer_files import save_map_nrrd, save_segmentation_nrrd, window_of
from common.weights import is_simulated

NEEDS = {"slicer": ("slicerio", "nrrd"), "dicom": ("highdicom", "pydicom")}
"""Formats, and the packages that write them."""

_logger = logging.getLogger("brain_bundles")


class SaveForViewersd(SaveImaged):
    """Write masks as ``<id>_<postfix>.seg.nrrd`` with ``labels.csv``, maps as ``<id>_<postfix>.map.nrrd``; and as DICOM.

    DICOM is written where the source is DICOM: a mask as a Segmentation, ``<id>_<postfix>.dcm``, a map as a derived series in the folder
    ``<id>_<postfix>_dicom``. It is refused, with a line in the log, where the weights are tagged as trained on simulated data.

    It is a ``SaveImaged`` by type, because MONAI Label removes those from a bundle's postprocessing.

    Args:
        keys: results ``(1, X, Y, Z)`` on the source grid, or ``(K, X, Y, Z)`` with ``channel_names``; a case may lack them.
        output_dir: folder for all files.
        postfix: one, or one per key.
        segments: what the values of masks mean (``common.data.segments.read_segments``); None means that the results are maps.
        class_names: names of the values 1, 2, ... of the mask, where weights decide them; segments are then found by name.
        styles: of maps, by postfix (``common.transforms.map_style.read_styles``); a map without one is grey.
        channel_names: of the K channels; each is written as a result of its own, ``<postfix>_<name>``.
        also_write: what to write, of "slicer" and "dicom"; a list, or a text with commas; empty writes nothing.
        ckpt_dir: folder of the weights, or several; None where there are none.
        algorithm: name of the bundle.
        number: of the first result among those of a case; DICOM series are numbered by it.
        source_key: tensor whose meta names the source (``filename_or_obj``).
        print_path: print each path that was written.

    Raises:
        UserError: unknown formats, or segments and styles that are none.
    """

    def __init__(
        self,
        keys: Sequence[str] | str = "pred",
        output_dir: str | os.PathLike[str] = "eval",
        postfix: Sequence[str] | str = "mask",
        segments: Mapping[Any, Mapping[str, Any]] | Sequence[Mapping[Any, Mapping[str, Any]]] | None = None,
        class_names: Sequence[str] | None = None,
        styles: Mapping[str, Mapping[str, Any]] | None = None,
        channel_names: Sequence[Any] | None = None,
        also_write: Sequence[str] | str = tuple(NEEDS),
        ckpt_dir: str | Path | Sequence[str | Path] | None = None,
        algorithm: str = "",
        number: int = 1,
        source_key: str = "image",
        print_path: bool = True,
    ) -> None:
        super().__init__(keys, output_dir=Path(output_dir), print_log=False, allow_missing_keys=True)
        self.output_dir, self.source_key, self.print_path = Path(output_dir).expanduser(), source_key, print_path
        self.postfixes = ensure_tuple_rep(postfix, len(self.keys))
        self.segments = None if segments is None else read_segments(segments, class_names)
        self.styles = read_styles(styles or {})
        self.channel_names = None if channel_names is None else [_text(name) for name in channel_names]
        self.also_write, self.ckpt_dir = formats(also_write), ckpt_dir
        self.algorithm, self.number = Algorithm(algorithm or "unnamed", __version__), number
        self._said: set[str] = set()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the case stays as it was."""
        case = dict(data)
        source = getattr(case.get(self.source_key), "meta", {}).get("filename_or_obj")
        if self.also_write and source:
            name = result_name(case, source)
            for number, (key, postfix, channel) in enumerate(self._results(case), self.number):
                self._write(case[key], key, channel, str(self.output_dir / f"{name}_{postfix}"), postfix, str(source), number)
        return case

    def _results(self, case: Mapping[Hashable, Any]) -> Iterator[tuple[Hashable, str, int]]:
        """Key, postfix and channel of every volume."""
        for key, postfix in self.key_iterator(case, self.postfixes):
            names = self.channel_names
            yield from [(key, postfix, 0)] if names is None else [(key, f"{postfix}_{name}", k) for k, name in enumerate(names)]

    def _write(self, value: Any, key: Hashable, channel: int, stem: str, postfix: str, source: str, number: int) -> None:
        """One volume in all formats that are wanted and possible."""

        def grid() -> tuple[np.ndarray, np.ndarray]:
            return as_array(value)[channel], affine_of(value, key, source)

        if self._wants("slicer"):
            write = self._map_for_slicer if self.segments is None else self._mask_for_slicer
            self._try(lambda: write(*grid(), stem, postfix), f"{stem} for 3D Slicer")
        if is_dicom(source) and self._wants("dicom") and self._may_be_dicom():
            self._try(lambda: self._as_dicom(*grid(), stem, postfix, source, number), f"{stem} as DICOM")

    def _wants(self, form: str) -> bool:
        """Whether a format is asked for and can be written here."""
        missing = [name for name in NEEDS[form] if form in self.also_write and find_spec(name) is None]
        if missing:
            text = f'No {form} files are written: {" and ".join(missing)} not installed; pip install "brain-bundles[{form}]", or leave'
            self._say(f"{text} '{form}' out of also_write.")
        return form in self.also_write and not missing

    def _mask_for_slicer(self, volume: np.ndarray, affine: np.ndarray, stem: str, postfix: str) -> None:
        mask, segments = _integers(volume), self.segments or []
        self._wrote(save_segmentation_nrrd(mask, affine, segments, f"{stem}.seg.nrrd", self._comment()))
        save_labels_csv(segments_of(mask, segments), self.output_dir / "labels.csv")

    def _map_for_slicer(self, volume: np.ndarray, affine: np.ndarray, stem: str, postfix: str) -> None:
        style = self._style(postfix)
        name, window = f"{style.name}. {self._comment()}", style.window or window_of(volume)
        self._wrote(save_map_nrrd(volume, affine, window, f"{stem}.map.nrrd", name, style.colours, style.unit[2]))

    def _as_dicom(self, volume: np.ndarray, affine: np.ndarray, stem: str, postfix: str, source: str, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote values of the patient
            sources = source_images(source)
            if self.segments is None:
                style = self._style(postfix)
                window = style.window or window_of(volume)
                path = save_derived_series(
                    volume, affine, window, sources, f"{stem}_dicom", self.algorithm, style.name, style.unit, number
                )  # fmt: skip
            else:
                mask, what = _integers(volume), postfix.replace("_", " ")
                path = save_dicom_segmentation(mask, affine, self.segments, sources, f"{stem}.dcm", self.algorithm, what, number)
        self._wrote(path)

    def _may_be_dicom(self) -> bool:
        """Whether the weights are not tagged."""
        try:
            tagged = is_simulated(self.ckpt_dir)
        except UserError as error:
            self._say(f"No DICOM is written, since nothing is known of the weights: {error}")
            return False
        if tagged:
            self._say(
                f"No DICOM is written: the weights in {self.ckpt_dir} were trained on SIMULATED data, which must not enter an archive."
            )
        return not tagged

    def _style(self, postfix: str) -> MapStyle:
        """The style of a map; that of a channel is its map's, with the channel's name."""
        for known, style in self.styles.items():
            if postfix == known:
                return style
            if postfix.startswith(f"{known}_"):
                return replace(style, name=f"{style.name} {postfix[len(known) + 1 :]}")
        return MapStyle(postfix.replace("_", " ")[:NAME_LENGTH])

    def _comment(self) -> str:
        tag = " SIMULATED weights, a demonstration." if is_simulated(self.ckpt_dir) else ""
        return f"{self.algorithm.text}. {RESEARCH}.{tag}"

    def _try(self, step: Callable[[], None], what: str) -> None:
        """Do a step that may fail: the result itself is on disk already."""
        try:
            step()
        except UserError as error:
            self._say(f"{what} is not written: {error}")
        except Exception as error:
            # the texts of readers may hold values of the patient
            place = traceback.extract_tb(error.__traceback__)[-1]
            _logger.warning("%s is not written: %s in %s, line %s", what, type(error).__name__, Path(place.filename).name, place.lineno)

    def _say(self, text: str) -> None:
        """A line in the log, once."""
        if text not in self._said:
            self._said.add(text)
            _logger.warning(text)

    def _wrote(self, path: Path) -> None:
        if self.print_path:
            print(f"Wrote {path}")


def formats(wanted: Sequence[str] | str | None) -> tuple[str, ...]:
    """Names of formats from a list, or from a text with commas as the command line gives it.

    Raises:
        UserError: a name that is none.
    """
    names = wanted.split(",") if isinstance(wanted, str) else list(wanted or [])
    found = tuple(str(name).strip() for name in names if str(name).strip() not in ("", "none"))
    if set(found) - set(NEEDS):
        raise UserError(f"also_write: got {wanted!r}, expected a list of {' and '.join(NEEDS)}, or an empty one.")
    return found


def _integers(mask: np.ndarray) -> np.ndarray:
    """A mask's values as integers, which a float result holds too."""
    return mask if mask.dtype.kind == "u" else np.rint(mask).astype(np.uint16)


def _text(name: Any) -> str:
    """Name of a channel: 28.0 is 28."""
    return f"{name:g}" if isinstance(name, float) else str(name)
