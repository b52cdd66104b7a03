"""Brains at other ages: values, clipping, micro-batches, and the inferer that an evaluator calls."""

import math

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator

from common.errors import UserError
from common.inferers.brain_at_age import LatentFitInferer, estimate_age, labels_at, predict_at
from common.networks.brain_inr import BrainINR
from common.transforms.coordinates import voxel_coordinates

GRID = (12, 10)
FAST = {"voxels": 120, "check": 120, "iterations": 30}


def a_network(identities=(), **settings):
    torch.manual_seed(0)
    settings = {"dims": 2, "latent_size": 3, "width": 16, "layers": 3, "head": "linear", "scales": (5.0, 5.0)} | settings
    network = BrainINR(identities, **settings)
    with torch.no_grad():
        network.inr.latent_weight.mul_(0.4)  # tame: a fit from 0 shall not end in another minimum
        network.inr.head.weight.mul_(0.7)
        network.inr.head.bias.fill_(0.5)
    return network


def a_latent(seed=1):
    return 0.4 * torch.randn(3, generator=torch.Generator().manual_seed(seed))


def scans_of(network, ages, grid=GRID):
    return torch.stack([predict_at(network.inr, a_latent(seed), [age], grid) for seed, age in enumerate(ages)])


@pytest.mark.parametrize("grid", [GRID, (5, 6, 7)])
def test_every_voxel_is_the_network_at_its_place_and_age(grid):
    inr = a_network(dims=len(grid)).inr
    brains = predict_at(inr, a_latent(), [30.0, 41.0], grid)
    assert brains.shape == (2, *grid)
    place = tuple(side // 3 for side in grid)
    point = torch.cat([torch.tensor([0.41]), voxel_coordinates(torch.tensor(place), grid)])
    assert brains[(1, *place)].item() == pytest.approx(inr(point[None, None], a_latent()[None]).item(), abs=1e-6)


def test_micro_batches_change_nothing():
    inr = a_network().inr
    assert torch.allclose(predict_at(inr, a_latent(), [30.0], GRID), predict_at(inr, a_latent(), [30.0], GRID, micro_batch=7), atol=1e-6)


def test_predictions_are_clipped():
    network = a_network()
    with torch.no_grad():
        network.inr.head.weight.mul_(30)
    brain = predict_at(network.inr, a_latent(), [30.0], (40, 40))
    assert brain.min() == 0
    assert brain.max() == 1
    assert not brain.requires_grad


def test_a_latent_for_each_age_is_taken_in_turn():
    inr = a_network().inr
    latents = torch.stack([a_latent(1), a_latent(2)])
    both = predict_at(inr, latents, [30.0, 40.0], GRID)
    assert torch.equal(both[1], predict_at(inr, latents[1], [40.0], GRID)[0])


def test_labels_are_the_most_likely_class_and_no_intensity():
    inr = a_network(label_classes=4).inr
    labels = labels_at(inr, a_latent(), [30.0], GRID, micro_batch=11)
    assert labels.dtype == torch.uint8
    index = torch.stack(torch.meshgrid(*map(torch.arange, GRID), indexing="ij"), -1).reshape(-1, 2)
    points = torch.cat([torch.full((120, 1), 0.3), voxel_coordinates(index, GRID)], 1)
    assert torch.equal(labels[0].reshape(-1).long(), inr(points[None], a_latent()[None])[0, :, 1:].argmax(1))
    with pytest.raises(UserError, match="label_classes: the network has no label head"):
        labels_at(a_network().inr, a_latent(), [30.0], GRID)


def test_the_age_of_a_brain_is_estimated_from_several_starts():
    network = a_network()
    image = predict_at(network.inr, a_latent(), [39.0], GRID)[0]
    fit = estimate_age(network.inr, image, starts=(30.0, 36.0), **FAST)
    assert fit.age_weeks == pytest.approx(39.0, abs=0.1)
    assert estimate_age(network.inr, image, starts=(36.0,), **FAST).check_psnr <= fit.check_psnr


@pytest.mark.parametrize("settings", [{"method": "lm", **FAST}, {"method": "adamw", "steps": 120, "lr": 0.03, "ratio": 0.5}])
def test_a_fitted_brain_is_predicted_at_the_target_ages(settings):
    network = a_network()
    inferer = LatentFitInferer(**settings)
    scans = MetaTensor(scans_of(network, [30.0, 40.0]))
    predictions = inferer(scans, network, ages=torch.tensor([30.0, 40.0]), target_ages=torch.tensor([[35.0, 30.0], [44.0, 40.0]]))
    assert predictions.shape == (2, 2, *GRID)
    for number, ages in enumerate([[35.0, 30.0], [44.0, 40.0]]):
        assert torch.allclose(predictions[number], predict_at(network.inr, a_latent(number), ages, GRID), atol=0.03)
    assert [fit.age_weeks for fit in inferer.fits] == [30.0, 40.0]
    one = inferer(scans, network, ages=torch.tensor([30.0, 40.0]), target_ages=torch.tensor([35.0, 44.0]))
    assert torch.equal(one[:, 0], predictions[:, 0])


def test_without_target_ages_it_is_the_reconstruction_and_without_an_age_that_is_estimated():
    network = a_network()
    inferer = LatentFitInferer(**FAST)
    scans = scans_of(network, [33.0, 38.0])
    assert torch.allclose(inferer(scans, network, torch.tensor([33.0, 38.0])), scans, atol=5e-3)
    assert torch.allclose(inferer(scans, network, torch.tensor([33.0, math.nan])), scans, atol=5e-3)
    assert inferer.fits[0].age_weeks == 33.0
    assert inferer.fits[1].age_weeks == pytest.approx(38.0, abs=0.2)


def test_the_fit_starts_from_zero_the_mean_or_the_encoder():
    network = a_network(["a", "b"], encoder_channels=(2,))
    with torch.no_grad():
        network.latents.weight[1:] = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]])
        network.encoder.head.bias.fill_(0.7)
    scan = scans_of(network, [30.0])[0]
    assert LatentFitInferer().first_latent(scan, network) is None
    assert LatentFitInferer(start="mean").first_latent(scan, network).tolist() == pytest.approx([0.2, 0.3, 0.4])
    assert LatentFitInferer(start="encoder").first_latent(scan, network).tolist() == pytest.approx([0.7] * 3)


