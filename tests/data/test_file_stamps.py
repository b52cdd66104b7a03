"""Prepared cases are found again by their paths and by when these changed: a label drawn anew is not taken from the cache as it was."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from monai.data import PersistentDataset

from common.data.file_stamps import file_stamps, stamped_hashing


def test_a_stamp_is_path_size_and_time_of_change(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("four")
    os.utime(file, ns=(0, 7))
    assert file_stamps([file, tmp_path / "none"]) == [(str(file), 4, 7), (str(tmp_path / "none"), -1, -1)]


def test_the_same_case_has_the_same_hash_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    (tmp_path / "image").write_text("1")
    case = {"image": [str(tmp_path / "image")], "age": 30.5, "label_map": {"1": 2}}
    assert stamped_hashing(case) == stamped_hashing(dict(reversed(case.items()))) != stamped_hashing(case | {"age": 31.0})
    assert len(stamped_hashing(case)) == 64


def test_a_changed_file_gives_another_hash_wherever_in_the_case_it_stands(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first", "second", "label")]
    for file in files:
        file.write_text("1")
    case = {"image": [str(file) for file in files[:2]], "label": str(files[2]), "id": "one"}
    seen = {stamped_hashing(case)}
    for file in files:
        os.utime(file, ns=(0, 1))
        seen.add(stamped_hashing(case))
    assert len(seen) == 4


def test_a_label_that_was_drawn_anew_under_its_name_is_read_again(tmp_path: Path) -> None:
    label = tmp_path / "label"
    label.write_text("1")

    def read(case: dict[str, str]) -> torch.Tensor:
        return torch.tensor(float(Path(case["label"]).read_text()))

    def held() -> float:
        return float(PersistentDataset([{"label": str(label)}], read, tmp_path / "cache", hash_func=stamped_hashing)[0])

    assert held() == held() == 1.0
    label.write_text("22")
    assert held() == 22.0
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 2
