"""The released network is rebuilt here as a function of its state_dict's names alone, so that ours has something to agree with."""

import pytest
import torch
from torch.nn.functional import linear

from common.errors import UserError
from common.networks.brain_inr import BrainINR
from common.networks.convert_neonatal_inr import convert_file, convert_neonatal_inr, released_names, released_settings
from common.weights import load_weights, member_files, read_record

WIDTH, LATENT, LAYERS, COUNT = 6, 5, 5, 9
ROWS = {"common": 0, "CC1": 1, "CC1#flip": 2, "CC2": 3}


def checkpoint(dims=3, kind="wire"):
    generator = torch.Generator().manual_seed(dims)
    state = {"latent_embeddings.weight": torch.rand((COUNT, LATENT), generator=generator) - 0.5}
    state["latent_embeddings.weight"][0] = 0
    widths = [1 + dims + LATENT, *[WIDTH] * (LAYERS - 1), 1]
    for k in range(LAYERS):
        for part in ("freqs", "scale") if kind == "wire" else ("linear",):
            state[f"layers.{k}.{part}.weight"] = torch.randn((widths[k + 1], widths[k]), generator=generator) / widths[k] ** 0.5 / 5
            state[f"layers.{k}.{part}.bias"] = torch.randn(widths[k + 1], generator=generator) / 20
    if kind == "relu":
        state |= {key: value.abs() for key, value in state.items() if key.startswith("layers")}  # so that it is not zero everywhere
    return state


def run(state, points, latents, residual, activate):
    """The forward pass of the released network."""
    x = torch.cat([points, latents[:, None].expand(-1, points.shape[1], -1)], dim=2)
    for k in range(LAYERS):
        before = x
        x = activate(x, k)
        square = before.shape[2] == x.shape[2]
        if square and (residual == "full" or (residual == "skip2" and k % 2 == 0 and k)):
            x = (x + before) / 2
    return x


def wavelet(state):
    def activate(x, k):
        parts = {part: linear(x, state[f"layers.{k}.{part}.weight"], state[f"layers.{k}.{part}.bias"]) for part in ("freqs", "scale")}
        return torch.cos(10 * parts["freqs"]) * torch.exp(-(10 * parts["scale"] * 10 * parts["scale"]))

    return activate


def other(state, function):
    return lambda x, k: function(linear(x, state[f"layers.{k}.linear.weight"], state[f"layers.{k}.linear.bias"]))


CASES = {
    "wire, 3D": (3, "wire", "full", wavelet),
    "wire, 2D": (2, "wire", "skip2", wavelet),
    "siren": (3, "siren", "none", lambda state: other(state, lambda z: torch.sin(30 * z))),
    "relu": (2, "relu", "skip2", lambda state: other(state, torch.relu)),
}


@pytest.mark.parametrize("case", CASES)
def test_our_network_computes_what_the_released_one_computes(case):
    dims, kind, residual, activation = CASES[case]
    state = checkpoint(dims, kind)
    network = BrainINR(["CC2", "CC1", "CC1#flip"], **released_settings(state, kind, residual))
    convert_neonatal_inr(state, network, ROWS)
    network.double()
    state = {key: value.double() for key, value in state.items()}
    points = torch.rand((3, 20, 1 + dims), generator=torch.Generator().manual_seed(7)).double() - 0.5
    names = ["CC1", "CC2", "#global"]
    latents = state["latent_embeddings.weight"][[1, 3, 0]]
    expected = run(state, points, latents, residual, activation(state))
    assert expected.std() > 1e-4  # no dead network
    torch.testing.assert_close(network(points, network.latents.rows(names)).detach(), expected)


def test_settings_of_the_papers_network_are_told_from_the_checkpoint():
    settings = released_settings(checkpoint())
    assert settings == {
        "dims": 3,
        "latent_size": LATENT,
        "width": WIDTH,
        "layers": LAYERS,
        "outputs": 1,
        "activation": "wire",
        "head": "wire",
        "residual": "full",
    }


