"""Model card at the top of an archive: what Hugging Face reads of a repository; MONAI's ``push_to_hf_hub`` writes one at upload only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from common.errors import UserError

NO_WEIGHTS = "No weights are in this archive: train first (train.json), or put `model.pt` with its `weights.json` into `models/`."
DEMO = (
    "**Demonstration weights.** They were trained on a SIMULATED cohort; those that the collection ships at the size of `quick.json`, "
    "and kept in half precision. "
    "They show that the method runs; they know no patient, and their results mean nothing. `predict` uses them with `--demo` only, and "
    "DICOM output refuses them."
)
OWN = (
    "The weights were given by whoever built this archive. The collection knows nothing of their data or their worth; "
    "nobody has verified them here."
)


def front_matter(meta: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The card's data as Hugging Face names it.

    Args:
        meta: ``metadata.json`` of the bundle.
        name: of the bundle.
    """
    outputs = meta["network_data_format"]["outputs"]["pred"]
    image = meta["network_data_format"]["inputs"]["image"]
    task = "image-segmentation" if outputs["format"] == "segmentation" else "image-to-image"
    tags = ["monai", "medical", "brain", *([str(image["modality"]).lower()] if "modality" in image else []), name.replace("_", "-")]
    return {
        "license": "apache-2.0",
        "library_name": "monai",
        "pipeline_tag": task,
        "tags": tags,
        "version": meta["version"],
    }


def model_card(meta: Mapping[str, Any], name: str, page: str, record: Mapping[str, Any] | None) -> str:
    """``README.md`` for the top of an archive.

    Args:
        meta: ``metadata.json`` of the bundle.
        name: of the bundle.
        page: text of ``docs/README.md``; its links start in ``docs/``.
        record: ``weights.json`` of the weights packed, ``{}`` without one, None without weights.
    """
    import yaml

    head = yaml.safe_dump(front_matter(meta, name), sort_keys=False)
    weights = NO_WEIGHTS if record is None else DEMO if record.get("simulated") else OWN
    if record:
        weights += "\n\nTrained with: " + ", ".join(f"`{key}` {value}" for key, value in record.get("settings", {}).items()) + "."
    return f"---\n{head}---\n\n{moved_links(page).rstrip()}\n\n## Weights in this archive\n\n{weights}\n\n{usage(name)}"


def usage(name: str) -> str:
    """How an unpacked archive is run and loaded."""
    return f"""## This archive

Package `common` lies inside, so that nothing needs to be installed but MONAI and what `configs/metadata.json` lists.
Configs are code: run only those you trust.

```bash
cd {name} && python -m monai.bundle run --config_file configs/inference.json --dataset_dir NEW_CASES
```

```python
import sys, monai.bundle
sys.path.insert(0, "FOLDER/{name}")  # so that `common` is found; not needed where it is installed
network = monai.bundle.load("{name}", bundle_dir="FOLDER", workflow_type="inference")
```

`workflow_type` matters: by default MONAI builds the network of `train.json`, at the paper's size, and leaves weights of
another size out in silence.
"""


def moved_links(page: str) -> str:
    """Markdown whose relative links start in ``docs/``, for a page one folder above; of a link that leaves the bundle its words stay."""

    def moved(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        if re.match(r"[a-z]+:|#|/", target):
            return found[0]
        if target.startswith("../../"):
            return words
        return f"[{words}]({target[3:] if target.startswith('../') else f'docs/{target}'})"

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", moved, page)


def read_front_matter(card: str) -> dict[str, Any]:
    """The data at the head of a card, between two lines ``---``.

    Raises:
        UserError: there is none, or it is no YAML mapping.
    """
    import yaml

    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    try:
        data = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError as error:
        raise UserError(f"README.md: its front matter is no YAML ({error}).") from error
    if not isinstance(data, dict):
        raise UserError("README.md: expected front matter of a model card between two lines '---' at its head.")
    return data
