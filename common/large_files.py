"""Weights that are hosted elsewhere: MONAI's ``download_large_files`` with a hash for every file, which it takes as optional."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common.archive_checks import file_hash
from common.archive_files import LARGE_FILES
from common.errors import UserError

DIGITS = {"sha1": 40, "sha256": 64, "sha512": 128, "md5": 32}
"""Hexadecimal digits by the hash's name; MONAI knows these."""


def read_large_files(bundle: str | Path) -> list[dict[str, str]]:
    """Entries of a bundle's ``large_files.yml``: ``path``, ``url``, ``hash_val``, ``hash_type``.

    Args:
        bundle: the bundle's folder.

    Raises:
        UserError: no such file, or an entry without a hash, or with a path that leaves the bundle.
    """
    import yaml

    file = Path(bundle) / LARGE_FILES
    if not file.is_file():
        raise UserError(
            f"{file}: no such file; expected the list of files that are hosted elsewhere. A bundle without it needs no fetching."
        )
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML ({error}).") from error
    entries = content.get("large_files") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file}: expected a list 'large_files' of entries with path, url, hash_val and hash_type.")
    for entry in entries:
        _check_entry(entry, file)
    return entries


def _check_entry(entry: Any, file: Path) -> None:
    wanted = ("path", "url", "hash_val", "hash_type")
    if not isinstance(entry, Mapping) or set(entry) != set(wanted) or not all(isinstance(value, str) for value in entry.values()):
        raise UserError(f"{file}: found the entry {entry}, expected texts for {', '.join(wanted)}: nothing is fetched without its hash.")
    digits = DIGITS.get(entry["hash_type"])
    if digits is None or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", entry["hash_val"]):
        kinds = ", ".join(f"{kind} ({count} digits)" for kind, count in DIGITS.items())
        raise UserError(f"{file}: {entry['path']} has {entry['hash_type']} '{entry['hash_val']}', expected one of {kinds} in lower case.")
    if urlsplit(entry["url"]).scheme not in ("https", "http", "file"):
        raise UserError(f"{file}: {entry['path']} has the url '{entry['url']}', expected https://, http:// or file://.")
    root, path = file.parent.resolve(), Path(entry["path"])
    target = (root / path).resolve()
    if path.is_absolute() or ".." in path.parts or "\\" in entry["path"] or root not in target.parents:
        raise UserError(f"{file}: the path '{entry['path']}' leaves the bundle. Do not use this bundle.")


def fetch_large_files(bundle: str | Path) -> list[Path]:
    """Download what a bundle lists; a file that is there with the right hash is not fetched again.

    Args:
        bundle: the bundle's folder.

    Returns:
        The files, all with the hash that is listed.

    Raises:
        UserError: as :func:`read_large_files`; a file that is there is another one; a download failed or brought another file,
            which is not kept.
    """
    from monai.apps.utils import HashCheckError
    from monai.bundle import download_large_files

    folder = Path(bundle).expanduser()
    entries = read_large_files(folder)
    _one_list(folder)
    for entry in entries:
        path = folder / entry["path"]
        if path.exists() and file_hash(path, entry["hash_type"]) != entry["hash_val"]:
            found = f"found another {entry['hash_type']} than {LARGE_FILES} lists ({entry['hash_val']})"
            raise UserError(f"{path}: {found}; move it away to fetch the listed one.")
    try:
        download_large_files(str(folder))
    except HashCheckError as error:
        raise UserError(
            f"{folder}: a file was changed where it is hosted, and was not kept. Ask those who published the bundle. ({error})"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{folder}: fetching failed ({error}); look at the url in {LARGE_FILES} and at the network, then run it again."
        ) from error
    paths = [folder / entry["path"] for entry in entries]
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(f"{missing[0]} was not written: make its folder writable, then run it again.")
    return paths


def _one_list(folder: Path) -> None:
    """MONAI reads every ``large_files*`` of a folder, checked or not."""
    others = sorted(
        path.name for path in folder.glob("large_files*") if path.suffix in (".yml", ".yaml", ".json") and path.name != LARGE_FILES
    )
    if others:
        raise UserError(f"{folder}: found {', '.join(others)} beside {LARGE_FILES}; expected one list. Move the others away.")
