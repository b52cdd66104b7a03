from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.sr import _concepts_dict
from pydicom.sr.codedict import codes

from common.data.segments import Segment, read_segments, save_labels_csv, segments_of
from common.errors import UserError

CONFIGS = sorted(Path(__file__).resolve().parents[2].glob("bundles/*/configs/inference.json"))
TABLE = {
    "2": {"name": "left kidney", "colour": [1, 2, 255], "code": ["64033007", "SCT", "Kidney"], "modifier": ["7771000", "SCT", "Left"]},
    "1": {"name": "lesion", "colour": [255, 0, 0], "code": ["52988006", "SCT", "Lesion"], "category": ["49755003", "SCT", "Altered"]},
}


def test_segments_stand_in_the_order_of_their_values() -> None:
    first, second = read_segments(TABLE)
    assert first == Segment(1, "lesion", (255, 0, 0), ("52988006", "SCT", "Lesion"), ("49755003", "SCT", "Altered"))
    assert (second.value, second.category[2], second.modifier) == (2, "Anatomical Structure", ("7771000", "SCT", "Left"))


def test_names_of_the_training_decide_which_segment_a_value_is() -> None:
    found = read_segments(
        [TABLE, {"1": {"name": "spleen", "colour": [0, 0, 0], "code": ["78961009", "SCT", "Spleen"]}}], ["cyst", "spleen", "lesion"]
    )
    assert [(segment.value, segment.name, segment.code[2]) for segment in found] == [
        (1, "cyst", "Tissue"),
        (2, "spleen", "Spleen"),
        (3, "lesion", "Lesion"),
    ]


def test_a_value_without_a_segment_is_not_given_anothers_name() -> None:
    found = segments_of(np.array([0, 1, 7]), read_segments(TABLE))
    assert [(segment.value, segment.name) for segment in found] == [(1, "lesion"), (2, "left kidney"), (7, "label 7")]


def test_the_table_of_labels_reads_like_this(tmp_path: Path) -> None:
    text = save_labels_csv(read_segments(TABLE), tmp_path / "labels.csv").read_text()
    assert text == "value,name,colour,code,meaning\n1,lesion,#ff0000,SCT:52988006,Lesion\n2,left kidney,#0102ff,SCT:64033007,Left Kidney\n"


@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("0", {}, "a value from 1 as its key"),
        ("1", {"name": ""}, "a name of 1 to 64 characters"),
        ("1", {"colour": [0, 0, 256]}, "a colour .r, g, b. of integers from 0 to 255"),
        ("1", {"code": ["x" * 17, "SCT", "m"]}, "a code .value, scheme, meaning."),
        ("1", {"modifier": "Left"}, "a code .value, scheme, meaning."),
        ("1", {"color": [0, 0, 0]}, "no key 'color'"),
    ],
)
def test_what_is_no_segment_is_refused(key: str, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"segments: entry '{key}' .*{message}"):
        read_segments({key: {**TABLE["1"], **entry}})


def test_two_tables_need_names_to_choose_by() -> None:
    with pytest.raises(UserError, match="2 tables without class_names"):
        read_segments([TABLE, TABLE])


def tables(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key.endswith("segments")}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.parents[1].name)
def test_the_codes_of_every_bundle_are_in_the_dictionaries_of_dicom(path: Path) -> None:
    config = json.loads(path.read_text())
    categories = {getattr(codes.cid7150, name).value for name in codes.cid7150.dir()}
    for segment in (segment for table in tables(config).values() for segment in read_segments(table)):
        assert segment.category[0] in categories
        for value, scheme, meaning in (code for code in (segment.code, segment.category, segment.modifier) if code):
            meanings = {entry[value][0] for entry in _concepts_dict.concepts[scheme].values() if value in entry}
            assert meaning in meanings, f"{value}: {meaning} is none of {meanings}"
    assert config["also_write"] == ["slicer", "dicom"]
    assert tables(config) or config["map_styles"]


def test_the_segments_of_the_autoencoder_have_the_names_of_its_classes() -> None:
    (path,) = (path for path in CONFIGS if path.parents[1].name == "disruptive_autoencoder")
    config, btcv = json.loads(path.read_text()), json.loads(path.with_name("btcv.json").read_text())
    assert [segment.name for segment in read_segments(config["segments"])] == config["default_class_names"]
    assert [segment.name for segment in read_segments(config["organ_segments"])] == btcv["class_names"]
