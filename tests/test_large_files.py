"""Files hosted elsewhere: fetched with their hash or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import UserError
from common.large_files import fetch_large_files, read_large_files

DATA = b"weights" * 1000


@pytest.fixture
def hosted(tmp_path: Path) -> Path:
    path = tmp_path / "host" / "model.pt"
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


def listed(bundle: Path, hosted: Path, name: str = "large_files.yml", **changes: Any) -> Path:
    """A bundle's folder with a list of one file."""
    entry = {"path": "models/model.pt", "url": hosted.as_uri(), "hash_val": hashlib.sha256(DATA).hexdigest(), "hash_type": "sha256"}
    bundle.mkdir(exist_ok=True)
    kept = {key: value for key, value in (entry | changes).items() if value is not None}
    (bundle / name).write_text(yaml.safe_dump({"large_files": [kept]}))
    return bundle


@pytest.mark.parametrize("kind", ["sha256", "sha1", "sha512", "md5"])
def test_a_listed_file_is_fetched_to_its_place(kind: str, hosted: Path, tmp_path: Path) -> None:
    bundle = listed(tmp_path / "toy", hosted, hash_type=kind, hash_val=hashlib.new(kind, DATA).hexdigest())
    assert fetch_large_files(bundle) == [bundle / "models" / "model.pt"]
    assert (bundle / "models" / "model.pt").read_bytes() == DATA


def test_a_file_that_is_there_is_not_fetched_again(hosted: Path, tmp_path: Path) -> None:
    bundle = listed(tmp_path / "toy", hosted)
    fetch_large_files(bundle)
    hosted.unlink()
    assert fetch_large_files(bundle) == [bundle / "models" / "model.pt"]


def test_a_file_that_changed_where_it_is_hosted_is_refused_and_not_kept(hosted: Path, tmp_path: Path) -> None:
    bundle = listed(tmp_path / "toy", hosted)
    hosted.write_bytes(DATA + b"!")
    with pytest.raises(UserError, match="a file was changed where it is hosted, and was not kept"):
        fetch_large_files(bundle)
    assert sorted(path.name for path in bundle.rglob("*")) == ["large_files.yml"]


def test_a_file_that_changed_on_disk_is_refused_and_left_alone(hosted: Path, tmp_path: Path) -> None:
    bundle = listed(tmp_path / "toy", hosted)
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"model\.pt: found another sha256 than large_files\.yml lists .*move it away"):
        fetch_large_files(bundle)
    assert (bundle / "models" / "model.pt").read_bytes() == b"mine"


@pytest.mark.parametrize("path", ["../model.pt", "/tmp/model.pt", "models/../../model.pt", "a\\b", ""])
def test_a_path_that_leaves_the_bundle_is_refused(path: str, hosted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leaves the bundle"):
        read_large_files(listed(tmp_path / "toy", hosted, path=path))


def test_a_link_that_leaves_the_bundle_is_refused(hosted: Path, tmp_path: Path) -> None:
    bundle = listed(tmp_path / "toy", hosted)
    (bundle / "models").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UserError, match=r"'models/model\.pt' leaves the bundle"):
        fetch_large_files(bundle)


@pytest.mark.parametrize("changes", [{"hash_val": None}, {"hash_type": None}, {"hash_val": 3}, {"extra": "x"}])
def test_an_entry_without_its_hash_is_refused(changes: dict[str, Any], hosted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected texts for path, url, hash_val, hash_type: nothing is fetched without its hash"):
        read_large_files(listed(tmp_path / "toy", hosted, **changes))


@pytest.mark.parametrize("changes", [{"hash_val": ""}, {"hash_val": "abc"}, {"hash_type": "crc32"}, {"hash_val": "Z" * 64}])
def test_a_hash_of_the_wrong_form_is_refused(changes: dict[str, Any], hosted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected one of sha1 \(40 digits\), sha256 \(64 digits\)"):
        read_large_files(listed(tmp_path / "toy", hosted, **changes))


def test_another_kind_of_address_is_refused(hosted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the url 'ftp://host/model\.pt', expected https://"):
        read_large_files(listed(tmp_path / "toy", hosted, url="ftp://host/model.pt"))


def test_a_dead_address_says_what_to_look_at(hosted: Path, tmp_path: Path) -> None:
    bundle = listed(tmp_path / "toy", hosted, url=(tmp_path / "gone.pt").as_uri())
    with pytest.raises(UserError, match=r"fetching failed .*look at the url in large_files\.yml"):
        fetch_large_files(bundle)


def test_a_second_list_which_monai_would_read_unchecked_is_refused(hosted: Path, tmp_path: Path) -> None:
    listed(tmp_path / "toy", hosted, name="large_files.json")
    with pytest.raises(UserError, match=r"found large_files\.json beside large_files\.yml; expected one list"):
        fetch_large_files(listed(tmp_path / "toy", hosted))


@pytest.mark.parametrize(("text", "words"), [("{", "is no YAML"), ("[]", "expected a list"), ("large_files: []", "expected a list")])
def test_what_is_no_list_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "large_files.yml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_large_files(tmp_path)
    with pytest.raises(UserError, match="needs no fetching"):
        read_large_files(tmp_path / "nowhere")
