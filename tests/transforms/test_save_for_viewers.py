from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, SaveImaged

from common.errors import UserError
from common.transforms.load_case import LoadCased, read_volume
from common.transforms.save_for_viewers import SaveForViewersd, formats
from common.transforms.save_like_source import SaveLikeSourced
from tests.data.dicom_on_disk import oblique, ras, values, write_scan

SEGMENTS = {
    "1": {
        "name": "lesion",
        "colour": [230, 60, 50],
        "code": ["301766008", "SCT", "Lesion of Brain"],
        "category": ["49755003", "SCT", "Morphologically Abnormal Structure"],
    }
}
STYLES = {"growth": {"name": "predicted, weeks", "colours": "Grey", "window": [0, 1]}}
SECRETS = (b"Planted", b"planted-id", b"planted-acc", b"19700102")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "weights.json").write_text(json.dumps({"bundle": "ladp", "simulated": False}))
    return folder


def case_of(source: Path) -> dict[str, Any]:
    """A case as it stands before the writers: an image, its mask and a map of two ages."""
    case = LoadCased(("image",), channels=1, brain_key=None)({"id": "anna", "image": [str(source)]})
    image = case["image"]
    mask = (image.as_tensor() % 3 == 0).to(torch.uint8)
    growth = MetaTensor(torch.stack([image.as_tensor()[0] / 500, -image.as_tensor()[0]]), affine=image.affine)
    return {**case, "pred": MetaTensor(mask, affine=image.affine), "growth": growth}


def both(tmp_path: Path, weights: Path, **options: Any) -> Compose:
    save = SaveLikeSourced("pred", tmp_path / "out", "lesion", print_path=False)
    also = SaveForViewersd(
        "pred", tmp_path / "out", "lesion", segments=SEGMENTS, ckpt_dir=str(weights), algorithm="ladp", print_path=False, **options
    )
    return Compose([save, also])


def test_a_dicom_source_gives_nifti_slicer_and_dicom_on_one_grid(tmp_path: Path, weights: Path) -> None:
    import slicerio

    case = case_of(write_scan(tmp_path / "scan", values(), oblique()))
    both(tmp_path, weights)(case)
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["anna_lesion.dcm", "anna_lesion.nii.gz", "anna_lesion.seg.nrrd", "labels.csv"]
    segmentation = slicerio.read_segmentation(str(out / "anna_lesion.seg.nrrd"))
    np.testing.assert_array_equal(segmentation["voxels"], np.asarray(nib.load(out / "anna_lesion.nii.gz").dataobj))
    np.testing.assert_allclose(ras(segmentation["ijkToLPS"]), nib.load(out / "anna_lesion.nii.gz").affine, atol=1e-4)
    assert pydicom.dcmread(out / "anna_lesion.dcm").pixel_array.sum() == int(case["pred"].sum())
    assert (out / "labels.csv").read_text().splitlines()[1] == "1,lesion,#e63c32,SCT:301766008,Lesion of Brain"


