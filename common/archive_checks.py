"""Look into an archive before it is unpacked: paths, links, size, hashes, versions; MONAI's and Python's own check paths alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from common.archive_files import VENDORED
from common.errors import UserError

MAX_BYTES = 4_000_000_000
MAX_FILES = 10_000
CHUNK = 1 << 20
_AGAIN = "Get it again from where it was published."


def check_archive(path: str | Path, index: Mapping[str, Any] | None = None, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Check an archive without unpacking it.

    The hashes inside tell a damaged archive from a whole one. Whether it is the published one tells only the index.

    Args:
        path: the archive.
        index: content of ``bundle_index.json``; None compares with none.
        max_bytes: bound on the unpacked size.

    Returns:
        ``VENDORED.json`` of the archive: bundle, version, sha256 by file.

    Raises:
        UserError: no zip, a path that leaves the folder, a link, too large, a file too many or too few, a wrong hash, other versions.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an archive, <bundle>_v<version>.zip.")
    try:
        with zipfile.ZipFile(path) as archive:
            files = _safe_members(archive, path, max_bytes)
            vendored = _read_vendored(archive, files, path)
            for inside, expected in vendored["sha256"].items():
                _compare(archive, files[inside], expected, path)
            _check_versions(archive, files, vendored, path)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as a zip ({error}). {_AGAIN}") from error
    if index is not None:
        check_indexed(path, vendored, index)
    return vendored


def check_indexed(path: Path, vendored: Mapping[str, Any], index: Mapping[str, Any]) -> None:
    """Compare an archive with the published one.

    Raises:
        UserError: the index does not list the bundle in this version, or another hash for it.
    """
    name, version = vendored["bundle"], vendored["version"]
    listed = index["bundles"].get(name, {})
    if listed.get("version") != version:
        raise UserError(f"{path} holds {name} {version}, which the index does not list; expected one of {_listed(index)}.")
    found = file_hash(path)
    if found != listed["sha256"]:
        raise UserError(f"{path}: found sha256 {found}, but the index has {listed['sha256']} for {name} {version}. {_AGAIN}")


def _listed(index: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {entry['version']}" for name, entry in index["bundles"].items())


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file as hexadecimal digits; the file need not fit into memory."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _safe_members(archive: zipfile.ZipFile, path: Path, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Files by their path in the bundle's folder.

    Raises:
        UserError: see :func:`check_archive`.
    """
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    if total > max_bytes or len(members) > MAX_FILES:
        bounds = f"expected at most {max_bytes} bytes and {MAX_FILES} files"
        raise UserError(f"{path} would unpack to {total} bytes in {len(members)} files, {bounds} (--max_bytes raises the bound).")
    for member in members:
        _check_member(member, path)
    tops = sorted({member.filename.split("/")[0] for member in members})
    files = {member.filename.partition("/")[2]: member for member in members if not member.is_dir()}
    if len(tops) != 1 or "" in files:
        raise UserError(f"{path}: found {tops[:5]} at its top, expected one folder, named like the bundle.")
    if len({name.casefold() for name in files}) != sum(not member.is_dir() for member in members):
        raise UserError(f"{path}: two files have one name (capitals do not count). {_AGAIN}")
    return files


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    name = member.orig_filename
    plain = PurePosixPath(name)
    strange = plain.as_posix() != name.removesuffix("/") or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name)
    if plain.is_absolute() or ".." in plain.parts or strange:
        raise UserError(f"{path}: the path '{name}' leaves the folder; nothing was unpacked. Do not use this archive.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{path}: '{name}' is a link or a special file; nothing was unpacked. Do not use this archive.")


def _read_vendored(archive: zipfile.ZipFile, files: Mapping[str, zipfile.ZipInfo], path: Path) -> dict[str, Any]:
    if VENDORED not in files:
        raise UserError(f"{path}: holds no {VENDORED}; expected an archive of this collection (python -m common.packaging build).")
    try:
        vendored = json.loads(archive.read(files[VENDORED]))
        hashes, name, _ = dict(vendored["sha256"]), str(vendored["bundle"]), str(vendored["version"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: {VENDORED} cannot be read ({error!r}); expected bundle, version and sha256. {_AGAIN}") from error
    top = files[VENDORED].filename.split("/")[0]
    if name != top or not re.fullmatch(r"\w+", name):
        raise UserError(f"{path}: {VENDORED} names the bundle '{name}', but the folder is '{top}'. {_AGAIN}")
    missing, added = sorted(set(hashes) - set(files)), sorted(set(files) - set(hashes) - {VENDORED})
    if missing or added:
        words = f"lacks {missing[:3]}" if missing else f"has {added[:3]} besides"
        raise UserError(f"{path}: {words}, compared with {VENDORED}. {_AGAIN}")
    return vendored


def _compare(archive: zipfile.ZipFile, member: zipfile.ZipInfo, expected: str, path: Path, target: Path | None = None) -> None:
    """Hash a file of the archive, and write it where a target is given."""
    digest = hashlib.sha256()
    with archive.open(member) as source, open(target or os.devnull, "wb") as sink:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            sink.write(chunk)
    if digest.hexdigest() != expected:
        raise UserError(f"{path}: '{member.filename}' has sha256 {digest.hexdigest()}, {VENDORED} has {expected}. {_AGAIN}")


def _check_versions(archive: zipfile.ZipFile, files: Mapping[str, zipfile.ZipInfo], vendored: Mapping[str, Any], path: Path) -> None:
    """The package inside, the record of it and the metadata must be of one version."""
    needed = ("configs/metadata.json", "common/__init__.py")
    if lacking := [name for name in needed if name not in files]:
        raise UserError(f"{path}: lacks {lacking}; expected a bundle with the package common inside. {_AGAIN}")
    version = json.loads(archive.read(files["configs/metadata.json"])).get("version")
    package = re.search(r'^__version__ = "(.*)"$', archive.read(files["common/__init__.py"]).decode(), re.MULTILINE)
    found = package[1] if package else "unknown"
    if not version == found == vendored["version"]:
        raise UserError(
            f"{path}: metadata.json has version {version}, the package common inside {found}, {VENDORED} {vendored['version']};"
            " expected one version. Build the archive anew from one checkout."
        )


def unpack_archive(path: str | Path, folder: str | Path, index: Mapping[str, Any] | None = None, max_bytes: int = MAX_BYTES) -> Path:
    """Check an archive, then unpack it: the bundle's folder appears when it is complete, or not at all.

    Args:
        path: the archive.
        folder: where ``<bundle>/`` shall lie; made where it does not exist.
        index: see :func:`check_archive`.
        max_bytes: likewise.

    Returns:
        The bundle's folder.

    Raises:
        UserError: as :func:`check_archive`, or there is such a folder already.
    """
    path, folder = Path(path).expanduser(), Path(folder).expanduser()
    vendored = check_archive(path, index, max_bytes)
    target = folder / vendored["bundle"]
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is there already; move it away, or give another folder. Nothing was unpacked.")
    temporary = folder / f".{os.getpid()}.{target.name}"
    try:
        with zipfile.ZipFile(path) as archive:
            for inside, member in _safe_members(archive, path, max_bytes).items():
                (temporary / inside).parent.mkdir(parents=True, exist_ok=True)
                expected = vendored["sha256"].get(inside) or hashlib.sha256(archive.read(member)).hexdigest()
                _compare(archive, member, expected, path, temporary / inside)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
