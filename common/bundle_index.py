"""``bundle_index.json``, generated from the tree, and the model zoo's ``model_info.json``, made from it; MONAI only reads such lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import __version__
from common.archive_files import ROOT, archive_bytes, archive_contents, archive_name, bundle_folders, read_metadata
from common.errors import UserError

INDEX = "bundle_index.json"


def index_entry(name: str, bundle: Path, root: Path = ROOT) -> dict[str, Any]:
    """What the index tells of a bundle: its metadata, and sizes and hashes of its archive, which is built in memory.

    Args:
        name: the bundle.
        bundle: its folder.
        root: the checkout.
    """
    meta = read_metadata(bundle)
    formats = meta["network_data_format"]
    contents = archive_contents(name, root)
    archive = archive_bytes(name, contents)
    weights = {inside: data for inside, data in contents.items() if inside.startswith("models/") and not inside.endswith(".gitkeep")}
    return {
        "name": meta["name"],
        "version": meta["version"],
        "path": f"bundles/{name}",
        "task": meta["task"],
        "paper": meta["references"][0],
        "inputs": list(formats["inputs"]["image"]["channel_def"].values()),
        "outputs": list(formats["outputs"]["pred"]["channel_def"].values()),
        "archive": archive_name(name),
        "bytes": len(archive),
        "sha256": hashlib.sha256(archive).hexdigest(),
        "sha1": hashlib.sha1(archive).hexdigest(),
        "weights_bytes": sum(map(len, weights.values())),
        "weights_sha256": {inside: hashlib.sha256(data).hexdigest() for inside, data in weights.items()},
    }


def bundle_index(root: Path = ROOT) -> dict[str, Any]:
    """Content of ``bundle_index.json``."""
    bundles = {name: index_entry(name, folder, root) for name, folder in bundle_folders(root).items()}
    return {"collection": "brain-bundles", "version": __version__, "bundles": bundles}


def read_index(path: str | Path) -> dict[str, Any]:
    """Read an index.

    Raises:
        UserError: no such file, or no index.
    """
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if all({"version", "sha256", "sha1"} <= set(entry) for entry in content["bundles"].values()):
            return content
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; expected {INDEX} of the collection.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    raise UserError(f"{path}: no index of this collection; expected {INDEX}, as python -m common.packaging index writes it.")


def model_info(index: Mapping[str, Any], base_url: str) -> dict[str, dict[str, str]]:
    """The zoo's ``model_info.json``.

    Args:
        index: content of ``bundle_index.json``.
        base_url: where the archives are published, e.g. the address of a release; there is no default host.

    Returns:
        ``{"<name>_v<version>": {"checksum": sha1, "source": url}}``.

    Raises:
        UserError: no address.
    """
    if "://" not in base_url:
        raise UserError(
            f"--base_url: got '{base_url}', expected the address of the folder that the archives are published in, e.g. https://HOST/FOLDER."
        )
    named = {f"{name}_v{entry['version']}": entry["sha1"] for name, entry in index["bundles"].items()}
    return {name: {"checksum": sha1, "source": f"{base_url.rstrip('/')}/{name}.zip"} for name, sha1 in named.items()}
