"""What a run leaves behind for its reader: the merged config that really ran and the paths that were written."""

from __future__ import annotations

import inspect
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.atomic import write_text


def running_config() -> dict[str, Any] | None:
    """The merged config of the MONAI workflow that is running now, with overrides; None outside of one.

    MONAI gives expressions no access to their parser, so it is found on the call stack.
    """
    from monai.bundle import ConfigWorkflow

    frame = inspect.currentframe()
    while frame is not None:
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            config = workflow.parser.get()
            return {key: value for key, value in config.items() if key != "_meta_"}
        frame = frame.f_back
    return None


def save_config(output_dir: str, name: str, rank: int = 0) -> None:
    """Save the merged config that runs now as ``<output_dir>/<name>``.

    Args:
        output_dir: folder of results.
        name: file name, e.g. ``train_config.json``.
        rank: only rank 0 writes.
    """
    config = running_config()
    if config is not None and rank == 0:
        write_text(Path(output_dir) / name, json.dumps(config, indent=2, default=str) + "\n")


def print_paths(folders: Sequence[str], rank: int = 0) -> None:
    """Log every file below the given folders, so that the end of a run says what was written; of a DICOM series the folder.

    Args:
        folders: folders of results.
        rank: only rank 0 speaks.
    """
    if rank:
        return
    shown = []
    for top, _, names in (found for folder in folders for found in sorted(os.walk(folder))):
        files = [os.path.abspath(os.path.join(top, name)) for name in sorted(names) if not name.startswith(".")]
        slices = [file for file in files if file.endswith(".dcm")]
        if len(slices) > 1 and slices == files:
            files = [f"{os.path.abspath(top)} ({len(slices)} slices)"]
        shown += files
    logging.getLogger("brain_bundles").info("Written:\n%s", "\n".join(f"  {line}" for line in shown))
