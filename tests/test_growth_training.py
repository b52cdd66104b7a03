"""Latents of a training set, the scans that weights have seen, and weights without children."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.splits import fingerprints
from common.errors import UserError
from common.growth_training import age_span, training_cases, with_latents_of
from common.growth_weights import public_bytes, strip
from common.networks.brain_inr import BrainINR

CASES: list[dict[str, Any]] = [
    {"id": "a_1", "subject": "a", "age": 30.0},
    {"id": "a_2", "subject": "a", "age": 40.0},
    {"id": "b_1", "subject": "b", "age": 35.0},
]


def small() -> BrainINR:
    return BrainINR(dims=2, latent_size=4, width=4, layers=3)


def test_latents_are_those_of_children_or_of_scans_and_of_their_mirror_images() -> None:
    assert with_latents_of(small(), CASES).latents.names == ("#global", "a", "a#flip", "b", "b#flip")
    assert with_latents_of(small(), CASES, shared=False, mirrored=False).latents.names == ("#global", "a_1", "a_2", "b_1")


def test_a_network_that_was_given_latents_trains_the_same_parameter_and_reloads_by_name() -> None:
    network = small()
    table = network.latents.weight
    with_latents_of(network, CASES)
    assert network.latents.weight is table and table.shape == (5, 4) and not table.any()
    table.data[3] = 0.5  # b
    other = with_latents_of(small(), CASES[2:], mirrored=False)
    other.load_state_dict(network.state_dict())
    assert other.latents.names == ("#global", "b"), "it does not take over the children of the file"
    assert other.latents.weight[1].tolist() == [0.5] * 4


def test_latents_of_scans_may_keep_their_ages_and_latents_of_children_may_not() -> None:
    ages = with_latents_of(small(), CASES, shared=False, age_latents=True).latents.identity_ages
    assert ages[0].isnan()
    torch.testing.assert_close(ages[1:], torch.tensor([0.3, 0.3, 0.4, 0.4, 0.35, 0.35]))
    with pytest.raises(UserError, match="age_latents: got true with ssl true"):
        with_latents_of(small(), CASES, age_latents=True)


def test_the_span_of_ages() -> None:
    assert age_span(CASES) == [30.0, 40.0]


@pytest.fixture
def on_disk(tmp_path: Path) -> list[dict[str, Any]]:
    cases = [{**case, "image": [str(tmp_path / f"{case['id']}.nii")]} for case in CASES]
    for case in cases:
        Path(case["image"][0]).write_text(case["id"])
    return cases


def test_baselines_look_at_the_cases_that_the_weights_have_seen(on_disk: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text(json.dumps({"trained_on": fingerprints(on_disk[:2])}))
    assert training_cases(on_disk, tmp_path, ("t2w",), tmp_path) == on_disk[:2]


def test_without_the_training_data_baselines_look_at_the_others_and_say_so(
    on_disk: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.growth_training.logger.propagate", True)
    assert training_cases(on_disk, tmp_path / "none", ("t2w",), tmp_path) == on_disk
    assert "Baselines look at the other children" in caplog.text


def test_weights_of_other_methods_are_packed_as_they_are(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "model.pt")
    assert public_bytes(tmp_path / "model.pt") == (tmp_path / "model.pt").read_bytes()


def test_packed_weights_hold_no_child_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    network = with_latents_of(small(), CASES)
    network.latents.weight.data.normal_()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    assert public_bytes(tmp_path / "model.pt") == public_bytes(tmp_path / "model.pt")
    strip(str(tmp_path), str(tmp_path / "public"))
    state = torch.load(tmp_path / "public" / "model.pt", weights_only=True)
    assert len(state["latents.weight"]) == 1
    torch.testing.assert_close(state["latents.mean_latent"], network.latents.mean())


def test_weights_are_not_stripped_in_place(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"expected a folder with model\.pt, and another folder"):
        strip(str(tmp_path), str(tmp_path))
