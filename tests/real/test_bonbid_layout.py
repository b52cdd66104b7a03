"""One real stroke patient in BONBID-HIE's layout: reading, checking and writing back on the source grid."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from common.data.check import check_dataset
from common.data.dataset import find_cases
from common.transforms.load_case import LoadCased, read_volume
from common.transforms.save_like_source import SaveLikeSourced

REAL = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", "../shared/data")) / "bonbid_layout"
pytestmark = pytest.mark.skipif(not (REAL / "1ADC_ss").is_dir(), reason=f"no real volumes at {REAL}; set BRAIN_BUNDLES_REAL_DATA")


def test_the_real_case_is_read_with_a_plausible_brain_and_lesion() -> None:
    (case,) = find_cases(REAL, "bonbid", labelled=True)
    loaded = LoadCased()(case)
    adc, brain, lesion = loaded["image"][0], loaded["brain"][0], loaded["label"][0].bool()
    assert loaded["image"].shape == (2, 112, 112, 73)
    brain_ml = float(brain.sum()) * float(loaded["image"].pixdim.prod()) / 1000
    assert 800 < brain_ml < 2000, "an adult's brain"
    assert 500 < float(adc[brain].median()) < 1500, "1e-6 mm2/s"
    assert float(adc[lesion].median()) < float(adc[brain].median()), "an acute stroke restricts diffusion"
    assert float(lesion[brain].sum() / lesion.sum()) > 0.95


def test_results_lie_exactly_on_the_real_oblique_grid(tmp_path: Path) -> None:
    import itk

    loaded = LoadCased()(find_cases(REAL, "bonbid")[0])
    loaded["share"] = loaded["image"][1:]
    saved = SaveLikeSourced(("label", "share"), tmp_path, ("lesion", "share"), (np.uint8, np.float32), print_path=False)(loaded)
    source = itk.imread(loaded["image"].meta["filename_or_obj"])
    assert not np.allclose(itk.array_from_matrix(source.GetDirection()), np.eye(3), atol=0.01), "the grid is oblique"
    for key in ("label", "share"):
        result = itk.imread(saved[f"{key}_path"])
        assert tuple(result.GetSpacing()) == tuple(source.GetSpacing())
        assert tuple(result.GetOrigin()) == tuple(source.GetOrigin())
        np.testing.assert_array_equal(itk.array_from_matrix(result.GetDirection()), itk.array_from_matrix(source.GetDirection()))
        np.testing.assert_array_equal(read_volume(saved[f"{key}_path"])[0], loaded[key].numpy())


def test_the_check_finds_no_error_in_the_real_tree() -> None:
    findings = list(check_dataset("bonbid", REAL))
    assert [finding.text for finding in findings if finding.level == "error"] == []
