from __future__ import annotations

import pytest

from common.data.modalities import BUILT_IN, Modality, modality_counts, modality_of, modality_table, noise_scales
from common.errors import UserError


def test_the_built_in_table_is_the_papers() -> None:
    table = modality_table()
    assert table["ct"] == Modality("ct", 0, "range", -1000.0, 1000.0, 1.0)
    assert [table[name].kind for name in ("t1", "t1ce", "t2", "flair")] == ["zscore"] * 4
    assert [row.index for row in table.values()] == list(range(len(table))) and list(table)[:5] == ["ct", "t1", "t1ce", "t2", "flair"]


def test_a_complete_table_gives_itself() -> None:
    table = modality_table({"pet": {"kind": "percentiles", "low": 0, "high": 99.9, "noise": 0.5}, "ct": {"low": -175, "high": 250}})
    assert modality_table(table) == table == modality_table(modality_table(table))


def test_a_changed_row_keeps_its_index_and_what_is_not_named_and_new_rows_follow() -> None:
    table = modality_table({"pet": {"kind": "zscore"}, "CT ": {"high": 250, "noise": 0.1}})
    assert table["ct"] == Modality("ct", 0, "range", -1000.0, 250.0, 0.1)
    assert table["pet"].index == len(BUILT_IN)


def test_a_row_of_another_kind_starts_anew() -> None:
    assert modality_table({"t2": {"kind": "percentiles"}})["t2"] == Modality("t2", 3, "percentiles", 1.0, 99.0)
    assert modality_table({"us": {"kind": "zscore"}})["us"] == Modality("us", 5, "zscore")


def test_noise_scales_stand_at_the_modalities_indices() -> None:
    assert noise_scales(modality_table()) == [1.0] * len(BUILT_IN)
    scales = noise_scales(modality_table({"t1": {"noise": 3}, "pet": {"kind": "zscore", "noise": 0}}))
    assert scales == [1, 3, 1, 1, 1, 1, 1, 0]


def test_names_are_found_whole_in_any_case_and_never_in_parts() -> None:
    table = modality_table()
    assert modality_of(" T1ce", table, "list").index == 2
    for name in ("t1c", "T1w", "scan_t1", "", None):
        with pytest.raises(
            UserError, match=r"a\.json: case 3: the modality .* is not in the table; expected one of ct, t1, t1ce, t2, flair"
        ):
            modality_of(name, table, "a.json: case 3")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"kind": "minmax"}, "modality 'pet': got the kind 'minmax'; expected one of range, zscore, percentiles"),
        ({"low": 1}, "got the kind None"),
        ({"kind": "range"}, r"low and high of the kind range: got None, None; expected numbers"),
        ({"kind": "range", "low": 5, "high": 5}, "got low 5, high 5; expected low < high, in the unit of the image"),
        ({"kind": "range", "low": "a", "high": 5}, "got a, 5; expected numbers"),
        ({"kind": "percentiles", "low": 1, "high": 101}, "expected percentiles with 0 <= low < high <= 100"),
        ({"kind": "zscore", "low": 1}, "zscore has no bounds, got low 1 and high None; leave them out"),
        ({"kind": "zscore", "noise": -1}, "noise is -1; expected a factor of at least 0"),
        ({"kind": "zscore", "noise": True}, "noise: got True; expected numbers"),
        ({"kind": "zscore", "hihg": 1}, "got the field hihg; expected some of kind, low, high, noise"),
        ("zscore", "modality 'pet': got 'zscore'; expected a row such as"),
    ],
)
def test_mistakes_name_the_row(row: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        modality_table({"pet": row})


def test_counts_are_told_in_the_order_of_appearance() -> None:
    assert modality_counts([{"modality": "t2"}, {"modality": "ct"}, {"modality": "t2"}]) == "t2 (2), ct (1)"
