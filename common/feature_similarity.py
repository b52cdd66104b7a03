"""How alike a Swin UNETR sees images before and after a fine-tuning, stage by stage: ``python -m common.feature_similarity``.

Linear CKA of the stages; MONAI compares no representations.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.transforms import CenterSpatialCropd, Compose, CropForegroundd, Orientationd, Spacingd, SpatialPadd

from common.atomic import write_csv
from common.command_line import run_command
from common.data.dataset import find_cases
from common.data.splits import fingerprints
from common.errors import UserError
from common.metrics.feature_similarity import stage_similarity
from common.networks.disruptive_swin_unetr import SIDE, DisruptiveSwinUNETR
from common.networks.transfer_record import bare_state, swin_facts
from common.transforms.modality_scaling import ScaleByModalityd
from common.transforms.same_grid import LoadSameGridd
from common.weights import read_record, read_weights

_ENCODER = "swinViT."
logger = logging.getLogger("brain_bundles")


def similarity(
    first: str,
    second: str,
    images: str,
    output: str,
    layout: str | None = "feta",
    cases: int = 8,
    samples: str = "positions",
    patch_size: Sequence[int] | None = None,
    modality: str | None = None,
    normalisation: Mapping[str, Any] | None = None,
    spacing_mm: Sequence[float] | None = None,
    device: str = "cpu",
) -> None:
    """Write a table of the linear CKA of two encoders' stages on the same images, and print it; stage 0 is the embedding.

    Args:
        first: ``model.pt`` or its folder, mostly of the pre-training.
        second: the same of the fine-tuning; how it scaled its images (``weights.json``) is how both networks get them here.
        images: data set, see :func:`common.data.dataset.find_cases`; labels are not needed.
        output: CSV file.
        layout: of the data set, when it is a public one; None tries none.
        cases: how many of them; the middle of each is looked at. Cases that the second was trained on are left out where others are there.
        samples: "positions" or "images", see :func:`common.metrics.feature_similarity.feature_matrix`.
        patch_size: sides of that middle, voxels, multiples of 32; None takes those of the fine-tuning.
        modality: of images whose data set does not say; None takes that of the fine-tuning.
        normalisation: rows of the table of modalities; None takes that of the fine-tuning.
        spacing_mm: voxel size they are resampled to; None takes that of the fine-tuning.
        device: where the networks run.

    Raises:
        UserError: weights that are not there, or not of two encoders with the same inputs.

    Source: DAE, appendix D (five numbers per network; the variant of CKA and the images are not stated).
    """
    networks = [encoder_of(path).to(device) for path in (first, second)]
    inputs = {network.in_channels for network in networks}
    if len(inputs) > 1:
        raise UserError(f"weights: {first} and {second} have {sorted(inputs)} input channels; only networks of the same images compare.")
    record = read_record(Path(second).expanduser())
    trained = record.get("settings", {})
    sides = [int(side) for side in patch_size or trained.get("patch_size", [96] * 3)]
    if any(side % SIDE for side in sides):
        raise UserError(f"patch_size: got {sides}, expected multiples of {SIDE}.")
    names = trained.get("inputs", ["image"] * inputs.pop())
    chosen = choose_cases(find_cases(images, layout, names), record.get("trained_on", []), cases)
    spacing = spacing_mm or trained.get("spacing_mm")
    steps = [
        LoadSameGridd(keys=["image"], channels=len(names)),
        Orientationd(keys="image", axcodes="RAS", labels=None),
        *([Spacingd(keys="image", pixdim=spacing, mode="bilinear")] if spacing else []),
        ScaleByModalityd("image", normalisation or trained.get("normalisation"), modality=modality or trained.get("modality")),
        CropForegroundd(keys="image", source_key="image", select_fn=torch.Tensor.bool),
        SpatialPadd(keys="image", spatial_size=sides),
        CenterSpatialCropd(keys="image", roi_size=sides),
    ]
    data = Dataset(chosen, Compose(steps))
    found = [_stages(network, data, device) for network in networks]
    numbers = stage_similarity(found[0], found[1], samples)
    rows = [
        {"stage": stage, "channels": states.shape[1], "cka": round(number, 6), "images": len(chosen)}
        for stage, (number, states) in enumerate(zip(numbers, found[0], strict=True))
    ]
    write_csv(output, rows)
    print("\n".join(f"stage {row['stage']}: CKA {row['cka']:.4f} ({row['channels']} channels)" for row in rows))


def encoder_of(path: str) -> DisruptiveSwinUNETR:
    """A network with the encoder of a file of weights; the rest of it is not to be used.

    Raises:
        UserError: no such file, or weights of another network.
    """
    file = Path(path).expanduser()
    file = file / "model.pt" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"There are no weights at {file}: give model.pt, or the folder that holds it.")
    state = bare_state(read_weights(file))
    facts = {key: value for key, value in swin_facts(state).items() if key != "out_channels"}
    if facts["window_size"] is None:
        raise UserError(f"{file}: its windows are no cubes; such an encoder is not compared.")
    network = DisruptiveSwinUNETR(out_channels=1, heads=(), **facts)
    missing = network.load_state_dict({name: value for name, value in state.items() if name.startswith(_ENCODER)}, strict=False)
    if lacking := [name for name in missing.missing_keys if name.startswith(_ENCODER)]:
        raise UserError(f"{file}: its encoder lacks {len(lacking)} tensors, first {lacking[0]}.")
    return network.eval()


def choose_cases(cases: Sequence[Mapping[str, Any]], trained_on: Sequence[str], count: int) -> list[Mapping[str, Any]]:
    """The first cases that were not trained on, or simply the first where all were, with a warning."""
    unseen = [case for case, mark in zip(cases, fingerprints(cases), strict=True) if mark not in set(trained_on)]
    if not unseen:
        logger.warning("All %d cases were trained on.", len(cases))
    return list((unseen or cases)[:count])


def _stages(network: DisruptiveSwinUNETR, data: Dataset, device: str) -> list[torch.Tensor]:
    """Stages of all images, each ``(N, C, *spatial)``."""
    with torch.no_grad():
        images = [data[index]["image"].as_tensor()[None] for index in range(len(data))]
        seen = [[state.cpu() for state in network.stages(image.to(device))] for image in images]
    return [torch.cat(states) for states in zip(*seen, strict=True)]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_command(similarity, "common.feature_similarity", arguments)


if __name__ == "__main__":
    main()
