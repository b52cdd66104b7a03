import math

import pytest
import torch
from monai.losses import ContrastiveLoss

from common.errors import UserError
from common.losses.cross_modal_contrastive import CrossModalContrastiveLoss
from common.losses.pretext_losses import PretrainingLoss, ViewsLoss, reconstruction_loss, rotation_loss

ALL = {"reconstruction": 1.0, "cross_modal": 0.05, "rotation": 2.0, "views": 3.0}


@pytest.fixture
def batch():
    """Two crops in two views."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    outputs = {"image": draw(4, 1, 4, 3, 2), "embedding": draw(4, 6), "rotation": draw(4, 4), "projection": draw(4, 5)}
    targets = {"image": draw(4, 1, 4, 3, 2), "modality_index": torch.tensor([0, 1, 0, 1]), "rotation": torch.arange(4), "views": 2}
    return outputs, targets


def test_reconstruction_is_the_mean_absolute_error_of_the_whole_volume():
    outputs, targets = {"image": torch.tensor([[1.0, 2.0]])}, {"image": torch.tensor([[0.0, 4.0]])}
    assert float(reconstruction_loss(outputs, targets)) == 1.5  # (1 + 2) / 2


def test_rotation_by_hand():
    # logits (0, 0, 0, 0): log 4; logits (log 3, 0, 0, 0) with class 0: -log(3 / 6) = log 2
    logits = torch.tensor([[0.0, 0, 0, 0], [math.log(3), 0, 0, 0]])
    found = rotation_loss({"rotation": logits}, {"rotation": torch.tensor([2, 0])})
    assert float(found) == pytest.approx((math.log(4) + math.log(2)) / 2)


def test_views_contrast_the_first_half_with_the_second_as_monai_does(batch):
    outputs, targets = batch
    first, second = outputs["projection"][:2], outputs["projection"][2:]
    torch.testing.assert_close(ViewsLoss(0.3)(outputs, targets), ContrastiveLoss(temperature=0.3)(first, second))


def test_equal_views_of_unlike_crops_are_better_than_exchanged_ones():
    z = torch.eye(3)
    same, exchanged = ({"projection": torch.cat([z, other])} for other in (z, z.roll(1, 0)))
    assert float(ViewsLoss()(same, {"views": 2})) < float(ViewsLoss()(exchanged, {"views": 2}))


def test_the_sum_is_weighted_and_its_parts_are_named_without_weights(batch):
    loss = PretrainingLoss(ALL)
    total = loss(*batch)
    alone = {name: PretrainingLoss({name: 1.0})(*batch) for name in ALL}
    torch.testing.assert_close(loss.parts, alone)
    torch.testing.assert_close(total, sum(ALL[name] * value for name, value in alone.items()))
    torch.testing.assert_close(alone["cross_modal"], CrossModalContrastiveLoss()(batch[0]["embedding"], batch[1]["modality_index"]))


def test_the_papers_weights_ask_the_network_for_two_outputs(batch):
    loss = PretrainingLoss({"reconstruction": 1, "cross_modal": 0.05, "rotation": 0})
    assert loss.outputs == ["embedding", "image"]
    outputs = {name: batch[0][name] for name in loss.outputs}
    expected = (outputs["image"] - batch[1]["image"]).abs().mean() + 0.05 * CrossModalContrastiveLoss()(
        outputs["embedding"], torch.arange(4) % 2
    )
    torch.testing.assert_close(loss(outputs, batch[1]), expected)


def test_a_given_contrast_is_used(batch):
    binary = CrossModalContrastiveLoss(entropy="binary", scaling="exp")
    found = PretrainingLoss({"cross_modal": 1}, binary)(*batch)
    torch.testing.assert_close(found, binary(batch[0]["embedding"], batch[1]["modality_index"]))


def test_every_task_reaches_the_output_it_looks_at_and_no_other(batch):
    for name, key in {"reconstruction": "image", "cross_modal": "embedding", "rotation": "rotation", "views": "projection"}.items():
        outputs = {output: value.clone().requires_grad_() for output, value in batch[0].items()}
        PretrainingLoss({name: 1.0})(outputs, batch[1]).backward()
        assert {output for output, value in outputs.items() if value.grad is not None and value.grad.any()} == {key}


def test_means_of_the_parts_cover_the_batches_since_the_last_call(batch):
    loss = PretrainingLoss({"reconstruction": 5})
    assert loss.mean_parts() == {}
    outputs, targets = batch
    values = []
    for factor in (1.0, 3.0):
        loss({"image": targets["image"] + factor}, targets)
        values.append(float(loss.parts["reconstruction"]))
    assert values == pytest.approx([1, 3])
    assert loss.mean_parts() == pytest.approx({"reconstruction": 2})
    loss(outputs, targets)
    assert loss.mean_parts() == pytest.approx({"reconstruction": float(loss.parts["reconstruction"])})


def test_half_precision_outputs_give_a_loss_in_full_precision(batch):
    outputs = {name: value.bfloat16() for name, value in batch[0].items()}
    found = PretrainingLoss(ALL)(outputs, batch[1])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, PretrainingLoss(ALL)(*batch), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"jigsaw": 1}, r"weights: got task \['jigsaw'\], expected some of \['cross_modal', 'reconstruction', 'rotation', 'views'\]"),
        ({"reconstruction": -1}, r"weights: got {'reconstruction': -1}, expected numbers >= 0 and one at least above 0"),
        ({"reconstruction": 0}, r"weights: got {'reconstruction': 0}, expected numbers >= 0 and one at least above 0"),
        ({}, "weights: got {}, expected numbers >= 0 and one at least above 0"),
    ],
)
def test_wrong_weights_are_errors(weights, text):
    with pytest.raises(UserError, match=text):
        PretrainingLoss(weights)


def test_a_missing_output_target_or_view_is_said_in_words(batch):
    outputs, targets = batch
    with pytest.raises(UserError, match=r"The network gave outputs \['image'\], but \['rotation'\] need \['rotation'\]; ask it for these"):
        PretrainingLoss({"rotation": 1})({"image": outputs["image"]}, targets)
    with pytest.raises(
        UserError, match=r"Task cross_modal needs the target 'modality_index', the step gave \['image'\]; switch it on there"
    ):
        PretrainingLoss({"cross_modal": 1})(outputs, {"image": targets["image"]})
    with pytest.raises(UserError, match="views: got batches of 1 view of each crop, expected 2; set views to 2 in the pre-training step"):
        PretrainingLoss({"views": 1})(outputs, {**targets, "views": 1})
