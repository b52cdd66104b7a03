"""From file to cube: geometry, background, cache, failures."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.head_ct import HeadCT
from common.errors import UserError
from common.transforms import prepare_head_ct as module
from common.transforms.prepare_head_ct import PrepareHeadCTd, prepare_cases
from common.transforms.prepared_cache import load_prepared, source_digest
from common.transforms.reference_frame import make_reference
from common.transforms.truth_on_cube import resample_truth


@pytest.fixture(scope="module")
def frame(phantom):
    return make_reference(HeadCT(*phantom(), ()), 8.0)


@pytest.fixture(scope="module")
def case(phantom, rigid, tmp_path_factory):
    folder = tmp_path_factory.mktemp("case")
    hu, affine = phantom((4, 4, 5), rigid(6, 3, -8, (10, 5, 20)))
    truth = np.zeros(hu.shape, np.uint8)
    truth[38:44, 30:36, 28:34] = 1
    truth[20, 30, 34] = 2  # a single voxel
    nib.save(nib.Nifti1Image(hu.astype(np.int16), affine), folder / "image.nii")
    nib.save(nib.Nifti1Image(truth, affine), folder / "truth.nii")
    return {"id": "one", "image": [str(folder / "image.nii")], "truth": str(folder / "truth.nii"), "healthy": False}


def prepare(frame, **options):
    return PrepareHeadCTd("image", frame, **({"size": 32, "spacing_mm": 8.0} | options))


def test_the_prepared_case_is_as_agreed(frame, case):
    result = prepare(frame)(case)
    image, labels, truth = result["image"], result["structures"], result["truth"]
    assert [tuple(item.shape) for item in (image, labels, truth)] == [(1, 32, 32, 32)] * 3
    assert (image.dtype, labels.dtype, truth.dtype) == (torch.int16, torch.uint8, torch.uint8)
    assert (image[labels == 0] == -1024).all()
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4}
    assert set(np.unique(truth)) == {0, 1, 2}
    assert image.meta["registered"] is True
    assert image.meta["filename_or_obj"] == case["image"][0]
    assert image.meta["source_shape"].tolist() == [64, 64, 51]
    assert set(image.meta["quality"]) == {"metric", "start_metric", "overlap", "rotation_deg", "reason", "notes"}
    assert result["healthy"] is False


def test_a_voxel_of_the_cube_lies_where_its_affine_says(frame, case):
    result = prepare(frame)(case)
    source = nib.load(case["image"][0])
    index = np.array([[12, 16, 18], [20, 14, 20], [16, 10, 14]])
    world = index @ result["image"].affine.numpy()[:3, :3].T + result["image"].affine.numpy()[:3, 3]
    voxel = np.rint((world - source.affine[:3, 3]) @ np.linalg.inv(source.affine[:3, :3]).T).astype(int)
    found = [float(result["image"][0, x, y, z]) for x, y, z in index]
    assert found == pytest.approx([float(source.dataobj[x, y, z]) for x, y, z in voxel], abs=25)  # noise of 5 HU, averaged


def test_every_size_shows_the_same_head(frame, case):
    size, spacing = 64, 4.0
    small, large = prepare(frame)(case), prepare(frame, size=size, spacing_mm=spacing)(case)
    for label in (3, 4):
        volumes = [float((item["structures"] == label).sum()) * mm**3 for item, mm in ((small, 8.0), (large, spacing))]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.3)
    assert np.allclose(small["image"].affine[:3, 0] / 8, large["image"].affine[:3, 0] / spacing)


def test_registration_can_be_switched_off(frame, case):
    result = prepare(frame, register="false")(case)
    assert result["image"].meta["registered"] is False
    assert result["image"].meta["quality"]["reason"] == "registration is switched off"
    assert np.allclose(result["image"].affine[:3, :3], 8 * np.eye(3))


def test_the_cache_gives_the_same_and_computes_once(frame, case, tmp_path, monkeypatch):
    fresh = prepare(frame)(case)
    first = prepare(frame, cache_dir=tmp_path)(case)
    monkeypatch.setattr(module, "read_head_ct", lambda path: pytest.fail("read again"))
    second = prepare(frame, cache_dir=tmp_path)(case)
    for key in ("image", "structures", "truth"):
        assert torch.equal(fresh[key].as_tensor(), first[key].as_tensor())
        assert torch.equal(first[key].as_tensor(), second[key].as_tensor())
    assert torch.equal(fresh["image"].affine, second["image"].affine)
    assert fresh["image"].meta["quality"] == second["image"].meta["quality"]


def test_a_moved_file_is_found_and_a_changed_one_is_made_anew(frame, case, tmp_path):
    transform = prepare(frame, cache_dir=tmp_path / "cache")
    moved = shutil.copy(case["image"][0], tmp_path / "elsewhere.nii")
    key = transform.key(case["image"][0])
    assert transform.key(moved) == key
    with open(moved, "r+b") as file:
        file.seek(5000)
        file.write(b"\x01\x02\x03")
    assert transform.key(moved) != key
    assert prepare(frame, size=64).key(case["image"][0]) != key
    assert prepare(frame, register=False).key(case["image"][0]) != key


def test_a_folder_is_known_by_its_files_whatever_their_names(tmp_path):
    for folder, names in (("a", "12"), ("b", "21")):
        (tmp_path / folder).mkdir()
        for name, content in zip(names, (b"x", b"y"), strict=True):
            (tmp_path / folder / name).write_bytes(content)
    assert source_digest(tmp_path / "a", tmp_path) == source_digest(tmp_path / "b")
    (tmp_path / "a" / "1").write_bytes(b"zz")
    assert source_digest(tmp_path / "a", tmp_path) != source_digest(tmp_path / "b")


def test_an_entry_cut_short_is_made_again_and_arrays_are_mapped(frame, case, tmp_path):
    transform = prepare(frame, cache_dir=tmp_path, register=False)
    transform(case)
    (folder,) = [path.parent for path in tmp_path.glob("*/record.json")]
    entry = load_prepared(folder)
    assert isinstance(entry["image"], np.memmap)
    assert json.loads((folder / "record.json").read_text())["source_shape"] == entry["record"]["source_shape"]
    (folder / "record.json").unlink()
    (folder / "image.npy").write_bytes(b"half")
    assert transform(case)["image"].shape == (1, 32, 32, 32)
    with pytest.raises(UserError, match=r"no prepared case here \(record.json is missing\); run the preparation again"):
        load_prepared(tmp_path)


def test_many_cases_are_prepared_and_a_failing_one_is_named(frame, case, tmp_path):
    bad = {"id": "bad", "image": [str(tmp_path / "none.nii")]}
    transform = prepare(frame, cache_dir=tmp_path / "cache", register=False)
    records = prepare_cases([bad, case], transform)
    assert [record["id"] for record in records] == ["bad", "one"]
    assert "no such file" in records[0]["error"]
    assert "image" in load_prepared(records[1]["folder"])
    with pytest.raises(UserError, match=r"none of 1 cases could be prepared; the first: bad: .*none.nii: no such file"):
        prepare_cases([bad], transform)
    with pytest.raises(UserError, match="cache_dir: got None; preparing ahead needs a folder"):
        prepare_cases([case], prepare(frame))


@pytest.mark.slow  # each process loads torch, monai and ITK
def test_processes_prepare_what_one_process_does(frame, case, tmp_path):
    cases = [case, {**case, "id": "two"}]  # the same content: both processes write the same entry at once
    records = prepare_cases(cases, prepare(frame, cache_dir=tmp_path, register=False), num_workers=2)
    assert [record.get("error") for record in records] == [None, None]
    assert records[0]["folder"] == records[1]["folder"]
    alone = prepare(frame, register=False)(case)
    assert np.array_equal(load_prepared(records[0]["folder"])["image"], alone["image"][0].numpy())


def test_what_is_prepared_already_starts_no_process(frame, case, tmp_path, monkeypatch):
    cases = [{**case, "id": name} for name in ("a", "b")]
    transform = prepare(frame, cache_dir=tmp_path, register=False)
    first = prepare_cases(cases, transform)
    monkeypatch.setattr(module, "_in_processes", lambda *args: pytest.fail("started processes"))
    assert prepare_cases(cases, transform, num_workers=2) == first


def test_mistakes_are_named(frame, case, tmp_path):
    with pytest.raises(UserError, match="size, spacing_mm: got 4, 8; expected at least 8 voxels"):
        PrepareHeadCTd("image", frame, 4, 8)
    with pytest.raises(UserError, match="case one: 2 images, expected one head CT"):
        prepare(frame)({**case, "image": case["image"] * 2})
    hu = np.full((40, 40, 40), -1000, np.int16)
    hu[0, 0, 0] = 2000
    nib.save(nib.Nifti1Image(hu, np.diag([4.0, 4, 4, 1])), tmp_path / "air.nii")
    with pytest.raises(UserError, match=r"air.nii: no head found in the volume .*Leave the case out"):
        prepare(frame)({"image": str(tmp_path / "air.nii")})


def test_truth_keeps_volume_of_bleeds_and_hits_of_fractures(tmp_path):
    truth = np.zeros((64, 64, 64), np.uint8)
    truth[20:36, 24:40, 16:32] = 1
    truth[5, 6, 7] = 2
    nib.save(nib.Nifti1Image(truth, np.eye(4)), tmp_path / "truth.nii")
    coarse = np.diag([4.0, 4, 4, 1])
    coarse[:3, 3] = 1.5
    cube = resample_truth(str(tmp_path / "truth.nii"), coarse, 16, 4.0)
    assert (cube == 1).sum() * 64 == (truth == 1).sum()  # whole blocks of 4 x 4 x 4
    assert np.argwhere(cube == 2).tolist() == [[1, 1, 1]]  # 5, 6, 7 lie in block 1
