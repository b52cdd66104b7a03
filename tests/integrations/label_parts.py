"""What both tests of MONAI Label do: a bundle as its app folder holds it, and cases as its data store gives them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigParser

from common.data.dataset import find_cases
from common.transforms.load_case import read_volume

ROOT = Path(__file__).resolve().parents[2]
COHORTS: dict[str, tuple[str, list[str]]] = {
    "ladp": ("bonbid", ["adc", "zadc"]),
    "patchddm": ("brats", ["t1", "t1ce", "t2", "flair"]),
    "disruptive_autoencoder": ("feta", ["t2w"]),
}
"""Layout and inputs of the bundles that MONAI Label can use."""
FEW_STEPS = {"patchddm": {"steps": 3, "samples": 2}}
"""What is no setting of the weights, and so stands in inference.json alone."""


def app_bundle(name: str, trained: Any, folder: Path) -> Path:
    """A bundle with the weights of a smoke training, as it lies in ``apps/monaibundle/model``; train.json has smoke.json in it."""
    bundle = folder / name
    shutil.copytree(ROOT / "bundles" / name / "configs", bundle / "configs")
    (bundle / "models").mkdir()
    for file in trained.ckpt_dir.glob("*"):
        if file.name in ("model.pt", "weights.json") or file.name.startswith("member_"):
            shutil.copy(file, bundle / "models")
    # MONAI Label reads train.json alone
    merged = ConfigParser.load_config_files([str(bundle / "configs" / file) for file in ("train.json", "smoke.json")])
    ConfigParser.export_config_file(merged, str(bundle / "configs" / "train.json"), indent=4)
    path = bundle / "configs" / "inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | FEW_STEPS.get(name, {})), encoding="utf-8")
    return bundle


def one_file_cases(name: str, trained: Any, folder: Path) -> list[dict[str, str]]:
    """The cohort as MONAI Label holds it: one NIfTI per case, 4D where there are several inputs, and its label; nothing else is known."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number, case in enumerate(find_cases(trained.dataset_dir, *COHORTS[name], labelled=True)):
        files = [case["image"]] if isinstance(case["image"], str) else case["image"]
        volumes = [read_volume(file) for file in files]
        image = np.concatenate([array for array, _ in volumes])
        label = np.rint(read_volume(case["label"])[0][0]).astype(np.uint8)
        item = {"image": folder / f"scan{number}.nii.gz", "label": folder / f"scan{number}_label.nii.gz"}
        nib.save(nib.Nifti1Image(np.moveaxis(image, 0, -1) if len(image) > 1 else image[0], volumes[0][1]), item["image"])
        nib.save(nib.Nifti1Image(label, volumes[0][1]), item["label"])
        items.append({key: str(path) for key, path in item.items()})
    return items


def label_values(name: str) -> set[int]:
    """Numbers that a result may hold: the keys of ``channel_def`` of the first output, as MONAI Label reads them."""
    metadata = json.loads((ROOT / "bundles" / name / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return {int(key) for key in next(iter(metadata["network_data_format"]["outputs"].values()))["channel_def"]}
