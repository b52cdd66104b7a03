"""One complete cohort folder or none: built beside its place, renamed into it, recognised again by a manifest."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import __version__
from common.errors import UserError

MANIFEST = "simulated.json"
NOTICE = "SIMULATED.txt"
_STALE_S = 3600.0  # a leftover younger than this may belong to a process that still runs


def publish_cohort(
    out_dir: Path,
    parameters: dict[str, Any],
    subjects: int,
    write_subject: Callable[[Path, int], list[str]],
    what: str,
    origin: str = "the ICBM152 template",
) -> Path:
    """Make a cohort in ``out_dir``, or find it there complete.

    Args:
        out_dir: where the cohort shall be.
        parameters: everything that decides its content, JSON-able; written to the manifest and the notice.
        subjects: how many times to call ``write_subject``.
        write_subject: ``(folder, index)`` writes one subject below ``folder`` and returns the files' names relative to it.
        what: one line for the notice.
        origin: what the subjects are computed from, for the notice.

    Returns:
        ``out_dir``.

    Raises:
        UserError: ``out_dir`` holds another cohort or files that are not a cohort's.
    """
    from tqdm import tqdm

    if _is_complete(out_dir, parameters):
        return out_dir
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out_dir)
    building = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.partial-", dir=out_dir.parent))
    try:
        files: list[str] = []
        for index in tqdm(range(subjects), desc="simulating", unit="subject", delay=5, disable=None):
            files += write_subject(building, index)
        (building / NOTICE).write_text(_notice(parameters, what, origin), encoding="utf-8")
        manifest = {"parameters": parameters, "package": __version__, "files": sorted([*files, NOTICE])}
        (building / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        building.chmod(0o755)  # mkdtemp makes it private
        _move_into_place(building, out_dir, parameters)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return out_dir


def _is_complete(out_dir: Path, parameters: dict[str, Any]) -> bool:
    """True for this very cohort with all its files; False where there is room for it; an error where there is something else."""
    if not out_dir.exists():
        return False
    if not out_dir.is_dir():
        raise UserError(f"{out_dir} is a file; a simulated cohort needs a folder. Name another place.")
    manifest_path = out_dir / MANIFEST
    if not manifest_path.is_file():
        if any(out_dir.iterdir()):
            raise UserError(
                f"{out_dir} is not empty and holds no simulated cohort (no {MANIFEST}). Nothing was written, so that no data of yours are "
                "lost: name an empty or a new folder."
            )
        return False
    manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
    if manifest["parameters"] != parameters:
        found, wanted = manifest["parameters"], parameters
        different = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        changes = "; ".join(f"{k}: there {found.get(k)}, asked for {wanted.get(k)}" for k in different)
        raise UserError(
            f"{out_dir} holds a simulated cohort made with other parameters ({changes}). Name another folder or delete this one."
        )
    return all((out_dir / name).is_file() for name in manifest["files"])


def _move_into_place(building: Path, out_dir: Path, parameters: dict[str, Any]) -> None:
    """Rename the finished folder; an incomplete cohort of the same parameters gives way, files of others do not."""
    if (out_dir / MANIFEST).is_file():
        if _is_complete(out_dir, parameters):
            return  # another process was faster
        known = {*json.loads((out_dir / MANIFEST).read_text(encoding="utf-8"))["files"], MANIFEST}
        foreign = [p for p in out_dir.rglob("*") if p.is_file() and p.relative_to(out_dir).as_posix() not in known]
        if foreign:
            raise UserError(
                f"{out_dir} holds an incomplete simulated cohort and also {foreign[0]}, which is not part of it. Move that file away."
            )
        shutil.rmtree(out_dir)
    elif out_dir.is_dir():
        out_dir.rmdir()  # os.replace onto a folder fails on Windows, even when it is empty
    try:
        os.replace(building, out_dir)
    except OSError:
        if not _is_complete(out_dir, parameters):
            raise


def _sweep(out_dir: Path) -> None:
    """Remove what killed runs left beside ``out_dir``."""
    for leftover in out_dir.parent.glob(f".{out_dir.name}.partial-*"):
        if time.time() - leftover.stat().st_mtime > _STALE_S:
            shutil.rmtree(leftover, ignore_errors=True)


def _notice(parameters: dict[str, Any], what: str, origin: str) -> str:
    lines = [
        "SIMULATED DATA: THESE ARE NOT PATIENTS.",
        f"What: {what}, computed from {origin} by Brain Bundles {__version__}.",
        "For: trying and testing software. It shows that code works. It supports no clinical claim, ever,",
        "and no score on it says anything about a score on patients.",
        "",
        "Parameters:",
        *(f"  {key}: {value}" for key, value in parameters.items()),
        "",
    ]
    return "\n".join(lines)
