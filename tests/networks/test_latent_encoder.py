import pytest
import torch

from common.networks.latent_encoder import LatentEncoder


@pytest.mark.parametrize("grid", [(17, 24, 9), (40, 33, 21), (24, 31), (5, 6)])
def test_an_image_of_any_size_gives_one_latent(grid):
    encoder = LatentEncoder(len(grid), 7, (2, 3))
    assert encoder(torch.rand(2, 1, *grid)).shape == (2, 7)


def test_untrained_it_says_zero_and_gradients_reach_its_last_layer():
    encoder = LatentEncoder(2, 7, (2, 3))
    latents = encoder(torch.rand(3, 1, 20, 16))
    assert latents.abs().sum() == 0
    (latents - 1).square().sum().backward()
    assert encoder.head.weight.grad.abs().sum() > 0


def test_it_knows_where_things_are():
    torch.manual_seed(0)
    encoder = LatentEncoder(2, 7, (4, 8))
    torch.nn.init.normal_(encoder.head.weight)
    image = torch.zeros(1, 1, 32, 32)
    image[..., 4:12, 4:12] = 1
    assert (encoder(image) - encoder(image.flip(2))).abs().max() > 0.1


def test_it_can_learn_latents_from_images():
    torch.manual_seed(0)
    encoder, images, latents = LatentEncoder(2, 3, (4, 8)), torch.rand(6, 1, 24, 24), torch.randn(6, 3)
    optimizer = torch.optim.Adam(encoder.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = (encoder(images) - latents).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_half_precision_images_are_taken():
    assert LatentEncoder(2, 3, (2,))(torch.rand(1, 1, 8, 8).half()).dtype == torch.float32


def test_drawing_anew_starts_at_zero_again():
    encoder = LatentEncoder(3, 3, (2,))
    before = encoder.features[0].weight.clone()
    torch.nn.init.ones_(encoder.head.weight)
    encoder.reset_parameters()
    assert encoder.head.weight.abs().sum() == 0 and not torch.equal(encoder.features[0].weight, before)
