"""The step alone, and inside MONAI's trainer and evaluator with a network of two layers."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanAbsoluteError
from torch import nn

from common.errors import UserError
from common.inferers.disruptive_pretraining import DisruptivePretraining, PretrainingNetwork, reconstructed
from common.losses.pretext_losses import PretrainingLoss
from common.metrics.lower_is_better import lower_is_better
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.training import Stage, seed_epoch
from common.transforms.disruptions import RandDisruption, lower_resolution
from common.transforms.local_masking import RandChannelMask, RandTokenMask
from common.transforms.pretext_views import RandCutOut, RandQuarterTurn, quarter_turns

FEATURES = 6


class TinyNetwork(nn.Module):
    """The interface of ``DisruptiveSwinUNETR``: a patch embedding that is disrupted, and linear heads."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Conv3d(1, FEATURES, 2, 2), nn.Conv3d(FEATURES, 2, 1)
        self.back = nn.ConvTranspose3d(FEATURES, 1, 2, 2)
        self.rotation, self.projection = nn.Linear(FEATURES, 4), nn.Linear(FEATURES, 5)
        self.calls = []

    def forward(self, image):
        return self.out(self.embed(image))

    def pretrain(self, image, channel_mask=None, token_mask=None, tasks=("image", "embedding")):
        self.calls.append({"image": image, "channel_mask": channel_mask, "token_mask": token_mask, "tasks": tasks})
        embedding = self.embed(image)
        for mask in (channel_mask, token_mask):
            embedding = embedding if mask is None else embedding.masked_fill(mask, 0)
        pooled = embedding.mean(dim=(2, 3, 4))
        heads = {"image": self.back(embedding), "embedding": pooled}
        heads |= {"rotation": self.rotation(pooled), "projection": self.projection(pooled)}
        return {task: heads[task] for task in tasks}


def crops(count=4, seed=0, shape=(8, 8, 8)):
    image = torch.randn(count, 1, *shape, generator=torch.Generator().manual_seed(seed))
    return {"image": image, "modality_index": torch.arange(count) % 2}


def everything(**settings):
    parts = {"disruption": RandDisruption(), "channels": RandChannelMask(0.6, FEATURES), "tokens": RandTokenMask(0.5, 4)}
    return DisruptivePretraining(**parts, cut_out=RandCutOut(), turn=RandQuarterTurn(), **settings)


def equal(first, second):
    (a, targets, _, masks), (b, other_targets, _, other_masks) = first, second
    same = torch.equal(a, b) and all(torch.equal(torch.as_tensor(targets[k]), torch.as_tensor(other_targets[k])) for k in targets)
    return same and all(torch.equal(masks[k], other_masks[k]) for k in masks)


def test_without_any_part_input_and_target_are_the_crops():
    batch = crops()
    image, targets, positional, arguments = DisruptivePretraining()(batch)
    assert torch.equal(image, batch["image"])
    assert torch.equal(targets["image"], batch["image"])
    assert torch.equal(targets["modality_index"], batch["modality_index"])
    assert positional == ()
    assert arguments == {"channel_mask": None, "token_mask": None}


def test_the_input_is_disrupted_and_the_target_clean():
    batch = crops()
    image, targets, *_ = DisruptivePretraining(RandDisruption(strength=0))(batch)
    assert torch.equal(image, lower_resolution(batch["image"], 4))
    assert torch.equal(targets["image"], batch["image"])


def test_turns_act_on_input_and_target_alike_and_are_the_target_of_rotation():
    batch = crops(8)
    image, targets, *_ = DisruptivePretraining(RandDisruption(strength=0), turn=RandQuarterTurn())(batch)
    assert torch.equal(targets["image"], quarter_turns(batch["image"], targets["rotation"]))
    assert torch.equal(image, lower_resolution(targets["image"], 4))


def test_cut_outs_come_behind_the_noise_so_that_holes_are_holes():
    image, targets, *_ = DisruptivePretraining(RandDisruption(), cut_out=RandCutOut(fill="zero"))(crops())
    assert (image == 0).flatten(1).any(dim=1).all()
    assert not (targets["image"] == 0).any()


