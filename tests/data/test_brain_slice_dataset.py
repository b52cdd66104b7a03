from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, RandGaussianNoised, Resized
from torch.utils.data import DataLoader

from common.data.brain_slice_dataset import BrainSliceDataset, describe, share_slices
from common.data.brain_slices import SliceSelector
from common.errors import UserError
from common.transforms.percentile_range import PercentileRanged
from common.transforms.select_brain_slices import SelectBrainSlicesd


class Prepare:
    """Case ``n`` has slices of value (10 n + slice) / 255; every second one is chosen."""

    def __init__(self, count: int = 6) -> None:
        self.count, self.calls = count, 0

    def __call__(self, case: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        values = (10 * case["n"] + torch.arange(self.count)).float() / 255
        image = values.expand(1, 4, 8, self.count)
        return case | {"image": image, "slices": np.arange(0, self.count, 2), "brain": (image > 0.02).to(torch.uint8)}


def cases(count: int = 3) -> list[dict[str, Any]]:
    return [{"id": f"case {n}", "n": n, "image": []} for n in range(count)]


def test_every_chosen_slice_of_every_case_comes_once_in_order() -> None:
    data = BrainSliceDataset(cases(), Prepare(), progress=False)
    assert [(item["id"], item["slice"]) for item in data] == [(f"case {n}", k) for n in range(3) for k in (0, 2, 4)]
    assert [round(255 * float(item["image"][0, 0, 0])) for item in data] == [0, 2, 4, 10, 12, 14, 20, 22, 24]
    assert data[4]["image"].shape == (1, 4, 8) and data[4]["image"].dtype == torch.float32


@pytest.mark.parametrize(("store", "error"), [("uint8", 0.5 / 255), ("float16", 2**-12)])
def test_what_is_stored_is_near_what_was_prepared_and_masks_are_exact(store: str, error: float) -> None:
    image = torch.rand(1, 4, 8, 5, generator=torch.manual_seed(0))
    brain = (image > 0.5).to(torch.uint8)
    data = BrainSliceDataset(
        [{"id": "a"}], lambda case: case | {"image": image, "brain": brain}, ("image", "brain", "label"), store=store, progress=False
    )
    assert len(data) == 5, "without a choice all slices are kept"
    for k in range(5):
        assert float((data[k]["image"] - image[..., k]).abs().max()) <= error + 1e-6
        assert torch.equal(data[k]["brain"], brain[..., k]) and not data[k]["label"].any()
    assert data.volumes[0]["image"].element_size() == {"uint8": 1, "float16": 2}[store]


def test_what_an_item_becomes_does_not_change_what_is_kept() -> None:
    data = BrainSliceDataset(cases(1), Prepare(), progress=False, store="float16")
    data[1]["image"].mul_(0)
    assert float(data[1]["image"].max()) > 0.007


def test_augmentation_is_drawn_at_every_access() -> None:
    noise = RandGaussianNoised("image", prob=1.0, std=0.1).set_random_state(0)
    data = BrainSliceDataset(cases(1), Prepare(), augment=noise, progress=False)
    assert not torch.equal(data[0]["image"], data[0]["image"])


def test_a_loader_batches_slices_of_several_cases() -> None:
    batch = next(iter(DataLoader(BrainSliceDataset(cases(), Prepare(), progress=False), batch_size=8)))
    assert batch["image"].shape == (8, 1, 4, 8) and batch["slice"].tolist() == [0, 2, 4, 0, 2, 4, 0, 2]


# ---------------------------------------------------------------------------------------------------------------- the cache


@pytest.fixture
def files(tmp_path: Path) -> list[dict[str, Any]]:
    out = []
    for n in range(2):
        (tmp_path / f"{n}.bin").write_bytes(bytes([n]))
        out.append({"id": f"case {n}", "n": n, "image": [str(tmp_path / f"{n}.bin")]})
    return out


def test_a_second_run_prepares_nothing_and_gives_the_same_slices(files: list[dict[str, Any]], tmp_path: Path) -> None:
    first, second = Prepare(), Prepare()
    ours, again = (BrainSliceDataset(files, one, cache_dir=tmp_path / "cache", progress=False) for one in (first, second))
    second.calls = 0
    assert first.calls == 2 and len(list((tmp_path / "cache").glob("*.npz"))) == 2
    assert all(torch.equal(ours[k]["image"], again[k]["image"]) for k in range(6))


def test_a_moved_file_is_found_again_and_a_changed_one_or_another_setting_is_prepared_anew(
    files: list[dict[str, Any]], tmp_path: Path
) -> None:
    def calls(data: list[dict[str, Any]], count: int = 6, **settings: Any) -> int:
        prepare = Counting(count)
        BrainSliceDataset(data, prepare, cache_dir=tmp_path / "cache", progress=False, **settings)
        return Counting.calls

    class Counting(Prepare):
        calls = 0

        def __init__(self, count: int) -> None:
            self.count = count
            Counting.calls = 0

        def __call__(self, case: dict[str, Any]) -> dict[str, Any]:
            Counting.calls += 1
            values = torch.arange(self.count).float().expand(1, 4, 8, self.count)
            return case | {"image": values}

    assert [calls(files), calls(files)] == [2, 0]
    Path(files[0]["image"][0]).rename(tmp_path / "moved.bin")
    files[0]["image"] = [str(tmp_path / "moved.bin")]
    assert calls(files) == 0, "found by its content"
    assert calls(files, count=8) == 2 and calls(files, store="float16") == 2, "other settings"
    (tmp_path / "moved.bin").write_bytes(b"other")
    assert calls(files) == 1, "only the changed one"


def test_settings_are_described_alike_in_two_constructions_and_after_use(tmp_path: Path) -> None:
    def build(side: int = 4) -> Compose:
        return Compose(
            [
                LoadImaged("image"),
                EnsureChannelFirstd("image"),
                SelectBrainSlicesd("image", SliceSelector("all")),
                PercentileRanged("image"),
                Resized("image", (side, side, -1)),
            ]
        )

    one = build()
    before = describe(one)
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random((8, 8, 3), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    one({"id": "a", "image": str(tmp_path / "a.nii.gz")})
    assert before == describe(build()) == describe(one) and before != describe(build(2))
    assert describe({"b": np.arange(3), "a": (1, "x", None)}) == describe({"a": [1, "x", None], "b": np.arange(3)})


def test_files_are_read_to_halved_slices_equal_to_a_mean_of_two_by_two(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1, 1000, (16, 16, 5)).astype(np.int16)
    affine = np.array([[0, 0, 1.2, 0], [-1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])  # P, S, R
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    steps = [LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", "PSR", labels=None)]
    steps += [PercentileRanged("image", 1.0, 99.8), Resized("image", (8, 8, -1), mode="area")]
    data = BrainSliceDataset([{"id": "a", "image": str(tmp_path / "a.nii.gz")}], Compose(steps), store="float16", progress=False)
    low, high = np.percentile(values, (1, 99.8))
    scaled = np.clip((values - low) / (high - low), 0, 1)
    halved = scaled.reshape(8, 2, 8, 2, 5).mean(axis=(1, 3))
    for k in range(5):
        np.testing.assert_allclose(data[k]["image"][0], halved[..., k], atol=1e-3)


# ------------------------------------------------------------------------------------------------------- the original's leak


def test_slices_are_parted_as_in_the_original() -> None:
    train, validate = (share_slices(54454, part) for part in ("train", "validate"))
    assert (len(train), len(validate)) == (46285, 8169), "the counts of the thesis"
    assert sorted(train + validate) == list(range(54454))
    assert train == share_slices(54454, "train") != share_slices(54454, "train", seed=1)


def test_the_leak_puts_slices_of_each_volume_on_both_sides() -> None:
    parts = {
        part: BrainSliceDataset(cases(), Prepare(40), by="slice", part=part, validation_share=0.3, progress=False)
        for part in ("train", "validate")
    }
    seen = {part: {(item["id"], item["slice"]) for item in data} for part, data in parts.items()}
    assert not seen["train"] & seen["validate"] and len(seen["train"] | seen["validate"]) == 60
    assert {name for name, _ in seen["train"]} == {name for name, _ in seen["validate"]} == {"case 0", "case 1", "case 2"}


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="data: got no cases"):
        BrainSliceDataset([], Prepare())
    with pytest.raises(UserError, match="store: got 'int4'; expected one of uint8, float16"):
        BrainSliceDataset(cases(), Prepare(), store="int4")
    with pytest.raises(UserError, match="part: got 'test'; expected train or validate where slices are parted"):
        share_slices(3, "test")
