"""Losses of several parts: the weighted sum, and means of the parts over an epoch."""

from __future__ import annotations

import pytest
import torch

from common.losses.part_means import PartMeans


def test_the_sum_is_weighted_and_parts_of_weight_0_are_left_out() -> None:
    loss = PartMeans({"a": 2.0, "b": 0.0, "c": 0.5})
    assert loss.weights == {"a": 2.0, "c": 0.5}
    a, c = torch.tensor(3.0, requires_grad=True), torch.tensor(4.0, requires_grad=True)
    total = loss.weighted({"a": a, "c": c})
    total.backward()
    assert float(total) == 8.0 and float(a.grad) == 2.0 and float(c.grad) == 0.5  # type: ignore[arg-type]


def test_means_are_over_the_batches_since_the_last_call() -> None:
    loss = PartMeans({"a": 1.0})
    assert loss.mean_parts() == {}
    for value in (1.0, 2.0, 6.0):
        loss.note({"a": torch.tensor(value, requires_grad=True)})
    assert float(loss.parts["a"]) == 6.0 and not loss.parts["a"].requires_grad
    assert loss.mean_parts() == {"a": pytest.approx(3.0)} and loss.mean_parts() == {}
