import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, RandFlipd

from common.data.slices import SliceDataset
from common.errors import UserError


def volume(number, slices):
    """Every voxel tells its case and slice: 100 * case + slice; unequal axes."""
    image = (100 * number + torch.arange(slices)).float().expand(2, 6, 4, slices)
    return {"image": image, "label": torch.full((1, 6, 4, slices), number, dtype=torch.uint8), "id": f"case {number}"}


def dataset(*slices, transform=dict, **settings):
    settings = {"keys": ("image", "label"), "progress": False} | settings
    return SliceDataset([volume(number, count) for number, count in enumerate(slices)], transform, **settings)


def test_every_slice_of_every_case_comes_once_in_order():
    slices = dataset(3, 1, 2)
    assert len(slices) == 6
    assert [int(slices[i]["image"][0, 0, 0]) for i in range(6)] == [0, 1, 2, 100, 200, 201]


def test_an_item_is_a_slice_of_the_last_axis_with_its_label():
    item = dataset(3, 5)[4]
    assert set(item) == {"image", "label"}
    assert item["image"].shape == (2, 6, 4)
    assert torch.equal(item["image"], torch.full((2, 6, 4), 101.0))
    assert torch.equal(item["label"], torch.ones(1, 6, 4, dtype=torch.uint8))


def test_items_equal_slices_of_the_volume_cut_by_hand():
    image = torch.randn(2, 6, 4, 3)
    slices = SliceDataset([{"image": image}], dict, keys=("image",), progress=False)
    for z in range(3):
        assert torch.equal(slices[z]["image"], image[..., z])
        assert slices[z]["image"].is_contiguous()


def test_cases_are_preprocessed_once():
    calls = []

    def transform(case):
        calls.append(case["id"])
        return case

    slices = dataset(2, 3, transform=transform)
    for _ in range(2):
        for index in range(len(slices)):
            slices[index]
    assert calls == ["case 0", "case 1"]


def test_preprocessing_cannot_change_the_list_of_cases():
    data = [volume(0, 2)]

    def transform(case):
        case["id"] = "changed"
        return case

    SliceDataset(data, transform, keys=("image",), progress=False)
    assert data[0]["id"] == "case 0"


def test_metadata_stays_behind():
    slices = SliceDataset([{"image": MetaTensor(torch.zeros(1, 4, 4, 2))}], dict, keys=("image",), progress=False)
    assert type(slices[0]["image"]) is torch.Tensor


def test_augmentation_is_drawn_at_every_access_for_all_keys_alike():
    image = torch.arange(24.0).view(1, 6, 4, 1)
    flip = Compose([RandFlipd(["image", "label"], prob=0.5, spatial_axis=0)]).set_random_state(0)
    slices = SliceDataset([{"image": image, "label": image}], dict, keys=("image", "label"), augment=flip, progress=False)
    drawn = [slices[0] for _ in range(20)]
    assert all(torch.equal(item["image"], item["label"]) for item in drawn)
    assert {float(item["image"][0, 0, 0]) for item in drawn} == {0.0, 20.0}
    assert torch.equal(next(slices.whole("image")).movedim(1, -1), image)


def test_whole_gives_every_preprocessed_volume_back_without_augmentation():
    slices = dataset(3, 2, augment=lambda item: {key: -value for key, value in item.items()})
    wholes = list(slices.whole("image"))
    # the order of the axes is (C, Z, X, Y): only voxels matter to who fits constants
    assert [w.shape for w in wholes] == [(2, 3, 6, 4), (2, 2, 6, 4)]
    for number, whole in enumerate(wholes):
        assert torch.equal(whole.movedim(1, -1), volume(number, whole.shape[1])["image"])


def test_a_loader_batches_slices_of_cases_of_unequal_length():
    batches = list(DataLoader(dataset(3, 2), batch_size=4))
    assert [len(batch["image"]) for batch in batches] == [4, 1]
    assert np.array_equal(batches[0]["image"][:, 0, 0, 0], [0, 1, 2, 100])


def test_no_cases_are_an_error():
    with pytest.raises(UserError, match="data: got no cases for training; check dataset_dir and the split"):
        SliceDataset([], dict)


@pytest.mark.slow
def test_workers_started_by_spawn_read_the_same_slices(tmp_path):
    """Windows has no fork: everything a worker needs must survive pickling."""
    script = tmp_path / "spawned.py"
    script.write_text(
        "import torch\n"
        "from monai.data import DataLoader\n"
        "from monai.transforms import Compose, RandFlipd\n"
        "from common.data.slices import SliceDataset\n"
        "def volume(case):\n"
        "    return {'image': torch.arange(24.0).reshape(1, 2, 3, 4) + case['k'], 'label': torch.zeros(1, 2, 3, 4)}\n"
        "if __name__ == '__main__':\n"
        "    flips = Compose([RandFlipd(['image', 'label'], prob=0.0, spatial_axis=0)])\n"
        "    data = SliceDataset([{'k': 0}, {'k': 100}], volume, keys=('image', 'label'), augment=flips, progress=False)\n"
        "    both = [torch.cat([b['image'] for b in DataLoader(data, batch_size=4, num_workers=n, **more)])\n"
        "            for n, more in ((0, {}), (1, {'multiprocessing_context': 'spawn'}))]\n"
        "    assert torch.equal(*both), both\n"
        "    print('equal')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert "equal" in done.stdout, done.stderr[-2000:]
