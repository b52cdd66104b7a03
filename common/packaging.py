"""Archives of bundles: ``python -m common.packaging build | check | unpack | fetch | rebuild | keep | index``; alone it builds all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common import flag
from common.archive_checks import MAX_BYTES, check_archive, file_hash, unpack_archive
from common.archive_files import ROOT, build_archive, bundle_folder, bundle_names, demo_contents
from common.atomic import write_json, write_text
from common.bundle_index import INDEX, bundle_index, read_index
from common.bundle_index import model_info as zoo_list
from common.command_line import run_command
from common.errors import UserError
from common.large_files import fetch_large_files
from common.small_weights import keep_weights, own_contents


def commit_of(root: Path) -> str:
    """The checkout's commit, with ``-dirty`` where files differ from it; ``unknown`` outside of git."""
    if shutil.which("git") is None:
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def write_build_record(archives: Sequence[Path], output_dir: str | Path, root: Path = ROOT) -> Path:
    """Write ``build.json`` beside archives: commit, size and hashes of each; what it told of others stays.

    Not into the archives: the index in the tree names their hashes, and cannot hold the hash of the commit that it is part of.
    """
    path = Path(output_dir).expanduser() / "build.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    commit = commit_of(root)
    for file in archives:
        hashes = {kind: file_hash(file, kind) for kind in ("sha256", "sha1")}
        told[file.name] = {"commit": commit, "bytes": file.stat().st_size, **hashes}
    return write_json(path, dict(sorted(told.items())))


def build(*names: str, output: str = "dist") -> None:
    """Write the archives of the bundles given, or of all, and build.json.

    Args:
        names: bundles; none means all.
        output: folder of the archives.
    """
    archives = []
    for name in names or bundle_names():
        weights = sum(map(len, demo_contents(bundle_folder(name)).values()))
        archives.append(build_archive(name, output))
        _tell(archives[-1], f"small weights {weights / 1e6:.2f} MB" if weights else "no weights in it")
    print(write_build_record(archives, output))


def _tell(archive: Path, weights: str) -> None:
    print(f"{archive}  {archive.stat().st_size / 1e6:.2f} MB, {weights}  sha256 {file_hash(archive)}", flush=True)


def rebuild(bundle: str, weights: str, output: str = "dist/own") -> None:
    """Write an archive with weights of your own.

    Args:
        bundle: its name.
        weights: folder with model.pt and weights.json as the training wrote them, or one file of weights beside its weights.json.
        output: folder of the archive.
    """
    archive = build_archive(bundle, output, weights=own_contents(bundle, weights))
    _tell(archive, "your weights")
    print(write_build_record([archive], output))


def keep(bundle: str, weights: str) -> None:
    """Keep small weights of a simulated cohort in the tree, as float16; they are packed by build.

    Args:
        bundle: its name.
        weights: folder of the training's weights.
    """
    for path in keep_weights(bundle, weights):
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
    print("Now run: python -m common.packaging index")


def check(archive: str, index: str | None = None, max_bytes: int = MAX_BYTES) -> None:
    """Look into an archive without unpacking it: paths, links, size, hashes, versions.

    Args:
        archive: the zip.
        index: bundle_index.json of the collection; with it the archive must be the published one.
        max_bytes: bound on the unpacked size.
    """
    vendored = check_archive(archive, read_index(index) if index else None, max_bytes)
    against = "and is the published one" if index else "(give --index bundle_index.json to see whether it is the published one)"
    print(f"{archive}: {vendored['bundle']} {vendored['version']}, {len(vendored['sha256'])} files, is whole {against}")


def unpack(archive: str, folder: str, index: str | None = None, max_bytes: int = MAX_BYTES) -> None:
    """Check an archive and unpack it.

    Args:
        archive: the zip.
        folder: where the bundle's folder shall lie.
        index: see check.
        max_bytes: see check.
    """
    print(unpack_archive(archive, folder, read_index(index) if index else None, max_bytes))


def fetch(folder: str = ".") -> None:
    """Download what large_files.yml of a bundle lists, each file with its hash.

    Args:
        folder: of the bundle.
    """
    print("\n".join(map(str, fetch_large_files(folder))))


def index(model_info: bool | str = False, base_url: str | None = None, output: str | None = None) -> None:
    """Write bundle_index.json anew from the tree, or the zoo's model_info.json from it.

    Args:
        model_info: print model_info.json, from the index as it is; nothing else is written.
        base_url: with model_info: address of the folder that the archives are published in.
        output: file to write in place of bundle_index.json or of the screen.
    """
    if not flag(model_info, "--model_info"):
        print(write_json(output or ROOT / INDEX, bundle_index()))
    else:
        text = json.dumps(_model_info(base_url), indent=2) + "\n"
        print(write_text(output, text) if output else text, end="\n" if output else "")


def _model_info(base_url: str | None) -> dict[str, dict[str, str]]:
    if base_url is None:
        raise UserError("--model_info needs --base_url, the address of the folder that the archives are published in.")
    return zoo_list(read_index(ROOT / INDEX), base_url)


COMMANDS: dict[str, Callable[..., Any]] = {
    "build": build,
    "check": check,
    "unpack": unpack,
    "fetch": fetch,
    "rebuild": rebuild,
    "keep": keep,
    "index": index,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    run_command(COMMANDS, "common.packaging", words or ["build"])


if __name__ == "__main__":
    main()
