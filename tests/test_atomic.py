import json
import os

import pytest
import torch

from common.atomic import save_tensors, write_atomic, write_json, write_text


def test_text_is_utf8_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "first")
    assert write_text(path, "Größe µm") == path
    assert path.read_bytes() == "Größe µm".encode()


def test_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "x"


def test_tensors_come_back_with_weights_only(tmp_path):
    content = {"epoch": 3, "weights": torch.randn(2, 3)}
    found = torch.load(save_tensors(tmp_path / "x.pt", content), weights_only=True)
    assert found["epoch"] == 3
    assert torch.equal(found["weights"], content["weights"])


def test_the_name_does_not_exist_before_the_file_is_complete(tmp_path):
    path = tmp_path / "image.nii.gz"

    def write(temporary):
        assert temporary.parent == path.parent  # a rename works within one file system only
        assert temporary.name.endswith("image.nii.gz")
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")

    write_atomic(path, write)
    assert path.read_text() == "whole"


def test_a_failure_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_before_anything_is_written_keeps_its_own_message(tmp_path):
    def fail(temporary):
        raise RuntimeError("nothing to write")

    with pytest.raises(RuntimeError, match="nothing to write"):
        write_atomic(tmp_path / "a.txt", fail)
    assert os.listdir(tmp_path) == []


def test_json_knows_no_nan_and_no_infinity(tmp_path):
    path = write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, {"c": float("inf")}], "d": (2, "x")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": None, "b": [1.5, {"c": None}], "d": [2, "x"]}