def test_every_tensor_has_its_row_and_every_layer_of_ours_its_sources():
    state = checkpoint()
    network = BrainINR(**released_settings(state))
    rows = convert_neonatal_inr(state, network)
    assert [row.source for row in rows] == list(state)
    assert {row.target for row in rows} == {f"inr.{name}" for name, _ in network.inr.named_parameters()} | {"latents.weight"}
    assert rows[0].outcome == "transferred: 1 of 9 latents, since no names were given"
    assert released_names(network)["inr.head"] == ("layers.4.freqs", "layers.4.scale")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"layers.9.freqs.weight": torch.zeros(1)}, r"checkpoint: layers\.9\.freqs\.weight; expected a checkpoint of the released code"),
        ({"layers.2.scale.bias": None}, r"checkpoint: no layers\.2\.scale\.bias"),
        ({"layers.2.scale.bias": torch.zeros(4)}, r"inr\.hidden\.1\.bias is \(10,\), the network's \(12,\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error_and_the_network_stays_as_it_was(change, text):
    network = BrainINR(**released_settings(checkpoint()))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value for key, value in (checkpoint() | change).items() if value is not None}
    with pytest.raises(UserError, match=text):
        convert_neonatal_inr(state, network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items() if key != "latents.identity_ages")


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "expected a checkpoint of the released code"),
        (
            checkpoint() | {"layers.0.freqs.weight": torch.zeros((6, 12))},
            "first layer has 12 inputs for latents of 5; expected 3 or 4 more",
        ),
        (checkpoint(3, "siren"), "SIREN and ReLU look alike in a checkpoint; say which"),
        (
            {key: value.to(torch.complex64) if "layers.0" in key else value for key, value in checkpoint(3, "siren").items()},
            "it is of the complex WIRE",
        ),
    ],
)
def test_a_network_that_is_not_ours_has_no_settings(state, text):
    with pytest.raises(UserError, match=text):
        released_settings(state)


def test_rows_that_the_checkpoint_does_not_have_are_an_error():
    state = checkpoint()
    with pytest.raises(UserError, match="latents: CC7: 9; expected rows between 1 and 8"):
        convert_neonatal_inr(state, BrainINR(["CC7"], **released_settings(state)), {"CC7": 9})


def test_the_command_writes_weights_latents_by_name_and_the_settings_they_need(tmp_path, capsys):
    state = checkpoint()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "state_dict_net_00100.pt")
    (tmp_path / "latent_dict_00100.yaml").write_text("".join(f"{name}: {row}\n" for name, row in ROWS.items()))
    convert_file(str(tmp_path / "state_dict_net_00100.pt"), str(tmp_path / "models"), str(tmp_path / "latent_dict_00100.yaml"))
    assert "transferred: 4 of 9 latents" in capsys.readouterr().out
    network = BrainINR(**read_record(tmp_path / "models")["settings"])
    load_weights(network, member_files(tmp_path / "models")[0])
    assert network.latents.names == ("#global", "CC1", "CC1#flip", "CC2")
    torch.testing.assert_close(network.latents.weight.detach(), state["latent_embeddings.weight"][:4])
    with pytest.raises(UserError, match="exists already; name another folder"):
        convert_file(str(tmp_path / "state_dict_net_00100.pt"), str(tmp_path / "models"))


@pytest.mark.parametrize(("text", "error"), [("- a\n- b\n", "holds something else"), ("a: b: c", "cannot be read as YAML")])
def test_names_that_cannot_be_read_are_an_error(tmp_path, text, error):
    torch.save(checkpoint(), tmp_path / "net.pt")
    (tmp_path / "names.yaml").write_text(text)
    with pytest.raises(UserError, match=error):
        convert_file(str(tmp_path / "net.pt"), str(tmp_path / "models"), str(tmp_path / "names.yaml"))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"There is no file .*none\.pt; expected a checkpoint of the released code"):
        convert_file(str(tmp_path / "none.pt"), str(tmp_path))
