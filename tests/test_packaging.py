"""Archives: reproducible and complete; the index equals the tree; MONAI's own code reads what is published."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import monai.bundle.scripts
import pytest

import common
from common.archive_files import ROOT, archive_bytes, archive_contents, bundle_folders, bundle_names
from common.bundle_index import bundle_index, model_info, read_index
from common.errors import UserError
from common.packaging import build_archive, main

EXTRA = {"README.md", "models/.gitkeep", "common/VENDORED.json"}
"""Files of an archive that are written for it."""


def test_the_collection_has_one_version() -> None:
    index = json.loads((ROOT / "bundle_index.json").read_text(encoding="utf-8"))
    assert index["version"] == common.__version__
    for name in bundle_names():
        meta = json.loads((ROOT / "bundles" / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
        assert meta["version"] == common.__version__ and common.__version__ in meta["changelog"]
        for config in ("train.json", "inference.json", "evaluate.json"):
            assert f"require('{common.__version__}')" in (ROOT / "bundles" / name / "configs" / config).read_text(encoding="utf-8")


# --- content ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", bundle_names())
def test_an_archive_holds_the_bundle_and_the_package_and_nothing_else(name: str, tmp_path: Path) -> None:
    bundle = ROOT / "bundles" / name
    tree = {f"common/{p.relative_to(ROOT / 'common').as_posix()}" for p in (ROOT / "common").rglob("*.py")}
    tree |= {p.relative_to(bundle).as_posix() for folder in ("configs", "docs") for p in (bundle / folder).iterdir() if p.is_file()}
    with zipfile.ZipFile(build_archive(name, tmp_path)) as archive:
        names, members = archive.namelist(), archive.infolist()
        record = json.loads(archive.read(f"{name}/common/VENDORED.json"))
        hashes = {inside: hashlib.sha256(archive.read(f"{name}/{inside}")).hexdigest() for inside in record["sha256"]}
    packed = {inside.removeprefix(f"{name}/") for inside in names}
    assert names == sorted(names) and len(set(names)) == len(names) and all(inside.startswith(f"{name}/") for inside in names)
    assert {path for path in packed if not path.startswith("models/")} == tree | {"LICENSE", "common/report_template.html"} | (
        EXTRA - {"models/.gitkeep"}
    )
    assert hashes == record["sha256"] and set(hashes) == packed - {"common/VENDORED.json"}
    assert record["bundle"] == name and record["version"] == common.__version__
    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
    assert {(member.compress_type, member.external_attr >> 16) for member in members} == {(zipfile.ZIP_STORED, 0o100644)}


def test_the_same_tree_gives_the_same_bytes_in_another_place_and_process(tmp_path: Path) -> None:
    leave = shutil.ignore_patterns("data", "eval", "models")
    shutil.copytree(ROOT / "common", tmp_path / "common", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "bundles" / "ladp", tmp_path / "bundles" / "ladp", ignore=leave)
    for path in (tmp_path / "common" / "device.py", tmp_path / "bundles" / "ladp" / "LICENSE"):
        path.touch()
        path.chmod(0o600)
    # what training and running leave behind
    for left in ("models/model.pt", "models/checkpoint_last.pt", "eval/a.csv", "data/simulated/a.mha", "configs/.swp"):
        (tmp_path / "bundles" / "ladp" / left).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundles" / "ladp" / left).touch()
    (tmp_path / "common" / "__pycache__").mkdir()
    (tmp_path / "common" / "__pycache__" / "x.py").touch()
    subprocess.run([sys.executable, "-m", "common.packaging", "build", "ladp"], cwd=tmp_path, check=True, capture_output=True)
    copied = (tmp_path / "dist" / f"ladp_v{common.__version__}.zip").read_bytes()
    assert copied == archive_bytes("ladp", archive_contents("ladp"))


def test_an_archive_packs_itself_again_and_names_its_bundle(tmp_path: Path) -> None:
    with zipfile.ZipFile(build_archive("ladp", tmp_path)) as archive:
        archive.extractall(tmp_path)
    assert bundle_folders(tmp_path / "ladp") == {"ladp": tmp_path / "ladp"}
    shutil.rmtree(tmp_path / "ladp" / "models")
    weights = {inside: data for inside, data in archive_contents("ladp").items() if inside.startswith("models/model")}
    again = archive_contents("ladp", tmp_path / "ladp", weights | {"models/weights.json": b"{}"} if weights else {})
    assert {k: v for k, v in again.items() if k.startswith("common/") and k not in EXTRA} == {
        k: v for k, v in archive_contents("ladp").items() if k.startswith("common/") and k not in EXTRA
    }


def test_a_list_of_large_files_is_packed(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(ROOT / "bundles" / "ladp", root / "bundles" / "ladp", ignore=shutil.ignore_patterns("data", "eval", "models"))
    (root / "bundles" / "ladp" / "large_files.yml").write_text("large_files: []\n")
    assert archive_contents("ladp", root)["large_files.yml"] == b"large_files: []\n"


def test_an_unknown_bundle_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no bundle 'lapd'.*ladp"):
        build_archive("lapd", tmp_path)
    assert not list(tmp_path.iterdir())


# --- index -----------------------------------------------------------------------------------------------------


def test_the_index_in_the_tree_is_the_generated_one() -> None:
    written = json.loads((ROOT / "bundle_index.json").read_text(encoding="utf-8"))
    assert written == bundle_index(), "run: python -m common.packaging index"


def test_the_index_tells_size_and_hashes_of_the_very_archive_that_is_built(tmp_path: Path) -> None:
    data = build_archive("ladp", tmp_path).read_bytes()
    entry = bundle_index()["bundles"]["ladp"]
    assert (entry["archive"], entry["bytes"]) == (f"ladp_v{common.__version__}.zip", len(data))
    assert (entry["sha256"], entry["sha1"]) == (hashlib.sha256(data).hexdigest(), hashlib.sha1(data).hexdigest())
    main(["check", str(tmp_path / entry["archive"]), "--index", _write(tmp_path / "index.json", bundle_index())])


def _write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"bundles": {"ladp": {"version": "1"}}}'])
def test_what_is_no_index_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(UserError, match=r"index\.json: no index of this collection; expected bundle_index\.json"):
        read_index(tmp_path / "index.json")
    with pytest.raises(UserError, match=r"nothing\.json: no such file"):
        read_index(tmp_path / "nothing.json")


def test_monai_lists_and_finds_the_archives_in_model_info(monkeypatch: pytest.MonkeyPatch) -> None:
    index = read_index(ROOT / "bundle_index.json")
    info = model_info(index, "https://host.example/releases/")
    answer = SimpleNamespace(text=json.dumps(info), raise_for_status=lambda: None)
    monkeypatch.setattr(monai.bundle.scripts, "requests", SimpleNamespace(get=lambda *_, **__: answer))
    monkeypatch.setattr(monai.bundle.scripts, "has_requests", True)
    version = common.__version__
    assert monai.bundle.get_all_bundles_list(repo="someone/models") == [(name, version) for name in bundle_names()]
    assert monai.bundle.get_bundle_versions("ladp", repo="someone/models") == {"latest_version": version, "all_versions": [version]}
    found = monai.bundle.get_bundle_info("ladp", repo="someone/models")
    assert found["browser_download_url"] == f"https://host.example/releases/ladp_v{version}.zip"
    assert info[f"ladp_v{version}"]["checksum"] == index["bundles"]["ladp"]["sha1"]


# --- command line ----------------------------------------------------------------------------------------------


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that fails for a user's mistake."""
    with pytest.raises(SystemExit, match="1"):
        main(list(words))
    return capsys.readouterr().err


