"""The first weights of a segmentation network: those of a pre-training, which runs first where there is none, or none at all.

MONAI's ``CheckpointLoader`` loads a file that is there; it trains none, and does not say what a file of another network has left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from common.atomic import write_json
from common.networks.transfer_record import TRANSFER
from common.networks.transfer_weights import TransferReport, load_pretrained
from common.pretraining_start import ensure_pretrained

BASE, SCRATCH = "pretrain.json", "none"
logger = logging.getLogger("brain_bundles")


def start_from_pretrained(
    network: nn.Module,
    pretrained: str | None,
    config_dir: str,
    ckpt_dir: str,
    output_dir: str,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    part: str = "both",
    input_channels: str = "adapt",
    expected: Mapping[str, Any] | None = None,
    mismatch: str = "warn",
    resume: bool = False,
    rank: int = 0,
) -> TransferReport | None:
    """Give a network its first weights, by a pre-training if need be; the report is printed and written to ``transfer.json``.

    Args:
        network: to be fine-tuned; MONAI's ``SwinUNETR`` or ours. Its weights are changed.
        pretrained: weights of a pre-training (``model.pt`` or its folder); None takes ``<ckpt_dir>/pretrain`` and fills that first where
            it holds none, "none" leaves the network as it is (from scratch).
        config_dir: folder of ``pretrain.json``.
        ckpt_dir: folder of the fine-tuning's weights.
        output_dir: folder of its results; those of a pre-training go to ``pretrain`` in it.
        overlays: file names beside ``pretrain.json``, or paths; later ones over earlier ones.
        overrides: values by id of ``pretrain.json``, behind the overlays.
        part: "encoder", "decoder" or "both", see :func:`common.networks.transfer_weights.transfer`.
        input_channels: "adapt" or "skip", likewise.
        expected: how this training prepares its images; see :func:`common.networks.transfer_weights.load_pretrained`.
        mismatch: "warn" or "error" where those of the pre-training were prepared otherwise.
        resume: go on with a pre-training that was interrupted.
        rank: process number of a distributed run; rank 0 writes.

    Returns:
        What was transferred; None from scratch.

    Raises:
        UserError: weights that are not there or do not fit at all, or overlays that are not there.

    Source: DAE, Sec. 2. Deviation: it is said which tensors were carried and why others were not.
    """
    if pretrained is not None and str(pretrained).strip().lower() == SCRATCH:
        logger.info("pretrained is '%s': training starts from scratch.", pretrained)
        return None
    source = Path(str(pretrained)).expanduser() if pretrained else Path(ckpt_dir) / "pretrain"
    if not pretrained:
        files = [os.path.join(config_dir, name) for name in (BASE, *overlays)]
        ensure_pretrained(files, str(source), str(Path(output_dir) / "pretrain"), overrides, resume)
    report = load_pretrained(network, source, part, input_channels, expected, mismatch)
    if rank == 0:
        write_json(Path(output_dir) / TRANSFER, {"source": os.path.abspath(source), **report.summary()})
    return report
