from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.brats_split import case_number, cases_of_part, paper_split, split_brats
from common.errors import UserError


def cases_2020(numbers: Any = range(1, 370)) -> list[dict[str, Any]]:
    return [{"id": f"BraTS20_Training_{n:03d}", "subject": f"BraTS20_Training_{n:03d}", "image": []} for n in numbers]


def visits(subjects: int, each: int = 2) -> list[dict[str, Any]]:
    return [{"id": f"s{k:03d}-{v}", "subject": f"s{k:03d}", "image": []} for k in range(subjects) for v in range(each)]


def ids(split: dict[str, Any]) -> dict[str, list[str]]:
    return {part: [case["id"] for case in own] for part, own in split.items()}


def test_the_papers_split_holds_every_number_once_in_parts_of_295_37_and_37():
    split = paper_split()
    assert [len(split[part]) for part in ("train", "validate", "test")] == [295, 37, 37]
    assert sorted(n for numbers in split.values() for n in numbers) == list(range(1, 370))
    assert all(numbers == sorted(numbers) for numbers in split.values())


def test_the_papers_split_is_the_cut_of_a_permutation_by_another_call():
    order = np.random.RandomState(0).permutation(369) + 1  # permutation shuffles arange(369): the same draws
    assert paper_split()["validate"] == sorted(order[295:332].tolist())
    assert paper_split()["test"] == sorted(order[332:].tolist())
    assert set(order[:5].tolist()) == {141, 151, 273, 61, 302}, "numpy keeps this stream for ever (legacy generator)"


def test_all_369_cases_are_split_as_in_the_paper_whatever_their_order():
    cases = cases_2020()
    split = split_brats(cases[::-1])
    assert [case_number(case) for case in split["test"]] == paper_split()["test"]
    assert ids(split) == ids(split_brats(cases, "paper", seed=5))
    assert ids(split) != ids(split_brats(cases, "shares"))


def test_some_of_the_cases_keep_their_papers_part_by_number():
    some = paper_split()["train"][:3] + paper_split()["validate"][:2] + paper_split()["test"][:1]
    split = split_brats(cases_2020(some), "paper")
    assert [len(split[part]) for part in ("train", "validate", "test", "all")] == [3, 2, 1, 6]
    with pytest.raises(UserError, match="split: no case for validate, test among 3 by the rule 'paper'"):
        split_brats(cases_2020(some[:3]), "paper")


def test_other_data_are_split_in_the_same_shares_with_visits_together():
    cases = visits(100)
    split = split_brats(cases, seed=3)
    assert [len(split[part]) for part in ("train", "validate", "test")] == [160, 20, 20]  # 80, 10, 10 subjects of two visits
    owners = [{case["subject"] for case in split[part]} for part in ("train", "validate", "test")]
    assert not owners[0] & owners[1] and not owners[0] & owners[2] and not owners[1] & owners[2]
    assert ids(split) == ids(split_brats(cases[::-1], seed=3)) != ids(split_brats(cases, seed=4))


def test_three_subjects_are_enough_and_two_are_not():
    assert [len(own) for own in split_brats(visits(3, 1)).values()] == [1, 1, 1, 3]
    with pytest.raises(UserError, match="2 subjects; expected at least 3, one for each of train, validate, test"):
        split_brats(visits(2))


def test_mistakes_are_named():
    with pytest.raises(UserError, match="split: got 'papers'; expected one of auto, paper, shares"):
        split_brats(visits(5), "papers")
    with pytest.raises(UserError, match=r"10 of 10 cases are not of BraTS2020's training set: s000-0.*choose the rule 'shares'"):
        split_brats(visits(5), "paper")
    with pytest.raises(UserError, match=r"split: 1 of 370 cases are not .*Training_370"):
        split_brats(cases_2020(range(1, 371)), "paper")
    with pytest.raises(UserError, match="evaluate_on: got 'dev'; expected one of train, validate, test, all"):
        cases_of_part(visits(5), "dev")


def test_the_part_for_evaluation_is_that_of_training():
    cases = visits(20)
    assert cases_of_part(cases, "validate", seed=2) == split_brats(cases, seed=2)["validate"]
    assert len(cases_of_part(cases, "all")) == 40


def test_the_record_names_cases_and_no_paths(tmp_path: Path):
    split_brats(visits(4, 1), output_file=tmp_path / "deep" / "split.json", seed=1)
    record = json.loads((tmp_path / "deep" / "split.json").read_text())
    assert record["rule"] == "shares" and record["seed"] == 1 and len(record["sha256_of_split"]) == 64
    assert sorted(record["train"] + record["validate"] + record["test"]) == [f"s00{k}-0" for k in range(4)]
    assert "/" not in json.dumps(record)


def test_folds_in_the_data_are_passed_over_with_a_warning(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "brain_bundles"):
        split_brats([{**case, "fold": 0} for case in visits(5)])
    assert "FOLDS that the data name are not used" in caplog.text
