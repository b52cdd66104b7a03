"""What all tests share: strict configs, and each bundle trained once by the user's own command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import Randomizable
from monai.utils import set_determinism

os.environ["MONAI_FAIL_ON_DUPLICATE_CONFIG"] = "1"  # a key written twice is an error; monai reads this at every load

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "ladp" / "configs"
# other draws, to look for tests that hold for one seed only: TESTS_SEED=1 make test
SEED = int(os.environ.get("TESTS_SEED", "0"))


@dataclass(frozen=True)
class TrainedBundle:
    """A bundle trained at smoke size by a subprocess, and where everything lies."""

    root: Path
    output: str
    cohort: str

    @property
    def ckpt_dir(self) -> Path:
        return self.root / "models"

    @property
    def output_dir(self) -> Path:
        return self.root / "eval"

    @property
    def dataset_dir(self) -> Path:
        (cohort,) = (self.root / "data" / "simulated").glob(f"*/{self.cohort}")
        return cohort

    @property
    def paths(self) -> dict[str, str]:
        """The folders, as overrides of any of the bundle's configs."""
        named = {"bundle_root": self.root, "ckpt_dir": self.ckpt_dir, "output_dir": self.output_dir, "dataset_dir": self.dataset_dir}
        return {key: str(path) for key, path in named.items()}


Finished = subprocess.CompletedProcess[str]


def run_monai_bundle(*arguments: str, cwd: Path = ROOT, pythonpath: Path | None = None, timeout: int = 180) -> Finished:
    """``python -m monai.bundle run`` as a user types it; stdout and stderr come back in ``stdout``."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "BRAIN_BUNDLES_DATA")}
    environment |= {"PYTHONPATH": str(pythonpath)} if pythonpath else {}
    command = [sys.executable, "-m", "monai.bundle", "run", *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="session")
def monai_bundle() -> Callable[..., Finished]:
    """Function that runs ``python -m monai.bundle run`` in a subprocess."""
    return run_monai_bundle


def train_at_smoke_size(bundle: str, cohort: str, tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """Train a bundle by the user's command from the repository root; ``cohort`` is the folder of its simulated data."""
    root = tmp_path_factory.mktemp(bundle)
    configs = f"['bundles/{bundle}/configs/train.json','bundles/{bundle}/configs/smoke.json']"
    done = run_monai_bundle("--config_file", configs, "--bundle_root", str(root), "--device", "cpu", timeout=900)
    assert done.returncode == 0, done.stdout[-4000:]
    return TrainedBundle(root, done.stdout, cohort)


@pytest.fixture(scope="session")
def trained_ladp(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """LADP at smoke size on its simulated cohort, by the user's command from the repository root; no test may change it."""
    return train_at_smoke_size("ladp", "BONBID2023_Train", tmp_path_factory)


@pytest.fixture(scope="session")
def trained_position(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """Position regression at smoke size on its simulated cohort, likewise; tests may only add to its cache of prepared heads."""
    return train_at_smoke_size("position_regression", "CQ500", tmp_path_factory)


@pytest.fixture(scope="session")
def trained_patchddm(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """PatchDDM at smoke size on its simulated cohort, likewise; tests may only add to its cache of prepared cases."""
    return train_at_smoke_size("patchddm", "MICCAI_BraTS2020_TrainingData", tmp_path_factory)


@pytest.fixture(scope="session")
def trained_inr(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """Neonatal INR at smoke size on its simulated cohort, likewise; tests may only add to its cache of prepared scans."""
    return train_at_smoke_size("neonatal_inr", "rel3_dhcp_anat_pipeline", tmp_path_factory)


@pytest.fixture(scope="session")
def trained_dae(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """The disruptive autoencoder at smoke size on its simulated cohorts, pre-training first, likewise; tests may only add to its caches."""
    return train_at_smoke_size("disruptive_autoencoder", "feta_2.1", tmp_path_factory)


@pytest.fixture(scope="session")
def trained_bae(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    """The brain autoencoder at smoke size on its simulated cohort, likewise; tests may only add to its cache of prepared slices."""
    return train_at_smoke_size("brain_autoencoder", "IXI-T1", tmp_path_factory)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every run of a test draws the same numbers, whichever tests ran before it."""
    set_determinism(SEED)
    Randomizable.R = np.random.RandomState(SEED)


@pytest.fixture(autouse=True)
def _own_excepthook() -> Iterator[None]:
    """``common.require`` installs an excepthook for command lines; tests get theirs back."""
    before = sys.excepthook
    yield
    sys.excepthook = before
