import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss, DiceFocalLoss

from common.errors import UserError
from common.inferers.supervised_mask import SupervisedMask, SupervisedMaskInferer
from common.inferers.volume_frame import VolumeFrame

SIDES = (3, 4, 5)


def test_a_batch_becomes_the_scaled_image_with_its_coordinates_and_the_mask():
    batch = {"image": torch.rand(2, 4, *SIDES), "coordinates": torch.rand(2, 3, *SIDES), "label": torch.full((2, 1, *SIDES), 4)}
    inputs, mask = SupervisedMask()(batch)
    assert torch.equal(inputs, torch.cat([2 * batch["image"] - 1, batch["coordinates"]], dim=1))
    assert torch.equal(mask, torch.ones(2, 1, *SIDES))
    assert SupervisedMask(classes=(1, 2, 4))(batch)[1].sum(dim=(0, 2, 3, 4)).tolist() == [0, 0, 120]


def test_without_a_label_it_says_so():
    with pytest.raises(UserError, match="no 'label'"):
        SupervisedMask()({"image": torch.rand(1, 4, *SIDES)})


def test_the_loss_for_several_classes_is_dice_and_cross_entropy_class_by_class():
    logits, mask = torch.randn(2, 1, *SIDES), (torch.rand(2, 1, *SIDES) > 0.5).float()
    assert torch.isclose(DiceFocalLoss(sigmoid=True, gamma=0)(logits, mask), DiceCELoss(sigmoid=True)(logits, mask))


@pytest.mark.parametrize("windows", [None, SlidingWindowInferer(roi_size=(4, 4, 4), overlap=0.5)])
def test_the_map_of_a_voxelwise_network_is_that_of_the_volume(windows):
    image = torch.rand(2, 4, *SIDES)

    def network(x):
        assert x.shape[1] == 7
        return 3 * x[:, :1]

    found = SupervisedMaskInferer(VolumeFrame(8, 4), sliding_window=windows)(image, network)
    p = torch.sigmoid(3 * (2 * image[:, :1] - 1))
    assert torch.allclose(found, torch.cat([p, p * (1 - p)], dim=1), atol=1e-6)


def test_without_coordinates_the_network_sees_the_image_alone():
    channels = []
    SupervisedMaskInferer(VolumeFrame(8, 4), coordinates="false")(
        torch.rand(1, 4, *SIDES), lambda x: channels.append(x.shape[1]) or x[:, :1]
    )
    assert channels == [4]