def test_the_patient_is_named_in_dicom_alone(tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    case = case_of(write_scan(tmp_path / "scan", values(), oblique(), PatientName="Planted"))  # one word: highdicom warns, and quotes it
    both(tmp_path, weights)(case)
    maps = SaveForViewersd("growth", tmp_path / "out", "growth", styles=STYLES, channel_names=[28.0, 32.5], ckpt_dir=str(weights))
    maps(case)
    named = {True: set(), False: set()}
    for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name.endswith((".nii.gz",)):
            content = gzip.decompress(content)
        if path.suffix == ".nrrd":
            head, _, voxels = content.partition(b"\n\n")
            content = head + gzip.decompress(voxels)
        named[any(secret in content for secret in SECRETS)].add(path.suffix)
    assert named[True] == {".dcm"} and named[False] == {".gz", ".nrrd", ".csv"}
    printed = "".join(capfd.readouterr()) + caplog.text
    assert not [secret for secret in SECRETS if secret.decode() in printed]


def test_weights_of_simulated_cohorts_never_become_dicom(tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    (weights / "weights.json").write_text(json.dumps({"bundle": "ladp", "simulated": True}))
    case = case_of(write_scan(tmp_path / "scan", values(), oblique()))
    step = both(tmp_path, weights)
    with caplog.at_level(logging.WARNING, "brain_bundles"):
        step(case)
        step({**case, "id": "bert"})
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".gz", ".nrrd", ".csv"}
    assert "SIMULATED weights" in (tmp_path / "out" / "anna_lesion.seg.nrrd").read_bytes().partition(b"\n\n")[0].decode()
    (line,) = caplog.messages
    assert line.startswith("No DICOM is written: the weights in") and "trained on SIMULATED data" in line


def test_one_simulated_fold_of_several_is_enough_to_refuse(tmp_path: Path, weights: Path) -> None:
    other = tmp_path / "fold_1"
    other.mkdir()
    (other / "weights.json").write_text(json.dumps({"simulated": True}))
    case = case_of(write_scan(tmp_path / "scan", values(), oblique()))
    SaveForViewersd("pred", tmp_path / "out", segments=SEGMENTS, ckpt_dir=[str(weights), str(other)])(case)
    assert not list((tmp_path / "out").glob("*.dcm")) and list((tmp_path / "out").glob("*.seg.nrrd"))


def test_a_record_that_cannot_be_read_counts_as_a_tag(tmp_path: Path, weights: Path) -> None:
    (weights / "weights.json").write_text("{")
    both(tmp_path, weights)(case_of(write_scan(tmp_path / "scan", values(), oblique())))
    assert [path.name for path in (tmp_path / "out").glob("anna_lesion.*") if path.suffix == ".dcm"] == []
    assert (tmp_path / "out" / "anna_lesion.nii.gz").is_file()


def test_a_nifti_source_gives_no_dicom_and_no_word_of_it(tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    nib.save(nib.Nifti1Image(values().astype(np.float32), ras(oblique())), tmp_path / "scan.nii.gz")
    both(tmp_path, weights)(case_of(tmp_path / "scan.nii.gz"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["anna_lesion.nii.gz", "anna_lesion.seg.nrrd", "labels.csv"]
    assert not caplog.messages


@pytest.mark.parametrize("missing", ["slicerio", "highdicom"])
def test_without_a_package_the_rest_is_written_and_the_log_says_how_to_get_it(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    from common.transforms import save_for_viewers

    monkeypatch.setattr(save_for_viewers, "find_spec", lambda name: None if name == missing else name)
    both(tmp_path, weights)(case_of(write_scan(tmp_path / "scan", values(), oblique())))
    kept, extra = {"slicerio": (".dcm", "slicer"), "highdicom": (".nrrd", "dicom")}[missing]
    assert kept in {path.suffix for path in (tmp_path / "out").iterdir()}
    (line,) = caplog.messages
    assert f"No {extra} files are written: {missing} not installed" in line and f"brain-bundles[{extra}]" in line


def test_a_failure_costs_no_result_and_names_no_patient(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    from common.transforms import save_for_viewers

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("Planted^Name is no name")

    monkeypatch.setattr(save_for_viewers, "save_dicom_segmentation", broken)
    both(tmp_path, weights)(case_of(write_scan(tmp_path / "scan", values(), oblique())))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["anna_lesion.nii.gz", "anna_lesion.seg.nrrd", "labels.csv"]
    (line,) = caplog.messages
    assert "anna_lesion as DICOM is not written: ValueError in test_save_for_viewers.py" in line and "Planted" not in line


def test_channels_of_a_map_become_results_of_their_own(tmp_path: Path, weights: Path) -> None:
    import nrrd

    case = case_of(write_scan(tmp_path / "scan", values(), oblique()))
    step = SaveForViewersd(
        "growth", tmp_path / "out", "growth", styles=STYLES, channel_names=[28.0, 32.5], ckpt_dir=str(weights), algorithm="x"
    )
    assert step(case).keys() == case.keys()
    out = tmp_path / "out"
    names = ["anna_growth_28.map.nrrd", "anna_growth_28_dicom", "anna_growth_32.5.map.nrrd", "anna_growth_32.5_dicom"]
    assert sorted(path.name for path in out.iterdir()) == names
    array, header = nrrd.read(str(out / names[2]))
    np.testing.assert_array_equal(array, case["growth"][1])
    assert header["content"].startswith("predicted, weeks 32.5. Brain Bundles x") and header["WindowMax"] == "1"
    first, second = (pydicom.dcmread(out / name / "0001.dcm") for name in (names[1], names[3]))
    assert (first.SeriesNumber, second.SeriesNumber) == (9001, 9002) and "weeks 28" in first.SeriesDescription
    np.testing.assert_allclose(read_volume(out / names[1])[0][0], case["growth"][0], atol=0.01)


def test_nothing_is_written_where_nothing_is_wanted(tmp_path: Path, weights: Path) -> None:
    both(tmp_path, weights, also_write=[])(case_of(write_scan(tmp_path / "scan", values(), oblique())))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["anna_lesion.nii.gz"]
    SaveForViewersd("other", tmp_path / "none")({})
    assert not (tmp_path / "none").exists()


def test_formats_come_as_a_list_or_as_a_text() -> None:
    assert formats("slicer, dicom") == ("slicer", "dicom") == formats(["slicer", "dicom"])
    assert formats("none") == () == formats(None)
    with pytest.raises(UserError, match=r"also_write: got 'nrrd', expected a list of slicer and dicom"):
        formats("nrrd")


def test_a_style_that_is_none_is_refused() -> None:
    for entry in ({"name": "x" * 25}, {"name": "a", "window": [1, 0]}, {"name": "a", "unit": "mm"}, {"name": "a", "color": "Grey"}):
        with pytest.raises(UserError, match=r"map_styles: entry 'a' is .*; expected a name of 1 to 24 characters"):
            SaveForViewersd("a", styles={"a": entry})


def test_monai_label_recognises_it_as_a_saver() -> None:
    assert isinstance(SaveForViewersd("pred"), SaveImaged)
