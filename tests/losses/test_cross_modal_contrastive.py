"""The contrast of modalities; two processes (gloo) must give what one gives on the joined batch."""

from __future__ import annotations

import logging
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from common.errors import UserError
from common.losses.cross_modal_contrastive import CrossModalContrastiveLoss, same_modality, similarity

LABELS = torch.tensor([0, 1, 0, 2, 1, 0])
VARIANTS = [
    {},
    {"self_pairs": True},
    {"entropy": "binary"},
    {"entropy": "binary", "scaling": "exp"},
    {"entropy": "binary", "scaling": "exp", "self_pairs": True},
    {"scaling": "exp", "temperature": 0.5},
]


def features(count=6, width=5, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair_by_pair(z, labels, temperature=0.07, entropy="cross", scaling="divide", self_pairs=False):
    """The same loss by loops over rows and over columns, in plain Python."""
    n = len(z)
    scale = 1 / temperature if scaling == "divide" else math.exp(temperature)
    cosine = [[float(z[i] @ z[j] / z[i].norm() / z[j].norm()) for j in range(n)] for i in range(n)]
    pairs = [(i, j) for i in range(n) for j in range(n) if self_pairs or i != j]
    if entropy == "binary":
        chances = [(1 / (1 + math.exp(-scale * cosine[i][j])), labels[i] == labels[j]) for i, j in pairs]
        return sum(-math.log(p if positive else 1 - p) for p, positive in chances) / len(pairs)
    both = []
    for flipped in (False, True):
        terms = []
        for i in range(n):
            others = [(j, scale * (cosine[j][i] if flipped else cosine[i][j])) for a, j in pairs if a == i]
            total = sum(math.exp(s) for _, s in others)
            positives = [s for j, s in others if labels[i] == labels[j]]
            if positives:
                terms.append(-sum(math.log(math.exp(s) / total) for s in positives) / len(positives))
        both.append(sum(terms) / len(terms))
    return sum(both) / 2


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_it_equals_the_sum_over_pairs_row_by_row_and_column_by_column(variant):
    found = CrossModalContrastiveLoss(**variant)(features(), LABELS)
    assert float(found) == pytest.approx(pair_by_pair(features(), LABELS.tolist(), **variant), rel=1e-9)


def test_a_batch_by_hand():
    z = torch.tensor([[1.0, 0], [2, 0], [0, 3]])
    # cosines: 1 for the pair of one modality, 0 for the others; t = 0.5: -log(e^2 / (e^2 + e^0)) in both rows that have a positive
    found = CrossModalContrastiveLoss(0.5)(z, torch.tensor([4, 4, 7]))
    assert float(found) == pytest.approx(math.log(1 + math.exp(-2)))
    # binary: two ordered pairs at logit 2 (same), four at 0 (not): (2 log(1 + e^-2) + 4 log 2) / 6
    found = CrossModalContrastiveLoss(0.5, entropy="binary")(z, torch.tensor([4, 4, 7]))
    assert float(found) == pytest.approx((2 * math.log(1 + math.exp(-2)) + 4 * math.log(2)) / 6)


def test_the_papers_scaling_hardly_sharpens_and_division_does():
    z = torch.tensor([[1.0, 0], [1, 0]])
    assert float(similarity(z, 0.07, "exp")[0, 1]) == pytest.approx(1.0725, abs=1e-4)
    assert float(similarity(z, 0.07)[0, 1]) == pytest.approx(14.286, abs=1e-3)


def test_self_pairs_are_on_the_diagonal_alone():
    positive, counted = same_modality(torch.tensor([0, 1, 0]))
    assert positive.int().tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert counted.int().tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    positive, counted = same_modality(torch.tensor([0, 1, 0]), self_pairs=True)
    assert positive.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert counted.all()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_order_length_of_features_and_names_of_modalities_do_not_matter(variant):
    loss, order = CrossModalContrastiveLoss(**variant), torch.tensor([3, 1, 5, 0, 2, 4])
    expected = loss(features(), LABELS)
    torch.testing.assert_close(loss(features()[order], LABELS[order]), expected)
    torch.testing.assert_close(loss(features() * torch.rand(6, 1).add(0.1), LABELS), expected)
    torch.testing.assert_close(loss(features(), torch.tensor([9, 4, 7])[LABELS]), expected)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_descent_brings_one_modality_together(variant):
    z = features().requires_grad_()
    loss, optimizer = CrossModalContrastiveLoss(**variant), torch.optim.Adam([z], lr=0.1)
    first = float(loss(z.detach(), LABELS))
    for _ in range(60):
        optimizer.zero_grad()
        loss(z, LABELS).backward()
        optimizer.step()
    positive, counted = same_modality(LABELS)
    cosine = similarity(z.detach(), 1.0)
    assert float(loss(z.detach(), LABELS)) < first
    assert float(cosine[positive].mean()) > float(cosine[counted & ~positive].mean()) + 0.5


@pytest.mark.parametrize("variant", [{}, {"entropy": "binary"}], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_without_positive_pair_gives_zero_with_a_graph_is_counted_and_said_once(variant, count, caplog):
    loss, z = CrossModalContrastiveLoss(**variant), torch.randn(count, 4, requires_grad=True)
    with caplog.at_level(logging.WARNING, "brain_bundles"):
        for _ in range(2):
            value = loss(z, torch.arange(count))
    value.backward()
    assert value.item() == 0
    assert not z.grad.any()
    loss(torch.randn(2, 4), torch.tensor([5, 5]))
    assert (loss.batches, loss.without_positive) == (3, 2)
    assert [r.getMessage() for r in caplog.records] == [
        f"No two samples of a batch of {count} share a modality; its contrast is 0. Use larger batches."
    ]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_single_modality_zero_features_and_half_precision_stay_finite(variant):
    loss = CrossModalContrastiveLoss(**variant)
    for z in (torch.randn(4, 6), torch.zeros(4, 6), 1000 * torch.randn(4, 6), torch.randn(4, 6).half()):
        z = z.requires_grad_()
        value = loss(z, torch.tensor([2, 2, 2, 2]))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(z.grad).all()
        assert value.dtype == torch.float32


def test_autocast_does_not_lower_its_precision():
    z = torch.randn(6, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = CrossModalContrastiveLoss()(z, LABELS)
    assert torch.equal(found, CrossModalContrastiveLoss()(z, LABELS))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"entropy": "both"}, r"entropy: got 'both', expected one of \('cross', 'binary'\)"),
        ({"scaling": "log"}, r"scaling: got 'log', expected one of \('divide', 'exp'\)"),
        ({"temperature": 0}, "temperature: got 0, expected a number > 0"),
        ({"self_pairs": "perhaps"}, "self_pairs: got 'perhaps', expected true or false"),
    ],
)
def test_wrong_settings_are_errors(settings, text):
    with pytest.raises(UserError, match=text):
        CrossModalContrastiveLoss(**settings)


