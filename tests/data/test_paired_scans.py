"""First and last scan of each child."""

from __future__ import annotations

from typing import Any

import torch

from common.data.paired_scans import PairedScans

CASES: list[dict[str, Any]] = [
    {"id": "b_1", "subject": "b", "age": 35.0},
    {"id": "a_2", "subject": "a", "age": 40.0},
    {"id": "a_1", "subject": "a", "age": 30.0},
    {"id": "a_3", "subject": "a", "age": 33.0},
]
SCANS = [{**case, "image": torch.full((1, 2, 2), case["age"])} for case in CASES]


def test_a_childs_last_scan_is_the_target_of_its_first_and_children_with_several_scans_come_first() -> None:
    first, second = (PairedScans(SCANS, CASES)[number] for number in (0, 1))
    assert (first["id"], first["age"], first["target_age"]) == ("a_1", 30.0, 40.0)
    assert (second["id"], second["age"], second["target_age"]) == ("b_1", 35.0, 35.0), "of one scan the scan itself"
    assert first["image"].unique().tolist() == [30.0] and first["target"].unique().tolist() == [40.0]


def test_the_limit_counts_children() -> None:
    assert len(PairedScans(SCANS, CASES)) == 2 and len(PairedScans(SCANS, CASES, limit=1)) == 1