def test_latents_per_scan_move_along_their_regression_on_age():
    network = a_network(["a", "b"], ages=[0.3, 0.4])
    with torch.no_grad():
        network.latents.weight[2] = 0.2  # slope 2 per unit of age
    inferer = LatentFitInferer(**FAST)
    scans = scans_of(network, [30.0])
    prediction = inferer(scans, network, torch.tensor([30.0]), torch.tensor([40.0]))[0]
    assert torch.allclose(prediction, predict_at(network.inr, inferer.fits[0].latent + 0.2, [40.0], GRID), atol=1e-5)


def test_an_evaluator_of_monai_runs_it():
    network = a_network()
    scans, ages = scans_of(network, [30.0, 40.0]), torch.tensor([30.0, 40.0])

    def prepare(batch, device, non_blocking, **kwargs):
        return batch["image"], batch["image"], (), {"ages": batch["age"], "target_ages": batch["age"]}

    loader = [{"image": scans[k : k + 1], "age": ages[k : k + 1]} for k in range(2)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=network,
        inferer=LatentFitInferer(**FAST),
        prepare_batch=prepare,
        decollate=False,
    )
    evaluator.run()
    assert torch.allclose(evaluator.state.output["pred"], scans[1:], atol=5e-3)


def test_mistakes_are_told():
    with pytest.raises(UserError, match="method: got 'sgd', expected one of lm, adamw"):
        LatentFitInferer("sgd")
    with pytest.raises(UserError, match="start: got 'noise', expected one of zero, mean, encoder"):
        LatentFitInferer(start="noise")
    with pytest.raises(UserError, match="method lm: got steps; expected settings among voxels, check"):
        LatentFitInferer(steps=5)
    network = a_network()
    with pytest.raises(UserError, match="age: a scan has no age"):
        LatentFitInferer("adamw", steps=1)(scans_of(network, [30.0]), network)
