"""What the thesis claims, one line each, tested on evaluations: paired t-tests over subjects, and a verdict that may be "not decided".

"Restored" is measured as: closer to the clean slice than the corrupted input is. The thesis judged by eye.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from common.metrics.paired_t import paired_t
from common.metrics.slice_similarity import HIGHER_IS_BETTER
from common.reconstruction_paper import PAPER, Setting
from common.reconstruction_runs import Run, subject_values

HOLDS, FAILS, OPEN, MISSING = "holds", "does not hold", "not decided", "not measured"

Groups = Mapping[Setting, Sequence[Run]]


class Part(NamedTuple):
    """One comparison that a claim rests on: ``first`` is claimed to be better than ``second``; None is the corrupted input itself."""

    first: Setting | None
    second: Setting | None


class Claim(NamedTuple):
    """A claim of the thesis.

    Attributes:
        text: in one sentence.
        corruption: input that it is tested on, ``none`` for clean.
        metrics: by which it is tested, each with a verdict of its own.
        parts: from the settings that were measured to the comparisons that all must hold.
    """

    text: str
    corruption: str
    metrics: tuple[str, ...]
    parts: Callable[[Sequence[Setting]], list[Part]]


def _augmented(settings: Sequence[Setting], **wanted: Any) -> list[Setting]:
    """Settings with the paper's augmentation, and blocks of its tables with it, that have the wanted values."""
    own = [s for s in settings if s.augmentation == "all" and s.block != "original"]
    return [s for s in own if all(getattr(s, key) == value for key, value in wanted.items())]


def _restored(families: Sequence[str], restored: bool = True) -> Callable[[Sequence[Setting]], list[Part]]:
    """Every augmented model of some families restores (or does not)."""

    def parts(settings: Sequence[Setting]) -> list[Part]:
        own = [s for s in _augmented(settings) if s.family in families]
        return [Part(s, None) if restored else Part(None, s) for s in own]

    return parts


def _l2(loss: str, helps: bool) -> Callable[[Sequence[Setting]], list[Part]]:
    """Models with L2 against their twins without."""

    def parts(settings: Sequence[Setting]) -> list[Part]:
        pairs = [(s, s._replace(l2=False)) for s in settings if s.l2 and s.loss == loss and s._replace(l2=False) in settings]
        return [Part(*pair) if helps else Part(*pair[::-1]) for pair in pairs]

    return parts


def _leads(family: str, loss: str, augmentation: str) -> Callable[[Sequence[Setting]], list[Part]]:
    """One family, without L2, against all other models of its loss and augmentation."""

    def parts(settings: Sequence[Setting]) -> list[Part]:
        own = [s for s in settings if (s.loss, s.augmentation) == (loss, augmentation)]
        first = [s for s in own if s.family == family and not s.l2 and s.block != "original"]
        return [Part(leader, s) for leader in first for s in own if s.family != family]

    return parts


def _beats(rival: str) -> Callable[[Sequence[Setting]], list[Part]]:
    """The residual U-Net against one of its two ideas alone, under each loss."""

    def parts(settings: Sequence[Setting]) -> list[Part]:
        first = _augmented(settings, family="residual_unet", l2=False)
        return [Part(s, other) for s in first for other in _augmented(settings, family=rival, l2=False, loss=s.loss)]

    return parts


def _square_twins(settings: Sequence[Setting]) -> list[Part]:
    own = [s for s in _augmented(settings, loss="dssim", l2=False) if s.family in ("residual_unet", "shallow")]
    return [Part(s, s._replace(loss="mse")) for s in own if s._replace(loss="mse") in settings]


def _square_best(settings: Sequence[Setting]) -> list[Part]:
    best = [s for s in _augmented(settings, loss="dssim") if s.family in ("residual_unet", "shallow")]
    others = [s for s in _augmented(settings) if s not in best]
    return [Part(s, other) for s in best if not s.l2 for other in others]


_ALL = ("residual_unet", "shallow", "skip", "myronenko")
_ERRORS, _LOCAL, _CLEAN = ("mse", "dssim"), ("changed_mse", "mse", "dssim"), ("mse", "dssim", "psnr_db")