def test_masks_fit_the_network_and_hide_their_share():
    _, _, _, arguments = everything()(crops(3))
    assert arguments["channel_mask"].shape == (3, FEATURES, 1, 1, 1)
    assert arguments["channel_mask"].flatten(1).sum(dim=1).tolist() == [4] * 3  # round(0.6 * 6)
    assert arguments["token_mask"].shape == (3, 1, 4, 4, 4)
    assert arguments["token_mask"].flatten(1).sum(dim=1).tolist() == [32] * 3


def test_two_views_of_a_crop_lie_one_batch_apart_and_are_drawn_by_themselves():
    batch = crops(3)
    step = DisruptivePretraining(RandDisruption(factor=1), RandChannelMask(0.5, FEATURES), views=2)
    image, targets, _, arguments = step(batch)
    assert image.shape == (6, 1, 8, 8, 8)
    assert torch.equal(targets["image"], batch["image"].repeat(2, 1, 1, 1, 1))
    assert targets["modality_index"].tolist() == [0, 1, 0, 0, 1, 0]
    assert targets["views"] == 2
    assert not torch.equal(image[:3], image[3:])
    assert arguments["channel_mask"].shape[0] == 6


def test_same_seed_same_draws_the_next_differ_and_the_batch_stays():
    batch = crops()
    before = batch["image"].clone()
    step = everything(views=2).set_random_state(3)
    first, second = step(batch), step(batch)
    assert equal(first, everything(views=2).set_random_state(3)(batch))
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[3]["channel_mask"], second[3]["channel_mask"])
    assert torch.equal(batch["image"], before)


def test_a_fixed_seed_gives_each_crop_its_draws_in_any_order_whatever_was_seeded():
    step = everything(fixed_seed=7)
    first, other = step(crops(seed=1)), step(crops(seed=2))
    step.set_random_state(99)
    assert equal(step(crops(seed=2)), other)
    assert equal(step(crops(seed=1)), first)
    assert not torch.equal(first[3]["channel_mask"], other[3]["channel_mask"])
    assert not equal(everything(fixed_seed=8)(crops(seed=1)), first)


def test_metadata_of_crops_and_a_device_are_taken_as_they_come():
    image, targets, *_ = everything()({"image": MetaTensor(crops()["image"]), "modality_index": [0, 1, 0, 1]}, torch.device("cpu"), False)
    assert type(image) is torch.Tensor
    assert targets["modality_index"].dtype == torch.long
    image, targets, *_ = everything()({"image": crops()["image"]}, dtype=torch.float64)
    assert image.dtype == targets["image"].dtype == torch.float64
    assert "modality_index" not in targets


def test_noise_per_modality_looks_at_the_modality():
    batch = {"image": torch.zeros(2, 1, 8, 8, 8), "modality_index": torch.tensor([0, 1])}
    image, *_ = DisruptivePretraining(RandDisruption(factor=1, scales=[0.0, 1.0]))(batch)
    assert not image[0].any()
    assert image[1].any()


def trainer_of(step, network, weights, epochs=1, batches=2):
    loss = PretrainingLoss(weights)
    step.outputs = tuple(loss.outputs)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=[crops(seed=k) for k in range(batches)], network=network,
        optimizer=torch.optim.Adam(network.parameters(), 0.01), loss_function=loss, prepare_batch=step, decollate=False,
    )  # fmt: skip
    return trainer, loss


@pytest.mark.parametrize(
    "weights",
    [
        {"reconstruction": 1, "cross_modal": 0.05},
        {"rotation": 1},
        {"views": 1},
        {"reconstruction": 1, "rotation": 1, "views": 1},
    ],
    ids=str,
)
def test_monais_trainer_runs_each_task_and_all_that_is_asked_of_the_network_is_asked(weights):
    network = TinyNetwork()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trainer, loss = trainer_of(everything(views=2), PretrainingNetwork(network), weights)
    trainer.run()
    assert sorted(loss.parts) == sorted(weights)
    assert [call["tasks"] for call in network.calls] == [tuple(loss.outputs)] * 2
    after = network.state_dict()
    assert not torch.equal(after["embed.weight"], before["embed.weight"])
    assert torch.equal(after["out.weight"], before["out.weight"]), "the segmentation head is not trained"


