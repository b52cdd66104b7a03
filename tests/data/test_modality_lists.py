from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.data.modality_lists import open_modality_lists, read_modality_lists
from common.errors import UserError


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a datalist below ``tmp_path`` with the (empty) images that it names."""

    def make(name: str, content: dict[str, Any]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for entry in content.get("training", []) + content.get("validation", []):
            image = entry["image"] if isinstance(entry, dict) else entry
            for file in [image] if isinstance(image, str) else image:
                (path.parent / file).parent.mkdir(parents=True, exist_ok=True)
                (path.parent / file).touch()
        path.write_text(json.dumps(content))
        return path

    return make


def entry(image: str, **more: Any) -> dict[str, Any]:
    return {"image": image, **more}


def ids(cases: list[dict[str, Any]]) -> list[str]:
    return [case["id"] for case in cases]


def contrasts(write: Callable[..., Path], subjects: str = "abcd") -> Path:
    """A folder with one list per modality; subject d validates."""
    for modality in ("ct", "t1"):
        entries = [entry(f"{s}/{s}_{modality}.nii.gz", modality=modality, subject=s) for s in subjects]
        path = write(f"contrasts/{modality}.json", {"training": entries[:-1], "validation": entries[-1:]})
    return path.parent


def test_a_folder_of_lists_gives_cases_of_every_modality_in_both_parts(write: Callable[..., Path]) -> None:
    folder = contrasts(write)
    split = read_modality_lists(folder)
    assert ids(split["train"]) == ["a_ct", "a_t1", "b_ct", "b_t1", "c_ct", "c_t1"] and ids(split["validate"]) == ["d_ct", "d_t1"]
    assert split["train"][1] == {"id": "a_t1", "subject": "a", "image": [str(folder / "a" / "a_t1.nii.gz")], "modality": "t1"}
    assert ids(split["all"]) == sorted(ids(split["train"]) + ids(split["validate"]))
    assert json.loads(json.dumps(split)) == split


def test_all_ways_to_name_the_modality_are_one(write: Callable[..., Path]) -> None:
    bare = {"training": ["x/a.nii", "x/b.nii"], "validation": ["x/c.nii"]}
    per_list = write("l.json", {"modality": "CT", **bare})
    per_entry = write("e.json", {part: [entry(image, modality="ct") for image in images] for part, images in bare.items()})
    by_caller = write("c.json", bare)
    expected = read_modality_lists(per_list)
    assert {case["modality"] for case in expected["all"]} == {"ct"}
    assert (
        read_modality_lists([per_entry]) == read_modality_lists({"ct": by_caller}) == read_modality_lists({"ct": [by_caller]}) == expected
    )


def test_a_modality_is_never_guessed_from_a_name(write: Callable[..., Path]) -> None:
    path = write("t1.json", {"training": [entry("p_t1.nii.gz"), entry("q_ct.nii.gz", modality="ct")]})
    with pytest.raises(UserError, match=r"t1\.json: 1 of 2 entries have no modality: p_t1\. It is never guessed.*\{'ct': path\}"):
        read_modality_lists(path)
    path = write("x.json", {"modality": "mr", "training": [entry("a.nii")]})
    with pytest.raises(UserError, match=r"x\.json: a: the modality 'mr' is not in the table; expected one of ct, t1"):
        read_modality_lists(path)
    assert read_modality_lists(path, {"mr": {"kind": "zscore"}})["train"][0]["modality"] == "mr"
    with pytest.raises(UserError, match="the modality of a is 'mr' in the file, but the caller says 'ct'"):
        read_modality_lists({"ct": path})


def test_fold_0_validates_in_a_list_with_folds(write: Callable[..., Path]) -> None:
    entries = [entry(f"{name}.nii", fold=fold) for name, fold in (("a", 0), ("b", 1), ("c", 4))]
    split = read_modality_lists({"t2": write("f.json", {"training": entries})})
    assert (ids(split["train"]), ids(split["validate"])) == (["b", "c"], ["a"])
    del entries[1]["fold"]
    with pytest.raises(UserError, match=r"f\.json: 1 of 3 entries have no fold: b; give every entry one, or none"):
        read_modality_lists({"t2": write("f.json", {"training": entries})})


def test_a_list_without_parts_is_trained_on_and_test_lists_are_left_alone(write: Callable[..., Path]) -> None:
    path = write("a.json", {"modality": "ct", "training": ["a.nii"]})
    path.write_text(json.dumps({**json.loads(path.read_text()), "test": ["gone.nii"]}))
    assert ids(read_modality_lists(path)["all"]) == ids(read_modality_lists(path)["train"]) == ["a"]
    with pytest.raises(UserError, match="all 1 cases validate"):
        read_modality_lists(write("v.json", {"modality": "ct", "validation": ["a.nii"]}))


def test_an_entry_with_several_files_becomes_one_case_per_contrast(write: Callable[..., Path]) -> None:
    stem = "B/BraTS2021_00000/BraTS2021_00000"
    kinds = ["flair", "t1ce", "t1", "t2"]
    item = {"image": [f"{stem}_{kind}.nii.gz" for kind in kinds], "fold": 1}
    listed = read_modality_lists(write("a.json", {"training": [{**item, "modality": kinds}]}))
    assert listed == read_modality_lists(write("b.json", {"modality": kinds, "training": [item]}))
    assert listed == read_modality_lists({"flair,t1ce,t1,t2": write("c.json", {"training": [item]})})
    assert {(case["modality"], Path(case["image"][0]).name) for case in listed["train"]} == {
        (kind, f"BraTS2021_00000_{kind}.nii.gz") for kind in kinds
    }
    assert {case["subject"] for case in listed["train"]} == {"BraTS2021_00000"}
    with pytest.raises(UserError, match="has 4 images and the modality ct; expected one modality per image"):
        read_modality_lists({"ct": write("d.json", {"training": [item]})})


def test_brats_lists_of_single_contrasts_share_their_subjects(write: Callable[..., Path]) -> None:
    paths = {kind: write(f"{kind}.json", {"training": [f"x/BraTS2021_00000_{kind}.nii.gz", "x/o.nii"]}) for kind in ("t1", "t2")}
    assert {case["subject"] for case in read_modality_lists({"t1": paths["t1"]})["train"]} == {"BraTS2021_00000", "o"}
    swapped = write("v.json", {"validation": ["x/BraTS2021_00000_t2.nii.gz"], "training": ["x/p.nii"]})
    with pytest.raises(UserError, match="1 subjects are trained on in one list and validate in another: BraTS2021_00000"):
        read_modality_lists({"t1": paths["t1"], "t2": swapped})


def test_a_brats_tree_gives_every_contrast_and_whole_subjects_validate(tmp_path: Path, touch: Callable[..., None]) -> None:
    kinds = ("t1", "t1ce", "t2", "flair", "seg")
    touch(*(f"T/BraTS2021_{n:05d}/BraTS2021_{n:05d}_{kind}.nii.gz" for n in range(10) for kind in kinds))
    split = read_modality_lists(tmp_path / "T", validation=0.2, seed=3)
    assert (len(split["train"]), len(split["validate"])) == (32, 8)
    for part in ("train", "validate"):
        for case in split[part]:
            assert case["image"][0].endswith(f"{case['subject']}_{case['modality']}.nii.gz")
    assert not {case["subject"] for case in split["train"]} & {case["subject"] for case in split["validate"]}
    assert len(read_modality_lists({"t1,t2": tmp_path / "T"}, validation=0)["train"]) == 20
    with pytest.raises(UserError, match="a BraTS tree has no ct; expected some of t1, t1ce, t2, flair"):
        read_modality_lists({"ct": tmp_path / "T"})


def test_a_subject_on_both_sides_stops_unless_it_is_allowed(write: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    one = write("1.json", {"modality": "t1", "training": [entry("a.nii", subject="p"), entry("b.nii", subject="q")]})
    two = write("2.json", {"modality": "t2", "training": ["d.nii"], "validation": [entry("c.nii", subject="p")]})
    with pytest.raises(UserError, match=r"1 subjects .*: p\. That leaks .*--against LIST\.json.*allow_shared_subjects"):
        read_modality_lists([one, two])
    with caplog.at_level(logging.WARNING):
        split = read_modality_lists([one, two], allow_shared_subjects="true")
    assert (ids(split["train"]), ids(split["validate"])) == (["a", "b", "d"], ["c"])
    assert "another: p." in caplog.text


def test_one_file_in_two_lists_is_taken_once_and_refused_where_the_lists_disagree(
    write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    one = write("1.json", {"modality": "ct", "training": ["x/a.nii", "x/b.nii"]})
    two = write("2.json", {"modality": "ct", "training": ["x/b.nii", "x/c.nii"]})
    with caplog.at_level(logging.WARNING):
        assert ids(read_modality_lists([one, two])["train"]) == ["a", "b", "c"]
    assert "1 files are named more than once" in caplog.text
    with pytest.raises(UserError, match=r"b\.nii has two modalities in the lists \(ct, us\)"):
        read_modality_lists([one, write("3.json", {"modality": "us", "training": ["x/b.nii"]})])
    with pytest.raises(UserError, match=r"b\.nii is trained on in one list and validates in another"):
        read_modality_lists([one, write("4.json", {"modality": "ct", "validation": ["x/b.nii"]})])


def test_ids_that_lists_share_get_the_modality_or_a_number(write: Callable[..., Path]) -> None:
    paths = {m: write(f"{n}/l.json", {"modality": m, "training": ["a.nii"]}) for n, m in enumerate(("t1", "t2"))}
    assert ids(read_modality_lists(list(paths.values()))["train"]) == ["t1-a", "t2-a"]
    again = write("2/l.json", {"modality": "t1", "training": ["a.nii"]})
    assert ids(read_modality_lists([*paths.values(), again])["train"]) == ["t1-a-0", "t1-a-2", "t2-a"]


def test_places_without_lists_show_what_is_expected(tmp_path: Path, touch: Callable[..., None]) -> None:
    with pytest.raises(UserError, match=r"(?s)gone does not exist.*Expected.*\"modality\": \"ct\".*BraTS"):
        read_modality_lists(tmp_path / "gone")
    with pytest.raises(UserError, match=r"(?s)holds no datalists"):
        read_modality_lists(tmp_path)
    with pytest.raises(UserError, match="lists: got none"):
        read_modality_lists({"ct": []})


def test_without_lists_the_contrasts_are_simulated_and_simulated_lists_are_announced(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from common.data.simulate import cohort

    folder, calls = contrasts(write), []
    monkeypatch.setattr(cohort, "ensure_cohort", lambda layout, root, **more: calls.append((layout, root, more)) or folder)
    assert open_modality_lists("", tmp_path / "sim", {"subjects": 4}) == read_modality_lists(folder)
    assert calls == [("contrasts", tmp_path / "sim", {"subjects": 4})]
    (folder / "SIMULATED.txt").touch()
    with caplog.at_level(logging.WARNING):
        open_modality_lists(folder, tmp_path)
    assert "hold no patients" in caplog.text
