"""One door to every data set: find out which form a path has, read it, and simulate a cohort where no data is given."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data import bonbid, brats, btcv, cq500, dhcp, feta, ixi
from common.data.cases import (
    VOLUME_SUFFIXES,
    Case,
    Finding,
    finish_cases,
    is_simulated,
    list_volumes,
    some,
    subject_of,
    volume_stem,
    volume_suffix,
)
from common.data.dicom_files import is_dicom_file
from common.data.dicom_folders import any_dicom, read_dicom_folders, read_dicom_inputs
from common.data.paired_files import fits_inputs, read_paired_files
from common.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """A public data set's own layout.

    Args:
        tree: the tree as text, for errors.
        matches: whether a folder looks like it.
        read: reader, called with the folder and ``labelled``.
        inputs: names of the inputs in channel order.
        check: looks through a tree file by file; gives its findings and the cases whose volumes can be looked at.
        look: reads one case for the check; gives shape, spacing in mm, and what is odd, in words. None reads it with ``LoadCased``.
        manifest: gives a table of what was chosen from a tree, which the check writes; None where nothing is chosen.
        findings: names of what readers found in a case; where there are any, they stand in for the label.
        facts: what else of a case tables, BIDS trees and datalists are asked for (``common.data.scan_facts``); where there are any, a case
            without a label is complete.
    """

    tree: str
    matches: Callable[[Path], bool]
    read: Callable[..., list[Case]]
    inputs: tuple[str, ...]
    check: Callable[[Path], tuple[list[Finding], list[Case]]]
    look: Callable[[Case], tuple[tuple[int, ...], tuple[float, ...], list[str]]] | None = None
    manifest: Callable[[Path], list[dict[str, Any]]] | None = None
    findings: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


LAYOUTS: dict[str, Layout] = {
    "bonbid": Layout(bonbid.TREE, bonbid.is_bonbid, bonbid.read_bonbid, ("adc", "zadc"), bonbid.check_bonbid),
    "brats": Layout(brats.TREE, brats.is_brats, brats.read_brats, brats.SEQUENCES, brats.check_brats, look=brats.look_at),
    "btcv": Layout(btcv.TREE, btcv.is_btcv, btcv.read_btcv, ("ct",), btcv.check_btcv, look=btcv.look_at),
    "cq500": Layout(
        cq500.TREE,
        cq500.is_cq500,
        cq500.read_cq500,
        ("ct",),
        cq500.check_cq500,
        look=cq500.look_at,
        manifest=cq500.selection_manifest,
        findings=tuple(cq500.FINDINGS),
    ),
    "dhcp": Layout(dhcp.TREE, dhcp.is_dhcp, dhcp.read_dhcp, ("t2w",), dhcp.check_dhcp, look=dhcp.look_at, facts=("brain", *dhcp.FACTS)),
    "feta": Layout(feta.TREE, feta.is_feta, feta.read_feta, ("t2w",), feta.check_feta, look=feta.look_at),
    "ixi": Layout(ixi.TREE, ixi.is_ixi, ixi.read_ixi, ("t1",), ixi.check_ixi, look=ixi.look_at, facts=("brain", *ixi.FACTS[1:])),
}


def get_layout(name: str) -> Layout:
    """Layout by name.

    Raises:
        UserError: no such layout.
    """
    if name not in LAYOUTS:
        raise UserError(f"layout: got {name!r}; expected one of {', '.join(sorted(LAYOUTS))}.")
    return LAYOUTS[name]


def detect_form(dataset_dir: str | os.PathLike[str], layout: str | None = "bonbid") -> str:
    """Form of a data set.

    Args:
        dataset_dir: file or folder.
        layout: name of the public layout that is tried first; None tries none.

    Returns:
        "layout", "datalist", "bids", "table", "volume" (one file), "volumes" (a plain folder of files that hold all inputs) or "dicom"
        (a DICOM series, or folders of them).

    Raises:
        UserError: the path is missing or has none of the forms; the text shows what is there and what is accepted.
    """
    path = Path(dataset_dir)
    if not path.exists():
        raise UserError(f"dataset_dir: {path} does not exist (relative paths start at {os.getcwd()}).")
    if path.is_file():
        forms = {".json": "datalist", ".csv": "table", ".tsv": "table"} | dict.fromkeys(VOLUME_SUFFIXES, "volume")
        form = forms.get(volume_suffix(path) or path.suffix.lower()) or ("dicom" if is_dicom_file(path) else None)
    elif layout is not None and get_layout(layout).matches(path):
        form = "layout"
    elif (path / "dataset.json").is_file():
        form = "datalist"
    elif (path / "dataset_description.json").is_file() or any(child.is_dir() for child in path.glob("sub-*")):
        form = "bids"
    elif any(child.suffix.lower() in (".csv", ".tsv") and not child.name.startswith(".") for child in path.iterdir()):
        form = "table"
    else:
        form = "volumes" if list_volumes(path) else "dicom" if any_dicom(path) else None
    if form is None:
        raise UserError(_not_a_dataset(path, layout))
    return form


def find_cases(
    dataset_dir: str | os.PathLike[str],
    layout: str | None = "bonbid",
    inputs: Sequence[str] = ("adc", "zadc"),
    labelled: bool = False,
) -> list[Case]:
    """Read a data set of any accepted form.

    Args:
        dataset_dir: the public data set as unpacked, a Decathlon-style JSON or the folder with its ``dataset.json``, a folder with one
            CSV or TSV (or that file), a BIDS tree, a folder of files ``<case>_<input>`` or of 4D files, or one 4D file. Methods with one
            input also take a folder of plain 3D files, one such file, a folder with one DICOM series, or a folder of such folders.
        layout: name of the public layout (``LAYOUTS``).
        inputs: names of the method's inputs in its channel order: the columns of a table, the suffixes of BIDS files.
        labelled: whether every case must have a label; in a layout with readers' findings, those.

    Returns:
        Cases sorted by id; see ``common.data.cases.Case``.

    Raises:
        UserError: no such form, or a mistake in the data; the text names the file.
    """
    path = Path(dataset_dir).expanduser()
    form = detect_form(path, layout)
    if form == "layout":
        return get_layout(str(layout)).read(path, labelled=labelled)
    findings, facts = (get_layout(layout).findings, get_layout(layout).facts) if layout is not None else ((), ())
    if findings:
        return _with_findings(_read_form(form, path, inputs, False, findings), path, findings, labelled)
    return _read_form(form, path, inputs, labelled, facts=facts)


def _read_form(
    form: str, path: Path, inputs: Sequence[str], labelled: bool, findings: Sequence[str] = (), facts: Sequence[str] = ()
) -> list[Case]:
    """Cases of any form but a public layout."""
    if form == "datalist":
        from common.data.decathlon import read_datalist

        return read_datalist(path, labelled=labelled, facts=facts)
    if form == "table":
        from common.data.table import read_table

        return read_table(path, inputs=inputs, labelled=labelled, findings=findings, facts=facts)
    if form == "bids":
        from common.data.bids import read_bids

        return read_bids(path, inputs=inputs, labelled=labelled, facts=facts)
    return read_volumes(path, inputs, labelled=labelled, head_ct=bool(findings))


def _with_findings(cases: list[Case], path: Path, findings: Sequence[str], labelled: bool) -> list[Case]:
    """The cases, after a look at their findings where those are needed."""
    bare = [case["id"] for case in cases if "findings" not in case]
    if labelled and bare:
        raise UserError(
            f"{path}: {len(bare)} of {len(cases)} cases have no findings: {some(bare)}. Give them in a table: a .csv with the columns"
            f" subject, image and {', '.join(findings)} (0 or 1)."
        )
    return cases


def read_volumes(path: Path, inputs: Sequence[str] = (), labelled: bool = False, head_ct: bool = False) -> list[Case]:
    """Cases of a plain folder of files or DICOM series.

    With several inputs: files named ``<case>_<input>`` (``<case>_label``), or unlabelled 4D files, or one such file. With one input: files
    of any name and folders of DICOM files, or one of either. With several inputs also folders of DICOM files named after the inputs;
    ``head_ct`` as in ``read_dicom_folders``.
    """
    single = len(inputs) == 1
    paired = read_paired_files(path, inputs) if path.is_dir() and inputs and (not single or fits_inputs(path, inputs)) else []
    if paired:
        return finish_cases(paired, path, labelled)
    files = [path] if path.is_file() and volume_suffix(path) else list_volumes(path)
    cases: list[Case] = [
        {
            "id": volume_stem(file),
            "subject": subject_of(volume_stem(file)),
            "image": [os.path.abspath(file)] if single else os.path.abspath(file),
        }
        for file in files
    ]
    if single:
        cases += read_dicom_folders(path, head_ct)
    elif not cases:
        cases = read_dicom_inputs(path, inputs) if path.is_dir() else []
        if not cases:
            raise UserError(
                f"{path}: holds DICOM series, but the method has the inputs {', '.join(inputs)}; give each a folder of its name with one"
                " series (<case>/<input>/), or convert them to volumes <case>_<input>.nii.gz (dcm2niix)."
            )
    return finish_cases(cases, path, labelled)


def open_dataset(
    dataset_dir: str | os.PathLike[str] | None,
    layout: str,
    inputs: Sequence[str],
    simulated_dir: str | os.PathLike[str],
    simulate: Mapping[str, Any] | None = None,
    labelled: bool = True,
) -> list[Case]:
    """Cases of the data set given, or of a simulated cohort where none is given.

    Args:
        dataset_dir: as in ``find_cases``; None or empty means a simulated cohort.
        layout: name of the public layout (``LAYOUTS``).
        inputs: names of the method's inputs in its channel order.
        simulated_dir: where the cohort is made, once.
        simulate: parameters of ``common.data.simulate.cohort.ensure_cohort`` (subjects, seed, style, ...).
        labelled: whether every case must have a label.

    Returns:
        Cases sorted by id.
    """
    if dataset_dir is None or not str(dataset_dir).strip():
        from common.data.simulate.cohort import ensure_cohort

        dataset_dir = ensure_cohort(layout, Path(simulated_dir).expanduser(), **dict(simulate or {}))  # it gives the warning itself
    elif is_simulated(dataset_dir):
        logger.warning("SIMULATED DATA: %s holds no patients; results say that the code works, nothing about accuracy.", dataset_dir)
    return find_cases(dataset_dir, layout, inputs, labelled)


def _not_a_dataset(path: Path, layout: str | None) -> str:
    """Message for a path of no accepted form."""
    if path.is_file():
        found = "a file that is neither .json, .csv, .tsv nor a volume"
    else:
        names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir() if not child.name.startswith("."))
        found = f"holds {some(names, 10)}" if names else "is empty"
    own = f"{get_layout(layout).tree}\nor " if layout is not None else ""
    return (
        f"dataset_dir: {path} has no form that can be read: {found}. Accepted are\n{own}"
        "a Decathlon-style datalist: dataset.json or another .json file\n"
        "or a table: a folder with one .csv or .tsv (columns subject, session, one per input or image, label, age, fold)\n"
        "or a BIDS tree: sub-<name>/[ses-<name>/]<kind>/sub-<name>_..._<suffix>.nii.gz\n"
        "or a folder of volumes (" + ", ".join(VOLUME_SUFFIXES) + "): one per input, <case>_<input>.nii.gz and <case>_label.nii.gz,"
        " or 4D volumes with the inputs on the fourth axis; for methods with one input also plain 3D volumes and folders of one DICOM"
        " series each, for others folders <case>/<input>/ of one DICOM series each."
    )