CLAIMS = (
    Claim("Noise is restored by every network.", "noise", _ERRORS, _restored(_ALL)),
    Claim("Blur is restored by every network.", "blur", _ERRORS, _restored(_ALL)),
    Claim(
        "Dropped pixels are restored by every network but the shallow residual ones.",
        "dropout",
        _LOCAL,
        _restored(("residual_unet", "skip", "myronenko")),
    ),
    Claim("Dropped pixels are not restored by the shallow residual networks.", "dropout", _LOCAL, _restored(("shallow",), False)),
    Claim("A blanked square is restored better after training by DSSIM than by MSE.", "square", _LOCAL, _square_twins),
    Claim("On a blanked square the DSSIM-trained residual U-Net and shallow network beat all others.", "square", _LOCAL, _square_best),
    Claim("L2 helps networks trained by DSSIM.", "none", _CLEAN, _l2("dssim", True)),
    Claim("L2 hurts networks trained by MSE.", "none", _CLEAN, _l2("mse", False)),
    Claim("The residual U-Net leads under MSE, with augmentation.", "none", _CLEAN, _leads("residual_unet", "mse", "all")),
    Claim("The residual U-Net leads under DSSIM, with augmentation.", "none", _CLEAN, _leads("residual_unet", "dssim", "all")),
    Claim("Skips and residual blocks together beat skips alone.", "none", _CLEAN, _beats("skip")),
    Claim("Skips and residual blocks together beat residual blocks alone.", "none", _CLEAN, _beats("shallow")),
    Claim("The skip CAE leads without augmentation (table).", "none", _CLEAN, _leads("skip", "mse", "none")),
)  # fmt: skip


def part_row(groups: Groups, part: Part, corruption: str, metric: str) -> dict[str, Any]:
    """Test one part.

    Args:
        groups: setting -> its runs.
        part: what is compared.
        corruption: kind of the input.
        metric: of the slices.

    Returns:
        ``first``, ``second``, ``advantage`` (how much better the first is: mean over subjects, > 0 supports the claim) with ``low`` and
        ``high`` (95 %), ``p``, ``n``, ``first_mean``, ``second_mean``, ``paper_advantage`` (of the thesis' own means, NaN where none).
    """
    some = next(s for s in part if s is not None)
    values = [
        subject_values(groups[s or some], f"{corruption}_{metric}" if s is not None else f"{corruption}_input_{metric}") for s in part
    ]
    subjects = [subject for subject in values[0] if subject in values[1]]
    first, second = ([held[subject] for subject in subjects] for held in values)
    better = (first, second) if HIGHER_IS_BETTER.get(metric, False) else (second, first)
    test = paired_t(*better)
    names = [s.name if s is not None else "corrupted input" for s in part]
    row: dict[str, Any] = {"first": names[0], "second": names[1], "advantage": test.pop("mean_difference"), **test}
    row |= {"first_mean": _mean(first), "second_mean": _mean(second)}
    paper = [PAPER.get(s, {}).get(metric, math.nan) if s is not None else math.nan for s in part]
    known = corruption == "none"
    sign = 1 if HIGHER_IS_BETTER.get(metric, False) else -1
    return row | {"paper_advantage": sign * (paper[0] - paper[1]) if known else math.nan}


def verdict_of(parts: Sequence[Mapping[str, Any]], level: float = 0.05) -> str:
    """Verdict of a claim all of whose parts must hold.

    It holds where the interval of every part lies above 0 (a conjunction needs no correction), does not hold where a part is significantly
    turned round (its p times the number of parts below the level), and is not decided else.

    Args:
        parts: rows of :func:`part_row`; empty for what was not measured.
        level: of significance.
    """
    if not parts:
        return MISSING
    if all(part["low"] > 0 for part in parts):
        return HOLDS
    turned = [part for part in parts if part["advantage"] < 0 and part["p"] * len(parts) < level]
    return FAILS if turned else OPEN


def judge_claims(groups: Groups, corruptions: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Test every claim by each of its metrics.

    Args:
        groups: setting -> its runs.
        corruptions: kinds that were measured.

    Returns:
        Rows of verdicts (``claim``, ``input``, ``metric``, ``verdict``, ``parts``, ``supported`` (intervals above 0), ``contradicted``,
        ``smallest_advantage`` with its interval, ``paper_supports``: of how many parts the thesis' own means say so), and the parts.
    """
    verdicts, details = [], []
    for claim in CLAIMS:
        wanted = claim.parts(list(groups)) if claim.corruption in corruptions else []
        for metric in claim.metrics:
            parts = [part_row(groups, part, claim.corruption, metric) for part in wanted]
            head = {"claim": claim.text, "input": "clean" if claim.corruption == "none" else claim.corruption, "metric": metric}
            details += [head | part for part in parts]
            verdicts.append(head | {"verdict": verdict_of(parts), **_evidence(parts)})
    return verdicts, details


def _evidence(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    weakest = min(parts, key=lambda part: part["advantage"], default=None)
    known = [part["paper_advantage"] for part in parts if not math.isnan(part["paper_advantage"])]
    found: dict[str, Any] = {"parts": len(parts), "supported": sum(part["low"] > 0 for part in parts)}
    found["contradicted"] = sum(part["high"] < 0 for part in parts)
    found |= {name: None if weakest is None else weakest[key] for name, key in _WEAKEST.items()}
    return found | {"paper_supports": f"{sum(value > 0 for value in known)} of {len(known)}" if known else ""}


_WEAKEST = {"smallest_advantage": "advantage", "low": "low", "high": "high", "p": "p", "of": "first", "against": "second"}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
