import math

import pytest
import torch

from common.errors import UserError
from common.metrics import feature_similarity
from common.metrics.feature_similarity import feature_matrix, linear_cka, stage_similarity

SHAPES = [(8, 30, 12), (40, 5, 9), (10, 10, 10), (7, 3, 50)]  # more columns than samples, fewer, as many, either
by_shape = pytest.mark.parametrize(("samples", "columns", "others"), SHAPES)


def tables(samples, columns, others, seed=0):
    """Two tables that share a part."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(samples, columns, generator=draw, dtype=torch.float64) + 3
    return first, first @ torch.randn(columns, others, generator=draw, dtype=torch.float64) + torch.randn(samples, others, generator=draw)


def rotation(size, seed=1):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def hsic_by_definition(first, second):
    """tr(K H L H) / (N - 1)^2 with linear kernels and the centring matrix H."""
    size = len(first)
    centring = torch.eye(size, dtype=torch.float64) - torch.full((size, size), 1 / size, dtype=torch.float64)
    return torch.trace(first @ first.T @ centring @ second @ second.T @ centring) / (size - 1) ** 2


@by_shape
def test_a_table_is_like_itself(samples, columns, others):
    assert linear_cka(*[tables(samples, columns, others)[0]] * 2) == pytest.approx(1, abs=1e-12)


@by_shape
def test_rotating_scaling_and_shifting_either_table_changes_nothing(samples, columns, others):
    first, second = tables(samples, columns, others)
    plain = linear_cka(first, second)
    assert 0 < plain < 1
    assert linear_cka(-2.5 * first @ rotation(columns) + 7, 0.1 * second @ rotation(others)) == pytest.approx(plain, abs=1e-10)


@by_shape
def test_the_order_of_samples_and_of_the_two_tables_does_not_matter(samples, columns, others):
    first, second = tables(samples, columns, others)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(2))
    assert linear_cka(second[order], first[order]) == pytest.approx(linear_cka(first, second), abs=1e-12)


def test_a_map_that_is_no_rotation_does_change_it():
    first = tables(40, 5, 9)[0]
    assert linear_cka(first, first * torch.tensor([1.0, 1, 1, 1, 20])) < 0.9


@by_shape
def test_it_is_the_normalised_hsic_of_linear_kernels(samples, columns, others):
    first, second = tables(samples, columns, others)
    own = hsic_by_definition(first, first) * hsic_by_definition(second, second)
    expected = hsic_by_definition(first, second) / own.sqrt()
    assert linear_cka(first, second) == pytest.approx(float(expected), abs=1e-12)


def test_one_column_each_gives_the_squared_correlation():
    first, second = torch.tensor([[1.0], [2], [3], [6]]), torch.tensor([[2.0], [1], [4], [5]])
    # centred -2 -1 0 3 and -1 -2 1 2: product 2 + 2 + 0 + 6 = 10, squares 14 and 10; 10^2 / (14 * 10)
    assert linear_cka(first, second) == pytest.approx(100 / 140)


@by_shape
def test_small_bunches_give_the_same(samples, columns, others, monkeypatch):
    first, second = tables(samples, columns, others)
    whole = linear_cka(first, second)
    monkeypatch.setattr(feature_similarity, "_CHUNK", 17)
    assert linear_cka(first, second) == pytest.approx(whole, abs=1e-12)


def test_single_precision_with_a_large_mean_is_exact_enough():
    first, second = tables(200, 4, 3)
    assert linear_cka(first.float() + 1000, second.float()) == pytest.approx(linear_cka(first, second), abs=1e-4)


def test_many_columns_take_no_table_of_columns_by_columns():
    first = torch.randn(3, 300_000, generator=torch.Generator().manual_seed(0))  # 300 000^2 values would be 720 GB
    assert linear_cka(first, first.flip(1)) == pytest.approx(linear_cka(first.flip(1), first))


def test_tables_that_share_nothing_are_unlike_given_many_samples():
    draw = torch.Generator().manual_seed(0)
    assert linear_cka(torch.randn(5000, 4, generator=draw), torch.randn(5000, 4, generator=draw)) < 0.01


def test_a_table_that_is_the_same_for_all_samples_has_no_similarity():
    assert math.isnan(linear_cka(torch.ones(4, 3), torch.rand(4, 2)))
    assert math.isnan(linear_cka(torch.ones(4, 9), torch.rand(4, 2)))


def test_images_are_rows_or_positions_are():
    features = torch.arange(2 * 3 * 4.0).view(2, 3, 2, 1, 2)
    images, positions = feature_matrix(features), feature_matrix(features, "positions")
    assert images.shape == (2, 12) and torch.equal(images[1], features[1].flatten())
    assert positions.shape == (8, 3)
    assert torch.equal(positions[0], features[0, :, 0, 0, 0]) and torch.equal(positions[6], features[1, :, 1, 0, 0])
    pooled = torch.rand(4, 5)
    assert torch.equal(feature_matrix(pooled), pooled) and torch.equal(feature_matrix(pooled, "positions"), pooled)


def test_stages_are_compared_one_by_one():
    first = [torch.rand(6, 2 * n, 2, 3, 2) for n in (1, 2)]
    second = [torch.rand(6, 2 * n, 2, 3, 2) for n in (1, 2)]
    assert stage_similarity(first, second) == [linear_cka(a.flatten(1), b.flatten(1)) for a, b in zip(first, second, strict=True)]
    assert stage_similarity(first, first, "positions") == pytest.approx([1, 1])


@pytest.mark.parametrize("shapes", [((4, 2), (5, 2)), ((1, 2), (1, 2)), ((4, 2, 2), (4, 2))])
def test_tables_of_other_samples_are_an_error(shapes):
    with pytest.raises(UserError, match=r"features: got shapes .* and .*, expected \(N, P\) and \(N, Q\) with the same N, at least 2"):
        linear_cka(*(torch.rand(shape) for shape in shapes))


def test_mistakes_in_words_and_counts_are_errors():
    with pytest.raises(UserError, match="samples: got 'voxels', expected one of images, positions"):
        feature_matrix(torch.rand(2, 3), "voxels")
    with pytest.raises(UserError, match=r"features: got shape \(3,\), expected \(N, C, \*spatial\)"):
        feature_matrix(torch.rand(3))
    with pytest.raises(UserError, match="stages: got 1 and 2, expected as many of both networks"):
        stage_similarity([torch.rand(2, 3)], [torch.rand(2, 3)] * 2)
