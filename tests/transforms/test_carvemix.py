import numpy as np
import pytest
import torch

from common.errors import UserError
from common.transforms.carvemix import RandCarveMix, carve_and_mix
from common.transforms.roi_noise import deepest, roi_indicator, roi_threshold
from common.transforms.signed_distance import signed_distance


def batch(lesions=(True, True, True, False), size=(16, 12), channels=2):
    """Samples whose every pixel holds the sample's number, each with a lesion in a corner of its own."""
    label = torch.zeros(len(lesions), 1, *size, dtype=torch.uint8)
    for index, has_lesion in enumerate(lesions):
        if has_lesion:
            label[index, 0, 3 + index : 8 + index, 2:7] = 1
    image = torch.arange(len(lesions)).float().view(-1, 1, *[1] * len(size)).expand(-1, channels, *size).clone()
    distance = torch.stack([torch.from_numpy(signed_distance(mask[0].numpy()))[None] for mask in label])
    return image, label, distance


def seeded(prob=1.0, seed=0):
    mix = RandCarveMix(prob)
    mix.set_random_state(seed)
    return mix


def test_carving_by_hand():
    roi = torch.tensor([[[[True, False, True]]]])
    target, source = torch.tensor([[[[1, 2, 3]]]]), torch.tensor([[[[7, 8, 9]]]])
    assert carve_and_mix(target, source, roi).flatten().tolist() == [7, 2, 9]


def test_an_empty_region_keeps_the_target_and_a_full_one_gives_the_source():
    target, source = torch.randn(2, 2, 3, 4, 5)
    empty = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    assert torch.equal(carve_and_mix(target, source, empty), target)
    assert torch.equal(carve_and_mix(target, source, ~empty), source)


@pytest.mark.parametrize("seed", range(5))
def test_image_and_label_are_mixed_by_the_same_region(seed):
    image, label, distance = batch()
    mix = seeded(seed=seed)
    mixed, mixed_label = mix(image, label, distance)
    sources, _, _ = seeded(seed=seed).randomize(np.array([True, True, True, False]))
    for index, source in enumerate(sources):
        pasted = mixed[index, 0] != image[index, 0]
        assert torch.equal(mixed[index, 1] != image[index, 1], pasted)
        assert torch.all(mixed[index, 0][pasted] == source)
        assert torch.equal(mixed_label[index, 0], torch.where(pasted, label[source, 0], label[index, 0]))


def test_what_is_pasted_is_a_roi_of_the_source():
    image, label, distance = batch()
    mixed, _ = seeded(seed=1)(image, label, distance)
    sources, _, _ = seeded(seed=1).randomize(np.array([True, True, True, False]))
    for index, source in enumerate(sources):
        pasted = mixed[index, 0] != image[index, 0]
        inside, outside = distance[source, 0][pasted], distance[source, 0][~pasted]
        assert pasted.any()
        assert inside.max() < outside.min()  # a sublevel set of the source's distance


def test_the_width_of_the_region_follows_the_sources_size_not_the_targets():
    label = torch.zeros(2, 1, 40, 40, dtype=torch.uint8)
    label[0, 0, 19:21, 19:21] = 1
    label[1, 0, 8:32, 8:32] = 1
    image = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 40, 40)
    distance = torch.stack([torch.from_numpy(signed_distance(mask[0].numpy()))[None] for mask in label])
    for seed in range(5):
        mixed, _ = seeded(seed=seed)(image, label, distance)
        _, side, position = seeded(seed=seed).randomize(np.array([True, True]))
        for index, source in ((0, 1), (1, 0)):
            threshold = roi_threshold(deepest(distance[[source]]), side[[index]], position[[index]])
            assert torch.equal(mixed[index] != image[index], roi_indicator(distance[[source]], threshold)[0])


def test_every_mixed_sample_receives_from_another_one_with_a_lesion():
    has_lesion = np.array([True, False, True, False, True])
    for seed in range(20):
        sources, side, position = seeded(seed=seed).randomize(has_lesion)
        assert np.all(has_lesion[sources])
        assert np.all(sources != np.arange(5))
        assert side.dtype == position.dtype == torch.float32


def test_probability_zero_changes_nothing():
    image, label, distance = batch()
    mixed, mixed_label = seeded(prob=0.0)(image, label, distance)
    assert torch.equal(mixed, image)
    assert torch.equal(mixed_label, label)


def test_probability_is_the_share_of_mixed_samples():
    mix, has_lesion = seeded(prob=0.3), np.ones(1000, dtype=bool)
    sources, _, _ = mix.randomize(has_lesion)
    assert np.mean(sources != np.arange(1000)) == pytest.approx(0.3, abs=0.05)  # standard error 0.0145


@pytest.mark.parametrize("lesions", [(False, False, False), (True, False), (True,)])
def test_the_only_lesion_of_a_batch_is_not_pasted_into_itself(lesions):
    image, label, distance = batch(lesions)
    mixed, mixed_label = seeded()(image, label, distance)
    kept = torch.tensor([has_lesion or not any(lesions) for has_lesion in lesions])
    assert torch.equal(mixed[kept], image[kept])
    assert torch.equal(mixed_label[kept], label[kept])


def test_same_seed_same_mix_and_the_next_one_differs():
    image, label, distance = batch()
    mix = seeded(seed=3)
    first, second = mix(image, label, distance)[0], mix(image, label, distance)[0]
    assert torch.equal(first, seeded(seed=3)(image, label, distance)[0])
    assert not torch.equal(first, second)


def test_the_batch_itself_stays_as_it_was_and_types_are_kept():
    image, label, distance = batch()
    before = image.clone(), label.clone()
    mixed, mixed_label = seeded()(image, label, distance)
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])
    assert mixed.dtype == image.dtype
    assert mixed_label.dtype == torch.uint8


def test_volumes_are_mixed_as_slices_are():
    image, label, distance = batch((True, True), (16, 12, 10))
    mixed, mixed_label = seeded()(image, label, distance)
    assert mixed.shape == image.shape
    assert (mixed != image).any()
    assert mixed_label.max() == 1


@pytest.mark.parametrize("prob", [-0.1, 1.5])
def test_probability_outside_its_range_is_an_error(prob):
    with pytest.raises(UserError, match=r"prob: got .*, expected a probability in \[0, 1\]"):
        RandCarveMix(prob)