def test_the_command_builds_checks_and_unpacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["build", "ladp", "--output", str(tmp_path)])
    main(["build", "patchddm", "--output", str(tmp_path)])
    archive = tmp_path / f"ladp_v{common.__version__}.zip"
    record = json.loads((tmp_path / "build.json").read_text(encoding="utf-8"))
    assert list(record) == [archive.name, f"patchddm_v{common.__version__}.zip"]
    data = archive.read_bytes()
    assert record[archive.name]["sha256"] == hashlib.sha256(data).hexdigest() and record[archive.name]["bytes"] == len(data)
    assert record[archive.name]["commit"]
    main(["check", str(archive)])
    main(["unpack", str(archive), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "is whole (give --index" in printed and f"{tmp_path}/out/ladp" in printed and record[archive.name]["sha256"] in printed
    assert "already; move it away" in told(capsys, "unpack", str(archive), str(tmp_path / "out"))


def test_without_a_word_all_bundles_are_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main([])
    assert sorted(path.name for path in (tmp_path / "dist").glob("*.zip")) == [
        f"{name}_v{common.__version__}.zip" for name in bundle_names()
    ]


def test_the_command_prints_or_writes_model_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["index", "--model-info", "--base_url", "https://host.example/r"]
    main(words)
    printed = json.loads(capsys.readouterr().out)
    main([*words, "--output", str(tmp_path / "model_info.json")])
    assert (
        json.loads((tmp_path / "model_info.json").read_text()) == printed == model_info(read_index(ROOT / "bundle_index.json"), words[-1])
    )
    assert "needs --base_url" in told(capsys, "index", "--model_info")
    assert "got 'host', expected the address" in told(capsys, "index", "--model_info", "--base_url", "host")


def test_mistakes_are_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "check", str(tmp_path / "a.zip")).startswith("error: ")
    assert "needs no fetching" in told(capsys, "fetch", str(tmp_path))
    assert "There are no weights" in told(capsys, "rebuild", "ladp", "--weights", str(tmp_path))
    assert "There are no weights" in told(capsys, "keep", "ladp", "--weights", str(tmp_path))
    assert not list(tmp_path.iterdir())
