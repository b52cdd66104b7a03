"""Run a pre-training before a fine-tuning where there is none yet, and leave its record; MONAI's bundles do not call each other."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from monai.utils import get_seed, set_determinism
from torch import nn

from common import flag
from common.atomic import write_json
from common.data.cases import Case
from common.data.list_split import draw_validation
from common.data.modalities import Modality
from common.errors import UserError
from common.networks.transfer_record import TRANSFER, write_transfer
from common.training import LAST
from common.weights import load_weights, read_record

DISTRIBUTED = "pretrain_multi_gpu.json"
SEED_ONLY = [{"_target_": "monai.utils.set_determinism", "seed": "@seed"}]
logger = logging.getLogger("brain_bundles")


def ensure_pretrained(
    config_files: Sequence[str], ckpt_dir: str, output_dir: str, overrides: Mapping[str, Any] | None = None, resume: bool = False
) -> Path:
    """Run a pre-training config in this process unless its finished weights are there; says what it does and why.

    In a distributed run every process enters; the overlay ``pretrain_multi_gpu.json`` beside the first file is added.

    Args:
        config_files: ``pretrain.json`` and its overlays.
        ckpt_dir: folder of its weights: ``model.pt``, and ``transfer.json`` once it is finished.
        output_dir: folder of its results.
        overrides: ids and values, e.g. ``{"bundle_root": ..., "device": ...}``.
        resume: go on with an interrupted one; otherwise that begins anew.

    Returns:
        ``ckpt_dir``.

    Raises:
        UserError: a file is missing, or the folder holds the weights of another pre-training.
    """
    missing = [file for file in config_files if not os.path.isfile(file)]
    if missing:
        raise UserError(f"pretrain_overlays: there is no {', '.join(missing)}; give names of files beside {Path(config_files[0]).name}.")
    folder, before = Path(ckpt_dir), get_seed()
    places = {"ckpt_dir": str(ckpt_dir), "output_dir": str(output_dir), "resume": flag(resume, "resume")}
    workflow = _workflow(config_files, {**dict(overrides or {}), **places})
    finished = (folder / "model.pt").is_file() and (folder / TRANSFER).is_file()
    begun = not finished and (folder / LAST).is_file()
    if finished or (begun and places["resume"]):
        _refuse_other_settings(folder, workflow.parser.get_parsed_content("settings"))
    _wait()  # no process writes before all have looked
    if finished:
        logger.info("Pre-trained weights are in %s: no pre-training.", folder)
        return folder
    if begun:
        way = "resume is true: going on with it." if places["resume"] else "resume is false: it begins anew."
        logger.info("The pre-training in %s was interrupted; %s", folder, way)
    else:
        names = " + ".join(Path(file).name for file in config_files)
        logger.info("There are no pre-trained weights in %s: pre-training comes first (%s).", folder, names)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    del workflow
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    set_determinism(before)  # of the config that called
    _wait()  # the first process has written all
    logger.info("Pre-training is done; its weights are in %s.", folder)
    return folder


def _workflow(config_files: Sequence[str], overrides: dict[str, Any]) -> Any:
    """The pre-training as MONAI runs it; in a distributed run inside the process group that is there."""
    from monai.bundle import ConfigWorkflow

    files = list(config_files)
    if dist.is_available() and dist.is_initialized():
        files.append(str(Path(files[0]).with_name(DISTRIBUTED)))
        overrides |= {"initialize": SEED_ONLY, "finalize": []}
    return ConfigWorkflow(files, workflow_type="train", logging_file=False, **overrides)


def _wait() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


def _refuse_other_settings(folder: Path, asked: Mapping[str, Any]) -> None:
    """Weights that were pre-trained otherwise than asked for must not pass for those asked for."""
    made = read_record(folder).get("settings")
    if not isinstance(made, Mapping):
        return
    made, asked = _flat(made), _flat(json.loads(json.dumps(asked, default=str)))
    other = [f"{key} is {made.get(key)}, asked for is {value}" for key, value in asked.items() if made.get(key) != value]
    if other:
        raise UserError(
            f"{folder} holds weights of another pre-training: {'; '.join(other)}. Take them as they are (--pretrained {folder}), give"
            " another folder (--ckpt_dir), or move them away so that they are trained anew."
        )


def _flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Entries of nested objects by their names with dots."""
    result: dict[str, Any] = {}
    for key, value in nested.items():
        result |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return result


def split_pretraining(
    parts: Mapping[str, list[Case]], share: float, seed: int, output_file: str | None = None, rank: int = 0
) -> dict[str, list[Case]]:
    """Cases to train on and to validate with, as the lists say; where these let none validate, a share of the subjects does.

    Args:
        parts: "train", "validate" and "all", as ``read_modality_lists`` gives them.
        share: of the subjects, in (0, 1).
        seed: of that draw.
        output_file: JSON file that tells which cases are where; None writes none.
        rank: only rank 0 writes.

    Raises:
        UserError: nothing validates and nothing can.

    Source: DAE, table 1 (5 % of each set validates).
    """
    split = {name: list(cases) for name, cases in parts.items()}
    if not split["validate"]:
        held_out = draw_validation([case["subject"] for case in split["all"]], share, seed, "lists")
        split["train"] = [case for case in split["all"] if case["subject"] not in held_out]
        split["validate"] = [case for case in split["all"] if case["subject"] in held_out]
        logger.info("The lists let no case validate: %d of %d do.", len(split["validate"]), len(split["all"]))
        if not split["validate"]:
            raise UserError("validation_share: got 0 and lists without validation; give a share above 0, e.g. 0.05.")
    if output_file is not None and rank == 0:
        write_json(output_file, {name: [case["id"] for case in split[name]] for name in ("train", "validate")})
    return split


def finish_pretraining(
    ckpt_dir: str,
    network: nn.Module,
    cases: Sequence[Case],
    table: Mapping[str, Modality],
    patch_size: Sequence[int],
    disruptions: Mapping[str, Any],
    tasks: Sequence[str],
    spacing_mm: Sequence[float] | None = None,
    rank: int = 0,
) -> None:
    """Write ``transfer.json`` beside ``model.pt``: what a fine-tuning must know, and the sign that the pre-training is finished.

    Args:
        ckpt_dir: folder of the weights.
        network: as trained; gets the best weights.
        cases: all cases, for their modalities.
        table: how each modality was scaled.
        patch_size: sides of the crops, voxels.
        disruptions: name -> strength.
        tasks: outputs of the network that were trained.
        spacing_mm: voxel size the images were resampled to; None where they were not.
        rank: only rank 0 writes.
    """
    if rank:
        return
    load_weights(network, Path(ckpt_dir) / "model.pt")
    rows = {name: table[name] for name in sorted({str(case["modality"]) for case in cases})}
    bounds = {name: {"low": row.low, "high": row.high} if row.low is not None else {} for name, row in rows.items()}
    scaled = {name: {"kind": row.kind, **bounds[name]} for name, row in rows.items()}
    simulated = read_record(ckpt_dir).get("simulated")
    notes = ["pre-trained on simulated images: these are not patients"] if simulated else []
    write_transfer(ckpt_dir, network, patch_size, scaled, spacing_mm, disruptions, tasks, notes)
