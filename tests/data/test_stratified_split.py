from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from common.data.stratified_split import cases_of_part, proportional_counts, split_stratified, stratum
from common.errors import UserError


def person(number: int, age: float | None = 40.0, sex: str | None = "m", ethnicity: int | None = 1, patient: bool = False) -> dict:
    facts = {"age": age, "sex": sex, "ethnicity": ethnicity}
    case = {"id": f"IXI{number:03d}-HH-0001-T1", "subject": f"IXI{number:03d}"}
    return case | {key: value for key, value in facts.items() if value is not None} | ({"label": "x"} if patient else {})


def cohort(count: int = 581, unknown: int = 18, patients: int = 0, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    people = [person(n, float(rng.uniform(20, 86)), "mf"[n % 2], int(rng.choice([1, 1, 1, 1, 3, 4]))) for n in range(count - unknown)]
    people += [person(n, None, None, None) for n in range(count - unknown, count)]
    return people + [person(n, patient=True) for n in range(count, count + patients)]


def names(cases: list[dict]) -> list[str]:
    return [case["id"] for case in cases]


def test_the_papers_counts_come_out() -> None:
    split = split_stratified(cohort())
    # 8 % of 581 is 46.48: 47; 15 % of the other 534 is 80.1: 80
    assert [len(split[part]) for part in ("train", "validate", "test", "abnormal", "all")] == [454, 80, 47, 0, 581]


@pytest.mark.parametrize("seed", range(4))
def test_each_group_has_its_share_in_the_test_within_one_subject(seed: int) -> None:
    cases = cohort(seed=seed)
    known, test = [c for c in cases if stratum(c)], split_stratified(cases, seed=seed)["test"]
    for group in {stratum(case) for case in known}:
        size = sum(stratum(case) == group for case in known)
        assert abs(sum(stratum(case) == group for case in test) - 47 * size / len(known)) < 1, group


def test_people_of_unknown_age_sex_or_ethnicity_are_never_tested() -> None:
    cases = [person(n, sex=None) for n in range(10)] + [person(n, age=None) for n in range(10, 20)] + [person(n) for n in range(20, 30)]
    split = split_stratified(cases, test_share=0.3)
    assert len(split["test"]) == 9 and all(int(name[3:6]) >= 20 for name in names(split["test"]))


def test_patients_are_a_part_of_their_own_with_all_their_scans() -> None:
    cases = cohort(40, 0, patients=6)
    cases.append({**person(41), "id": "IXI041-HH-0002-T1"})  # a scan without label of a patient
    split = split_stratified(cases)
    assert {case["subject"] for case in split["abnormal"]} == {f"IXI{n:03d}" for n in range(40, 46)} and len(split["abnormal"]) == 7
    assert all("label" not in case for part in ("train", "validate", "test") for case in split[part])
    healthy = split_stratified(cohort(40, 0))
    assert all(names(healthy[part]) == names(split[part]) for part in ("train", "validate", "test")), "patients change no other part"


@pytest.mark.parametrize("seed", range(3))
def test_parts_never_overlap_and_scans_of_a_subject_stay_together(seed: int) -> None:
    cases = [{**case, "id": f"{case['id']}-{scan}"} for case in cohort(60, 5, 5) for scan in range(2)]
    split = split_stratified(cases, seed=seed)
    parts = [{case["subject"] for case in split[part]} for part in ("train", "validate", "test", "abnormal")]
    assert all(not one & other for one, other in itertools.combinations(parts, 2))
    assert sum(len(split[part]) for part in ("train", "validate", "test", "abnormal")) == len(cases) == len(split["all"])


def test_the_same_seed_gives_the_same_split_in_any_order_and_another_seed_another() -> None:
    cases = cohort(100, 4)
    first = split_stratified(cases)
    assert split_stratified(cases[::-1]) == first
    assert names(split_stratified(cases, seed=1)["test"]) != names(first["test"])


@pytest.mark.parametrize(
    ("age", "group"), [(24.99, "<25"), (25.0, "25-65"), (64.99, "25-65"), (65.0, ">=65")], ids=["below", "25", "below 65", "65"]
)
def test_every_age_falls_in_one_group(age: float, group: str) -> None:
    assert stratum(person(1, age, "F", 3)) == ("other", group, "f")
    assert stratum(person(1, age, None)) is stratum(person(1, None)) is stratum(person(1, age, "m", None)) is None


def test_seats_follow_the_largest_remainder_by_hand() -> None:
    # quotas of 10 seats for 470, 160, 158, 120, 61, 31 are 4.7, 1.6, 1.58, 1.2, 0.61, 0.31: floors 4 1 1 1 0 0, and 4.7, 0.61, 1.6
    sizes = {"a": 470, "b": 160, "c": 158, "d": 120, "e": 61, "f": 31}
    assert proportional_counts(sizes, 10) == {"a": 5, "b": 2, "c": 1, "d": 1, "e": 1, "f": 0}


def test_seats_always_sum_up_and_stay_within_one_of_the_quota() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = {str(k): int(n) for k, n in enumerate(rng.integers(0, 20, rng.integers(1, 9)))}
        total = int(rng.integers(0, sum(sizes.values()) + 1))
        seats = proportional_counts(sizes, total)
        assert sum(seats.values()) == total
        quota = {key: total * size / max(sum(sizes.values()), 1) for key, size in sizes.items()}
        assert all(seats[key] <= sizes[key] and abs(seats[key] - quota[key]) < 1 for key in sizes)


def test_where_nothing_is_known_the_test_is_drawn_without_strata_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        split = split_stratified(cohort(20, 20), test_share=0.2)
    assert len(split["test"]) == 4 and "known of nobody; the test is drawn without regard to them" in caplog.text


def test_the_split_by_slice_names_the_same_volumes_twice_and_is_loud(caplog: pytest.LogCaptureFixture) -> None:
    cases = cohort(50, 2, 3)
    with caplog.at_level(logging.WARNING):
        leak = split_stratified(cases, by="slice")
    honest = split_stratified(cases)
    assert leak["train"] == leak["validate"] == sorted(honest["train"] + honest["validate"], key=lambda case: case["id"])
    assert leak["test"] == honest["test"] and leak["abnormal"] == honest["abnormal"]
    assert "slices of one volume are in training AND in validation" in caplog.text


@pytest.mark.parametrize(
    ("cases", "options", "message"),
    [
        (cohort(0, 0, 3), {}, "no healthy case among 3; training needs people without lesions"),
        (
            cohort(1, 0),
            {"test_share": 0.0},
            "1 healthy subjects are too few .* 1 must be left to train and 1 to validate. Lower the shares",
        ),
        (
            cohort(10, 9),
            {"test_share": 0.5},
            "0.5 of 10 healthy subjects is 5, but age, sex and ethnicity are known of 1; lower test_share",
        ),
        (cohort(10, 0), {"validation_share": 1.0}, "validation_share 1.0.*shares from 0 to below 1"),
        (cohort(10, 0), {"by": "voxel"}, "by 'voxel'.*one of volume, slice"),
    ],
)
def test_impossible_splits_say_what_to_change(cases: list[dict], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_stratified(cases, **options)


def test_the_split_is_written_without_paths_and_equal_splits_have_equal_digests(tmp_path: Path) -> None:
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        split = split_stratified(cohort(60, 3, 2), seed=seed, output_file=tmp_path / f"{name}.json")
    records = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in "abc"}
    assert records["a"] == records["b"] and records["a"]["sha256_of_split"] != records["c"]["sha256_of_split"]
    assert records["c"]["test"] == names(split["test"]) and records["c"]["abnormal"] == names(split["abnormal"])
    assert records["a"]["subjects_without_facts"] == ["IXI057", "IXI058", "IXI059"]
    counts = records["a"]["strata"]
    assert sum(group["subjects"] for group in counts.values()) == 57 and sum(group["tested"] for group in counts.values()) == 5
    assert "white 25-65 f" in counts


def test_evaluation_finds_the_parts_again() -> None:
    cases = cohort(40, 2, 3)
    split = split_stratified(cases, seed=2)
    for part in ("test", "train", "validate", "abnormal", "all"):
        assert cases_of_part(cases, part, seed=2) == split[part]
    both = cases_of_part(cases, "test+abnormal", seed=2)
    assert names(both) == sorted(names(split["test"]) + names(split["abnormal"]))
    assert cases_of_part(cases, "test+test", seed=2) == split["test"]
    with pytest.raises(UserError, match="evaluate_on: got 'tset'; expected one of train, validate, test, abnormal, all"):
        cases_of_part(cases, "tset")


def test_all_may_leave_out_people_with_lesions() -> None:
    cases = cohort(40, 2, 3)
    healthy = cases_of_part(cases, "all", patients=False)
    assert healthy and not [case for case in healthy if "label" in case] and len(healthy) < len(cases)
    with pytest.raises(UserError, match="evaluate_on: 'all' of 1 cases holds nobody without lesions"):
        cases_of_part([case for case in cases if "label" in case][:1], "all", patients=False)
