"""What lies in a bundle's archive, byte for byte: configs, docs, card, licence, weights, and this package vendored; MONAI packs nothing."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common import __version__
from common.atomic import write_atomic
from common.errors import UserError
from common.growth_weights import REFERENCE, public_bytes
from common.hub_card import model_card
from common.weight_shards import shard_files
from common.weights import RECORD, read_record

ROOT = Path(__file__).resolve().parent.parent
VENDORED = "common/VENDORED.json"
"""Version and sha256 of every other file of an archive, within it."""
DEMO = "demo_weights"
"""Folder of a bundle's small weights in the tree; they are packed as ``models/``."""
LARGE_FILES = "large_files.yml"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Date of every file in an archive, so that the same content gives the same bytes."""


def bundle_folders(root: Path = ROOT) -> dict[str, Path]:
    """Bundles by name, sorted: of a checkout, of an installed wheel, or the one that this package is vendored in."""
    vendored = root / VENDORED
    if vendored.is_file():
        return {str(json.loads(vendored.read_text(encoding="utf-8"))["bundle"]): root}
    found = [*(root / "bundles").glob("*/configs/metadata.json"), *(root / "common" / "bundles").glob("*/configs/metadata.json")]
    return {path.parent.parent.name: path.parent.parent for path in sorted(found, key=lambda path: path.parent.parent.name)}


def bundle_names(root: Path = ROOT) -> list[str]:
    """Bundles that can be packed, sorted."""
    return list(bundle_folders(root))


def bundle_folder(name: str, root: Path = ROOT) -> Path:
    """Folder of a bundle.

    Raises:
        UserError: no such bundle.
    """
    folders = bundle_folders(root)
    if name not in folders:
        raise UserError(f"There is no bundle '{name}' in {root / 'bundles'}; expected one of {list(folders)}.")
    return folders[name]


def read_metadata(bundle: Path) -> dict[str, Any]:
    """``configs/metadata.json`` of a bundle's folder."""
    return json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))


def weight_files(folder: Path, record: Mapping[str, Any]) -> dict[str, Path]:
    """Files of weights by the name they get in ``models/``: ``model.pt``, members, and what the method keeps beside; nothing else.

    Args:
        folder: of the weights; a file may be kept in parts.
        record: its ``weights.json``.

    Raises:
        UserError: a file that the record names is missing, or its name leaves the folder.
    """
    names = dict.fromkeys(["model.pt", *record.get("members", [])])
    for name in names:
        if Path(name).name != name or not shard_files(folder / name):
            raise UserError(f"{folder / RECORD} names the weights '{name}', found no such file in {folder}; copy it there, or train again.")
    return {name: folder / name for name in (*names, REFERENCE) if name in names or (folder / name).is_file()}


def weight_contents(files: Mapping[str, Path], record: Mapping[str, Any]) -> dict[str, bytes]:
    """Content of ``models/`` of an archive: parts are joined, latents of children are taken out.

    Args:
        files: see :func:`weight_files`.
        record: ``weights.json`` as it shall be packed.
    """
    contents = {f"models/{name}": public_bytes(path) if path.suffix == ".pt" else path.read_bytes() for name, path in files.items()}
    return contents | {f"models/{RECORD}": as_json(record)}


def demo_contents(bundle: Path) -> dict[str, bytes]:
    """The small weights of a bundle's folder by their name in an archive; empty where there are none."""
    if not (bundle / DEMO).is_dir():
        return {}
    record = read_record(bundle / DEMO)
    return weight_contents(weight_files(bundle / DEMO, record), record)


def archive_contents(name: str, root: Path = ROOT, weights: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """All files of an archive by their path in the bundle's folder, sorted. Data, results and resume files are never among them.

    Args:
        name: the bundle.
        root: the checkout.
        weights: files of ``models/``; None packs the small weights of the tree, where there are any.

    Raises:
        UserError: no such bundle, or weights that the record names are missing.
    """
    bundle = bundle_folder(name, root)
    packed = demo_contents(bundle) if weights is None else dict(weights)
    record = json.loads(packed[f"models/{RECORD}"]) if packed else None
    contents = {inside: path.read_bytes() for inside, path in _tree_files(bundle, root / "common")}
    page = (bundle / "docs" / "README.md").read_text(encoding="utf-8")
    contents["README.md"] = model_card(read_metadata(bundle), name, page, record).encode()
    contents["models/.gitkeep"] = b""
    contents |= packed
    hashes = {inside: hashlib.sha256(contents[inside]).hexdigest() for inside in sorted(contents)}
    contents[VENDORED] = as_json({"bundle": name, "version": __version__, "sha256": hashes})
    return dict(sorted(contents.items()))


def _tree_files(bundle: Path, package: Path) -> Iterator[tuple[str, Path]]:
    """Files that are packed as they are."""
    for folder in ("configs", "docs"):
        for path in sorted((bundle / folder).rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                yield path.relative_to(bundle).as_posix(), path
    for name in ("LICENSE", LARGE_FILES):
        if (bundle / name).is_file():
            yield name, bundle / name
    for path in sorted(package.rglob("*")):
        inside = path.relative_to(package)
        if path.suffix in (".py", ".html") and "__pycache__" not in inside.parts and inside.parts[0] != "bundles":
            yield f"common/{inside.as_posix()}", path


def archive_name(name: str) -> str:
    """File name of an archive, as the model zoo has it."""
    return f"{name}_v{__version__}.zip"


def archive_bytes(name: str, contents: Mapping[str, bytes]) -> bytes:
    """A zip with the folder ``<name>/`` at its top, stored, so that the bytes are the same with every zlib."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for inside, data in sorted(contents.items()):
            entry = zipfile.ZipInfo(f"{name}/{inside}", EPOCH)
            # the same on every system: made by unix, plain files that all may read
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, data)
    return stream.getvalue()


def build_archive(name: str, output_dir: str | Path = "dist", root: Path = ROOT, weights: Mapping[str, bytes] | None = None) -> Path:
    """Write ``<name>_v<version>.zip``; the same tree gives the same bytes.

    Args:
        name: the bundle.
        output_dir: folder of the archive.
        root: the checkout.
        weights: see :func:`archive_contents`.

    Returns:
        The archive.

    Raises:
        UserError: no such bundle, or weights that the record names are missing.
    """
    data = archive_bytes(name, archive_contents(name, root, weights))
    return write_atomic(Path(output_dir).expanduser() / archive_name(name), lambda path: path.write_bytes(data))


def as_json(content: Mapping[str, Any]) -> bytes:
    """JSON as it lies in archives and in the tree."""
    return (json.dumps(content, indent=2) + "\n").encode()
