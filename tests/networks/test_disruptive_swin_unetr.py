from functools import partial

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR

from common.errors import UserError
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.training import reset_weights

SIZE, SIDES = 12, (32, 64, 32)
GRID = tuple(side // 2 for side in SIDES)
EVERY_CHANNEL = torch.ones(1, SIZE, 1, 1, 1)
HEADS = ("image", "rotation", "projection")
SMALL = {"feature_size": SIZE, "depths": (1, 1, 1, 1), "window_size": 2}


def build(**settings):
    """A small network whose draw depends on its settings alone."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return DisruptiveSwinUNETR(1, 3, **SMALL, **settings)


@pytest.fixture(scope="module")
def closed():
    return build(heads=HEADS)


@pytest.fixture(scope="module")
def opened():
    return build(skip="open")


@pytest.fixture
def unfilled(monkeypatch):
    """Networks are built without memory; MONAI reads numbers from one tensor while it builds."""
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        yield


def images(number=1, seed=0):
    return torch.rand(number, 1, *SIDES, generator=torch.Generator().manual_seed(seed))


def tokens_hidden_in_the_first_half(number=1):
    """A token mask that hides the first 8 of 16 tokens along the first axis."""
    mask = torch.zeros(number, 1, *GRID, dtype=torch.bool)
    mask[:, :, :8] = True
    return mask


# ------------------------------------------------------------------------------------------------------------- the embedding, disrupted


def first_stage_sees(network, **masks):
    """What goes into the first Swin stage, ``(B, C, D, H, W)``."""
    seen = []
    hook = network.swinViT.layers1[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network.encode(images(), **masks)
    hook.remove()
    return seen[0]


def test_channels_are_hidden_as_channels_and_no_axis_is_taken_for_another(closed):
    mask = torch.zeros(1, SIZE, 1, 1, 1, dtype=torch.bool)
    mask[0, [1, 7]] = True
    whole, seen = first_stage_sees(closed), first_stage_sees(closed, channel_mask=mask)
    assert seen.shape == (1, SIZE, *GRID)  # unequal sides, as the image's
    assert torch.equal(whole, closed.swinViT.patch_embed(images()))
    for channel in range(SIZE):
        assert torch.equal(seen[:, channel], 0 * whole[:, channel] if channel in (1, 7) else whole[:, channel])


def test_hidden_tokens_hold_the_mask_token_and_hidden_channels_are_hidden_in_it_too(closed):
    channels = torch.zeros(1, SIZE, 1, 1, 1)
    channels[0, 3] = 1
    whole, seen = first_stage_sees(closed), first_stage_sees(closed, token_mask=tokens_hidden_in_the_first_half(), channel_mask=channels)
    token = closed.mask_token.detach().clone()
    token[3] = 0
    assert torch.equal(seen[:, :, :8], token.view(1, -1, 1, 1, 1).expand_as(seen[:, :, :8]))
    assert torch.equal(seen[:, 4:, 8:], whole[:, 4:, 8:]) and not seen[:, 3].any()


def test_the_kept_channels_are_divided_by_their_share_where_asked_for():
    mask = torch.zeros(1, SIZE, 1, 1, 1)
    mask[0, :9] = 1  # a quarter is kept
    network = build(rescale="true")
    torch.testing.assert_close(first_stage_sees(network, channel_mask=mask)[:, 9:], 4 * first_stage_sees(network)[:, 9:])


# ------------------------------------------------------------------------------------------------------------- what passes, what does not


@pytest.mark.parametrize("stem", ["conv", "block"])
def test_with_every_channel_hidden_nothing_of_the_image_passes(stem):
    network = build(stem=stem).eval()
    with torch.no_grad():
        first, other = (network.pretrain(images(seed=seed), channel_mask=EVERY_CHANNEL) for seed in (1, 2))
    assert torch.equal(first["image"], other["image"]) and torch.equal(first["embedding"], other["embedding"])


def test_with_an_open_skip_the_image_passes_around_the_encoder(opened):
    with torch.no_grad():
        first, other = (opened.pretrain(images(seed=seed), channel_mask=EVERY_CHANNEL) for seed in (1, 2))
    assert torch.equal(first["embedding"], other["embedding"]) and not torch.allclose(first["image"], other["image"])


@pytest.mark.parametrize(("stem", "skip"), [("conv", "drop"), ("block", "drop"), ("conv", "disrupted"), ("block", "disrupted")])
def test_the_voxels_of_hidden_tokens_change_nothing(stem, skip):
    network, mask, image = build(stem=stem, skip=skip).eval(), tokens_hidden_in_the_first_half(), images()
    other = image.clone()
    other[:, :, :16] = float("nan")  # 8 tokens of 2 voxels
    with torch.no_grad():
        results = [network.pretrain(x, token_mask=mask) for x in (image, other)]
    assert torch.equal(results[0]["image"], results[1]["image"])
    assert torch.equal(results[0]["embedding"], results[1]["embedding"])


def test_the_voxels_of_seen_tokens_matter(closed):
    mask, image = tokens_hidden_in_the_first_half(), images()
    other = image.clone()
    other[:, :, 16:18] += 1  # the first token after the hidden ones
    with torch.no_grad():
        results = [closed.pretrain(x, token_mask=mask)["image"] for x in (image, other)]
    assert not torch.allclose(*results)


def test_an_open_skip_shows_the_voxels_of_hidden_tokens(opened):
    mask, image = tokens_hidden_in_the_first_half(), images()
    with torch.no_grad():
        results = [opened.pretrain(x, token_mask=mask)["image"] for x in (image, image * torch.linspace(2, 1, 32).view(1, 1, 32, 1, 1))]
    assert not torch.allclose(*results)


def test_samples_of_a_batch_have_masks_of_their_own(closed):
    batch = images().repeat(2, 1, 1, 1, 1)
    mask = torch.cat([torch.zeros_like(EVERY_CHANNEL), EVERY_CHANNEL])
    with torch.no_grad():
        together = closed.pretrain(batch, channel_mask=mask)["embedding"]
        alone = torch.cat([closed.pretrain(batch[:1], channel_mask=m[None])["embedding"] for m in mask])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together[0], together[1])


# ------------------------------------------------------------------------------------------------------------- agreement with MONAI


def test_undisrupted_and_with_an_open_skip_features_and_logits_are_those_of_monais_network(opened):
    plain = SwinUNETR(1, 3, **SMALL)
    plain.load_state_dict({key: value for key, value in opened.state_dict().items() if key in plain.state_dict()})
    before = []
    hook = plain.out.register_forward_pre_hook(lambda module, inputs: before.append(inputs[0]))
    with torch.no_grad():
        image = images()
        logits = plain(image)
        features = opened.decode(opened.encode(image), opened.encoder1(image))
        assert torch.equal(features, before[0])
        assert torch.equal(opened(image), logits)
        assert torch.equal(opened.pretrain(image)["image"], opened.pretext["image"](features))
        for ours, theirs in zip(opened.stages(image), plain.swinViT(image, True), strict=True):
            assert torch.equal(ours, theirs)
    hook.remove()


def test_without_heads_the_names_are_those_of_monais_network():
    assert set(build(heads=()).state_dict()) == set(SwinUNETR(1, 3, **SMALL).state_dict())


@pytest.mark.parametrize(("outputs", "parameters"), [(1, 62_186_659), (14, 62_187_296), (8, 62_187_002)])
def test_the_papers_network_has_as_many_parameters_as_monais(unfilled, outputs, parameters):
    network = DisruptiveSwinUNETR(1, outputs)
    own = sum(p.numel() for name, p in network.named_parameters() if name.startswith(("pretext.", "mask_token")))
    assert sum(p.numel() for p in network.parameters()) - own == parameters
    assert sum(p.numel() for p in network.swinViT.parameters()) == 8_062_002
    assert own == 48 + 49  # mask token; 48 weights and a bias to one channel


def test_the_stem_of_the_released_code_has_two_affine_norms_and_no_bias(unfilled):
    stem = DisruptiveSwinUNETR(1, 1, stem="block").swinViT.patch_embed
    sizes = {name: tuple(p.shape) for name, p in stem.named_parameters()}
    assert sizes.pop("proj.conv1.conv.weight") == (48, 1, 3, 3, 3)
    assert sizes.pop("proj.conv2.conv.weight") == (48, 48, 3, 3, 3)
    assert sizes == {f"proj.norm{n}.{kind}": (48,) for n in (1, 2) for kind in ("weight", "bias")}


# ------------------------------------------------------------------------------------------------------------- tasks, gradients, draws


def test_each_task_has_its_shape_and_only_those_asked_for_come_back(closed):
    with torch.no_grad():
        found = closed.pretrain(images(2), tasks=("image", "embedding", "rotation", "projection"))
        assert {task: tuple(value.shape) for task, value in found.items()} == {
            "image": (2, 1, *SIDES),
            "embedding": (2, 16 * SIZE),
            "rotation": (2, 4),
            "projection": (2, 512),
        }
        assert list(closed.pretrain(images(2), tasks=("rotation",))) == ["rotation"]
        assert torch.equal(found["embedding"], closed.stages(images(2))[4].mean(dim=(2, 3, 4)))


def test_the_restored_image_has_the_images_channels():
    with torch.no_grad():
        found = DisruptiveSwinUNETR(2, 5, **SMALL).pretrain(torch.rand(1, 2, *SIDES))
    assert found["image"].shape == (1, 2, *SIDES)


def test_gradients_reach_exactly_what_is_said_to_be_trained():
    network = build(heads=HEADS)
    found = network.pretrain(images(), token_mask=tokens_hidden_in_the_first_half())
    (found["image"].abs().mean() + found["embedding"].square().mean()).backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None}
    trained = {id(p) for p in network.trained()}
    assert reached == {name for name, p in network.named_parameters() if id(p) in trained}
    assert network.untrained() == ("out.", "encoder1.", "pretext.rotation.", "pretext.projection.")
    assert network.swinViT.patch_embed.proj.weight.grad.any() and network.mask_token.grad.any()
    first = network.decoder1.conv_block.conv1.conv.weight.grad
    assert first[:, :SIZE].any() and not first[:, SIZE:].any()  # the half that meets the dropped skip


@pytest.mark.parametrize("skip", ["disrupted", "open"])
def test_a_skip_that_is_not_dropped_is_trained(skip):
    network = build(skip=skip)
    network.pretrain(images())["image"].sum().backward()
    assert network.encoder1.layer.conv1.conv.weight.grad.any() and network.untrained() == ("out.",)


def test_without_a_restored_image_the_decoder_is_not_trained(closed):
    names = dict(closed.named_parameters())
    trained = {id(p) for p in closed.trained(("rotation",))}
    assert {name.split(".")[0] for name, p in names.items() if id(p) in trained} == {"swinViT", "mask_token", "pretext"}


def test_checkpointing_stores_less_and_changes_neither_result_nor_gradient():
    results, stored = [], []
    for use_checkpoint in (False, True):
        network = build(use_checkpoint=use_checkpoint)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda kept, sizes=sizes: sizes.append(kept.numel()) or kept, lambda kept: kept):
            embedding = network.pretrain(images(), tasks=("embedding",))["embedding"]
        stored.append(sum(sizes))
        embedding.pow(3).mean().backward()
        results.append((embedding.detach(), network.swinViT.layers1[0].blocks[0].attn.qkv.weight.grad))
    torch.testing.assert_close(results[0], results[1])
    assert stored[1] < 0.5 * stored[0]


def test_a_reset_draws_every_weight_anew_and_the_same_seed_gives_the_same():
    network = build(heads=HEADS)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        reset_weights(network)
        draws.append({name: p.detach().clone() for name, p in network.named_parameters()})
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])
    constant = {
        name for name, value in draws[0].items() if value.numel() > 1 and (value == value.flatten()[0]).all()
    }  # scales and shifts of norms
    assert all("norm" in name for name in constant)
    assert not [name for name in draws[0] if name not in constant and torch.equal(draws[0][name], draws[2][name])]


# ------------------------------------------------------------------------------------------------------------- a user's mistakes


@pytest.mark.parametrize("sides", [(40, 64, 32), (32, 32, 32), (96, 96, 95)])
def test_sides_that_do_not_fit_are_an_error(closed, sides):
    with pytest.raises(UserError, match=r"image: got shape \(1, 1, .*\), expected \(B, 1, D, H, W\) with sides that are multiples of 32"):
        closed.pretrain(torch.zeros(1, 1, *sides))


def test_another_number_of_channels_is_an_error(closed):
    with pytest.raises(UserError, match=r"image: got shape \(1, 2, 64, 64, 64\), expected \(B, 1, "):
        closed.pretrain(torch.zeros(1, 2, 64, 64, 64))


def test_masks_of_another_shape_are_an_error(closed):
    with pytest.raises(UserError, match=r"channel_mask: got shape \(1, 5, 1, 1, 1\), expected \(1, 12, 1, 1, 1\); True hides"):
        closed.pretrain(images(), channel_mask=torch.ones(1, 5, 1, 1, 1))
    with pytest.raises(UserError, match=r"token_mask: got shape \(1, 1, 32, 64, 32\), expected \(1, 1, 16, 32, 16\)"):
        closed.pretrain(images(), token_mask=torch.ones(1, 1, *SIDES))


def test_a_task_without_its_head_is_an_error(opened):
    with pytest.raises(UserError, match=r"tasks: got \['rotation'\], but the network was built with heads \['image'\]"):
        opened.pretrain(images(), tasks=("image", "rotation"))


def test_hiding_in_a_network_without_heads_is_an_error():
    with pytest.raises(UserError, match="built without heads, hence without a mask token"):
        build(heads=()).pretrain(images(), token_mask=tokens_hidden_in_the_first_half(), tasks=("embedding",))


@pytest.mark.parametrize(("name", "settings"), [("skip", {"skip": "shut"}), ("stem", {"stem": "patch"}), ("heads", {"heads": ("jigsaw",)})])
def test_unknown_choices_are_an_error_that_lists_the_known(name, settings):
    with pytest.raises(UserError, match=rf"{name}: got '\w+', expected one of \w+, "):
        build(**settings)
