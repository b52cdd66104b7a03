"""An unpacked archive needs no repository: it trains, evaluates, infers and loads where no other ``common`` can be imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import monai.bundle.scripts
import pytest

from common.archive_checks import unpack_archive
from common.archive_files import bundle_names
from common.packaging import build_archive, rebuild

LOAD = """
import json, sys
from pathlib import Path
name, folder = sys.argv[1:]
sys.path.insert(0, str(Path(folder) / name))
import torch
import monai.bundle
network = monai.bundle.load(name, bundle_dir=folder, workflow_type="inference", device="cpu")
given = torch.load(Path(folder) / name / "models" / "model.pt", weights_only=True)
loaded = network.state_dict()
same = lambda a, b: a.shape == b.shape and torch.allclose(a.float(), b.float(), equal_nan=True)
wrong = [key for key in given if not same(loaded[key], given[key])]
print("LOADED", json.dumps({"common": sys.modules["common"].__file__, "wrong": wrong, "same": set(given) == set(loaded)}))
"""


SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "brain_autoencoder": ("IXI-T1", {}),
    "disruptive_autoencoder": ("feta_2.1", {}),
    "ladp": ("BONBID2023_Train", {}),
    "neonatal_inr": ("rel3_dhcp_anat_pipeline", {"fit_voxels": 256, "fit_check": 256, "fit_iterations": 2, "ages": "[36.0]"}),
    "patchddm": ("MICCAI_BraTS2020_TrainingData", {"steps": 2}),
    "position_regression": ("CQ500", {}),
}
"""The cohort that training at smoke size makes, and what keeps inference short on it."""
CHILDREN = {"neonatal_inr": ["latents.weight", "latents.identity_names", "latents.identity_ages"]}
"""What ``monai.bundle.load`` leaves out of weights that were just trained: the table of its children, which no new scan needs."""


def alone(*arguments: str | Path, cwd: Path, timeout: int = 1800) -> str:
    """Output of a python that sees the installed packages, but neither this repository nor its editable install (``-S``: no .pth files)."""
    hidden = ("PYTHONPATH", "BRAIN_BUNDLES_DATA", "PYTHONSTARTUP")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PYTHONPATH": sysconfig.get_path("purelib")}
    command = [sys.executable, "-S", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder from which MONAI can be imported, but no ``common``."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    code = "from importlib.util import find_spec; print(find_spec('monai') is not None, find_spec('common') is None)"
    assert alone("-c", code, cwd=folder).split() == ["True", "True"]
    return folder


def run(configs: Path, *names: str, cwd: Path, **overrides: Any) -> str:
    """``python -m monai.bundle run`` with config files of a folder, on the CPU."""
    given = [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    files = str([str(configs / name) for name in names])
    return alone("-m", "monai.bundle", "run", "--config_file", files, "--device", "cpu", *given, cwd=cwd)


def assert_works_alone(name: str, archive: Path, elsewhere: Path, **data: Any) -> None:
    """Download as MONAI does it, train at smoke size, evaluate, infer from another folder, load."""
    zoo, configs = elsewhere.parent / "zoo", Path("configs")
    alone("-m", "monai.bundle", "download", "--name", name, "--url", archive.as_uri(), "--bundle_dir", zoo, cwd=elsewhere)
    bundle = zoo / name
    place = alone("-c", "import common; print(common.__file__)", cwd=bundle)
    assert Path(place.strip()) == bundle / "common" / "__init__.py"
    run(configs, "train.json", "smoke.json", cwd=bundle, **data)
    record = json.loads((bundle / "models" / "weights.json").read_text(encoding="utf-8"))
    assert (bundle / "models" / "model.pt").is_file() and record["bundle"] == name
    run(configs, "train.json", "evaluate.json", "smoke.json", cwd=bundle, **data)
    assert list((bundle / "eval").rglob("*.html")), "a report"
    cohort, short = SMALL[name]
    found = data or {"dataset_dir": next((bundle / "data" / "simulated").glob(f"*/{cohort}"))}
    run(bundle / configs, "inference.json", cwd=elsewhere, **found, **short)
    assert list((bundle / "eval" / "predictions").glob("*.csv")), "results lie in the bundle, wherever it is run from"
    assert_loads(name, zoo, elsewhere)
    assert not list(elsewhere.iterdir())


def assert_loads(name: str, folder: Path, elsewhere: Path) -> None:
    printed = alone("-c", LOAD, name, folder, cwd=elsewhere)
    (line,) = [line for line in printed.splitlines() if line.startswith("LOADED ")]
    found = {"common": str(folder / name / "common" / "__init__.py"), "wrong": CHILDREN.get(name, []), "same": True}
    assert json.loads(line.removeprefix("LOADED ")) == found


def test_an_archive_of_ladp_works_alone(trained_ladp: Any, elsewhere: Path, tmp_path: Path) -> None:
    assert_works_alone("ladp", build_archive("ladp", tmp_path / "dist"), elsewhere, dataset_dir=trained_ladp.dataset_dir)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in bundle_names() if name != "ladp"])
def test_every_other_archive_works_alone(name: str, elsewhere: Path, tmp_path: Path) -> None:
    assert_works_alone(name, build_archive(name, tmp_path / "dist"), elsewhere)


def test_an_archive_of_own_weights_predicts_at_once(trained_ladp: Any, elsewhere: Path, tmp_path: Path) -> None:
    rebuild("ladp", str(trained_ladp.ckpt_dir), str(tmp_path / "own"))
    (archive,) = (tmp_path / "own").glob("*.zip")
    bundle = unpack_archive(archive, tmp_path / "zoo")
    assert sorted(path.name for path in (bundle / "models").iterdir()) == [".gitkeep", "model.pt", "weights.json"]
    run(bundle / "configs", "inference.json", cwd=elsewhere, dataset_dir=trained_ladp.dataset_dir)
    assert list((bundle / "eval" / "predictions").glob("*_lesion.mha"))


def test_monai_takes_an_unpacked_archive_for_a_hugging_face_repository(
    trained_ladp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuild("ladp", str(trained_ladp.ckpt_dir), str(tmp_path / "own"))
    (archive,) = (tmp_path / "own").glob("*.zip")
    shutil.unpack_archive(archive, tmp_path / "repository")

    def snapshot(repo_id: str, revision: str, local_dir: str) -> None:
        assert (repo_id, revision) == ("someone/ladp", "main")
        shutil.copytree(tmp_path / "repository" / "ladp", local_dir)

    monkeypatch.setattr(monai.bundle.scripts, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot))
    source = {"source": "huggingface_hub", "repo": "someone/ladp", "version": "main"}
    network = monai.bundle.load("ladp", bundle_dir=tmp_path / "zoo", workflow_type="inference", device="cpu", **source)
    assert type(network).__name__ == "Standardized"
    assert (tmp_path / "zoo" / "ladp" / "README.md").read_text(encoding="utf-8").startswith("---\nlicense: apache-2.0\n")
