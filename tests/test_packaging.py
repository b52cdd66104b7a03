"""Archives: reproducible, complete, and running alone in an empty folder; the index equals the tree."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import common
from common.errors import UserError
from common.packaging import build_archive, bundle_index, bundle_names

ROOT = Path(__file__).resolve().parents[1]


def test_the_collection_has_one_version() -> None:
    index = json.loads((ROOT / "bundle_index.json").read_text(encoding="utf-8"))
    assert index["version"] == common.__version__
    for name in bundle_names():
        meta = json.loads((ROOT / "bundles" / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
        assert meta["version"] == common.__version__ and common.__version__ in meta["changelog"]
        for config in ("train.json", "inference.json", "evaluate.json"):
            assert f"require('{common.__version__}')" in (ROOT / "bundles" / name / "configs" / config).read_text(encoding="utf-8")


def test_the_index_in_the_tree_is_the_generated_one() -> None:
    written = json.loads((ROOT / "bundle_index.json").read_text(encoding="utf-8"))
    assert written == bundle_index(), "run: python -m common.packaging index"


@pytest.mark.parametrize("name", bundle_names())
def test_packing_twice_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    one, two = build_archive(name, tmp_path / "a"), build_archive(name, tmp_path / "b")
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:
        names = archive.namelist()
        record = json.loads(archive.read(f"{name}/common/VENDORED.json"))
        hashes = {inside: hashlib.sha256(archive.read(inside)).hexdigest() for inside in record["sha256"]}
    assert all(inside.startswith(f"{name}/") for inside in names)
    assert {f"{name}/LICENSE", f"{name}/configs/metadata.json", f"{name}/common/report_template.html"} <= set(names)
    assert not [n for n in names if "__pycache__" in n or "checkpoint_last" in n or "/data/simulated" in n or "/eval/" in n]
    assert hashes == record["sha256"] and record["version"] == common.__version__


def test_an_unknown_bundle_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no bundle 'lapd'.*ladp"):
        build_archive("lapd", tmp_path)


def test_an_unpacked_archive_trains_and_infers_alone_in_an_empty_folder(
    trained_ladp: Any, monai_bundle: Callable[..., Any], tmp_path: Path
) -> None:
    with zipfile.ZipFile(build_archive("ladp", tmp_path / "dist")) as archive:
        archive.extractall(tmp_path)
    bundle = tmp_path / "ladp"
    cohort = ["--dataset_dir", str(trained_ladp.dataset_dir), "--device", "cpu"]
    done = monai_bundle("--config_file", "['configs/train.json','configs/smoke.json']", *cohort, cwd=bundle)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (bundle / "models" / "model.pt").is_file()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    sizes = ["--image_size", "32", "--width", "0.0625"]
    done = monai_bundle("--config_file", str(bundle / "configs" / "inference.json"), *sizes, *cohort, cwd=elsewhere)
    assert done.returncode == 0, done.stdout[-3000:]
    assert list((bundle / "eval" / "predictions").glob("*_lesion.mha")), "results lie in the bundle, wherever it is run from"
    assert not list(elsewhere.iterdir())
