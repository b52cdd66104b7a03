"""A perfect model must give its mask back on the volume's own grid; ensembles must replay, nest, and differ between cases."""

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.inferers import SlidingWindowInferer
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler
from torch import nn

from common.errors import UserError
from common.inferers.accelerated_schedule import AcceleratedDDIMScheduler
from common.inferers.dpm_solver import DPMSolverScheduler
from common.inferers.ensemble_mask import EnsembleMaskd
from common.inferers.mask_sampling import CaseImages, MaskSamplingInferer, RunningMoments, case_seed
from common.inferers.volume_frame import VolumeFrame
from common.networks.diffusion_unet import DiffusionUNet

SHAPE = (5, 4, 7)
ALPHA_BARS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def a_volume(seed=0, shape=SHAPE):
    return torch.rand(1, 4, *shape, generator=torch.Generator().manual_seed(seed))


class Perfect(nn.Module):
    """Knows the mask: where the first sequence exceeds 0.5; predicts the noise (or the velocity) that x_t then holds."""

    def __init__(self, flow=False, coordinates=True, low=0.0):
        super().__init__()
        self.flow, self.channels, self.low, self.calls = flow, 8 if coordinates else 5, low, []

    def forward(self, x, timesteps):
        assert x.shape[1] == self.channels
        self.calls.append((int(timesteps[0]), tuple(x.shape)))
        mask = (x[:, :1] > 0).float() * (1 - self.low) + self.low
        if self.flow:
            share = timesteps[0] / 1000
            return (mask - x[:, -1:]) / share
        a = ALPHA_BARS[int(timesteps[0])].item()
        return (x[:, -1:] - a**0.5 * mask) / (1 - a) ** 0.5


class Unsure(nn.Module):
    """Its samples depend on the noise they began with."""

    def forward(self, x, timesteps):
        return 0.9 * x[:, -1:] + 0.05 * x[:, :1] + 0.05 * x[:, 4:5]


def sampler(scheduler=None, **kwargs):
    frame = kwargs.pop("frame", None) or VolumeFrame(8, 4)
    return MaskSamplingInferer(scheduler or AcceleratedDDIMScheduler(), frame, **{"steps": 4, **kwargs})


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        (AcceleratedDDIMScheduler(), 1),
        (AcceleratedDDIMScheduler(), 7),
        (AcceleratedDDIMScheduler(eta=1.0), 7),
        (DPMSolverScheduler(), 7),
        (DDPMScheduler(), 1000),
        (RFlowScheduler(), 1),
        (RFlowScheduler(), 3),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
@pytest.mark.parametrize("tight", [False, True])
def test_a_perfect_model_gives_its_mask_back_on_the_grid_of_the_volume(scheduler, steps, tight):
    shape = SHAPE if steps < 1000 else (2, 3, 2)
    image = a_volume(shape=shape)
    network = Perfect(flow=isinstance(scheduler, RFlowScheduler))
    found = sampler(scheduler, steps=steps, frame=VolumeFrame(8, 4, tight))(image, network)
    assert found.shape == (1, 2, *shape)
    assert torch.allclose(found[:, :1], (image[:, :1] > 0.5).float(), atol=2e-3)
    assert torch.equal(found[:, 1:], torch.zeros(1, 1, *shape)), "one sample has no variance"
    assert len(network.calls) == steps
    assert network.calls[0][0] == (1000 if network.flow else 999)


def test_the_network_sees_the_padded_volume_and_the_coordinates_of_the_cube():
    seen = []

    def network(x, timesteps):
        seen.append(x.clone())
        return torch.zeros_like(x[:, -1:])

    image = a_volume()
    frame = VolumeFrame(8, 4)
    sampler(frame=frame, steps=2)(image, network)
    assert torch.equal(seen[0][0, :4], 2 * frame.embed(image[0], frame.window(image[0])) - 1)
    assert torch.equal(seen[0][0, 4:7], frame.coordinates(frame.window(image[0])))
    assert not torch.equal(seen[0][0, 7], seen[1][0, 7]), "x_t goes on"
    assert torch.equal(seen[0][0, :7], seen[1][0, :7])


def test_without_coordinates_there_are_three_channels_less():
    network = Perfect(coordinates=False)
    sampler(coordinates=False)(a_volume(), network)
    assert network.calls[0][1] == (1, 5, 8, 8, 8)


def test_mean_and_variance_are_those_of_the_samples():
    found = sampler(samples=5, keep_samples="true")(a_volume(), Unsure(), cases=["a"])[0]
    assert found.shape == (7, *SHAPE)
    samples = found[2:].double()
    assert torch.allclose(found[0].double(), samples.mean(0), atol=1e-6)
    assert torch.allclose(found[1].double(), samples.var(0, correction=0), atol=1e-6)
    assert float(samples.var(0).min()) > 0, "every sample has noise of its own"


def test_the_same_case_and_seed_replay_and_a_smaller_ensemble_is_part_of_a_larger():
    image = a_volume()
    three, two = (sampler(samples=n, keep_samples=True)(image, Unsure(), cases=["a"]) for n in (3, 2))
    assert torch.equal(three, sampler(samples=3, keep_samples=True)(image, Unsure(), cases=["a"]))
    assert torch.equal(two[:, 2:], three[:, 2:4])


