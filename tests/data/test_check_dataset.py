from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from common.data.__main__ import main
from common.data.check import check_dataset, print_check


def texts(level: str, path: Path, **options: object) -> list[str]:
    return [finding.text for finding in check_dataset("bonbid", path, **options) if finding.level == level]  # type: ignore[arg-type]


def test_a_sound_tree_has_no_errors_and_its_count_is_compared_with_the_release(make_bonbid: Callable[..., Path]) -> None:
    root = make_bonbid(("010", "VISIT_01"), ("010", "VISIT_02"))
    assert texts("error", root) == []
    assert texts("note", root) == ["2 cases with an ADC map; the public training release has 85"]
    assert "2 complete cases of 1 subjects" in texts("ok", root)
    assert "grids: 5 x 4 x 3 (2); spacing 1.1 x 1.2 x 4.3 to 1.1 x 1.2 x 4.3 mm" in texts("ok", root)


def test_every_broken_file_is_an_error_and_the_rest_is_still_checked(make_bonbid: Callable[..., Path], disk: SimpleNamespace) -> None:
    root = make_bonbid(*((f"{n:03d}", "VISIT_01") for n in range(1, 7)))
    adc, zadc, label = root / "1ADC_ss", root / "2Z_ADC", root / "3LABEL"
    (zadc / "Zmap_MGHNICU_001-VISIT_01-ADC_smooth2mm_clipped10.mha").unlink()
    broken = adc / "MGHNICU_002-VISIT_01-ADC_ss.mha"
    broken.write_bytes(broken.read_bytes()[:-20])
    disk.write_mha(label / "MGHNICU_003-VISIT_01_lesion.mha", disk.lesion_mask() * 3)
    disk.write_mha(zadc / "Zmap_MGHNICU_004-VISIT_01-ADC_smooth2mm_clipped10.mha", np.zeros((*disk.shape[:2], 9), np.float32))
    disk.write_mha(adc / "MGHNICU_005-VISIT_01-ADC_ss.mha", np.where(disk.adc_map() > 0, np.nan, 0).astype(np.float32))
    errors = texts("error", root)
    for number, words in enumerate(("missing 2Z_ADC", "cannot be read", "label values 3", "its grid differs", "NaN or infinite"), start=1):
        assert any(f"MGHNICU_{number:03d}" in text and words in text for text in errors), words
    assert errors[-1] == "1 of 5 complete cases can be used; 0 labels are empty"
    assert len(errors) == 6


def test_oddities_are_notes(make_bonbid: Callable[..., Path], disk: SimpleNamespace) -> None:
    root = make_bonbid(("010", "VISIT_01"), ("012", "VISIT_01"), ("014", "VISIT_01"))
    (root / "3LABEL" / "MGHNICU_014-VISIT_01_lesion.mha").unlink()
    (root / "1ADC_ss" / "backup.mha").touch()
    disk.write_mha(root / "1ADC_ss" / "MGHNICU_010-VISIT_01-ADC_ss.mha", np.full(disk.shape, 1.2e-3, np.float32))
    disk.write_mha(root / "2Z_ADC" / "Zmap_MGHNICU_010-VISIT_01-ADC_smooth2mm_clipped10.mha", disk.adc_map())
    disk.write_mha(root / "3LABEL" / "MGHNICU_012-VISIT_01_lesion.mha", np.ones(disk.shape, np.uint8))
    notes = "\n".join(texts("note", root))
    assert texts("error", root) == []
    for words in (
        "median ADC in the brain 0.0012",
        "above 0 in 100 % of the voxels",
        "largest |Z| 1200",
        "MGHNICU_012-VISIT_01: 42 lesion voxels lie where ADC is not above 0",
        "1 cases without a label (fine for inference, not for training): MGHNICU_014-VISIT_01",
        "backup.mha: ignored",
    ):
        assert words in notes, words


def test_other_forms_are_checked_with_the_inputs_named(tmp_path: Path, disk: SimpleNamespace) -> None:
    for name in ("a", "b"):
        disk.write_mha(tmp_path / f"{name}.mha", disk.adc_map())
    (tmp_path / "own.csv").write_text("subject,adc,age\ns1,a.mha,3\ns2,b.mha,\n")
    assert texts("error", tmp_path, inputs=["adc"]) == []
    assert "age: 1 of 2 cases have one; missing: s2" in texts("note", tmp_path, inputs=["adc"])
    assert "no column zadc" in texts("error", tmp_path)[0]


def test_the_command_prints_one_line_per_finding_and_its_exit_code_tells(
    make_bonbid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_bonbid(("010", "VISIT_01"))
    assert main(["check", "bonbid", str(root)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Checked {root}: 0 errors, 1 notes."
    (root / "2Z_ADC" / "Zmap_MGHNICU_010-VISIT_01-ADC_smooth2mm_clipped10.mha").unlink()
    assert main(["check", "bonbid", str(root)]) == 1
    assert "ERROR  case MGHNICU_010-VISIT_01: missing 2Z_ADC" in capsys.readouterr().out
    assert print_check("bonbid", tmp_path / "gone") == 1


def test_mistakes_on_the_command_line_give_text_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nothing", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: layout: got 'nothing'; expected one of bonbid, brats, btcv, cq500, dhcp, feta, ixi.\n"
    assert main(["simulate", "bonbid", str(tmp_path / "c"), "--patients", "3"]) == 1
    assert "unknown parameter --patients; expected some of --subjects" in capsys.readouterr().err
    assert main(["simulate", "nothing", str(tmp_path / "c")]) == 1


def test_simulate_hands_its_parameters_to_the_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from common.data.simulate import bonbid

    calls = []

    def generator(out_dir: Path, subjects: int = 40, seed: int = 0, style: str = "main") -> Path:
        calls.append((out_dir, subjects, seed, style))
        return out_dir

    monkeypatch.setattr(bonbid, "simulate_bonbid", generator)
    assert main(["simulate", "bonbid", str(tmp_path / "c"), "--subjects", "3", "--seed", "7", "--style", "shifted"]) == 0
    assert calls == [(tmp_path / "c", 3, 7, "shifted")]
    assert "these are not patients" in capsys.readouterr().out
