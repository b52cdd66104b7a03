"""The record of what was done: complete, plain JSON, with sums that other tools agree on."""

import hashlib
import json
import logging
import subprocess

import numpy as np

from common import __version__
from common.provenance import Provenance, sha256_of


def test_the_sum_of_a_file_is_that_of_sha256sum(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(bytes(range(256)) * 9000)
    assert sha256_of(file) == subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]


def test_the_sum_of_a_folder_depends_on_names_and_contents_alone(tmp_path):
    for folder, order in (("one", "ab"), ("two", "ba")):
        (tmp_path / folder).mkdir()
        for name in order:
            (tmp_path / folder / name).write_text(name)
    first = sha256_of(tmp_path / "one")
    lines = "".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in "ab")
    assert first == sha256_of(tmp_path / "two") == hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "two" / "b").write_text("other")
    assert sha256_of(tmp_path / "two") != first


def test_the_record_holds_inputs_steps_warnings_outputs_and_versions(tmp_path, caplog):
    scan = tmp_path / "scan.nii"
    scan.write_bytes(b"voxels")
    record = Provenance(["patchddm", "--t1", "scan.nii"], "patchddm", "P1")
    affine = np.diag([-1.0, 2.0, 3.0, 1.0])
    record.add_input("t1", scan, (4, 5, 6), affine)
    record.add_step("registration", matrix=np.eye(4), overlap=np.float32(0.5), names=("a", "b"))
    with caplog.at_level(logging.WARNING, "brain_bundles"):
        record.warn("look at it")
    record.add_output("t1", scan)
    content = json.loads(record.write(tmp_path / "P1_provenance.json").read_text())
    assert content["inputs"]["t1"] == {
        "path": str(scan), "sha256": hashlib.sha256(b"voxels").hexdigest(), "shape": [4, 5, 6],
        "spacing_mm": [1, 2, 3], "affine": affine.tolist(),
    }  # fmt: skip
    assert content["steps"] == [{"step": "registration", "matrix": np.eye(4).tolist(), "overlap": 0.5, "names": ["a", "b"]}]
    assert content["warnings"] == ["look at it"] and "*** look at it" in caplog.text
    assert content["outputs"]["t1"]["file"] == "scan.nii"
    assert content["versions"]["brain-bundles"] == __version__ and {"numpy", "itk-core", "torch"} <= set(content["versions"])
    assert content["command"] == ["patchddm", "--t1", "scan.nii"] and content["case"] == "P1"
