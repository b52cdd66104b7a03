import numpy as np
import torch

from common.inferers.fine_tuning import FineTuning
from common.transforms.carvemix import RandCarveMix
from common.transforms.signed_distance import signed_distance


def batch(count=4):
    lesion = np.zeros((count, 16, 12), dtype=np.uint8)
    for index in range(count):
        lesion[index, 2 + index : 7 + index, 3:8] = 1
    return {
        "image": torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 2, 16, 12).clone(),
        "label": torch.from_numpy(lesion)[:, None],
        "distance": torch.stack([torch.from_numpy(signed_distance(mask))[None] for mask in lesion]),
    }


def test_without_carvemix_the_batch_passes_as_it_is():
    data = batch()
    image, label = FineTuning()(data)
    assert torch.equal(image, data["image"])
    assert torch.equal(label, data["label"])


def test_without_carvemix_no_distance_is_needed():
    data = batch()
    del data["distance"]
    assert len(FineTuning(0.0)(data, torch.device("cpu"), True)) == 2


def test_with_carvemix_the_batch_is_mixed_as_carvemix_mixes_it():
    data = batch()
    image, label = FineTuning(1.0).set_random_state(3)(data)
    mix = RandCarveMix(1.0)
    mix.set_random_state(3)
    expected_image, expected_label = mix(data["image"], data["label"], data["distance"])
    assert torch.equal(image, expected_image)
    assert torch.equal(label, expected_label)
    assert not torch.equal(image, data["image"])


def test_same_seed_same_mix_and_the_next_one_differs():
    step, data = FineTuning(1.0).set_random_state(3), batch()
    first, second = step(data)[0], step(data)[0]
    assert torch.equal(first, FineTuning(1.0).set_random_state(3)(data)[0])
    assert not torch.equal(first, second)
