"""The training step of a coordinate network: voxels drawn from scans that stay on the device, as points, intensities and latents.

MONAI's ``RandWeightedCrop`` and its like cut patches on the host; a coordinate network wants single voxels, hundreds of thousands per step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from common import flag
from common.errors import UserError
from common.networks.latent_table import FLIP, GLOBAL, LatentTable
from common.transforms.coordinates import voxel_coordinates

DTYPES = {"float16": torch.float16, "uint8": torch.uint8}
LARGEST_GRID = 2**31
"""Voxel numbers are kept as int32."""
Prepared = tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor], dict[str, Any]]


def identity(case: Mapping[str, Any], shared: bool) -> str:
    """Name of a scan's latent: the subject when all scans of a subject share one (SSL), else the scan's own id."""
    return str(case["subject"] if shared else case["id"])


def identities(cases: Sequence[Mapping[str, Any]], shared: bool = True, mirrored: bool = True) -> list[str]:
    """Names of all latents that a training set needs, each once, in the order of the cases.

    Args:
        cases: with ``subject`` and ``id``.
        shared: SSL, one latent per subject; False gives each scan its own.
        mirrored: also one for each mirrored image, ``<name>#flip``.

    Source: Bieder et al., PRIME-MICCAI 2024, Sec. 2 (SSL); its released code for the latent of the mirrored image.
    """
    names = list(dict.fromkeys(identity(case, shared) for case in cases))
    return [name + end for name in names for end in (("", FLIP) if mirrored else ("",))]


def foreground_gaps(foreground: torch.Tensor) -> torch.Tensor:
    r"""Foreground of a scan in one number per foreground voxel: how many background voxels lie before it.

    The j-th foreground voxel is number :math:`j + g_j` of the flattened scan, and the k-th background voxel is number
    :math:`k + |\{j : g_j \le k\}|`, so both are drawn uniformly from this one sorted list, without a list of the background.

    Args:
        foreground: ``(*grid)``, bool.

    Returns:
        :math:`g`, ``(F,)`` int32, ascending.
    """
    flat = foreground.reshape(-1).nonzero()[:, 0]
    return (flat - torch.arange(flat.numel(), device=flat.device)).int()


def foreground_voxels(gaps: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """Numbers in the flattened scan of the foreground voxels of these ranks (0 is the first), int64."""
    return gaps[rank].long() + rank


def background_voxels(gaps: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """Numbers in the flattened scan of the background voxels of these ranks (0 is the first), int64."""
    return rank + torch.searchsorted(gaps, rank.int(), right=True)


def sample_voxels(
    gaps: torch.Tensor, voxels: int, count: int, foreground: float | None = 0.9, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw voxels of one scan, uniformly and with replacement inside the foreground and outside.

    Args:
        gaps: see :func:`foreground_gaps`.
        voxels: size of the whole scan.
        count: how many to draw; the foreground ones come first.
        foreground: share of the draws inside the foreground, in [0, 1]; None draws from all voxels alike. A scan without background,
            or without foreground, gives all draws from what it has.
        generator: of the device of ``gaps``; None takes torch's own.

    Returns:
        Numbers in the flattened scan, ``(count,)`` int64.

    Source: Bieder et al., PRIME-MICCAI 2024, Sec. 3; 90 % inside the brain as its released configuration has it.
        Deviation: with replacement, since the released sampler permutes all voxels of the scan in every step.
    """
    device, inside = gaps.device, gaps.numel()
    if foreground is None:
        return torch.randint(voxels, (count,), device=device, generator=generator)
    first = 0 if inside == 0 else count if inside == voxels else round(foreground * count)
    ranks = torch.randint(max(inside, 1), (first,), device=device, generator=generator)
    others = torch.randint(max(voxels - inside, 1), (count - first,), device=device, generator=generator)
    return torch.cat([foreground_voxels(gaps, ranks), background_voxels(gaps, others)])


