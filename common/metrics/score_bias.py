"""Does the score of healthy subjects depend on age, sex or site? Then a threshold treats groups unequally. MONAI has no such test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from common.errors import UserError
from common.metrics.statistics import holm

SMALLEST_GROUP = 3
"""Groups with fewer subjects are not compared; they are counted."""


def age_dependence(scores: Sequence[float], ages: Sequence[float], level: float = 0.95) -> dict[str, Any]:
    r"""Spearman's correlation of a score with age, with its interval by Fisher's transform.

    .. math:: \tanh\left(\operatorname{artanh} \rho \pm z \sqrt{\frac{1 + \rho^2 / 2}{n - 3}}\right)

    Args:
        scores: one per subject; NaN is left out.
        ages: years; NaN is left out.
        level: coverage of the interval.

    Returns:
        ``test``, ``n``, ``effect`` (rho, in [-1, 1]), ``low``, ``high``, ``p``; NaN for fewer than 4 subjects or where nothing varies.

    Source: interval after Bonett and Wright, Psychometrika 65 (2000).
    """
    from scipy.stats import norm, spearmanr

    x, y = _known(scores, ages)
    found: dict[str, Any] = {"test": "Spearman", "n": int(x.size)} | dict.fromkeys(("effect", "low", "high", "p"), math.nan)
    if x.size < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return found
    rho, p = (float(value) for value in spearmanr(x, y))
    width = norm.ppf((1 + level) / 2) * math.sqrt((1 + rho**2 / 2) / (x.size - 3))
    centre = math.atanh(float(np.clip(rho, -1 + 1e-12, 1 - 1e-12)))
    return found | {"effect": rho, "low": math.tanh(centre - width), "high": math.tanh(centre + width), "p": p}


def group_dependence(scores: Sequence[float], groups: Sequence[str | None]) -> dict[str, Any]:
    """Difference of a score between groups: Mann-Whitney for two, Kruskal-Wallis for more.

    Args:
        scores: one per subject; NaN is left out.
        groups: name of each subject's group; None or empty is left out.

    Returns:
        ``test``, ``n``, ``effect`` (two groups: chance that one of the first, by the alphabet, scores above one of the second, 0.5 is no
        difference; more: share of the ranks' variance between groups, epsilon squared, 0 is none), ``p``, ``medians`` (text by group);
        NaN for fewer than two groups of `SMALLEST_GROUP`.
    """
    from scipy.stats import kruskal, mannwhitneyu

    values = np.asarray(scores, dtype=np.float64)
    held: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        if group and not math.isnan(value):
            held.setdefault(str(group), []).append(float(value))
    large = {name: held[name] for name in sorted(held) if len(held[name]) >= SMALLEST_GROUP}
    medians = ", ".join(f"{name} {np.median(held[name]):.4g} (n {len(held[name])})" for name in sorted(held))
    found: dict[str, Any] = {"test": "Mann-Whitney" if len(large) < 3 else "Kruskal-Wallis", "n": sum(map(len, large.values()))}
    found |= {"effect": math.nan, "p": math.nan, "medians": medians}
    if len(large) < 2 or len({value for own in large.values() for value in own}) < 2:
        return found
    if len(large) == 2:
        first, second = large.values()
        statistic, p = mannwhitneyu(first, second)
        return found | {"effect": float(statistic) / (len(first) * len(second)), "p": float(p)}
    statistic, p = kruskal(*large.values())
    return found | {"effect": float(statistic) / (found["n"] - 1), "p": float(p)}


def score_bias(rows: Sequence[Mapping[str, Any]], scores: Sequence[str]) -> list[dict[str, Any]]:
    """Test every score against age, sex and site, p corrected by Holm over all tests.

    Args:
        rows: one per healthy subject, with the scores and, where known, ``age`` (years), ``sex`` and ``site``.
        scores: columns that are tested.

    Returns:
        Dicts with ``score``, ``fact`` and what :func:`age_dependence` and :func:`group_dependence` give, ``p_holm``; facts that no
        subject has are left out.

    Raises:
        UserError: a score that the rows do not have.
    """
    if missing := [name for name in scores if any(name not in row for row in rows)]:
        raise UserError(f"score_bias: the rows have no {', '.join(missing)}; they have {', '.join(rows[0])}.")
    table: list[dict[str, Any]] = []
    for name in scores:
        values = [float(row[name]) for row in rows]
        if any(row.get("age") is not None for row in rows):
            table.append({"score": name, "fact": "age", **age_dependence(values, [_number(row.get("age")) for row in rows])})
        for fact in ("sex", "site"):
            if any(row.get(fact) for row in rows):
                table.append({"score": name, "fact": fact, **group_dependence(values, [row.get(fact) for row in rows])})
    corrected = holm([row["p"] for row in table])
    return [row | {"p_holm": p} for row, p in zip(table, corrected, strict=True)]


def _number(value: Any) -> float:
    return math.nan if value is None or value == "" else float(value)


def _known(first: Sequence[float], second: Sequence[float]) -> tuple[Any, Any]:
    """Pairs of which both are numbers."""
    if len(first) != len(second):
        raise UserError(f"scores and ages: got {len(first)} and {len(second)}, expected one of each per subject.")
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    held = np.isfinite(x) & np.isfinite(y)
    return x[held], y[held]
