"""Archives are looked into before anything is written: each way to be bad is refused by its own words, and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.archive_checks import check_archive, unpack_archive
from common.archive_files import EPOCH, VENDORED
from common.errors import UserError

FILES = {"configs/metadata.json": b'{"version": "1.2.3"}', "common/__init__.py": b'x = 1\n__version__ = "1.2.3"\n', "models/.gitkeep": b""}
Write = Callable[..., Path]


def vendored(files: dict[str, bytes], **changes: Any) -> bytes:
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    return json.dumps({"bundle": "toy", "version": "1.2.3", "sha256": hashes} | changes).encode()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Function that writes a small archive; a name in ``extra`` is taken as it is, with its mode."""

    def write_archive(files: dict[str, bytes] | None = None, record: bytes | None = None, **extra: tuple[str, bytes, int]) -> Path:
        files = FILES if files is None else files
        path = tmp_path / "toy_v1.2.3.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**files, VENDORED: vendored(files) if record is None else record}.items():
                archive.writestr(zipfile.ZipInfo(f"toy/{name}", EPOCH), data)
            for name, data, mode in extra.values():
                entry = zipfile.ZipInfo("placeholder", EPOCH)
                entry.filename, entry.external_attr = name, mode << 16
                archive.writestr(entry, data)
        return path

    return write_archive


def refused(path: Path, tmp_path: Path, words: str) -> None:
    """The archive is refused by these words, and unpacking it leaves nothing."""
    with pytest.raises(UserError, match=words):
        check_archive(path)
    with pytest.raises(UserError, match=words):
        unpack_archive(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_good_archive_is_unpacked_as_it_is(write: Write, tmp_path: Path) -> None:
    bundle = unpack_archive(write(), tmp_path / "out")
    assert bundle == tmp_path / "out" / "toy"
    found = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    assert found == {**FILES, VENDORED: vendored(FILES)}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["toy"]


@pytest.mark.parametrize(
    "name",
    ["../evil", "toy/../../evil", "/etc/evil", "toy//etc/evil", "toy/./evil", "C:/evil", "toy\\..\\evil", "toy/a/../b"],
)
def test_a_path_that_leaves_the_folder_is_refused(name: str, write: Write, tmp_path: Path) -> None:
    refused(write(extra=(name, b"", 0o100644)), tmp_path, "leaves the folder; nothing was unpacked")


@pytest.mark.parametrize("mode", [0o120777, 0o010644, 0o020644])
def test_links_and_special_files_are_refused(mode: int, write: Write, tmp_path: Path) -> None:
    refused(write(extra=("toy/link", b"/etc/passwd", mode)), tmp_path, "'toy/link' is a link or a special file")


def test_two_names_that_differ_in_capitals_only_are_refused(write: Write, tmp_path: Path) -> None:
    refused(write(extra=("toy/COMMON/__init__.py", b"", 0o100644)), tmp_path, "two files have one name")


def test_files_beside_the_folder_are_refused(write: Write, tmp_path: Path) -> None:
    refused(write(extra=("other/file", b"", 0o100644)), tmp_path, r"found \['other', 'toy'\] at its top, expected one folder")
    refused(write(extra=("toy", b"", 0o100644)), tmp_path, "expected one folder")


def test_a_total_size_beyond_the_bound_is_refused_before_reading(write: Write, tmp_path: Path) -> None:
    path = write()
    total = sum(map(len, FILES.values())) + len(vendored(FILES))
    check_archive(path, max_bytes=total)
    with pytest.raises(UserError, match=rf"would unpack to {total} bytes in 4 files, expected at most {total - 1} bytes"):
        unpack_archive(path, tmp_path / "out", max_bytes=total - 1)


def test_a_changed_file_is_refused_by_its_name(write: Write, tmp_path: Path) -> None:
    changed = {**FILES, "common/__init__.py": b'__version__ = "1.2.3"  # changed\n'}
    refused(write(changed, vendored(FILES)), tmp_path, r"'toy/common/__init__\.py' has sha256 \w+, common/VENDORED\.json has \w+")


def test_a_file_too_many_or_too_few_is_refused(write: Write, tmp_path: Path) -> None:
    refused(write(extra=("toy/common/evil.py", b"", 0o100644)), tmp_path, r"has \['common/evil\.py'\] besides")
    fewer = {name: data for name, data in FILES.items() if name != "models/.gitkeep"}
    refused(write(fewer, vendored(FILES)), tmp_path, r"lacks \['models/\.gitkeep'\]")


def test_another_version_inside_is_refused(write: Write, tmp_path: Path) -> None:
    files = {**FILES, "common/__init__.py": b'__version__ = "1.2.2"\n'}
    words = r"metadata\.json has version 1\.2\.3, the package common inside 1\.2\.2, common/VENDORED\.json 1\.2\.3; expected one version"
    refused(write(files), tmp_path, words)
    refused(write(record=vendored(FILES, version="1.2.4")), tmp_path, r"VENDORED\.json 1\.2\.4; expected one version")


def test_an_archive_without_its_record_or_with_a_wrong_one_is_refused(write: Write, tmp_path: Path) -> None:
    refused(write(record=b"{}"), tmp_path, r"VENDORED\.json cannot be read \(KeyError\('sha256'\)\)")
    refused(write(record=vendored(FILES, bundle="other")), tmp_path, "names the bundle 'other', but the folder is 'toy'")
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("toy/a", b"")
    refused(tmp_path / "plain.zip", tmp_path, r"holds no common/VENDORED\.json; expected an archive of this collection")


def test_no_zip_and_a_cut_zip_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.zip: no such file"):
        check_archive(tmp_path / "nothing.zip")
    path = write()
    path.write_bytes(path.read_bytes()[:-30])
    refused(path, tmp_path, "cannot be read as a zip")


def test_a_flipped_bit_is_refused(write: Write, tmp_path: Path) -> None:
    path = write()
    data = bytearray(path.read_bytes())
    data[data.index(b"x = 1")] ^= 1
    path.write_bytes(bytes(data))
    refused(path, tmp_path, "cannot be read as a zip .*CRC")


def test_the_index_tells_the_published_archive_from_another(write: Write) -> None:
    path = write()
    listed = {"version": "1.2.3", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert check_archive(path, {"bundles": {"toy": listed}})["bundle"] == "toy"
    with pytest.raises(UserError, match=r"found sha256 \w+, but the index has 0+ for toy 1\.2\.3"):
        check_archive(path, {"bundles": {"toy": listed | {"sha256": "0" * 64}}})
    with pytest.raises(UserError, match=r"holds toy 1\.2\.3, which the index does not list; expected one of toy 2\.0"):
        check_archive(path, {"bundles": {"toy": listed | {"version": "2.0"}}})


def test_a_folder_that_is_there_is_left_alone(write: Write, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "toy" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=r"toy is there already; move it away.*Nothing was unpacked"):
        unpack_archive(write(), tmp_path / "out")
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_a_failure_while_writing_leaves_nothing(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("common.archive_checks.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        unpack_archive(write(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
