"""What an evaluator hands to the latent fit."""

from __future__ import annotations

import torch

from common.inferers.scan_ages import ScanAges

IMAGE = torch.rand(2, 1, 4, 5)


def test_scans_go_with_their_ages_and_targets_with_theirs() -> None:
    batch = {"image": IMAGE, "age": torch.tensor([30.0, 31.0]), "target": IMAGE.half(), "target_age": torch.tensor([40.0, 41.0])}
    image, target, (ages, wanted), extra = ScanAges()(batch)
    assert torch.equal(image, IMAGE) and target is not None and target.dtype == torch.float32 and extra == {}
    assert ages.tolist() == [30.0, 31.0] and wanted is not None and wanted.tolist() == [[40.0], [41.0]]


def test_ages_asked_for_hold_for_every_scan_and_an_unknown_age_is_nan() -> None:
    _, target, (ages, wanted), _ = ScanAges([28, 32, 36])({"image": IMAGE})
    assert target is None and ages.isnan().all()
    assert wanted is not None and wanted.tolist() == [[28.0, 32.0, 36.0]] * 2


def test_without_anything_asked_for_a_scan_is_reconstructed() -> None:
    _, _, (_, wanted), _ = ScanAges()({"image": IMAGE, "age": torch.tensor([30.0, 31.0])})
    assert wanted is None
