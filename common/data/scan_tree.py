"""Find every scan below a folder (DICOM series, .nii, .mhd, ...) and whose it is; MONAI's ``create_dataset`` readers expect that known."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.data.cases import list_volumes, subject_of, volume_stem, volume_suffix
from common.data.dicom_files import SliceHeader, dicom_files, dicom_folders, read_header
from common.data.dicom_series import MIN_SLICES
from common.data.splits import fingerprints
from common.errors import UserError

UID = re.compile(r"\d+(\.\d+){5,}$")
"""A series' unique identifier: LUNA16 names its files so."""

NOT_IMAGES = re.compile(r"(^|[-_. ])(seg|dseg|segm|segmentations?|labels?|labelst[rs]|masks?)($|[-_. ])", re.I)
"""Folders and files of labels, such as LUNA16's seg-lungs-LUNA16, whose files are called as the scans are."""

DICOM_MODALITIES = {"ct": ("CT",), "us": ("US",), "xr": ("CR", "DX", "RG")} | dict.fromkeys(("t1", "t1ce", "t2", "flair"), ("MR",))
"""What the headers of a modality's series say; of others anything is taken."""

PIECE = 1 << 20


@dataclass(frozen=True)
class Scan:
    """One scan of a tree.

    Args:
        path: file, or folder of a DICOM series.
        name: the path below the tree, for messages.
        subject: whose it is.
        series_uid: SeriesInstanceUID; empty where it is not known.
        is_dicom: whether it is a DICOM series.
        description: of the series; empty for files.
        problem: why it cannot be used; empty where it can.
    """

    path: Path
    name: str
    subject: str
    series_uid: str = ""
    is_dicom: bool = False
    description: str = ""
    problem: str = ""


def find_scans(folder: Path, modality: str, subject: str | None = None, min_slices: int = MIN_SLICES) -> Iterator[Scan]:
    """Scans of a tree in the order of their paths, those that cannot be used with their ``problem``.

    Args:
        folder: the tree.
        modality: name in the table of modalities; series whose headers say otherwise cannot be used (``DICOM_MODALITIES``).
        subject: pattern with one group that finds the subject in a path below the tree, such as ``(P\\d+)``. None takes the header's
            PatientID; of a file the ``sub-<label>`` or UID in its name, the first folder below the tree, or (right in the tree) its name.
        min_slices: DICOM series of fewer slices cannot be used.

    Raises:
        UserError: a pattern that is none, or finds no subject.
    """
    pattern = _compiled(subject)
    for place in dicom_folders(folder, depth=8):
        yield _series(place, folder, modality, pattern, min_slices)
    for deeper, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (_volume(file, folder, pattern) for file in list_volumes(Path(deeper)))


def content_digest(path: Path) -> str:
    """What tells a copy of a scan, 16 digits: of a file its size and its first, middle and last MiB (of .mhd those of its data file).

    Of a DICOM folder the sizes of all files and the bytes of three (``common.data.splits.fingerprints``).
    """
    if path.is_dir():
        return fingerprints([{"image": str(path)}])[0]
    file = _data_file(path)
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for start in (0, size // 2, max(0, size - PIECE)):
            stream.seek(start)
            digest.update(stream.read(PIECE))
    return digest.hexdigest()[:16]


def _data_file(path: Path) -> Path:
    """The file with the voxels, which may be missing: of .mhd the one it names, unless they lie in itself."""
    if volume_suffix(path) != ".mhd":
        return path
    with path.open("rb") as stream:
        match = re.search(rb"^ElementDataFile\s*=\s*(.+?)\s*$", stream.read(PIECE), re.M)
    data = match[1].decode(errors="replace") if match else "LOCAL"
    return path if data == "LOCAL" else path.parent / data


def _series(place: Path, folder: Path, modality: str, pattern: re.Pattern[str] | None, min_slices: int) -> Scan:
    """A folder with DICOM files; its first, middle and last one are looked at."""
    files, name = dicom_files(place), os.path.relpath(place, folder)
    try:
        headers = [read_header(file) for file in dict.fromkeys((files[0], files[len(files) // 2], files[-1]))]
        patient = patient_id(files[0])
    except UserError as error:
        return Scan(place, name, "", problem=str(error))
    own = pattern_subject(pattern, name) or patient or name.split(os.sep)[0]
    first = headers[0]
    problem = _series_problem(headers, max(1, first.size[2]) * len(files), modality, min_slices)
    return Scan(place, name, own, first.series, True, first.description, problem)


def _series_problem(headers: list[SliceHeader], slices: int, modality: str, min_slices: int) -> str:
    first, expected = headers[0], DICOM_MODALITIES.get(modality)
    if len({header.series for header in headers}) > 1:
        return f"{len({header.series for header in headers})} series are mixed in the folder; sort them into folders"
    if expected and first.modality not in expected:
        return f"the header's modality is {first.modality or 'not named'}, expected {' or '.join(expected)}"
    if first.is_localizer:
        return "a localizer (scout view)"
    return f"{slices} slices, expected at least {min_slices} (min_slices)" if slices < min_slices else ""


def _volume(file: Path, folder: Path, pattern: re.Pattern[str] | None) -> Scan:
    name, stem = os.path.relpath(file, folder), volume_stem(file)
    uid = stem if UID.match(stem) else ""
    nested = name.split(os.sep)[0] if os.sep in name else stem
    by_name = uid or (subject_of(stem) if stem.startswith("sub-") else nested)
    parts = [part for part in (*Path(name).parts[:-1], stem) if NOT_IMAGES.search(part)]
    data = _data_file(file)
    missing = "" if data.is_file() else f"its data file {data.name} is not there"
    problem = f"a label by its name ({parts[0]})" if parts else missing
    return Scan(file, name, pattern_subject(pattern, name) or by_name, uid, problem=problem)


def patient_id(file: Path) -> str:
    """PatientID of a DICOM file; empty where the header has none."""
    import itk

    reader = itk.GDCMImageIO.New()
    reader.SetFileName(os.fspath(file))
    reader.ReadImageInformation()
    tags = reader.GetMetaDataDictionary()
    return str(tags["0010|0020"]).strip(" \0") if tags.HasKey("0010|0020") else ""


def pattern_subject(pattern: re.Pattern[str] | None, name: str) -> str | None:
    """Subject that a user's pattern finds in a path; None without a pattern.

    Raises:
        UserError: it finds none.
    """
    if pattern is None:
        return None
    match = pattern.search(name.replace(os.sep, "/"))
    if match is None or not match[1]:
        raise UserError(f"subject: the pattern {pattern.pattern!r} finds no subject in {name}; it must fit every path below the tree.")
    return match[1]


def _compiled(subject: str | None) -> re.Pattern[str] | None:
    if subject is None:
        return None
    try:
        pattern = re.compile(str(subject))
    except re.error as error:
        raise UserError(f"subject: {subject!r} is not a regular expression ({error}).") from error
    if pattern.groups != 1:
        raise UserError(f"subject: {subject!r} has {pattern.groups} groups, expected one, such as '(P[0-9]+)', which holds the subject.")
    return pattern