def test_training_lowers_the_loss_on_fixed_crops():
    torch.manual_seed(0)
    trainer, _ = trainer_of(
        DisruptivePretraining(RandDisruption(0.01, factor=1), fixed_seed=1), PretrainingNetwork(TinyNetwork()), {"reconstruction": 1}, 40
    )
    losses = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["loss"].detach())))
    trainer.run()
    assert sum(losses[-2:]) < 0.9 * sum(losses[:2])


def test_an_epoch_replays_from_its_place_and_another_epoch_differs():
    network = TinyNetwork()
    trainer, _ = trainer_of(everything(), PretrainingNetwork(network), {"reconstruction": 1})
    for place in ((0, 1), (0, 1), (0, 2)):
        seed_epoch(trainer, *place)
        trainer.prepare_batch(crops())
        network.calls.append(trainer.prepare_batch(crops())[0])
    first, again, other = network.calls
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def validate(network, batches):
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=batches, network=network, decollate=False, metric_cmp_fn=lower_is_better,
        prepare_batch=DisruptivePretraining(RandDisruption(), RandChannelMask(0.6, FEATURES), fixed_seed=0),
        key_val_metric={"val_l1": MeanAbsoluteError(output_transform=reconstructed)},
    )  # fmt: skip
    evaluator.run()
    return evaluator.state.metrics["val_l1"]


def test_validation_is_the_mean_absolute_error_under_the_same_disruptions_each_time():
    network, batches = PretrainingNetwork(TinyNetwork()), [crops(2, seed=5), crops(2, seed=6)]
    first = validate(network, batches)
    torch.rand(1)
    assert validate(network, batches) == first
    assert validate(network, batches[::-1]) == pytest.approx(first, rel=1e-6)
    by_hand = []
    for batch in batches:
        image, targets, _, arguments = DisruptivePretraining(RandDisruption(), RandChannelMask(0.6, FEATURES), fixed_seed=0)(batch)
        with torch.no_grad():
            by_hand.append(float((network(image, **arguments)["image"] - targets["image"]).abs().mean()))
    assert first == pytest.approx(sum(by_hand) / 2, rel=1e-5)


def test_what_is_saved_is_the_bare_network_and_loads_back():
    torch.manual_seed(0)
    network, other = TinyNetwork(), TinyNetwork()
    wrapped = PretrainingNetwork(network)
    assert list(wrapped.state_dict()) == list(network.state_dict())
    PretrainingNetwork(other).load_state_dict(wrapped.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    trainer, _ = trainer_of(everything(), wrapped, {"reconstruction": 1})
    stage = Stage("pretrain", trainer)
    assert list(stage.state()["network"]) == list(network.state_dict())
    stage.load_state(stage.state())


def test_the_real_network_takes_the_step_as_it_is():
    heads = ("image", "rotation", "projection")
    network = DisruptiveSwinUNETR(in_channels=1, out_channels=2, feature_size=12, num_heads=(1, 2, 4, 8), window_size=2, heads=heads)
    loss = PretrainingLoss({"reconstruction": 1, "cross_modal": 0.05, "rotation": 1, "views": 1})
    step = DisruptivePretraining(
        RandDisruption(), RandChannelMask(0.6, 12), RandTokenMask(), RandCutOut(), RandQuarterTurn(), views=2, outputs=loss.outputs
    )
    image, targets, _, arguments = step(crops(1, shape=(32, 32, 64)))
    total = loss(PretrainingNetwork(network)(image, **arguments), targets)
    total.backward()
    assert torch.isfinite(total)
    assert sorted(loss.parts) == ["cross_modal", "reconstruction", "rotation", "views"]
    trained = {id(parameter) for parameter in network.trained(loss.outputs)}
    assert all((p.grad is not None) == (id(p) in trained) for p in network.parameters())


def test_a_network_without_pretrain_and_odd_views_are_errors():
    with pytest.raises(UserError, match="network: got Conv3d, which has no 'pretrain'; use DisruptiveSwinUNETR"):
        PretrainingNetwork(nn.Conv3d(1, 1, 1))
    with pytest.raises(UserError, match="views: got 3, expected 1, or 2 for the contrast of two views"):
        DisruptivePretraining(views=3)
