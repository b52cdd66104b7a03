"""What all converters of released checkpoints share: the row of their report, and the files they write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from common.atomic import save_tensors, write_json
from common.errors import UserError
from common.weights import RECORD


class Row(NamedTuple):
    """One tensor of the released checkpoint."""

    source: str
    target: str
    outcome: str
    """``transferred``, ``transferred: ...`` with a change, or ``skipped: ...`` with the reason."""


def new_model_file(models_dir: str | Path) -> Path:
    """``model.pt`` in the folder for converted weights.

    Raises:
        UserError: there are weights already.
    """
    target = Path(models_dir) / "model.pt"
    if target.exists():
        raise UserError(f"{target} exists already; name another folder, so that nothing is lost.")
    return target


def save_converted(target: Path, network: nn.Module, rows: Iterable[Row], bundle: str, checkpoint: str | Path, **facts: Any) -> None:
    """Print what became of each tensor; write the record and, after it, the weights.

    Args:
        target: from :func:`new_model_file`.
        network: holds the converted weights.
        rows: what became of each tensor.
        bundle: whose network it is.
        checkpoint: the released file; its name goes into the record.
        facts: what else the record holds, such as ``settings``.
    """
    table = list(rows)
    widths = [max((len(cell) for cell in column), default=0) for column in zip(*((row.source, row.target) for row in table), strict=True)]
    for row in table:
        print(f"{row.source:<{widths[0]}} {row.target:<{widths[1]}} {row.outcome}")
    record = {"bundle": bundle, "members": [target.name], "source": Path(checkpoint).name, "simulated": False, **facts}
    write_json(target.with_name(RECORD), record)
    print(save_tensors(target, network.state_dict()))
