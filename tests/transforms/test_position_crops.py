import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.stats import chisquare

from common.errors import UserError
from common.transforms.position_crops import RandPositionCropsd, cut, lattice, touching

BACKGROUND = -1024


def a_head(sides=(7, 9, 8), seed=0, share=1.0):
    """int16 HU ``(1, *sides)``, that share of the voxels in the head."""
    generator = torch.Generator().manual_seed(seed)
    hu = torch.randint(-1000, 2000, (1, *sides), generator=generator, dtype=torch.int16)
    hu[torch.rand(hu.shape, generator=generator) >= share] = BACKGROUND
    return hu


def crops(**settings):
    return RandPositionCropsd(**{"keys": "image", "patch_size": 3, "positions_per_side": 2, "stride": 2, **settings})


def all_windows(transform, volume):
    """Every window that can be drawn, one of each."""
    ranges = [range(-transform.reach, side) for side in volume.shape[1:]]
    return [transform._window(volume, list(start)) for start in itertools.product(*ranges)]


def centres(windows, shape):
    """How often each voxel is a centre that counts."""
    found = torch.zeros(shape, dtype=torch.long)
    for window in windows:
        voxels = (window["position"] * (torch.tensor(shape) - 1).view(3, 1, 1, 1)).round().long()[:, window["counts"][0]]
        found.index_put_(tuple(voxels), torch.ones(voxels.shape[1], dtype=torch.long), accumulate=True)
    return found


# ----------------------------------------------------------------------------------------------------------- equally often, everywhere


@pytest.mark.parametrize(("positions_per_side", "stride"), [(1, 4), (2, 1), (2, 2), (3, 1), (3, 4)])
@pytest.mark.parametrize("foreground", ["patch", "centre"])
def test_every_voxel_that_counts_is_a_centre_of_equally_many_windows(positions_per_side, stride, foreground):
    volume = a_head((5, 4, 6), share=0.04)
    transform = crops(positions_per_side=positions_per_side, stride=stride, foreground=foreground)
    windows = all_windows(transform, volume)
    padded = torch.nn.functional.pad(volume > BACKGROUND, (1,) * 6)
    counts = torch.stack(
        [
            padded[0, 1 + x - (r := int(foreground == "patch")) : 2 + x + r, 1 + y - r : 2 + y + r, 1 + z - r : 2 + z + r].any()
            for x, y, z in itertools.product(range(5), range(4), range(6))
        ]
    ).view(5, 4, 6)
    assert 0 < counts.sum() < counts.numel()
    assert torch.equal(centres(windows, (5, 4, 6)), positions_per_side**3 * counts)  # once per place in the window


def test_the_windows_are_drawn_equally_often():
    transform = crops()
    transform.set_random_state(0)
    starts = np.array([transform.randomize((3, 4, 5)) for _ in range(7_000)]) + transform.reach
    drawn = np.ravel_multi_index(starts.T, (5, 6, 7))
    assert chisquare(np.bincount(drawn, minlength=5 * 6 * 7)).pvalue > 0.01


def test_drawn_centres_are_uniform_over_all_voxels_that_count_the_border_included():
    volume = a_head((6, 5, 4))
    volume[:, 4:] = BACKGROUND
    volume[:, :3, 0] = BACKGROUND
    transform = crops(foreground="centre", windows=2_500)
    transform.set_random_state(1)
    found = centres(transform({"image": volume}), (6, 5, 4))
    head = volume[0] > BACKGROUND
    assert int(found[~head].sum()) == 0
    share = found[head] / found[head].double().mean()
    assert share.min() > 0.6  # 90 draws a voxel, so the SD is 0.1
    assert share.max() < 1.4
    border = torch.ones_like(head)
    border[1:-1, 1:-1, 1:-1] = False
    assert share[border[head]].mean().item() == pytest.approx(1, abs=0.03)


