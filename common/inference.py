"""Run a network over cases: weights of an ensemble, one case after the other, a table of what was found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import Evaluator
from torch.utils.data import Subset
from tqdm import tqdm

from common import user_error_in
from common.atomic import write_csv
from common.data.cases import volume_stem
from common.errors import UserError
from common.handlers.case_pictures import volume
from common.metrics.detection import count_components
from common.metrics.overlap import volume_ml

logger = logging.getLogger("brain_bundles")


class CaseRows:
    """Handler of an evaluator: one row per case, written to a CSV file after each case.

    Args:
        describe: from (batch item, output item) to a flat row, behind the case's ``id``; None describes the lesion.
        output_file: CSV file; None keeps the rows in memory only.
    """

    def __init__(
        self,
        describe: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None,
        output_file: str | None = None,
    ) -> None:
        self.describe, self.output_file = describe or describe_lesion, output_file
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)

    def add(self, engine: Engine) -> None:
        """Describe the cases of the batch that was just done."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        for item, result in zip(batch, output, strict=True):
            self.rows.append({"id": case_id(item), **self.describe(item, result)})
        self.write()

    def write(self) -> None:
        """Write the rows so far to the file, where there is one."""
        if self.output_file is not None:
            write_csv(self.output_file, self.rows, digits=6)


def case_id(item: Mapping[str, Any]) -> str:
    """Name of a case: its ``id``, or the file name of its image."""
    return str(item["id"]) if "id" in item else volume_stem(item["image"].meta["filename_or_obj"])


def describe_lesion(item: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """Volume in ml, number of connected components (26-neighbourhood) and share of the brain of a predicted lesion.

    Args:
        item: holds ``brain`` and the geometry, ``(1, X, Y, Z)``.
        result: holds ``pred``, the lesion mask, ``(1, X, Y, Z)``.
    """
    mask, brain = volume(result["pred"]) > 0, volume(item["brain"]) > 0
    spacing = [float(edge) for edge in item["brain"].pixdim[:3]]
    share = 100 * mask.sum() / max(brain.sum(), 1)
    return {"lesion_ml": volume_ml(mask, spacing), "components": count_components(mask), "percent_of_brain": float(share)}


def run_case(evaluator: Evaluator, index: int) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Run one case of an evaluator's data set.

    Args:
        evaluator: its ``data_loader.dataset`` holds the cases; it is left as it was.
        index: place in the data set.

    Returns:
        The preprocessed case and the postprocessed output.
    """
    loader: Any = evaluator.data_loader
    length = evaluator.state.epoch_length
    evaluator.data_loader = DataLoader(Subset(loader.dataset, [index]), batch_size=1, num_workers=0)
    evaluator.state.epoch_length = 1  # else ignite would start the one case again and again
    try:
        evaluator.run()
    except Exception:
        evaluator._internal_run_generator = None  # ignite would end the next run at once, with the output of this one
        raise
    finally:
        evaluator.data_loader, evaluator.state.epoch_length = loader, length
    batch: Any = evaluator.state.batch
    output: Any = evaluator.state.output
    return batch[0], output[0]


def run_cases(evaluator: Evaluator, progress: bool = True, order: Sequence[int] | None = None) -> list[str]:
    """Run an evaluator case by case, so that a bad file does not stop the others.

    Args:
        evaluator: its ``data_loader.dataset`` holds the cases.
        progress: show a bar.
        order: places in the data set, as they shall be done; None takes all as they stand.

    Returns:
        Ids of the cases that were done.

    Raises:
        UserError: some cases failed; raised after the others are done and names each with its reason.
    """
    loader: Any = evaluator.data_loader
    dataset, failures, done = loader.dataset, dict[str, str](), list[str]()
    evaluator.logger.setLevel(logging.CRITICAL)  # ignite would report each failure twice, without the file
    for index in tqdm(range(len(dataset)) if order is None else order, desc="Cases", disable=None if progress else True):
        case = dataset.data[index]
        name = str(case.get("id", index))
        try:
            run_case(evaluator, index)
            done.append(name)
        except Exception as error:
            mistake = user_error_in(error)
            if mistake is None:
                raise
            logger.error("%s failed: %s", name, mistake)
            failures[name] = str(mistake)
    if failures:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        raise UserError(f"{len(failures)} of {len(dataset)} cases failed, the others are done:\n{reasons}")
    return done
