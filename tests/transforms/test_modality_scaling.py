import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from monai.transforms import Orientationd, ScaleIntensityRangePercentiles

from common.data.modalities import modality_table
from common.errors import UserError
from common.transforms.modality_scaling import ScaleByModalityd, scale_by_modality

TABLE = modality_table()


def mr(seed=0, shape=(1, 9, 8, 7)):
    """Positive voxels in the middle, 0 around them."""
    values = torch.zeros(shape)
    values[:, 2:7, 1:6, 1:6] = torch.from_numpy(np.random.default_rng(seed).gamma(3.0, 100.0, (shape[0], 5, 5, 5)).astype(np.float32)) + 1
    return values


def test_ct_in_hu_goes_linearly_to_0_and_1_and_is_clipped():
    # (-1000 + 1000) / 2000 = 0, (0 + 1000) / 2000 = 0.5, (40 + 1000) / 2000 = 0.52
    image = torch.tensor([-3024.0, -1000, 0, 40, 1000, 3071]).reshape(1, 1, 2, 3)
    scaled = scale_by_modality(image, TABLE["ct"])
    assert scaled.flatten().tolist() == pytest.approx([0, 0, 0.5, 0.52, 1, 1])


def test_mr_has_mean_0_and_standard_deviation_1_where_it_is_not_0_and_0_elsewhere():
    image = mr(shape=(2, 9, 8, 7))
    for channel, scaled in zip(image, scale_by_modality(image, TABLE["flair"]), strict=True):
        inside = channel != 0
        assert scaled[~inside].abs().max() == 0
        assert float(scaled[inside].mean()) == pytest.approx(0, abs=1e-6)
        assert float(scaled[inside].std(unbiased=False)) == pytest.approx(1, abs=1e-6)


def test_units_and_the_amount_of_background_do_not_change_mr():
    image = mr()
    wide = torch.nn.functional.pad(image, (10,) * 6)
    torch.testing.assert_close(scale_by_modality(17 * image, TABLE["t1"]), scale_by_modality(image, TABLE["t1"]))
    torch.testing.assert_close(scale_by_modality(wide, TABLE["t1"])[:, 10:-10, 10:-10, 10:-10], scale_by_modality(image, TABLE["t1"]))


def test_percentiles_are_monais_by_channel():
    image = torch.cat([mr(0), 50 * mr(1)]) + torch.rand(2, 9, 8, 7)
    theirs = ScaleIntensityRangePercentiles(1, 99, 0, 1, clip=True, channel_wise=True)(image)
    torch.testing.assert_close(scale_by_modality(image, TABLE["us"]), theirs.as_tensor())
    smallest_to_largest = modality_table({"t2": {"kind": "percentiles", "low": 0, "high": 100}})["t2"]
    scaled = scale_by_modality(image, smallest_to_largest)
    torch.testing.assert_close(scaled[0], (image[0] - image[0].min()) / (image[0].max() - image[0].min()))


@pytest.mark.parametrize("name", ["ct", "t1", "us"])
@pytest.mark.parametrize("dtype", [torch.int16, torch.float64, torch.float32])
def test_the_image_stays_as_it_was_and_the_result_is_float32(name, dtype):
    image = mr().to(dtype)
    before = image.clone()
    assert scale_by_modality(image, TABLE[name]).dtype == torch.float32
    assert torch.equal(image, before)


def test_the_case_gets_its_index_as_long_and_crops_of_unlike_modalities_collate():
    scale = ScaleByModalityd("image", {"pet": {"kind": "zscore"}})
    cases = [scale({"id": name, "modality": name, "image": mr()}) for name in ("flair", "CT", "pet")]
    batch = list_data_collate(cases)
    assert batch["modality_index"].dtype == torch.long and batch["modality_index"].tolist() == [4, 0, 7]


def test_grid_and_history_are_kept_and_the_given_case_is_not_changed():
    grid = torch.diag(torch.tensor([1.0, 2, 3, 1], dtype=torch.float64))
    case = Orientationd("image", axcodes="LPS", labels=None)({"image": MetaTensor(mr(), affine=grid), "modality": "t2"})
    before = case["image"].as_tensor().clone()
    scaled = ScaleByModalityd("image")(case)["image"]
    assert torch.equal(scaled.affine, case["image"].affine)
    assert scaled.applied_operations == case["image"].applied_operations != []
    assert torch.equal(case["image"].as_tensor(), before) and "modality_index" not in case


def test_the_argument_is_for_cases_that_name_none():
    scale = ScaleByModalityd("image", modality="t1", index_key=None)
    image = mr()
    assert torch.equal(scale({"image": image})["image"], scale_by_modality(image, TABLE["t1"]))
    assert torch.equal(scale({"image": image, "modality": "ct"})["image"], scale_by_modality(image, TABLE["ct"]))
    assert "modality_index" not in scale({"image": image})


def test_a_missing_or_unknown_modality_names_the_case():
    with pytest.raises(UserError, match=r"case p7: it has no 'modality'; expected one of ct, t1, .*never guessed"):
        ScaleByModalityd("image")({"id": "p7", "image": mr()})
    with pytest.raises(UserError, match="case p7: the modality 't1w' is not in the table"):
        ScaleByModalityd("image")({"id": "p7", "image": mr(), "modality": "t1w"})
    with pytest.raises(UserError, match="modality: the modality 'mr' is not in the table"):
        ScaleByModalityd("image", modality="mr")


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("t1", torch.zeros(1, 3, 3, 3), "channel 0: every voxel is 0"),
        ("t1", (mr() > 0).float(), "channel 0: all voxels that are not 0 are 1: the image shows no contrast; a mask"),
        (
            "ct",
            torch.rand(1, 3, 3, 3),
            "hardly meet the range -1000 to 1000 of the modality ct; another unit, an image that was scaled before",
        ),
        ("ct", torch.rand(1, 3, 3, 3) * 1000 + 1001, "values from 1.* hardly meet the range"),
        ("us", torch.nn.functional.pad(torch.rand(1, 1, 1, 1), (4,) * 6), "percentiles 1 and 99 are both 0: the image shows no contrast"),
        ("us", torch.zeros(1, 3, 0, 3), r"the image is empty, shape \(3, 0, 3\)"),
    ],
)
def test_images_without_contrast_are_refused_by_case_and_key(name, image, message):
    with pytest.raises(UserError, match=rf"case p7, 'image': .*{message}"):
        ScaleByModalityd("image")({"id": "p7", "image": image, "modality": name})
