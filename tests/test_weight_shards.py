"""Weight files in parts: joining is the inverse of cutting, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.weight_shards import parse_state, read_bytes, read_shards, shard_files, shard_names, state_bytes


@given(st.binary(max_size=50), st.integers(1, 60))
def test_parts_joined_in_order_are_the_file(data: bytes, part_bytes: int) -> None:
    parts = shard_names("model.pt", data, part_bytes)
    assert b"".join(parts.values()) == data
    assert all(len(part) <= part_bytes for part in parts.values())
    assert list(parts) == (["model.pt"] if len(data) <= part_bytes else [f"model.pt.part{n + 1}" for n in range(len(parts))])


def test_ten_parts_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    state = {"weight": torch.arange(3000.0)}
    data = state_bytes(state)
    for name, part in shard_names("model.pt", data, -(-len(data) // 12)).items():
        (tmp_path / name).write_bytes(part)
    assert [path.suffix for path in shard_files(tmp_path / "model.pt")] == [f".part{n}" for n in range(1, 13)]
    assert read_bytes(tmp_path / "model.pt") == data
    assert torch.equal(read_shards(tmp_path / "model.pt")["weight"], state["weight"])


def test_a_whole_file_is_taken_before_parts(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"whole")
    (tmp_path / "model.pt.part1").write_bytes(b"part")
    assert read_bytes(tmp_path / "model.pt") == b"whole"


def test_a_missing_part_is_an_error_that_names_those_found(tmp_path: Path) -> None:
    for number in (1, 3):
        (tmp_path / f"model.pt.part{number}").write_bytes(b"x")
    with pytest.raises(UserError, match=r"model\.pt is kept in parts, found \[1, 3\], expected 1 to 3"):
        read_shards(tmp_path / "model.pt")


def test_no_file_and_no_parts_is_an_error(tmp_path: Path) -> None:
    assert shard_files(tmp_path / "model.pt") == []
    with pytest.raises(UserError, match=r"no such file, nor parts of it \(model\.pt\.part1"):
        read_shards(tmp_path / "model.pt")


def test_the_last_part_missing_is_found_as_damage(tmp_path: Path) -> None:
    (tmp_path / "model.pt.part1").write_bytes(state_bytes({"weight": torch.zeros(100)})[:200])
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_shards(tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"it holds a Tensor\); expected a state_dict"):
        parse_state(state_bytes(torch.zeros(2)), "model.pt")  # type: ignore[arg-type]
