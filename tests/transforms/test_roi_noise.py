import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from scipy.ndimage import distance_transform_edt
from scipy.stats import kstest

from common.errors import UserError
from common.transforms.roi_noise import RandRoiNoise, RandRoiNoised, deepest, diffuse, noise_field, roi_indicator, roi_threshold
from common.transforms.signed_distance import SignedDistanced, signed_distance, slicewise_signed_distance

MASKS = arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 6)))


def brute_force_distance(mask, spacing):
    """Signed distance by looking at all pairs of pixels; a ring of background around the mask only where it has none inside."""
    pixels = list(np.ndindex(mask.shape))
    background = [p for p in pixels if not mask[p]]
    if not background:
        padded = np.pad(mask, 1)
        background = [tuple(np.array(p) - 1) for p in np.ndindex(padded.shape) if not padded[p]]
    lesion = [p for p in pixels if mask[p]]
    result = np.full(mask.shape, np.inf)
    for p in pixels:
        others = background if mask[p] else lesion
        nearest = min((np.linalg.norm((np.array(p) - np.array(q)) * spacing) for q in others), default=np.inf)
        result[p] = -nearest if mask[p] else nearest
    return result


def disc(size=(24, 20), centre=(11, 9), radius=5):
    x, y = np.ogrid[: size[0], : size[1]]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


def batch_of_distances(*masks):
    return torch.stack([torch.from_numpy(signed_distance(mask))[None] for mask in masks])


@settings(deadline=None, max_examples=60)
@given(MASKS, st.sampled_from([(1.0, 1.0), (0.5, 2.0), (1.3, 0.7)]))
def test_signed_distance_is_the_nearest_pixel_of_the_other_kind(mask, spacing):
    np.testing.assert_allclose(signed_distance(mask, spacing), brute_force_distance(mask, spacing), rtol=1e-6)


def test_signed_distance_is_scipys_transform_on_either_side():
    mask = disc()
    distance = signed_distance(mask)
    np.testing.assert_allclose(distance[mask], -distance_transform_edt(mask)[mask], rtol=1e-6)
    np.testing.assert_allclose(distance[~mask], distance_transform_edt(~mask)[~mask], rtol=1e-6)


def test_contour_pixels_are_minus_one_and_their_neighbours_plus_one():
    mask = np.zeros((1, 7), dtype=np.uint8)
    mask[0, 2:5] = 1
    np.testing.assert_array_equal(signed_distance(mask), [[2, 1, -1, -2, -1, 1, 2]])


def test_no_lesion_is_infinitely_far_away():
    assert np.all(np.isposinf(signed_distance(np.zeros((3, 4)))))


def test_a_mask_of_lesion_only_ends_at_the_border_of_the_image():
    # 5 x 3: the middle row of pixels is two steps away from the outside, all others one
    np.testing.assert_array_equal(signed_distance(np.ones((5, 3))), [[-1, -1, -1], [-1, -2, -1], [-1, -2, -1], [-1, -2, -1], [-1, -1, -1]])


def test_unit_spacing_measures_in_pixels_and_a_factor_scales_the_distance():
    mask = disc()
    np.testing.assert_array_equal(signed_distance(mask, (1, 1)), signed_distance(mask))
    np.testing.assert_allclose(signed_distance(mask, (0.5, 0.5)), signed_distance(mask) / 2)


@settings(deadline=None, max_examples=40)
@given(MASKS, st.sampled_from([0, 1]))
def test_flips_commute_with_distance_and_roi(mask, axis):
    flipped = np.flip(mask, axis)
    np.testing.assert_array_equal(signed_distance(flipped), np.flip(signed_distance(mask), axis))
    distance, threshold = batch_of_distances(mask), torch.tensor([0.7])
    of_flipped = roi_indicator(batch_of_distances(flipped.copy()), threshold)
    assert torch.equal(of_flipped, roi_indicator(distance, threshold).flip(axis + 2))


def test_three_dimensions_work_as_two():
    mask = np.zeros((5, 4, 3))
    mask[2, 1, 1] = 1
    distance = signed_distance(mask, (1.0, 1.0, 3.0))
    assert distance[2, 1, 1] == -1
    assert distance[2, 1, 2] == 3
    assert distance[0, 1, 1] == 2


