"""Prepared scans two by two: what a network predicts from the first is compared with the second. MONAI's data sets hold single cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset


class PairedScans(Dataset[dict[str, Any]]):
    """For each subject its first and its last scan; a subject with one scan is compared with itself.

    Args:
        scans: prepared scans with ``image`` ``(1, *grid)``, for example a data set.
        cases: ``id``, ``subject`` and ``age`` (weeks) of each scan, in the same order.
        limit: at most so many subjects, those with several scans first; None takes all.
    """

    def __init__(self, scans: Sequence[Mapping[str, Any]], cases: Sequence[Mapping[str, Any]], limit: int | None = None) -> None:
        self.scans = scans
        by_subject: dict[str, list[int]] = {}
        for place, case in sorted(enumerate(cases), key=lambda pair: float(pair[1]["age"])):
            by_subject.setdefault(str(case["subject"]), []).append(place)
        pairs = [(places[0], places[-1]) for _, places in sorted(by_subject.items())]
        pairs.sort(key=lambda pair: pair[0] == pair[1])  # stable: subjects keep their order
        self.pairs = pairs[: None if limit is None else int(limit)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """``image`` with ``age``, ``id`` and ``subject`` of the first scan, ``target`` with ``target_age`` of the second."""
        first, second = (self.scans[place] for place in self.pairs[number])
        return {
            **{key: first[key] for key in ("id", "subject", "age", "image")},
            "target": second["image"],
            "target_age": float(second["age"]),
        }