def test_one_position_per_side_gives_the_independent_uniform_patches_of_the_paper():
    volume = a_head((5, 4, 6))
    transform = crops(positions_per_side=1, windows=4_000)
    transform.set_random_state(2)
    windows = transform({"image": volume})
    assert windows[0]["image"].shape == (1, 3, 3, 3)
    assert windows[0]["position"].shape == (3, 1, 1, 1)
    found = centres(windows, (5, 4, 6))
    assert int(found.sum()) == 4_000
    assert chisquare(found.flatten().numpy()).pvalue > 0.01
    voxels = torch.stack([(w["position"].flatten() * torch.tensor([4, 3, 5])).round() for w in windows])
    assert (torch.corrcoef(torch.cat([voxels[:-1], voxels[1:]], dim=1).T) - torch.eye(6)).abs().max() < 0.1


def test_windows_without_a_centre_that_counts_are_drawn_again():
    volume = a_head(share=0)
    volume[0, 2, 3, 4] = 40
    transform = crops(foreground="centre", windows=20)
    transform.set_random_state(0)
    for window in transform({"image": volume}):
        assert int(window["counts"].sum()) == 1
        assert int((window["image"] > BACKGROUND).sum()) == 1


# ------------------------------------------------------------------------------------------------------------------ what a window holds


@pytest.mark.parametrize("patch_size", [3, (5, 3, 7), (15, 19, 3)])
@pytest.mark.parametrize(("positions_per_side", "stride"), [(1, 4), (3, 1), (2, 4)])
def test_a_window_is_the_crop_of_the_padded_volume_and_its_positions_are_the_voxels_of_the_centres(patch_size, positions_per_side, stride):
    volume = a_head(share=0.02)
    transform = crops(patch_size=patch_size, positions_per_side=positions_per_side, stride=stride)
    padded = torch.nn.functional.pad(volume, (40,) * 6, value=BACKGROUND)
    rng = np.random.default_rng(0)
    for _ in range(6):
        start = [int(rng.integers(-transform.reach, side)) for side in volume.shape[1:]]
        window = transform._window(volume, start)
        sides, half = [s + transform.reach for s in transform.patch_size], [s // 2 for s in transform.patch_size]
        a, b, c = (slice(40 + v - h, 40 + v - h + s) for v, h, s in zip(start, half, sides, strict=True))
        assert torch.equal(window["image"], padded[:, a, b, c])
        for index in itertools.product(range(positions_per_side), repeat=3):
            voxel = [v + stride * i for v, i in zip(start, index, strict=True)]
            expected = torch.tensor([v / (n - 1) for v, n in zip(voxel, (7, 9, 8), strict=True)])
            assert torch.equal(window["position"][(slice(None), *index)], expected)
            patch = [slice(stride * i, stride * i + s) for i, s in zip(index, transform.patch_size, strict=True)]
            holds = bool((window["image"][0, patch[0], patch[1], patch[2]] > BACKGROUND).any())
            inside = all(0 <= v < n for v, n in zip(voxel, (7, 9, 8), strict=True))
            assert bool(window["counts"][(0, *index)]) == (holds and inside)


def test_with_centre_only_centres_in_the_head_count():
    volume = a_head(share=0.5)
    transform = crops(foreground="centre", positions_per_side=3, stride=2)
    window = transform._window(volume, [1, 2, -1])  # centres at x 1 3 5, y 2 4 6, z -1 1 3
    head = torch.nn.functional.pad(volume > BACKGROUND, (1, 0))  # z = -1 is background
    assert torch.equal(window["counts"], head[:, 1:6:2, 2:7:2, 0:5:2])


def test_number_types_are_those_of_the_docstring():
    (window,) = crops()({"image": a_head()})
    assert {key: value.dtype for key, value in window.items()} == {
        "image": torch.int16,
        "position": torch.float32,
        "counts": torch.bool,
    }
    assert window["image"].shape == (1, 5, 5, 5)
    assert window["position"].shape == (3, 2, 2, 2)
    assert window["counts"].shape == (1, 2, 2, 2)


@pytest.mark.parametrize("kind", ["numpy", "memory-mapped", "metatensor", "float"])
def test_volumes_of_every_kind_give_the_same_windows(kind, tmp_path):
    volume, given = a_head(), None
    if kind == "memory-mapped":
        np.save(tmp_path / "head.npy", volume.numpy())
        given = np.load(tmp_path / "head.npy", mmap_mode="r")
    else:
        given = {"numpy": volume.numpy(), "metatensor": MetaTensor(volume), "float": volume.float()}[kind]
    transform, other = crops(windows=4), crops(windows=4)
    transform.set_random_state(5)
    other.set_random_state(5)
    for window, expected in zip(transform({"image": given}), other({"image": volume}), strict=True):
        assert all(np.array_equal(np.asarray(window[key]), np.asarray(expected[key])) for key in expected)


def test_a_window_of_a_memory_map_can_be_written_to_and_leaves_the_file_alone(tmp_path):
    np.save(tmp_path / "head.npy", a_head().numpy())
    (window,) = crops()({"image": np.load(tmp_path / "head.npy", mmap_mode="r")})
    window["image"].zero_()
    assert np.array_equal(np.load(tmp_path / "head.npy"), a_head().numpy())


def test_the_same_seed_draws_the_same_windows_and_the_next_draw_differs():
    draws = []
    for _ in range(2):
        transform = crops(windows=3)
        transform.set_random_state(9)
        draws.append([torch.cat([w["position"] for w in transform({"image": a_head()})]) for _ in range(2)])
    assert torch.equal(draws[0][0], draws[1][0])
    assert torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[0][1])


