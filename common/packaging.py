"""Pack a bundle with this package vendored inside, and keep ``bundle_index.json`` equal to the tree."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import __version__
from common.atomic import write_atomic, write_text
from common.errors import UserError
from common.growth_weights import REFERENCE, public_bytes

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ("model.pt", "weights.json", REFERENCE)
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of every file in an archive, so that the same content gives the same bytes."""


def bundle_names(root: Path = ROOT) -> list[str]:
    """Bundles of a checkout, sorted."""
    return sorted(path.parent.parent.name for path in (root / "bundles").glob("*/configs/metadata.json"))


def bundle_files(name: str, root: Path = ROOT) -> Iterator[tuple[str, Path]]:
    """Files of a bundle's archive as (name inside, file): configs, docs, licence, and this package without caches.

    Weights are packed where there are any, latents of children taken out; data, results and resume files never.
    """
    bundle = root / "bundles" / name
    for folder in ("configs", "docs"):
        for path in sorted((bundle / folder).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield f"{name}/{path.relative_to(bundle).as_posix()}", path
    yield f"{name}/LICENSE", bundle / "LICENSE"
    members = json.loads((bundle / "models" / "weights.json").read_text())["members"] if (bundle / "models/weights.json").is_file() else []
    for weights in dict.fromkeys((*WEIGHTS, *members)):
        if (bundle / "models" / weights).is_file():
            yield f"{name}/models/{weights}", bundle / "models" / weights
    for path in sorted((root / "common").rglob("*")):
        if path.suffix in (".py", ".html") and "__pycache__" not in path.parts:
            yield f"{name}/common/{path.relative_to(root / 'common').as_posix()}", path


def commit_of(root: Path) -> str:
    """The checkout's commit, or ``unknown`` outside of git."""
    if shutil.which("git") is None:
        return "unknown"
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def build_archive(name: str, output_dir: str | Path = "dist", root: Path = ROOT) -> Path:
    """Write ``<name>_v<version>.zip`` with the folder ``<name>/`` at its top; the same tree gives the same bytes.

    Args:
        name: the bundle.
        output_dir: folder of the archive.
        root: the checkout.

    Returns:
        The archive.

    Raises:
        UserError: no such bundle.
    """
    if name not in bundle_names(root):
        raise UserError(f"There is no bundle '{name}' in {root / 'bundles'}; expected one of {bundle_names(root)}.")
    files = bundle_files(name, root)
    contents = [(inside, public_bytes(path) if path.suffix == ".pt" else path.read_bytes()) for inside, path in files]
    vendored = {inside: hashlib.sha256(data).hexdigest() for inside, data in contents if inside.startswith(f"{name}/common/")}
    record = {"version": __version__, "commit": commit_of(root), "sha256": vendored}
    contents.append((f"{name}/common/VENDORED.json", (json.dumps(record, indent=2) + "\n").encode()))
    contents.append((f"{name}/models/.gitkeep", b""))

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for inside, data in sorted(contents):
                entry = zipfile.ZipInfo(inside, EPOCH)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, data)

    return write_atomic(Path(output_dir) / f"{name}_v{__version__}.zip", write)


def bundle_index(root: Path = ROOT) -> dict[str, Any]:
    """Content of ``bundle_index.json``: what each bundle is, from its metadata."""
    bundles = {}
    for name in bundle_names(root):
        meta = json.loads((root / "bundles" / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
        formats = meta["network_data_format"]
        bundles[name] = {
            "version": meta["version"],
            "path": f"bundles/{name}",
            "task": meta["task"],
            "paper": meta["references"][0],
            "inputs": list(formats["inputs"]["image"]["channel_def"].values()),
            "outputs": list(formats["outputs"]["pred"]["channel_def"].values()),
        }
    return {"collection": "brain-bundles", "version": __version__, "bundles": bundles}


def build(*names: str, output_dir: str = "dist") -> None:
    """Write the archives of the bundles given, or of all.

    Args:
        names: bundles; none means all.
        output_dir: folder of the archives.
    """
    for name in names or bundle_names():
        path = build_archive(name, output_dir)
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB  sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


def index() -> None:
    """Write ``bundle_index.json`` anew from the tree."""
    print(write_text(ROOT / "bundle_index.json", json.dumps(bundle_index(), indent=2) + "\n"))


if __name__ == "__main__":
    import fire

    fire.Fire({"build": build, "index": index})
