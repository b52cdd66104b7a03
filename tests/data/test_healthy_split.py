from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from common.data.healthy_split import cases_of_part, split_healthy
from common.errors import UserError


def cohort(healthy: int, abnormal: int) -> list[dict]:
    cases = [{"id": f"h{n:03d}", "subject": f"h{n:03d}", "healthy": True} for n in range(healthy)]
    for n in range(abnormal):
        findings = {"bleed_left": n % 2, "bleed_right": 1, "fracture": int(n % 5 == 0)}
        cases.append({"id": f"a{n:03d}", "subject": f"a{n:03d}", "healthy": False, "findings": findings})
    return cases


def names(cases: list[dict]) -> list[str]:
    return [case["id"] for case in cases]


def test_the_papers_counts_come_out() -> None:
    split = split_healthy(cohort(132, 65), validation_share=0)
    assert [len(split[part]) for part in ("train", "validate", "test", "validate_abnormal", "all")] == [111, 0, 86, 0, 197]


@pytest.mark.parametrize("seed", range(5))
def test_parts_never_overlap_and_training_and_validation_are_healthy(seed: int) -> None:
    cases = cohort(30, 12)
    split = split_healthy(cases, test_healthy=6, validation_abnormal=4, seed=seed)
    parts = [set(names(split[part])) for part in ("train", "validate", "test", "validate_abnormal")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(cases)
    assert all(case["healthy"] for part in ("train", "validate") for case in split[part])
    assert [len(part) for part in parts] == [22, 2, 6 + 8, 4]
    assert {bool(case["findings"]["fracture"]) for case in split["validate_abnormal"]} == {True, False}


def test_the_same_seed_gives_the_same_split_in_any_order_and_another_seed_another() -> None:
    cases = cohort(30, 5)
    first = split_healthy(cases, 5)
    assert split_healthy(cases[::-1], 5) == first
    assert names(split_healthy(cases, 5, seed=1)["train"]) != names(first["train"])


def test_all_scans_of_a_subject_stay_together_and_one_abnormal_scan_makes_it_abnormal() -> None:
    cases = [{"id": f"s{n}_{v}", "subject": f"s{n}", "healthy": not (n == 0 and v == 1)} for n in range(10) for v in range(2)]
    split = split_healthy(cases, test_healthy=3)
    subjects = {part: {case["subject"] for case in split[part]} for part in ("train", "validate", "test")}
    assert not subjects["train"] & subjects["test"] and not subjects["train"] & subjects["validate"]
    assert "s0" in subjects["test"]
    assert len(subjects["test"]) == 3, "s0, and two subjects with two healthy scans each"


def test_cases_that_say_nothing_are_taken_as_healthy_loudly(caplog: pytest.LogCaptureFixture) -> None:
    cases = [{"id": f"x{n}", "subject": f"x{n}"} for n in range(10)]
    with caplog.at_level(logging.WARNING):
        split = split_healthy(cases, test_healthy=0)
    assert (len(split["train"]), len(split["validate"]), split["test"]) == (9, 1, [])
    assert "NOBODY SAYS that these 10 scans are HEALTHY" in caplog.text


def test_cases_that_say_nothing_beside_others_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split = split_healthy([*cohort(8, 2), {"id": "x", "subject": "x"}], test_healthy=2)
    assert "1 subjects without findings are left out of training and test (others have them): x" in caplog.text
    assert "x" in names(split["all"]) and not any("x" in names(split[part]) for part in ("train", "validate", "test"))


@pytest.mark.parametrize(
    ("cases", "options", "message"),
    [
        (cohort(0, 3), {}, r"no healthy scan among 3 cases \(3 abnormal subjects, 0 unknown\); training needs healthy ones"),
        (cohort(10, 3), {}, r"10 healthy subjects are too few for test_healthy 21 .* Lower test_healthy to at most 8, or add scans"),
        (cohort(10, 3), {"test_healthy": 9}, "at least 1 must be left to train and 1 to validate. Lower test_healthy to at most 8"),
        (cohort(10, 3), {"test_healthy": 2, "validation_abnormal": 3}, "got 3 of 3 abnormal subjects.*lower it to at most 2"),
        (cohort(10, 3), {"validation_share": 1.0}, "validation_share 1.0.*a share from 0 to below 1"),
    ],
)
def test_impossible_splits_say_what_to_lower(cases: list[dict], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_healthy(cases, **options)


def test_the_split_is_written_without_paths_and_equal_splits_have_equal_digests(tmp_path: Path) -> None:
    cases = cohort(10, 3)
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        split = split_healthy(cases, 3, seed=seed, output_file=tmp_path / f"{name}.json")
    records = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in "abc"}
    assert records["a"] == records["b"]
    assert records["a"]["sha256_of_split"] != records["c"]["sha256_of_split"]
    assert records["c"]["test"] == names(split["test"])
    assert len(records["c"]["healthy_in_test"]) == 3


def test_evaluation_finds_the_parts_again() -> None:
    cases = cohort(10, 3)
    split = split_healthy(cases, test_healthy=3, seed=2)
    for part in ("test", "train", "validate", "all"):
        assert cases_of_part(cases, part, test_healthy=3, seed=2) == split[part]
    assert len(cases_of_part(cohort(0, 2), "all")) == 2, "all cases need no split"
    with pytest.raises(UserError, match="evaluate_on: got 'tset'; expected one of train, validate, test"):
        cases_of_part(cases, "tset")