# -------------------------------------------------------------------------------------------------------------------------- functions


def test_a_box_that_misses_the_volume_is_all_fill():
    volume = a_head()
    for start in ((-20, 0, 0), (7, 0, 0), (0, 0, 30), (-9, 40, 2)):
        assert cut(volume, start, (4, 5, 6), -1024.0).unique().tolist() == [BACKGROUND]


def test_a_box_around_the_volume_holds_it_once():
    volume = a_head()
    box = cut(volume, (-1, -2, -3), (10, 14, 12), 5)
    assert torch.equal(box[:, 1:8, 2:11, 3:11], volume)
    assert int((box == 5).sum()) == 10 * 14 * 12 - 7 * 9 * 8 + int((volume == 5).sum())


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_patches_that_touch_the_foreground_are_those_found_one_by_one(stride):
    foreground, patch = torch.rand(1, 9, 11, 8, generator=torch.Generator().manual_seed(1)) > 0.985, (3, 4, 2)
    found = touching(foreground, patch, stride)
    assert 0 < found.sum() < found.numel()
    for x, y, z in itertools.product(*[range(side) for side in found.shape[1:]]):
        a, b, c = (slice(stride * i, stride * i + side) for i, side in zip((x, y, z), patch, strict=True))
        assert bool(found[0, x, y, z]) == bool(foreground[0, a, b, c].any())
    assert found.shape == (1, *[(side - p) // stride + 1 for side, p in zip((9, 11, 8), patch, strict=True)])


def test_the_lattice_runs_from_0_at_the_first_voxel_to_1_at_the_last():
    # volume 5 x 9 x 3: voxels 0 4, 4 8, -4 0 become 0/4 4/4, 4/8 8/8, -4/2 0/2
    points = lattice((0, 4, -4), (2, 2, 2), 4, (5, 9, 3))
    assert points.dtype == torch.float64
    assert points[0, :, 0, 0].tolist() == [0, 1]
    assert points[1, 0, :, 0].tolist() == [0.5, 1]
    assert points[2, 0, 0, :].tolist() == [-2, 0]
    assert lattice((1, 2, 3), (1, 2, 4), 2, (9, 9, 9)).shape == (3, 1, 2, 4)


# ----------------------------------------------------------------------------------------------------------------------------- errors


def test_an_unknown_rule_for_the_foreground_is_an_error():
    with pytest.raises(UserError, match=r"foreground: got 'head', expected one of \('patch', 'centre'\)"):
        crops(foreground="head")


@pytest.mark.parametrize("name", ["positions_per_side", "stride", "windows"])
def test_numbers_below_1_are_an_error(name):
    with pytest.raises(UserError, match=rf"{name} 0.*expected 1 or more of each"):
        crops(**{name: 0})


def test_an_empty_volume_is_an_error_that_names_the_case():
    with pytest.raises(UserError, match="case CQ500-CT-12: found no foreground to cut patches from; is the volume empty"):
        crops()({"image": a_head(share=0), "id": "CQ500-CT-12"})