def test_cases_seeds_and_volumes_without_an_id_have_noise_of_their_own():
    image = a_volume()
    runs = [
        sampler()(image, Unsure(), cases=["a"]),
        sampler()(image, Unsure(), cases=["b"]),
        sampler(seed=1)(image, Unsure(), cases=["a"]),
        sampler()(image, Unsure()),
    ]
    for i, one in enumerate(runs):
        assert not any(torch.equal(one, other) for other in runs[i + 1 :])
    assert torch.equal(runs[3], sampler()(image.clone(), Unsure())), "seeded by the voxels"
    state = torch.get_rng_state()
    sampler()(image, Unsure())
    assert torch.equal(torch.get_rng_state(), state), "the run's own generator is left alone"


def test_a_batch_is_its_volumes_one_by_one():
    pair = torch.cat([a_volume(0), a_volume(1)])
    both = sampler(samples=2)(pair, Unsure(), cases=["a", "b"])
    assert torch.equal(both[1:], sampler(samples=2)(pair[1:], Unsure(), cases=["b"]))


def test_seeds_are_the_same_on_every_machine():
    assert case_seed("BraTS20_Training_001", 0) == case_seed("BraTS20_Training_001", 0, seed=0)
    seeds = {case_seed(name, sample, seed) for name in ("a", "b", b"c") for sample in range(3) for seed in range(2)}
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_ancestral_samples_replay_too():
    runs = [sampler(AcceleratedDDIMScheduler(eta=1.0))(a_volume(), Unsure(), cases=[name]) for name in ("a", "a", "b")]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_signed_mask_comes_back_between_0_and_1():
    image = a_volume()
    found = sampler(signed=True)(image, Perfect(low=-1.0))
    assert torch.allclose(found[:, :1], (image[:, :1] > 0.5).float(), atol=2e-3)


def test_classes_have_a_mean_and_a_variance_each():
    class Two(nn.Module):
        def forward(self, x, timesteps):
            assert x.shape[1] == 9
            return x[:, -2:]

    found = sampler(channels=2, samples=2, keep_samples=True)(a_volume(), Two())
    assert found.shape == (1, 2 * 2 + 2 * 2, *SHAPE)
    assert torch.allclose(found[:, :2], (found[:, 4:6] + found[:, 6:8]) / 2, atol=1e-6)


def test_an_image_is_made_from_coordinates_and_noise_alone():
    def network(x, timesteps):
        assert x.shape[1] == 3 + 4
        return x[:, -4:]

    made = [sampler(channels=4, conditional=False, signed=True)(a_volume(seed), network, cases=["a"]) for seed in (0, 1)]
    assert made[0].shape == (1, 8, *SHAPE)
    assert torch.equal(*made), "the volume gives its shape alone"


def test_windows_in_every_step_give_a_voxelwise_model_the_same_mask():
    image, network = a_volume(), Perfect()
    windows = SlidingWindowInferer(roi_size=(4, 4, 4), sw_batch_size=3, overlap=0.5)
    found = sampler(sliding_window=windows)(image, network)
    assert torch.allclose(found[:, :1], (image[:, :1] > 0.5).float(), atol=2e-3)
    assert {call[1][2:] for call in network.calls} == {(4, 4, 4)}


@pytest.mark.parametrize("windows", [None, SlidingWindowInferer(roi_size=(4, 4, 8), overlap=0)])
def test_the_lean_pass_gives_the_samples_of_the_plain_one(windows):
    torch.manual_seed(0)
    network = DiffusionUNet(in_channels=8, base_channels=4, multipliers=(1, 2), blocks_per_level=1).eval()
    for parameter in network.parameters():  # also those that begin as 0
        nn.init.normal_(parameter, std=0.1)
    ways = ({}, {"lean": True}, {"lean": True, "recompute": "true"})
    plain, *lean = (sampler(samples=2, steps=2, sliding_window=windows, **way)(a_volume(), network) for way in ways)
    assert all(torch.allclose(plain, found, atol=1e-5) for found in lean)
    assert float(plain[:, 1].mean()) > 0.01, "two samples differ"


def test_running_moments_are_those_of_numpy_and_do_not_lose_digits():
    values = 1000 + torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moments = RunningMoments()
    for value in values:
        moments.add(value)
    assert np.allclose(moments.mean, values.numpy().mean(0), rtol=1e-14)
    assert np.allclose(moments.variance, values.numpy().var(0), rtol=1e-10)


def test_an_evaluator_gives_each_case_its_own_noise_and_the_mask_to_the_metric():
    cases = [{"id": name, "image": MetaTensor(a_volume(0)[0]), "label": torch.ones(1, *SHAPE)} for name in ("a", "b")]
    outputs = []
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(cases), batch_size=1),
        network=Unsure(),
        prepare_batch=CaseImages(),
        inferer=sampler(samples=2, keep_samples=True),
        postprocessing=EnsembleMaskd("pred"),
    )
    evaluator.add_event_handler(IterationEvents.MODEL_COMPLETED, lambda engine: outputs.extend(engine.state.output))
    evaluator.run()
    assert [output["pred"].dtype for output in outputs] == [torch.uint8] * 2
    assert outputs[0]["samples"].shape == (2, 1, *SHAPE)
    assert not torch.equal(outputs[0]["mean"], outputs[1]["mean"])


def test_a_batch_without_label_or_id_is_an_image_alone():
    image, label, _, kwargs = CaseImages()({"image": a_volume()})
    assert image.shape == (1, 4, *SHAPE)
    assert label is None
    assert kwargs == {"cases": None}


@pytest.mark.parametrize("kwargs", [{"samples": 0}, {"steps": 0}, {"steps": 1001}])
def test_impossible_ensembles_are_told(kwargs):
    with pytest.raises(UserError, match="expected 1 or more of 1 to 1000 steps"):
        sampler(**kwargs)
