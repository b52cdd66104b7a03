"""Voxels of a training step: where they may lie, how often, what is read there, and by which name the latent is called."""

import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedTrainer

from common.errors import UserError
from common.inferers.voxel_sampling import (
    ScanIndices,
    VoxelBank,
    VoxelSampling,
    background_voxels,
    foreground_gaps,
    foreground_voxels,
    grid_index,
    identities,
    sample_voxels,
)
from common.networks.brain_inr import BrainINR
from common.networks.latent_table import LatentTable
from common.training import seed_epoch
from common.transforms.coordinates import voxel_coordinates

GRID = (4, 6, 5)


def a_scan(number=0, grid=GRID, subject=None, **more):
    generator = torch.Generator().manual_seed(number)
    brain = torch.rand(1, *grid, generator=generator) < 0.4
    image = torch.rand(1, *grid, generator=generator) * brain
    return {"image": image, "brain": brain.byte(), "age": 30.0 + number, "subject": subject or f"s{number}", "id": f"s{number}_1"} | more


def a_step(scans, bank=None, **settings):
    bank = bank or VoxelBank(scans)
    return VoxelSampling(bank, LatentTable(identities(scans, shared=settings.get("shared", True)), size=3), **settings)


def every_voxel(step, index=0, times=60):
    """Points and values of many draws of one scan."""
    torch.manual_seed(0)
    drawn = [step({"index": torch.tensor([index])}) for _ in range(times)]
    return torch.cat([d[0][0] for d in drawn]), torch.cat([d[1][0] for d in drawn]), [int(d[2][0]) for d in drawn]


def test_ranks_run_through_all_foreground_and_all_background_voxels_once():
    for seed in range(20):
        mask = torch.rand(GRID, generator=torch.Generator().manual_seed(seed)) < seed / 19
        gaps, flat = foreground_gaps(mask), mask.reshape(-1)
        inside, outside = torch.arange(int(flat.sum())), torch.arange(int((~flat).sum()))
        assert foreground_voxels(gaps, inside).tolist() == flat.nonzero()[:, 0].tolist()
        assert background_voxels(gaps, outside).tolist() == (~flat).nonzero()[:, 0].tolist()


def test_the_gaps_by_hand():
    # voxels 1, 2 and 4 of .XX.X. : one background voxel before the first two, two before the third
    assert foreground_gaps(torch.tensor([0, 1, 1, 0, 1, 0]).bool()).tolist() == [1, 1, 2]


def test_the_share_inside_is_exact_and_all_voxels_of_a_kind_are_drawn_alike():
    mask = a_scan()["brain"][0].bool()
    flat = sample_voxels(foreground_gaps(mask), mask.numel(), 100_000, 0.9, torch.Generator().manual_seed(0))
    inside = mask.reshape(-1)[flat]
    assert int(inside.sum()) == 90_000
    for kind, drawn in ((mask, flat[inside]), (~mask, flat[~inside])):
        counts = torch.bincount(drawn, minlength=mask.numel())[kind.reshape(-1)].float()
        expected = counts.mean()
        assert ((counts - expected).abs() < 5 * expected.sqrt()).all()


def test_no_share_draws_from_the_whole_image_alike():
    mask = torch.zeros(GRID, dtype=torch.bool)
    mask[0, 0, 0] = True
    flat = sample_voxels(foreground_gaps(mask), mask.numel(), 60_000, None, torch.Generator().manual_seed(0))
    assert abs(int((flat == 0).sum()) - 500) < 5 * 500**0.5


@pytest.mark.parametrize("value", [0, 1])
def test_a_scan_of_one_kind_of_voxels_gives_all_draws_from_it(value):
    mask = torch.full(GRID, value, dtype=torch.bool)
    assert len(sample_voxels(foreground_gaps(mask), mask.numel(), 50, 0.9).unique()) > 10


def test_the_same_seed_draws_the_same_and_the_next_draw_differs():
    step = a_step([a_scan(0), a_scan(1)], ratio=0.3)
    torch.manual_seed(5)
    first, second = step({"index": torch.tensor([0, 1])}), step({"index": torch.tensor([0, 1])})
    torch.manual_seed(5)
    again = step({"index": torch.tensor([0, 1])})
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("grid", [GRID, (7, 4)])
def test_a_value_is_the_intensity_at_its_point(grid):
    scan = a_scan(grid=grid)
    step = a_step([scan], ratio=0.5, flip_prob=0.0, sgla_prob=0.0)
    points, values, rows = every_voxel(step)
    places = voxel_coordinates(torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1), grid).reshape(-1, len(grid))
    which = (points[:, None, 1:] - places).abs().sum(-1).argmin(1)
    assert torch.equal(points[:, 1:], places[which])
    assert torch.allclose(values[:, 0], scan["image"].reshape(-1)[which], atol=5e-4)
    assert set(which.tolist()) == set(range(places.shape[0]))
    assert torch.allclose(points[:, 0], torch.tensor(0.30))
    assert set(rows) == {1}


def test_the_mirrored_image_has_its_own_latent_and_is_the_flipped_array():
    scan = a_scan()
    flipped = scan | {"image": scan["image"].flip(1), "brain": scan["brain"].flip(1)}
    mirrored, plain = a_step([scan], ratio=0.5, flip_prob=1.0, sgla_prob=0.0), a_step([flipped], ratio=0.5, flip_prob=0.0, sgla_prob=0.0)
    pairs = []
    for step in (mirrored, plain):
        points, values, rows = every_voxel(step)
        assert set(rows) == {int(step.latents.rows(["s0#flip" if step is mirrored else "s0"])[0])}
        pairs.append({tuple(row) for row in torch.cat([points, values], 1).tolist()})
    assert pairs[0] == pairs[1]


