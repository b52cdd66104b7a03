import pytest
import torch
from torch.nn import functional

from common.networks.residual_blocks import ResidualBlock, convolution, doubling


def keras_strided(image, weight):
    """Keras' "same" convolution of stride 2 on even sides: one pixel of padding at the end of each axis."""
    return functional.conv2d(functional.pad(image, (0, 1, 0, 1)), weight, stride=2)


def keras_transposed(image, weight):
    """Keras' "same" transposed convolution of stride 2, the adjoint of the above: what hangs over at the end is cut off."""
    return functional.conv_transpose2d(image, weight, stride=2)[..., :-1, :-1]


def test_a_halving_is_that_of_keras_on_the_mirrored_image():
    layer, image = convolution(2, 3, 5, stride=2), torch.rand(2, 3, 8, 12)
    expected = keras_strided(image.flip(2, 3), layer.weight.flip(2, 3)).flip(2, 3) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(image), expected)


def test_a_doubling_is_that_of_keras_on_the_mirrored_image():
    layer, image = doubling(2, 3, 5)[0], torch.rand(2, 3, 4, 6)
    expected = keras_transposed(image.flip(2, 3), layer.weight.flip(2, 3)).flip(2, 3) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(image), expected)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("block", ["preactivation", "original"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_whose_convolutions_are_zero_is_its_shortcut(dims, block, stride):
    layer, x = ResidualBlock(dims, 4, 4, stride, block).eval(), torch.randn(1, 4, *[8] * dims)
    for inner in layer.residual:
        if hasattr(inner, "kernel_size"):
            torch.nn.init.zeros_(inner.weight)
            torch.nn.init.zeros_(inner.bias)
    shortcut = x if stride == 1 else layer.shortcut(x)
    torch.testing.assert_close(layer(x), shortcut.relu() if block == "original" else shortcut)


def test_the_shortcut_of_a_strided_block_takes_the_raw_input_at_every_second_pixel():
    layer, x = ResidualBlock(2, 1, 1, 2).eval(), torch.randn(1, 1, 6, 8)
    torch.nn.init.ones_(layer.shortcut.weight)
    torch.nn.init.zeros_(layer.shortcut.bias)
    torch.testing.assert_close(layer.shortcut(x), x[..., ::2, ::2])


def test_the_order_of_the_layers_is_that_of_the_two_papers():
    def kinds(block):
        return [type(layer).__name__.rstrip("23d") for layer in ResidualBlock(2, 4, 8, 1, block, project=True).residual]

    assert kinds("preactivation") == ["BatchNorm", "ReLU", "Conv", "BatchNorm", "ReLU", "Conv"]
    assert kinds("original") == ["Conv", "BatchNorm", "ReLU", "Conv", "BatchNorm"]


def test_a_block_does_not_change_its_input():
    for block in ("preactivation", "original"):
        x = torch.randn(2, 4, 8, 8)
        before = x.clone()
        ResidualBlock(2, 4, 4, 1, block)(x)
        assert torch.equal(x, before)
