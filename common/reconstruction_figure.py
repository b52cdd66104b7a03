"""Figure of what pre-trained networks restore: the original, what each was given, what each made of it.

Run ``python -m common.reconstruction_figure --runs "MAE=DIR,DAE=DIR" --image FILE --modality ct --output fig.png``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import CenterSpatialCropd, Compose, Orientationd, Spacingd, SpatialPadd

from common.atomic import write_atomic
from common.charts import png_of
from common.command_line import run_command
from common.data.modalities import Modality, modality_of, modality_table
from common.errors import UserError
from common.finished_pretraining import load_run
from common.inferers.disruptive_pretraining import DisruptivePretraining
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.transforms.load_case import LoadCased
from common.transforms.modality_scaling import ScaleByModalityd
from common.weights import read_record

SIMULATED = "simulated images: these are not patients"


@dataclass(frozen=True)
class Restored:
    """A crop as a network got it and as it restored it.

    Args:
        clean: ``(X, Y, Z)``, normalised.
        disrupted: same shape; hidden tokens' voxels are 0, hidden channels cannot be shown.
        restored: same shape.
    """

    clean: np.ndarray
    disrupted: np.ndarray
    restored: np.ndarray

    @property
    def error(self) -> float:
        """Mean absolute error of ``restored``."""
        return float(np.abs(self.restored - self.clean).mean())


def restore(network: DisruptiveSwinUNETR, step: DisruptivePretraining, image: torch.Tensor, modality_index: int) -> Restored:
    """Disrupt one crop and let a network restore it.

    Args:
        network: with the head ``image``.
        step: of its pre-training; with a ``fixed_seed`` the same draw each time.
        image: clean normalised crop ``(1, X, Y, Z)``.
        modality_index: in the table of modalities.
    """
    device = next(network.parameters()).device
    batch = {"image": image[None].float(), "modality_index": torch.tensor([modality_index])}
    inputs, targets, _, arguments = step(batch, device)
    masks = {name: arguments[name] for name in ("channel_mask", "token_mask")}
    training = network.training
    network.eval()
    with torch.no_grad():
        restored = network.pretrain(inputs, **masks, tasks=("image",))["image"]
    network.train(training)
    hidden = masks["token_mask"]
    if hidden is not None:
        inputs = inputs.masked_fill(torch.nn.functional.interpolate(hidden.float(), size=inputs.shape[2:]).bool(), 0)
    return Restored(*(value[0, 0].float().cpu().numpy() for value in (targets["image"], inputs, restored)))


def reconstruction_figure(rows: Mapping[str, Mapping[str, Restored]], title: str, slices: Sequence[int | None] = (None,)) -> bytes:
    """Draw crops: a row per crop and slice; columns original, then disrupted and restored by each network.

    Args:
        rows: crop's name -> network's name -> what it did; every crop was seen by the same networks.
        title: above the figure.
        slices: indices along the third axis; None is the middle one.

    Returns:
        PNG; all panels of a row share the original's grey scale. Below each restored panel stands its mean absolute error over the crop.
    """
    networks = list(next(iter(rows.values())))
    lines = [(name, own, index) for name, own in rows.items() for index in slices]

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(lines), 1 + 2 * len(networks), squeeze=False)
        for number, (name, own, index) in enumerate(lines):
            clean = next(iter(own.values())).clean
            index = clean.shape[2] // 2 if index is None else index
            low, high = np.percentile(clean, 0.5), max(np.percentile(clean, 99.5), np.percentile(clean, 0.5) + 1e-6)
            images = [(clean, "original", "")]
            for network in networks:
                done = own[network]
                before = "disrupted" if len(networks) == 1 else f"{network}: input"
                images += [(done.disrupted, before, ""), (done.restored, network, f"L1 {done.error:.4f}")]
            for panel, (volume, head, foot) in zip(panels[number], images, strict=True):
                panel.imshow(volume[:, :, index].T, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="nearest")
                panel.set_xticks([])
                panel.set_yticks([])
                panel.set_xlabel(foot, fontsize=8)
                if number == 0:
                    panel.set_title(head, fontsize=9)
            panels[number, 0].set_ylabel(name, fontsize=9)
        figure.suptitle(title, fontsize=10)

    return png_of((2.0 * (1 + 2 * len(networks)), 2.15 * len(lines) + 0.5), draw)


def draw_validation(
    network: DisruptiveSwinUNETR,
    step: DisruptivePretraining,
    dataset: Sequence[Mapping[str, Any]],
    table: Mapping[str, Modality],
    ckpt_dir: str,
    output_dir: str,
    rank: int = 0,
) -> Path | None:
    """Write ``reconstruction.png``: the first validation crop of each modality, as the network of a finished pre-training restores it.

    Args:
        network: with its best weights.
        step: of validation, with fixed draws.
        dataset: validation crops with ``image`` and ``modality_index``.
        table: of modalities, for their names.
        ckpt_dir: folder of the weights; the title tells where they come from.
        output_dir: folder of results.
        rank: only rank 0 draws.

    Returns:
        The file; None from other ranks, and where no image is restored (rotation or contrast alone).
    """
    if rank or "image" not in getattr(network, "pretext", {}):
        return None
    names = {row.index: name for name, row in table.items()}
    rows: dict[str, dict[str, Restored]] = {}
    for item in (dataset[number] for number in range(len(dataset))):
        name = names[int(item["modality_index"])]
        if name not in rows:
            rows[name] = {"restored": restore(network, step, torch.as_tensor(item["image"]), int(item["modality_index"]))}
    title = "Validation crops" + (f" ({SIMULATED})" if read_record(ckpt_dir).get("simulated") else "")
    picture = reconstruction_figure(rows, title)
    return write_atomic(Path(output_dir) / "reconstruction.png", lambda file: file.write_bytes(picture))


def read_crop(
    image: str | Path, modality: Modality, table: Mapping[str, Modality], size: Sequence[int], spacing: Sequence[float] | None
) -> torch.Tensor:
    """Centre of a volume, prepared as the pre-training prepares it.

    Args:
        image: a volume's file, or the folder of one DICOM series.
        modality: its row of the table.
        table: of modalities.
        size: sides in voxels.
        spacing: voxel size in mm to resample to; None keeps the image's own.

    Returns:
        ``(1, *size)`` float32.
    """
    steps = [
        LoadCased(["image"], channels=1, brain_key=None),
        Orientationd("image", "RAS", labels=None),
        *([Spacingd("image", spacing, mode="bilinear")] if spacing else []),
        ScaleByModalityd("image", table),
        SpatialPadd("image", size),
        CenterSpatialCropd("image", size),
    ]
    case: Any = Compose(steps)({"id": Path(image).name, "image": [str(image)], "modality": modality.name})
    return torch.as_tensor(case["image"].as_tensor())


def draw_runs(
    runs: Mapping[str, str],
    image: str,
    modality: str,
    output: str,
    size: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    modalities: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Draw what several pre-trainings restore of one volume's centre, in three slices.

    Args:
        runs: name -> folder of a pre-training.
        image: the volume.
        modality: what it is, e.g. ct.
        output: PNG to write.
        size: sides of the crop; None takes the largest of the runs' training crops.
        spacing_mm: voxel size; None takes the first run's, if its images were resampled.
        modalities: rows of the table of modalities, see ``common.data.modalities``.
        seed: of the disruptions.

    Returns:
        Name -> mean absolute error over the crop.

    Raises:
        UserError: see :func:`common.finished_pretraining.load_run`.
    """
    table = modality_table(modalities)
    row = modality_of(modality, table, "modality")
    loaded = {name: load_run(folder, table, seed) for name, folder in runs.items()}
    records = [record for _, _, record in loaded.values()]
    sides = list(size) if size else [max(sides) for sides in zip(*(record["patch_size"] for record in records), strict=True)]
    crop = read_crop(image, row, table, sides, spacing_mm or records[0]["spacing_mm"])
    done = {name: restore(network, step, crop, row.index) for name, (network, step, _) in loaded.items()}
    simulated = any(read_record(folder).get("simulated") for folder in runs.values())
    title = f"{Path(image).name}, {row.name}" + (f"; networks trained on {SIMULATED}" if simulated else "")
    picture = reconstruction_figure({row.name: done}, title, [sides[2] * part // 4 for part in (1, 2, 3)])
    write_atomic(output, lambda file: file.write_bytes(picture))
    return {name: one.error for name, one in done.items()}


def _runs(text: str) -> dict[str, str]:
    """``"MAE=DIR,DAE=DIR"`` as name -> folder."""
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not pairs or any(not name.strip() or not folder.strip() for name, _, folder in pairs):
        raise UserError(f"runs: got '{text}', expected NAME=FOLDER, several with commas between them, e.g. \"MAE=a,DAE=b\".")
    return {name.strip(): folder.strip() for name, _, folder in pairs}


def draw(
    runs: str,
    image: str,
    modality: str,
    output: str,
    size: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    modalities: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> None:
    """Draw what pre-trained networks restore of a volume's centre, and print their mean absolute errors.

    Args:
        runs: folders of pre-trainings: "MAE=DIR,DAE=DIR".
        image: volume, or the folder of one DICOM series.
        modality: ct, t1, t1ce, t2, flair or a name of modalities; never guessed.
        output: PNG to write.
        size: sides of the crop in voxels, multiples of 32, e.g. "[96,96,96]"; None as trained.
        spacing_mm: resample to this voxel size, e.g. "[1,1,1]"; None as trained.
        modalities: rows of the table of modalities, e.g. '{"us": {"kind": "percentiles"}}'.
        seed: of the disruptions.
    """
    text = runs if isinstance(runs, str) else ",".join(map(str, runs))  # fire makes a tuple of "a,b"
    for name, value in draw_runs(_runs(text), image, modality, output, size, spacing_mm, modalities, seed).items():
        print(f"{name}: mean absolute error {value:.4f}")
    print(f"wrote {output}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    run_command(draw, "python -m common.reconstruction_figure", arguments)


if __name__ == "__main__":
    main()