def test_probabilities_decide_how_often_images_are_mirrored_and_unnamed():
    step = a_step([a_scan()], ratio=0.02)
    rows = torch.tensor(every_voxel(step, times=700)[2])
    counts = torch.bincount(rows, minlength=3) / 700
    assert torch.allclose(counts, torch.tensor([0.1, 0.45, 0.45]), atol=0.07)


def test_scans_of_a_subject_share_a_latent_only_with_ssl():
    scans = [a_scan(0, subject="child"), a_scan(1, subject="child"), a_scan(2)]
    assert identities(scans) == ["child", "child#flip", "s2", "s2#flip"]
    assert identities(scans, shared=False, mirrored=False) == ["s0_1", "s1_1", "s2_1"]
    batch, settings = {"index": torch.arange(3)}, {"flip_prob": 0.0, "sgla_prob": 0.0, "ratio": 0.1}
    assert a_step(scans, **settings)(batch)[2][0].tolist() == [1, 1, 3]
    assert a_step(scans, shared="false", **settings).shared is False
    bank = VoxelBank(scans)
    step = VoxelSampling(bank, LatentTable(identities(scans, shared=False), 3), shared=False, **settings)
    assert step(batch)[2][0].tolist() == [1, 3, 5]


def test_the_global_latent_stands_in_for_both_orientations():
    assert set(every_voxel(a_step([a_scan()], ratio=0.1, sgla_prob=1.0))[2]) == {0}


def test_the_number_of_voxels_follows_the_ratio_and_is_bounded():
    scans = [a_scan()]
    assert a_step(scans, ratio=0.25).count == 30
    assert a_step(scans, ratio=0.25, max_voxels=7).count == 7
    assert a_step(scans, ratio=0.0).count == 1


def test_uint8_is_half_the_memory_and_off_by_at_most_half_a_step():
    scans = [a_scan(number) for number in range(2)]
    half, byte = VoxelBank(scans), VoxelBank(scans, dtype="uint8")
    assert half.scans[0].image.element_size() == 2 * byte.scans[0].image.element_size()
    flat = torch.arange(half.voxels)
    exact = scans[1]["image"].reshape(-1, 1)
    assert (byte.scans[1].values(flat) - exact).abs().max() <= 0.5 / 255 + 1e-6
    assert (half.scans[1].values(flat) - exact).abs().max() < 5e-4


def test_labels_come_behind_the_intensities():
    label = torch.randint(0, 9, (1, *GRID))
    step = a_step([a_scan(label=label)], ratio=0.5, flip_prob=0.0)
    values = step({"index": torch.tensor([0])})[1]
    assert values.shape == (1, 60, 2)
    flat = torch.arange(120)
    assert step.bank.scans[0].values(flat)[:, 1].tolist() == label.reshape(-1).tolist()


def test_a_meta_tensor_leaves_nothing_but_its_values():
    scan = a_scan()
    bank = VoxelBank([scan | {"image": MetaTensor(scan["image"]), "brain": MetaTensor(scan["brain"])}])
    assert type(bank.scans[0].image) is torch.Tensor
    assert type(bank.scans[0].gaps) is torch.Tensor


def test_indices_run_over_all_scans_as_often_as_asked():
    bank = VoxelBank([a_scan(0), a_scan(1)])
    assert [item["index"] for item in map(ScanIndices(bank, 2).__getitem__, range(4))] == [0, 1, 0, 1]
    assert len(ScanIndices(bank, 2)) == 4


def test_grid_indices_are_those_of_the_flattened_scan():
    numbers = torch.arange(120).reshape(GRID)
    index = grid_index(torch.arange(120), GRID)
    assert numbers[tuple(index.T)].tolist() == list(range(120))


def test_a_trainer_of_monai_learns_with_it():
    scans = [a_scan(number, (6, 5)) for number in range(3)]
    bank, network = VoxelBank(scans), BrainINR(identities(scans), latent_size=4, dims=2, width=8, layers=3)
    before = network.latents.weight.detach().clone()
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(ScanIndices(bank), batch_size=2, shuffle=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1e-2),
        loss_function=torch.nn.MSELoss(),
        prepare_batch=VoxelSampling(bank, network.latents, ratio=0.5, sgla_prob=0.0),
    )
    seed_epoch(trainer, 0, 3)
    first = trainer.prepare_batch({"index": torch.tensor([0])})[0]
    trainer.run()
    seed_epoch(trainer, 0, 3)
    assert torch.equal(trainer.prepare_batch({"index": torch.tensor([0])})[0], first)
    assert not torch.equal(network.latents.weight, before)
    assert torch.equal(network.latents.weight[0], before[0])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: VoxelBank([]), "VoxelBank: got no scans"),
        (lambda: VoxelBank([a_scan()], dtype="float64"), "dtype: got 'float64', expected one of float16, uint8."),
        (lambda: VoxelBank([a_scan(0), a_scan(1, (4, 6, 4))]), r"scan s1_1: image \(4, 6, 4\).*first scan has \(4, 6, 5\)"),
        (lambda: VoxelBank([a_scan() | {"brain": torch.zeros(1, *GRID)}]), "scan s0_1: its brain mask is empty"),
        (lambda: VoxelBank([a_scan(0), a_scan(1, label=torch.zeros(1, *GRID))]), "scan s1_1: labels here, but none with the first scan"),
        (lambda: a_step([a_scan()], sgla_prob=1.1), "sgla_prob: got 1.1, expected a share from 0 to 1."),
        (lambda: a_step([a_scan()], shared="perhaps"), "shared: got 'perhaps'"),
    ],
)
def test_mistakes_are_told(make, text):
    with pytest.raises(UserError, match=text):
        make()
