from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data.splits import cases_to_evaluate, distinct_fingerprints, fingerprints, split_cases
from common.errors import UserError


def cases_of(visits: list[int]) -> list[dict[str, Any]]:
    return [{"id": f"s{s:03d}-{v}", "subject": f"s{s:03d}", "image": "x"} for s, count in enumerate(visits) for v in range(count)]


@settings(max_examples=40, deadline=None)
@given(visits=st.lists(st.integers(1, 4), min_size=5, max_size=30), folds=st.integers(2, 5), seed=st.integers(0, 99))
def test_every_subject_is_validated_exactly_once_and_never_trained_on_there(visits: list[int], folds: int, seed: int) -> None:
    cases = cases_of(visits)
    splits = [split_cases(cases, fold, folds, seed) for fold in range(folds)]
    validated = [case["id"] for split in splits for case in split["validate"]]
    assert sorted(validated) == sorted(case["id"] for case in cases)
    for split in splits:
        assert not {case["subject"] for case in split["train"]} & {case["subject"] for case in split["validate"]}
        assert len(split["train"]) + len(split["validate"]) == len(split["all"]) == len(cases)
        assert split["validate"]
    sizes = [len(split["validate"]) for split in splits]
    assert max(sizes) - min(sizes) <= max(visits)


def test_one_visit_each_gives_sizes_that_differ_by_at_most_one() -> None:
    cases = cases_of([1] * 23)
    assert sorted(len(split_cases(cases, fold, 5)["validate"]) for fold in range(5)) == [4, 4, 5, 5, 5]


def test_the_split_follows_the_seed_and_not_the_order_of_the_cases() -> None:
    cases = cases_of([1, 2] * 10)
    shuffled = random.Random(1).sample(cases, len(cases))
    assert split_cases(cases, 1, 5, seed=3) == split_cases(shuffled, 1, 5, seed=3)
    assert split_cases(cases, 1, 5, seed=3)["validate"] != split_cases(cases, 1, 5, seed=4)["validate"]


def test_folds_given_by_the_data_win() -> None:
    cases = [{**case, "fold": index % 3} for index, case in enumerate(cases_of([1] * 7))]
    split = split_cases(cases, fold=2, folds=5, seed=9)
    assert [case["id"] for case in split["validate"]] == ["s002-0", "s005-0"]
    with pytest.raises(UserError, match="fold: got 3; expected one of 0, 1, 2"):
        split_cases(cases, fold=3)


def test_given_folds_must_be_complete_and_keep_subjects_together() -> None:
    cases = cases_of([2, 1])
    with pytest.raises(UserError, match=r"2 of 3 cases have none \(s000-1, s001-0\)"):
        split_cases([{**cases[0], "fold": 0}, *cases[1:]])
    with pytest.raises(UserError, match="visits of subject s000 are in different folds"):
        split_cases([{**case, "fold": index} for index, case in enumerate(cases)])
    with pytest.raises(UserError, match="all cases are in fold 4"):
        split_cases([{**case, "fold": 4} for case in cases])


@pytest.mark.parametrize(
    ("fold", "folds", "message"),
    [
        (0, 0, "folds: got 0; expected at least 2, or 1 to train and validate on all cases"),
        (0, 5, "folds: got 5 folds for 3 subjects"),
        (1, 1, "fold: got 1; expected one of 0"),
        (0, 5, "folds: got 5 folds for 3 subjects; choose at most 3 folds, or add subjects"),
        (3, 3, "fold: got 3; expected one of 0, 1, 2"),
        (-1, 3, "fold: got -1; expected one of 0, 1, 2"),
    ],
)
def test_impossible_folds_say_what_to_do(fold: int, folds: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_cases(cases_of([1, 2, 1]), fold, folds)


def test_one_fold_trains_and_validates_on_all_cases_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    split = split_cases(cases_of([1, 2]), 0, 1)
    assert split["train"] == split["validate"] == split["all"] and len(split["all"]) == 3
    assert "says little" in caplog.text


def test_the_record_holds_ids_and_a_digest_of_all_folds_but_no_paths(tmp_path: Path) -> None:
    cases = [{**case, "image": str(tmp_path / "private" / "x.mha")} for case in cases_of([1] * 6)]
    records = []
    for fold in range(2):
        split = split_cases(cases, fold, 3, seed=1, output_file=tmp_path / "run" / f"split_{fold}.json")
        records.append(json.loads((tmp_path / "run" / f"split_{fold}.json").read_text()))
        assert records[-1]["validate"] == [case["id"] for case in split["validate"]]
        assert records[-1]["train"] == [case["id"] for case in split["train"]]
    assert str(tmp_path) not in json.dumps(records)
    assert records[0]["sha256_of_all_folds"] == records[1]["sha256_of_all_folds"]
    split_cases(cases, 0, 3, seed=2, output_file=tmp_path / "other.json")
    assert json.loads((tmp_path / "other.json").read_text())["sha256_of_all_folds"] != records[0]["sha256_of_all_folds"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["split_0.json", "split_1.json"]


def test_all_cases_can_be_evaluated_however_few_there_are() -> None:
    cases = cases_of([1, 1])
    assert cases_to_evaluate(cases, "all") == cases
    assert cases_to_evaluate(cases_of([1] * 10), "validate", 1, 5, 3) == split_cases(cases_of([1] * 10), 1, 5, 3)["validate"]
    with pytest.raises(UserError, match="evaluate_on: got 'test', expected one of train, validate, all"):
        cases_to_evaluate(cases, "test")


def test_a_case_is_known_again_by_its_content_under_another_name(tmp_path: Path) -> None:
    for name, content in {"one": b"a", "copy of one": b"a", "two": b"b"}.items():
        (tmp_path / name).write_bytes(content)
    one, again, two = fingerprints([{"image": [str(tmp_path / name), "other"]} for name in ("one", "copy of one", "two")])
    assert one == again != two and fingerprints([{"image": str(tmp_path / "two")}]) == [two]
    assert distinct_fingerprints([{"image": str(tmp_path / name)} for name in ("two", "one", "two")]) == [two, one]