def test_slicewise_distance_looks_at_one_slice_only():
    volume = np.stack([disc(), np.zeros((24, 20)), disc(radius=2)], axis=-1)
    distance = slicewise_signed_distance(volume)
    assert distance.dtype == np.float32
    assert np.all(np.isposinf(distance[..., 1]))
    for z in range(3):
        np.testing.assert_array_equal(distance[..., z], signed_distance(volume[..., z]))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 1.0, 1.0), (1.0, 0.0), (1.0, -2.0)])
def test_spacing_that_does_not_fit_is_an_error(spacing):
    with pytest.raises(UserError, match=r"spacing: got .* for a mask with 2 axes, expected one positive number per axis"):
        signed_distance(disc(), spacing)


def test_deepest_is_the_largest_distance_inside_and_zero_without_lesion():
    distance = batch_of_distances(disc(), np.zeros((24, 20)), disc(radius=0))
    assert deepest(distance).tolist() == [pytest.approx(-signed_distance(disc()).min()), 0.0, 1.0]


def test_threshold_by_hand():
    # shrink: -1/2 * 8 * 0.5 = -2; grow: 8 * 0.5 = 4; no lesion: 0
    found = roi_threshold(torch.tensor([8.0, 8.0, 0.0]), torch.tensor([0.49, 0.5, 0.9]), torch.full((3,), 0.5))
    assert found.tolist() == [-2.0, 4.0, 0.0]


def test_threshold_has_the_law_of_carvemix_and_half_its_mass_on_either_side():
    generator, count, size = torch.Generator().manual_seed(3), 20_000, 6.0
    side, position = torch.rand(2, count, generator=generator)
    threshold = roi_threshold(torch.full((count,), size), side, position).numpy()
    # one uniform c in [-1, 1]; D_min = -size; c > 0 gives c * D_min / 2, else c * D_min
    uniform = np.random.default_rng(4).uniform(-1, 1, count)
    carvemix = np.where(uniform > 0, uniform * -size / 2, uniform * -size)
    assert kstest(threshold, carvemix).pvalue > 0.01
    assert kstest(threshold[threshold < 0], "uniform", args=(-size / 2, size / 2)).pvalue > 0.01
    assert kstest(threshold[threshold > 0], "uniform", args=(0, size)).pvalue > 0.01
    assert np.mean(threshold < 0) == pytest.approx(0.5, abs=0.015)  # standard error 0.0035
    # a single uniform over [-size/2, size] is another law: 1/3 of the mass below zero
    assert kstest(threshold, "uniform", args=(-size / 2, 1.5 * size)).pvalue < 1e-6


def test_roi_of_threshold_zero_is_the_lesion_with_its_contour():
    mask = disc()
    assert torch.equal(roi_indicator(batch_of_distances(mask), torch.zeros(1))[0, 0], torch.from_numpy(mask))


def test_pixels_exactly_at_the_threshold_belong_to_the_roi():
    # distances 2, 1, -1, -2, -1, 1, 2: the paper's <=, not the released code's <
    distance = batch_of_distances(np.array([[0, 0, 1, 1, 1, 0, 0]]))
    sizes = [int(roi_indicator(distance, torch.tensor([float(threshold)])).sum()) for threshold in (-2, -1, 1, 2)]
    assert sizes == [1, 3, 5, 7]


@settings(deadline=None, max_examples=40)
@given(MASKS, st.floats(-3, 3), st.floats(0, 3))
def test_roi_grows_with_the_threshold(mask, threshold, more):
    distance = batch_of_distances(mask)
    small, large = roi_indicator(distance, torch.tensor([threshold])), roi_indicator(distance, torch.tensor([threshold + more]))
    assert torch.all(large | ~small)


