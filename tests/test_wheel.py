"""The wheel holds the package and the bundles' configs, nothing else, and predicts from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.transforms.load_case import read_volume

ROOT = Path(__file__).resolve().parents[1]
RUN_OUTPUT = shutil.ignore_patterns("__pycache__", "data", "eval", "previous", "*.pt", "*.ts")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources, so that no ``build/`` of the checkout leaks into it, with results that must not."""
    copy = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "common", copy / "common", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "bundles", copy / "bundles", ignore=RUN_OUTPUT)
    for result in ("models/model.pt", "eval/metrics.csv", "data/simulated/SIMULATED.txt"):
        path = copy / "bundles" / "ladp" / result
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", copy, cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_the_bundles_and_nothing_else(wheel: Path) -> None:
    common = [p for p in (ROOT / "common").rglob("*") if p.suffix == ".py" or p.name == "report_template.html"]
    bundles = [p for p in (ROOT / "bundles").glob("*/*/*") if p.parent.name in ("configs", "docs") and p.is_file()]
    licences = list((ROOT / "bundles").glob("*/LICENSE"))
    expected = {str(p.relative_to(ROOT)) for p in common} | {f"common/{p.relative_to(ROOT).as_posix()}" for p in bundles + licences}
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert len(names) == len(set(names))


def test_an_installed_wheel_predicts_on_the_source_grid_from_an_empty_folder(wheel: Path, trained_ladp: Any, tmp_path: Path) -> None:
    target, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile", "--target", target, wheel, cwd=empty)
    adc = next((trained_ladp.dataset_dir / "1ADC_ss").glob("*.mha"))
    (zadc,) = (trained_ladp.dataset_dir / "2Z_ADC").glob(f"Zmap_{adc.name.split('-ADC')[0]}-*.mha")
    command = [sys.executable, "-m", "common.predict", "ladp", "--adc", adc, "--zadc", zadc, "out", "--device", "cpu"]
    printed = run(*command, "--weights", trained_ladp.ckpt_dir, "--demo", cwd=empty, PYTHONPATH=str(target))
    assert "trained on SIMULATED data" in printed and f"{target}" in printed
    stem = adc.name.removesuffix(".mha")
    mask, affine = read_volume(empty / "out" / f"{stem}_lesion.mha")
    source, source_affine = read_volume(adc)
    assert mask.shape == source.shape and set(np.unique(mask)) <= {0, 1}
    np.testing.assert_array_equal(affine, source_affine)
    assert sorted(path.name for path in empty.iterdir()) == ["out"]
    version = run(sys.executable, target / "bin" / "brain-bundles", "--version", cwd=empty, PYTHONPATH=str(target))
    assert version.startswith("brain-bundles ")
