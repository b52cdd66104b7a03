"""Pairs of a child: each scan prepared once, each input fitted once, and predictions of a network that knows the answer."""

import pytest
import torch

from common.errors import UserError
from common.inferers.brain_at_age import LatentFitInferer, predict_at
from common.inferers.latent_fit import Fit
from common.inferers.pair_prediction import predict_pairs, prepared_pairs
from common.networks.brain_inr import BrainINR

CASES = [
    {"id": f"{child}{age}", "subject": child, "age": float(age)} for child, ages in (("B", (30, 40)), ("A", (28, 36, 42))) for age in ages
]
PAIRS = [{"input": a, "target": b} for a in CASES for b in CASES if a["subject"] == b["subject"] and a is not b]


class Scans:
    """A dataset that notes what was read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return len(CASES)

    def __getitem__(self, index):
        self.read.append(CASES[index]["id"])
        return {**CASES[index], "image": torch.full((1, 6, 7), CASES[index]["age"] / 100)}


def test_every_pair_comes_once_and_every_scan_is_prepared_once():
    scans = Scans()
    items = list(prepared_pairs(PAIRS, scans, CASES))
    assert sorted((item["input"]["id"], item["target"]["id"]) for item in items) == sorted(
        (p["input"]["id"], p["target"]["id"]) for p in PAIRS
    )
    assert sorted(scans.read) == sorted(case["id"] for case in CASES)
    assert [item["input"]["subject"] for item in items] == ["A"] * 6 + ["B"] * 2


def test_a_pair_of_unknown_scans_is_refused():
    with pytest.raises(UserError, match="pairs: A28, A36, A42 are not among the 2 scans"):
        next(prepared_pairs(PAIRS, Scans(), CASES[:2]))


class Noting(LatentFitInferer):
    """Fits nothing: the latent is 0, and an unknown age is 33 weeks."""

    def __init__(self, method="lm"):
        super().__init__(method)
        self.fitted = []

    def fit(self, scan, network, age_weeks=float("nan")):
        self.fitted.append(age_weeks)
        return Fit(torch.zeros(4), 33.0 if age_weeks != age_weeks else age_weeks, 20.0, 19.0, 1, 0.5)


def a_network():
    torch.manual_seed(0)
    return BrainINR(latent_size=4, dims=2, width=8, layers=3).eval()


def test_each_input_is_fitted_once_and_predicted_at_both_ages():
    network, inferer = a_network(), Noting()
    found = list(predict_pairs(prepared_pairs(PAIRS, Scans(), CASES), network, inferer, progress=False))
    assert len(found) == 8
    assert len(inferer.fitted) == 2 * 5 and sum(age == age for age in inferer.fitted) == 5
    for item, result in found:
        expected = predict_at(network.inr, torch.zeros(4), [item["input"]["age"], item["target"]["age"]], (6, 7))
        assert torch.equal(result["reconstruction"][0], expected[0]) and torch.equal(result["prediction"][0], expected[1])
        assert (result["age_estimate_weeks"], result["fit_psnr_db"], result["fit_seconds"]) == (33, 19, 0.5)


def test_the_papers_fit_estimates_no_age():
    found = predict_pairs(prepared_pairs(PAIRS[:1], Scans(), CASES), a_network(), Noting("adamw"), progress=False)
    assert "age_estimate_weeks" not in next(found)[1]