def test_labels_that_are_not_one_per_sample_are_an_error():
    with pytest.raises(UserError, match=r"labels: got shape \(3,\) for features \(6, 5\), expected one per sample"):
        CrossModalContrastiveLoss()(features(), torch.arange(3))


def loss_and_gradients(z: torch.Tensor, labels: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Loss of samples through a layer that all processes share, and the layer's gradient."""
    layer = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(5, 4).requires_grad_()
    loss = CrossModalContrastiveLoss()(z @ layer, labels)
    loss.backward()
    assert layer.grad is not None
    return float(loss.detach()), layer.grad


def one_process(rank: int, store: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    own = slice(0, 4) if rank == 0 else slice(4, 6)  # unequal shares
    loss, gradient = loss_and_gradients(features()[own], LABELS[own])
    results.put((rank, loss, gradient.tolist()))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_average_to_the_loss_and_gradient_of_the_joined_batch(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")  # no second import of everything
    results = context.Queue()
    processes = [context.Process(target=one_process, args=(rank, str(tmp_path / "store"), results)) for rank in range(2)]
    try:
        for process in processes:
            process.start()
        found = sorted(results.get(timeout=60) for _ in processes)
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    expected, gradient = loss_and_gradients(features(), LABELS)
    assert [row[1] for row in found] == pytest.approx([expected, expected])
    mean = sum(torch.tensor(row[2], dtype=torch.float64) for row in found) / 2
    torch.testing.assert_close(torch.as_tensor(mean), gradient)
    assert not torch.allclose(torch.tensor(found[0][2], dtype=torch.float64), gradient), "each process sees its own samples' part alone"
