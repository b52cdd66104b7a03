"""Measure all cases of an evaluator and draw a few, which are known only when all are done: so what a picture needs is kept in files."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import Evaluator

from common.inference import CaseRows, case_id, run_cases
from common.report import pick_cases

Keep = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
Draw = Callable[[Any, str], bytes]


class KeptCases:
    """Handler of an evaluator: one file per case with what its picture needs; running a case again may take an hour.

    Args:
        folder: for the files.
        keep: from (batch item, output item) to what is kept, picklable.
        draw: from what was kept and a title to a PNG.
    """

    def __init__(self, folder: str | Path, keep: Keep, draw: Draw) -> None:
        self.folder, self.keep, self._draw = Path(folder), keep, draw

    def _file(self, case: str) -> Path:
        return self.folder / f"{case.encode().hex()}.pickle"

    def add(self, engine: Engine) -> None:
        """Keep the cases of the batch that was just done."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, result in zip(batch, output, strict=True):
            self._file(case_id(item)).write_bytes(pickle.dumps(self.keep(item, result)))

    def draw(self, case: str, title: str) -> bytes:
        """Picture of a kept case."""
        return self._draw(pickle.loads(self._file(case).read_bytes()), title)


def measure_cases(
    evaluator: Evaluator, describe: Keep, output_file: str | Path, keep: Keep, draw: Draw, words: str = "Dice"
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run all cases.

    Args:
        evaluator: its data set's cases are measured.
        describe: from (batch item, output item) to a flat row with ``dice``.
        output_file: CSV, written after each case.
        keep: see :class:`KeptCases`.
        draw: likewise.
        words: name of ``dice`` in the captions.

    Returns:
        The rows, and captions and pictures of the best, the median and the worst case.
    """
    rows = CaseRows(describe, str(output_file))
    with tempfile.TemporaryDirectory() as folder:
        kept = KeptCases(folder, keep, draw)
        handles = [evaluator.add_event_handler(Events.ITERATION_COMPLETED, step) for step in (rows.add, kept.add)]
        try:
            run_cases(evaluator)
        finally:
            for handle in handles:
                handle.remove()
        figures, dice = [], {row["id"]: row["dice"] for row in rows.rows}
        for role, case in pick_cases(rows.rows).items():
            caption = f"{role}: {case}, {words} {dice[case]:.3f}"
            figures.append({"caption": caption, "png": kept.draw(case, caption)})
    return rows.rows, figures