def grid_index(flat: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Indices per axis, ``(N, D)`` int64, of numbers in the flattened scan, ``(N,)``."""
    return torch.stack(torch.unravel_index(flat, tuple(grid)), dim=-1)


def scan_points(index: torch.Tensor, grid: Sequence[int], t: float | torch.Tensor) -> torch.Tensor:
    """What the network is asked at: ``(N, 1 + D)`` float32, the scaled age first, then the coordinates of the voxels ``(N, D)``."""
    coordinates = voxel_coordinates(index, tuple(grid))
    return torch.cat([torch.as_tensor(t, dtype=coordinates.dtype).to(coordinates.device).expand(len(index), 1), coordinates], dim=1)


@dataclass(frozen=True)
class BankedScan:
    """One prepared scan in the bank: flattened ``image`` ``(V,)`` float16, or uint8 in 1/255; ``gaps`` of the brain; ``label``
    ``(V,)`` uint8 where the scan has one; age in weeks; names."""

    image: torch.Tensor
    gaps: torch.Tensor
    label: torch.Tensor | None
    age_weeks: float
    subject: str
    id: str

    def values(self, flat: torch.Tensor) -> torch.Tensor:
        """Intensity in [0, 1], and the label behind it where there is one, of voxels ``(N,)``: ``(N, 1)`` or ``(N, 2)`` float32."""
        image = self.image[flat].float()
        columns = [image / 255 if self.image.dtype == torch.uint8 else image]
        return torch.stack(columns if self.label is None else [*columns, self.label[flat].float()], dim=1)


class VoxelBank:
    """All prepared scans of a training set in few bytes per voxel, on the device as far as they fit.

    Args:
        scans: a data set of prepared scans, each ``image`` ``(1, *grid)`` in [0, 1], ``brain`` ``(1, *grid)``, ``age`` in weeks,
            ``subject``, ``id``; a ``label`` ``(1, *grid)`` is kept too. All on one grid.
        dtype: "float16", or "uint8" (half the memory; steps of 1/255, as fine as a PSNR of 59 dB).
        device: where scans lie, and so where their voxels are drawn.
        max_gib: most memory on a GPU; scans beyond it stay on the host, drawn there and copied in each step.

    Raises:
        UserError: no scans, another dtype, an empty brain, or scans on different grids.

    Source: ours; the released code keeps float64 volumes on the host and makes all coordinates anew in every step.
    """

    def __init__(self, scans: Any, dtype: str = "float16", device: str | torch.device = "cpu", max_gib: float = 8.0) -> None:
        if dtype not in DTYPES:
            raise UserError(f"dtype: got {dtype!r}, expected one of {', '.join(DTYPES)}.")
        self.dtype, self.device, self.max_bytes = DTYPES[dtype], torch.device(device), max_gib * 2**30
        self.grid: tuple[int, ...] = ()
        self.held_bytes = 0
        self.scans = [self._keep(scans[number]) for number in _progress(len(scans))]
        if not self.scans:
            raise UserError("VoxelBank: got no scans; expected the prepared scans of a training set.")

    def __len__(self) -> int:
        return len(self.scans)

    @property
    def voxels(self) -> int:
        """Voxels of one scan."""
        return int(torch.Size(self.grid).numel())

    def _keep(self, scan: Mapping[str, Any]) -> BankedScan:
        image, brain = torch.as_tensor(scan["image"])[0], torch.as_tensor(scan["brain"])[0] > 0
        self._check(str(scan["id"]), image, brain, "label" in scan)
        image = (image.float() * 255).round().to(torch.uint8) if self.dtype == torch.uint8 else image.to(self.dtype)
        label = torch.as_tensor(scan["label"])[0].reshape(-1).to(torch.uint8) if "label" in scan else None
        parts = [image.reshape(-1), foreground_gaps(brain), label]
        size = sum(part.numel() * part.element_size() for part in parts if part is not None)
        fits = self.device.type == "cpu" or self.held_bytes + size <= self.max_bytes
        self.held_bytes += size if fits else 0
        place = self.device if fits else torch.device("cpu")
        # clone: a flattened view would keep a wider original alive, and a MetaTensor its metadata
        kept = [None if part is None else part.as_subclass(torch.Tensor).to(place).clone() for part in parts]
        assert kept[0] is not None and kept[1] is not None
        return BankedScan(kept[0], kept[1], kept[2], float(scan["age"]), str(scan["subject"]), str(scan["id"]))

    def _check(self, name: str, image: torch.Tensor, brain: torch.Tensor, labelled: bool) -> None:
        grid = tuple(image.shape)
        if not self.grid:
            self.grid, self.labelled = grid, labelled
        if grid != self.grid or tuple(brain.shape) != grid:
            raise UserError(
                f"scan {name}: image {grid} and brain mask {tuple(brain.shape)}, but the first scan has {self.grid} voxels; expected one "
                "grid for all. Put AlignBraind with a fixed grid among the transforms."
            )
        if labelled != self.labelled:
            here, there = ("labels", "none") if labelled else ("no labels", "some")
            raise UserError(f"scan {name}: {here} here, but {there} with the first scan; expected labels of all scans, or of none.")
        if image.numel() >= LARGEST_GRID:
            raise UserError(f"scan {name}: got {image.numel()} voxels, expected fewer than {LARGEST_GRID}.")
        if not bool(brain.any()):
            raise UserError(
                f"scan {name}: its brain mask is empty, so no voxel of the brain can be drawn; leave the scan out, or mend its mask."
            )


class ScanIndices(Dataset[dict[str, int]]):
    """The data set of the trainer: numbers of the scans in a bank, one item per scan.

    Args:
        bank: the scans.
        repeats: how often each scan comes in an epoch.
    """

    def __init__(self, bank: VoxelBank, repeats: int = 1) -> None:
        self.bank, self.repeats = bank, int(repeats)

    def __len__(self) -> int:
        return len(self.bank) * self.repeats

    def __getitem__(self, number: int) -> dict[str, int]:
        return {"index": number % len(self.bank)}


class VoxelSampling:
    """``prepare_batch`` of a ``SupervisedTrainer``: from numbers of scans to (points, values, (rows of latents,), {}).

    Nothing of the size of a volume is made in a step. A mirrored image is the same voxels at mirrored indices along the first axis.
    Draws come from torch's own generators, which ``common.training`` seeds for each epoch.

    Args:
        bank: the scans.
        latents: the network's ``LatentTable``.
        ratio: voxels per image and step, as a share of the whole.
        max_voxels: no more than these, whatever the ratio: it bounds the memory of a step (about 20 KiB per voxel at width 128).
        foreground: share of them inside the brain; None draws from the whole image alike.
        flip_prob: probability of the mirrored image, which has a latent of its own.
        sgla_prob: probability p that the global latent stands in for the image's own (SGLA), per image and step.
        shared: SSL, one latent per subject; False: one per scan.
        age_scale: weeks of post-menstrual age that are t = 1.

    Raises:
        UserError: a share or probability outside [0, 1].

    Source: Bieder et al., PRIME-MICCAI 2024, Sec. 2.1 (SSL, SGLA) and 3 (p = 0.1, 5 % of the voxels).
        Deviation: ``sgla_prob`` 0, ``shared`` False and both together are the cells of its ablation.
    """

    def __init__(
        self,
        bank: VoxelBank,
        latents: LatentTable,
        ratio: float = 0.05,
        max_voxels: int | None = None,
        foreground: float | None = 0.9,
        flip_prob: float = 0.5,
        sgla_prob: float = 0.1,
        shared: bool = True,
        age_scale: float = 100.0,
    ) -> None:
        shares = {"ratio": ratio, "foreground": foreground, "flip_prob": flip_prob, "sgla_prob": sgla_prob}
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"{name}: got {share}, expected a share from 0 to 1.")
        self.bank, self.latents, self.foreground = bank, latents, foreground
        self.count = max(1, min(round(ratio * bank.voxels), max_voxels or bank.voxels))
        self.flip_prob, self.sgla_prob, self.shared, self.age_scale = flip_prob, sgla_prob, flag(shared, "shared"), age_scale

    def __call__(self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any) -> Prepared:
        """Draw the voxels of one batch.

        Args:
            batch: ``index`` ``(B,)``, numbers of scans.
            device: where the step runs.
            non_blocking: copy without waiting.
            kwargs: passed to ``Tensor.to``.

        Returns:
            Points ``(B, N, 1 + D)``: scaled age, then coordinates; values ``(B, N, 1)``, or ``(B, N, 2)`` with labels; rows ``(B,)``; {}.
        """
        numbers = [int(number) for number in torch.as_tensor(batch["index"]).reshape(-1)]
        mirrored = (torch.rand(len(numbers)) < self.flip_prob).tolist()
        unnamed = (torch.rand(len(numbers)) < self.sgla_prob).tolist()
        scans = [self.bank.scans[number] for number in numbers]
        drawn = [self._draw(scan, flip) for scan, flip in zip(scans, mirrored, strict=True)]
        points, values = (torch.stack([pair[which].to(device, non_blocking=non_blocking, **kwargs) for pair in drawn]) for which in (0, 1))
        rows = self.latents.rows([self.name(*which) for which in zip(scans, mirrored, unnamed, strict=True)])
        return points, values, (rows.to(device, non_blocking=non_blocking),), {}

    def name(self, scan: BankedScan, mirrored: bool, unnamed: bool) -> str:
        """Name of the latent that a drawn image is learned with; a mirrored image shares the global one."""
        return GLOBAL if unnamed else identity({"subject": scan.subject, "id": scan.id}, self.shared) + FLIP * mirrored

    def _draw(self, scan: BankedScan, mirrored: bool) -> tuple[torch.Tensor, torch.Tensor]:
        flat = sample_voxels(scan.gaps, self.bank.voxels, self.count, self.foreground)
        index = grid_index(flat, self.bank.grid)
        if mirrored:
            index[:, 0] = self.bank.grid[0] - 1 - index[:, 0]
        return scan_points(index, self.bank.grid, scan.age_weeks / self.age_scale), scan.values(flat)


def _progress(count: int) -> Any:
    """Numbers of the scans, with a bar on a terminal: preparing hundreds of volumes takes minutes."""
    from tqdm import tqdm

    return tqdm(range(count), desc="Scans into memory", unit="scan", leave=False, disable=None)
