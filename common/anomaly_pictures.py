"""Which cases of an evaluation are drawn, and how: the abnormal one that stands out most, the one that is missed, the false alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from monai.engines import Evaluator

from common.anomaly_charts import roc_figure
from common.anomaly_figures import anomaly_figure, brightest_voxel
from common.anomaly_scores import FINDING_OF, PAPER, TASKS, Row, is_healthy, score_key, task_scores
from common.anomaly_tables import LESIONS
from common.handlers.case_pictures import volume
from common.inference import run_case
from common.metrics.roc import bootstrap_auroc, roc_curve
from common.skull_view import skull_figure
from common.transforms.head_masks import STRUCTURES

MAP_NAMES = {"error": "error", "zmap": "error, standardised"}


class Pick(NamedTuple):
    """A case that is drawn: why, its id, the structure that is looked at, and its score there."""

    role: str
    case: str
    structure: str
    score: float


def pick_cases(rows: Sequence[Row], structures: Sequence[str], map_name: str, aggregate: str) -> list[Pick]:
    """Choose what is drawn for some structures: highest- and lowest-scored abnormal, highest-scored healthy.

    Args:
        rows: one per case with ``id``, findings and scores.
        structures: hemispheres or the skull; a pick names the one it is about.
        map_name: of the score.
        aggregate: of the score.

    Returns:
        At most three, fewer where a kind of case is not there; of equal scores the first id. No structure of a case is chosen twice.
    """
    scored = [(float(row[score_key(map_name, aggregate, s)]), str(row["id"]), s, row) for row in rows for s in structures]
    known = [entry for entry in scored if not math.isnan(entry[0])]
    abnormal = sorted(((-v, i, s) for v, i, s, row in known if row.get(FINDING_OF[s]) == 1))
    healthy = sorted(((-v, i, s) for v, i, s, row in known if is_healthy(row)))
    picks = []
    if abnormal:
        picks.append(("highest-scored abnormal", abnormal[0]))
    if len(abnormal) > 1:
        picks.append(("lowest-scored abnormal (missed first)", abnormal[-1]))
    if healthy:
        picks.append(("highest-scored healthy (false alarm first)", healthy[0]))
    return [Pick(role, case, structure, -value) for role, (value, case, structure) in picks]


def case_figures(evaluator: Evaluator, rows: Sequence[Row], maps: Sequence[str], aggregate: str, simulated: bool) -> list[dict[str, Any]]:
    """Draw the picked cases, each run once more: slices through the maximum for hemispheres, the skull from all sides for fractures.

    Args:
        evaluator: as for ``common.anomaly_evaluation.evaluate_anomaly``.
        rows: one per case of the evaluator's data set.
        maps: names of the maps; the first one chooses the cases and colours the skull.
        aggregate: of the score that chooses.
        simulated: the titles say so.

    Returns:
        Dicts with ``caption`` and ``png``.
    """
    loader: Any = evaluator.data_loader
    places = {str(case["id"]): index for index, case in enumerate(loader.dataset.data)}
    picks = [p for structures in (("left", "right"), ("skull",)) for p in pick_cases(rows, structures, maps[0], aggregate)]
    drawn: dict[Pick, bytes] = {}
    for case in dict.fromkeys(pick.case for pick in picks):
        item, result = run_case(evaluator, places[case])
        for pick in [p for p in picks if p.case == case]:
            drawn[pick] = draw_pick(pick, picks, item, result, maps, simulated)
    return [{"caption": _caption(pick, maps[0], aggregate), "png": drawn[pick]} for pick in picks]


def draw_pick(
    pick: Pick, picks: Sequence[Pick], item: Mapping[str, Any], result: Mapping[str, Any], maps: Sequence[str], simulated: bool
) -> bytes:
    """Draw one picked case; pictures of the same kind share the range of the first map, so that they can be compared.

    Args:
        pick: what is drawn.
        picks: all of them.
        item: ``image``, ``structures``, perhaps ``truth``, each ``(1, n, n, n)``.
        result: the maps.
        maps: names of the maps.
        simulated: the title says so.
    """
    title = f"{'SIMULATED, not a patient: ' if simulated else ''}{pick.case}, {pick.role}"
    labels, values = volume(item["structures"]), {name: volume(result[name]) for name in maps}
    skull = pick.structure == "skull"
    high = max([p.score for p in picks if (p.structure == "skull") == skull and p.score > 0], default=1.0)
    if skull and (labels == STRUCTURES["skull"]).any():
        spacing, name = float(item["structures"].pixdim[0]), MAP_NAMES.get(maps[0], maps[0])
        return skull_figure(labels == STRUCTURES["skull"], values[maps[0]], title, name=name, spacing_mm=spacing, high=high)
    at = brightest_voxel(values[maps[0]], labels == STRUCTURES[pick.structure])
    truth = volume(item["truth"]) == LESIONS["haemorrhage"][0] if "truth" in item else None
    shown = {MAP_NAMES.get(name, name): array for name, array in values.items()}
    ranges = {MAP_NAMES.get(maps[0], maps[0]): (0.0, high)}
    return anomaly_figure(volume(item["image"]), shown, title, head=labels, at=at, truth=truth, ranges=ranges)


def _caption(pick: Pick, map_name: str, aggregate: str) -> str:
    what = "fracture" if pick.structure == "skull" else "bleeding"
    where = "skull" if pick.structure == "skull" else f"{pick.structure} hemisphere"
    return f"For {what}, {pick.role}: {pick.case}, {where}, {aggregate} of {MAP_NAMES.get(map_name, map_name)} {pick.score:.4g}."


def roc_of_rows(rows: Sequence[Row], maps: Sequence[str], aggregate: str, simulated: bool) -> bytes:
    """ROC figure: a panel for bleeding (both hemispheres, left, right) and one for fracture, a line per map and task.

    Args:
        rows: one per case with ``id``, findings and scores.
        maps: names of the maps.
        aggregate: of the scores.
        simulated: the title says so.
    """
    curves = []
    for task, structures in TASKS.items():
        panel = "fracture" if structures == ("skull",) else "intracranial haemorrhage"
        for name in maps if task in PAPER else maps[:1]:
            scores, truth, cases = task_scores(rows, task, name, aggregate)
            label = ", ".join([task.split(", ")[1], *([MAP_NAMES.get(name, name)] * (len(maps) > 1))])
            curves.append({"panel": panel, "label": label, **roc_curve(scores, truth), **bootstrap_auroc(scores, truth, cases)})
    return roc_figure(curves, "SIMULATED DATA, not patients" if simulated else "")
