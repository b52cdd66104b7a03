from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.data.brain_slices import SliceSelector
from common.errors import UserError
from common.transforms.select_brain_slices import SelectBrainSlicesd


def test_slices_with_enough_of_the_mask_are_named_and_the_volume_stays_whole() -> None:
    image, brain = MetaTensor(torch.rand(1, 10, 10, 4)), torch.zeros(1, 10, 10, 4, dtype=torch.uint8)
    brain[0, :5, :, 1], brain[0, :2, :2, 2], brain[0, 0, :5, 3] = 1, 1, 1  # 50, 4 and 5 of 100 pixels
    result = SelectBrainSlicesd()({"image": image, "brain": brain})
    assert result["slices"].tolist() == [1, 3] and result["image"] is image


def test_a_case_without_brain_is_named() -> None:
    with pytest.raises(UserError, match="case A: the rule 'brain' keeps none of 3 slices"):
        SelectBrainSlicesd(selector=SliceSelector())({"id": "A", "image": torch.rand(1, 4, 4, 3), "brain": torch.zeros(1, 4, 4, 3)})
