from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from common.data.pair_split import cases_of_part, scan_pairs, split_pairs
from common.errors import UserError


def cohort(single: int, double: int = 0, triple: int = 0) -> list[dict[str, object]]:
    counts = [1] * single + [2] * double + [3] * triple
    return [{"id": f"s{k:02d}_{n}", "subject": f"s{k:02d}", "age": 30.0 + n} for k, count in enumerate(counts) for n in range(count)]


def subjects(cases: list[dict[str, object]]) -> set[object]:
    return {case["subject"] for case in cases}


@pytest.mark.parametrize("seed", range(4))
def test_every_case_is_in_one_part_and_no_subject_in_two(seed: int) -> None:
    cases = cohort(30, 8, 2)
    split = split_pairs(cases, seed)
    parts = [split[part] for part in ("train", "validate", "test")]
    assert sorted(case["id"] for part in parts for case in part) == [case["id"] for case in split["all"]]
    assert sum(len(subjects(part)) for part in parts) == 40 == len(subjects([case for part in parts for case in part]))


@pytest.mark.parametrize("seed", range(4))
def test_tested_are_subjects_with_exactly_two_scans_and_some_of_them_are_left_to_train(seed: int) -> None:
    for share, expected in ((0.0, 0), (0.01, 1), (0.5, 4), (1.0, 7)):
        split = split_pairs(cohort(30, 8, 2), seed, share)
        scans = Counter(case["subject"] for case in split["test"])
        assert len(scans) == expected and set(scans.values()) <= {2}
    assert len(split_pairs(cohort(5, 1), seed)["test"]) == 2, "the only pair is tested"


def test_validation_takes_its_share_of_the_rest_and_at_least_one_of_those_with_one_scan() -> None:
    for count, share, expected in ((10, 0.05, 1), (60, 0.05, 3), (10, 0.0, 0), (10, 0.3, 4)):
        split = split_pairs(cohort(count, 4), 0, 0.5, share)
        assert len(subjects(split["validate"])) == expected
        assert len(split["validate"]) == expected, "one scan each"
    assert split_pairs(cohort(20, 6), 3)["test"] == split_pairs(cohort(20, 6), 3, validate_share=0.4)["test"]


def test_the_same_seed_gives_the_same_split_in_any_order_and_another_seed_another() -> None:
    cases = cohort(20, 8)
    assert split_pairs(cases, 1) == split_pairs(cases[::-1], 1) != split_pairs(cases, 2)
    assert cases_of_part(cases, "test", seed=1) == split_pairs(cases, 1)["test"]
    assert cases_of_part(cases, "all") == sorted(cases, key=lambda case: str(case["id"]))


def test_the_record_holds_ids_and_a_digest(tmp_path: Path) -> None:
    file = tmp_path / "eval" / "split.json"
    split = split_pairs(cohort(9, 4), 0, output_file=file)
    record = json.loads(file.read_text())
    assert record["test"] == [case["id"] for case in split["test"]] and record["test_share"] == 0.5
    assert len(record["sha256_of_split"]) == 64


@pytest.mark.parametrize(
    ("cases", "shares", "message"),
    [
        (cohort(5), {}, "none of 5 subjects has exactly two scans, so there is no pair to test"),
        (cohort(1, 1), {}, "2 subjects are too few: 1 are tested and 1 validate, which leaves none to train"),
        (cohort(5, 2), {"test_share": 1.5}, "got test_share 1.5, validate_share 0.05; expected shares from 0 to 1"),
        ([{"id": "a", "subject": "a"}], {}, "1 of 1 cases have no age: a"),
    ],
)
def test_impossible_splits_say_why(cases: list[dict[str, object]], shares: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_pairs(cases, **shares)
    with pytest.raises(UserError, match="evaluate_on: got 'tests'; expected one of train, validate, test, all"):
        cases_of_part(cases, "tests")


def test_pairs_go_both_ways_and_three_scans_give_six() -> None:
    pairs = scan_pairs(cohort(2, 1, 1))
    names = [(pair["input"]["id"], pair["target"]["id"]) for pair in pairs]
    assert names[:2] == [("s02_0", "s02_1"), ("s02_1", "s02_0")]
    assert len(names) == 2 + 6 == len(set(names))
    assert all(pair["input"]["subject"] == pair["target"]["subject"] for pair in pairs)
    assert scan_pairs(cohort(3)) == []