@settings(deadline=None, max_examples=40)
@given(MASKS, st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_drawn_roi_is_never_empty_on_a_lesion_and_always_empty_without(mask, side, position):
    distance = batch_of_distances(mask)
    roi = roi_indicator(distance, roi_threshold(deepest(distance), torch.tensor([side]), torch.tensor([position])))
    assert bool(roi.any()) == bool(mask.any())


def test_noise_field_and_diffusion_by_hand():
    noise, roi = torch.tensor([[[[2.0, 2.0]]]]), torch.tensor([[[[True, False]]]])
    field = noise_field(noise, roi, 1.5, 0.8)
    assert field.flatten().tolist() == pytest.approx([3.0, 1.6])
    # gamma 0.64: 0.8 * 10 + 0.6 * 3 = 9.8 and 0.8 * 10 + 0.6 * 1.6 = 8.96
    assert diffuse(torch.full((1, 1, 1, 2), 10.0), field, 0.64).flatten().tolist() == pytest.approx([9.8, 8.96])


def test_gamma_one_keeps_the_image_and_none_adds_the_noise():
    image, noise = torch.randn(2, 1, 2, 3, 4)
    assert torch.equal(diffuse(image, noise, 1.0), image)
    assert torch.equal(diffuse(image, noise, None), image + noise)


def test_unit_noise_on_a_unit_image_keeps_the_variance():
    image, noise = torch.randn(2, 1, 1, 200, 200, generator=torch.Generator().manual_seed(0))
    assert float(diffuse(image, noise, 0.95).var()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("gamma", [0.0, -0.1, 1.01])
def test_gamma_outside_its_range_is_an_error(gamma):
    with pytest.raises(UserError, match=r"gamma: got .*, expected a number in \(0, 1\], or null for additive noise"):
        diffuse(torch.zeros(1), torch.zeros(1), gamma)


def seeded(seed=0, **numbers):
    noise = RandRoiNoise(**numbers)
    noise.set_random_state(seed)
    return noise


def test_noise_has_its_two_strengths_inside_and_outside():
    distance = batch_of_distances(*[disc((96, 80), (48, 40), 25)] * 4)
    drawn = seeded()(torch.zeros(4, 2, 96, 80), distance)
    inside = drawn.field.movedim(1, -1)[drawn.roi[:, 0]]
    outside = drawn.field.movedim(1, -1)[~drawn.roi[:, 0]]
    assert inside.numel() > 2000  # standard error of a standard deviation below 1.6 %
    assert float(inside.std()) == pytest.approx(1.5, rel=0.05)
    assert float(outside.std()) == pytest.approx(0.8, rel=0.05)
    assert abs(float(inside.mean())) < 0.15


def test_without_lesion_every_pixel_gets_the_weaker_noise():
    drawn = seeded()(torch.zeros(3, 2, 64, 48), torch.full((3, 1, 64, 48), torch.inf), keep_unit=True)
    assert not drawn.roi.any()
    assert torch.equal(drawn.field, drawn.unit * 0.8)


def test_a_draw_obeys_the_equations():
    image, distance = torch.randn(2, 2, 24, 20), batch_of_distances(disc(), disc(radius=2))
    drawn = seeded(5)(image, distance, keep_unit=True)
    assert torch.equal(drawn.field, noise_field(drawn.unit, drawn.roi, 1.5, 0.8))
    torch.testing.assert_close(drawn.image, 0.95**0.5 * image + 0.05**0.5 * drawn.field)


def test_a_batch_equals_its_samples_one_by_one():
    image = torch.randn(4, 2, 24, 20)
    distance = batch_of_distances(disc(), np.zeros((24, 20)), disc(radius=2), np.ones((24, 20)))
    noise = seeded(11)
    drawn = noise(image, distance)
    side, position, unit = seeded(11).randomize(image)
    for b in range(4):
        one = slice(b, b + 1)
        roi = roi_indicator(distance[one], roi_threshold(deepest(distance[one]), side[one], position[one]))
        field = noise_field(unit[one], roi, 1.5, 0.8)
        assert torch.equal(drawn.roi[one], roi)
        assert torch.equal(drawn.image[one], diffuse(image[one], field, 0.95))


def test_same_seed_same_draw_and_the_next_draw_differs():
    image, distance = torch.zeros(2, 2, 24, 20), batch_of_distances(disc(), disc(radius=2))
    noise = seeded(7)
    first, second = noise(image, distance), noise(image, distance)
    assert torch.equal(first.image, seeded(7)(image, distance).image)
    assert not torch.equal(first.field, second.field)


def test_keeping_the_unit_noise_changes_nothing_else():
    image, distance = torch.randn(2, 2, 24, 20), batch_of_distances(disc(), disc(radius=2))
    with_unit, without = seeded(7)(image, distance, keep_unit=True), seeded(7)(image, distance)
    assert without.unit is None
    assert torch.equal(with_unit.image, without.image)
    assert torch.equal(with_unit.field, without.field)
    assert torch.equal(with_unit.roi, without.roi)


def test_samples_of_a_batch_get_thresholds_and_noise_of_their_own():
    distance = batch_of_distances(*[disc((48, 48), (24, 24), 12)] * 8)
    drawn = seeded()(torch.zeros(8, 1, 48, 48), distance, keep_unit=True)
    assert len({int(roi.sum()) for roi in drawn.roi}) > 4
    assert not torch.equal(drawn.unit[0], drawn.unit[1])


def test_the_draw_does_not_touch_the_image_nor_torchs_generator():
    image, distance = torch.randn(1, 2, 24, 20), batch_of_distances(disc())
    before, state = image.clone(), torch.get_rng_state()
    seeded()(image, distance)
    assert torch.equal(image, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_device_are_those_of_the_image(dtype):
    drawn = seeded()(torch.zeros(1, 3, 24, 20, dtype=dtype), batch_of_distances(disc()), keep_unit=True)
    assert drawn.image.dtype == drawn.field.dtype == drawn.unit.dtype == dtype
    assert drawn.image.shape == (1, 3, 24, 20)
    assert drawn.roi.dtype == torch.bool
    assert drawn.roi.shape == (1, 1, 24, 20)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_draws_by_the_same_laws_and_replays():
    image, distance = torch.zeros(2, 2, 24, 20, device="cuda"), batch_of_distances(disc(), disc()).cuda()
    drawn = seeded(1)(image, distance, keep_unit=True)
    assert drawn.image.is_cuda
    assert torch.equal(drawn.image, seeded(1)(image, distance).image)
    assert torch.equal(drawn.field, noise_field(drawn.unit, drawn.roi, 1.5, 0.8))


def test_volumes_work_as_slices_do():
    distance = torch.from_numpy(signed_distance(np.pad(np.ones((3, 3, 3)), 2)))[None, None]
    drawn = seeded()(torch.zeros(1, 2, 7, 7, 7), distance)
    assert drawn.roi.any()
    assert drawn.image.shape == (1, 2, 7, 7, 7)


def test_distance_on_another_grid_is_an_error():
    with pytest.raises(
        UserError, match=r"distance: got shape \(2, 1, 24, 20\), expected the batch and grid of the image, \(2, 1, 20, 24\)"
    ):
        seeded()(torch.zeros(2, 1, 20, 24), batch_of_distances(disc(), disc()))


def test_dictionary_form_noises_one_sample_and_replays():
    sample = {"image": torch.zeros(2, 24, 20), "distance": batch_of_distances(disc())[0], "label": "kept"}
    first, second = RandRoiNoised("image").set_random_state(2), RandRoiNoised("image").set_random_state(2)
    noised = first(sample)
    assert torch.equal(noised["image"], second(sample)["image"])
    assert not torch.equal(noised["image"], first(sample)["image"])
    assert noised["image"].shape == (2, 24, 20)
    assert noised["label"] == "kept"
    assert not sample["image"].any()


def test_dictionary_form_shares_its_draw_between_keys():
    sample = {"a": torch.zeros(2, 24, 20), "b": torch.ones(2, 24, 20), "distance": batch_of_distances(disc())[0]}
    noised = RandRoiNoised(["a", "b"]).set_random_state(2)(sample)
    torch.testing.assert_close(noised["b"] - noised["a"], torch.full((2, 24, 20), 0.95**0.5))


def test_signed_distance_of_a_case_is_slicewise_in_pixels_by_default():
    volume = np.stack([disc(), np.zeros((24, 20))], axis=-1)
    result = SignedDistanced()({"label": torch.from_numpy(volume)[None].to(torch.uint8)})
    assert result["distance"].shape == (1, 24, 20, 2)
    assert result["distance"].dtype == torch.float32
    np.testing.assert_array_equal(result["distance"][0].numpy(), slicewise_signed_distance(volume))


def test_spacing_aware_distance_of_a_case_reads_the_volumes_spacing():
    volume = np.stack([disc(), disc(radius=2)], axis=-1)
    label = MetaTensor(torch.from_numpy(volume)[None].float(), affine=torch.diag(torch.tensor([0.5, 2.0, 4.0, 1.0])))
    flat = SignedDistanced(spacing_aware="true")({"label": label})["distance"][0].numpy()
    np.testing.assert_array_equal(flat, slicewise_signed_distance(volume, (0.5, 2.0)))
    solid = SignedDistanced(spacing_aware=True, slicewise=False)({"label": label})["distance"][0].numpy()
    np.testing.assert_array_equal(solid, signed_distance(volume, (0.5, 2.0, 4.0)))


def test_spacing_aware_must_be_a_switch():
    with pytest.raises(UserError, match="spacing_aware: got 'maybe', expected true or false"):
        SignedDistanced(spacing_aware="maybe")
