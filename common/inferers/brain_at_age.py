"""From a scan to the same brain at other ages: fit the latent, then ask the network at every voxel of the grid.

MONAI's inferers pass an image through a network; here the image only chooses the latent, and points go through.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor

from common.errors import UserError
from common.inferers.latent_fit import Fit, fit_adamw, fit_lm
from common.inferers.voxel_error import frozen
from common.inferers.voxel_sampling import grid_index, scan_points
from common.networks.brain_inr import BrainINR
from common.networks.wire_inr import WireINR

METHODS: dict[str, Callable[..., Fit]] = {"lm": fit_lm, "adamw": fit_adamw}
STARTS = ("zero", "mean", "encoder")
AGE_STARTS = (28.0, 34.0, 40.0)


def _outputs(
    inr: WireINR, latents: torch.Tensor, ages_weeks: Sequence[float], grid: Sequence[int], micro_batch: int, age_scale: float
) -> Iterator[list[torch.Tensor]]:
    """For every part of the grid the network's outputs ``(n, C)``, one tensor per age."""
    every = torch.arange(math.prod(grid), device=next(inr.parameters()).device)
    with frozen(inr), torch.no_grad():
        for part in every.split(micro_batch):
            index = grid_index(part, grid)
            yield [
                inr(scan_points(index, grid, age / age_scale)[None], latent[None])[0]
                for age, latent in zip(ages_weeks, latents, strict=True)
            ]


def predict_at(
    inr: WireINR,
    latent: torch.Tensor,
    ages_weeks: Sequence[float],
    grid: Sequence[int],
    micro_batch: int = 65536,
    age_scale: float = 100.0,
) -> torch.Tensor:
    """One brain at a list of ages; with the zero or the mean latent, the average brain.

    Args:
        inr: the network.
        latent: ``(L,)``, or one per age ``(A, L)``.
        ages_weeks: post-menstrual ages.
        grid: voxels per axis of the result; any grid, since the network knows places, not voxels.
        micro_batch: voxels in memory at a time.
        age_scale: weeks that are t = 1.

    Returns:
        ``(A, *grid)`` float32 in [0, 1], on the network's device.

    Source: Bieder et al., PRIME-MICCAI 2024, Sec. 2.2. Deviation: clipped, since f is said to map to [0, 1] and its last layer to [-1, 1].
    """
    latents = latent.expand(len(ages_weeks), -1)
    parts = [
        torch.stack([y[:, 0] for y in outputs]).clamp_(0, 1) for outputs in _outputs(inr, latents, ages_weeks, grid, micro_batch, age_scale)
    ]
    return torch.cat(parts, dim=1).reshape(len(ages_weeks), *grid)


def labels_at(
    inr: WireINR,
    latent: torch.Tensor,
    ages_weeks: Sequence[float],
    grid: Sequence[int],
    micro_batch: int = 65536,
    age_scale: float = 100.0,
) -> torch.Tensor:
    """The most likely label of every voxel, ``(A, *grid)`` uint8, of a network with a label head; arguments of :func:`predict_at`.

    Raises:
        UserError: the network has no label head.
    """
    if inr.labels is None:
        raise UserError("label_classes: the network has no label head; train one with label_classes above 0 to get an atlas of labels.")
    classes, latents = inr.labels.out_features, latent.expand(len(ages_weeks), -1)
    parts = [
        torch.stack([y[:, -classes:].argmax(dim=1).to(torch.uint8) for y in outputs])
        for outputs in _outputs(inr, latents, ages_weeks, grid, micro_batch, age_scale)
    ]
    return torch.cat(parts, dim=1).reshape(len(ages_weeks), *grid)


def estimate_age(inr: WireINR, image: torch.Tensor, starts: Sequence[float] = AGE_STARTS, **settings: Any) -> Fit:
    """Fit latent and age jointly from several first ages, and keep the fit that is best on voxels it has not seen.

    Args:
        inr: the network.
        image: prepared scan ``(*grid)`` in [0, 1].
        starts: first ages, weeks.
        settings: of :func:`~common.inferers.latent_fit.fit_lm`.

    Returns:
        The best fit; ``age_weeks`` is the estimate.

    Source: ours.
    """
    fits = [fit_lm(inr, image, age, fit_age=True, **settings) for age in starts]
    return max(fits, key=lambda fit: fit.check_psnr)


class LatentFitInferer(Inferer):
    """Predictions of a batch of scans at other ages, for MONAI's evaluators.

    Args:
        method: "lm" (Levenberg-Marquardt) or "adamw" (the paper).
        start: first latent: "zero" (the paper), "mean" of the training latents, or "encoder" (where the network has one).
        micro_batch: voxels in memory at a time.
        age_scale: weeks that are t = 1.
        age_starts: see :func:`estimate_age`; for scans without an age.
        settings: further arguments of the method, see :func:`~common.inferers.latent_fit.fit_lm` and ``fit_adamw``.

    Attributes:
        fits: the fits of the last batch: latent, age (given or estimated), PSNR, seconds.

    Raises:
        UserError: another method or start, or a setting that the method does not have.

    Source: Bieder et al., PRIME-MICCAI 2024, Sec. 2.2.
    """

    def __init__(
        self,
        method: str = "lm",
        start: str = "zero",
        micro_batch: int = 65536,
        age_scale: float = 100.0,
        age_starts: Sequence[float] = AGE_STARTS,
        **settings: Any,
    ) -> None:
        super().__init__()
        for name, value, choices in (("method", method, tuple(METHODS)), ("start", start, STARTS)):
            if value not in choices:
                raise UserError(f"{name}: got {value!r}, expected one of {', '.join(choices)}.")
        possible = [name for name in inspect.signature(METHODS[method]).parameters if name not in _GIVEN]
        if unknown := sorted(set(settings) - set(possible)):
            raise UserError(f"method {method}: got {', '.join(unknown)}; expected settings among {', '.join(possible)}.")
        self.method, self.start, self.micro_batch, self.age_scale = method, start, micro_batch, age_scale
        self.age_starts, self.settings = tuple(age_starts), settings
        self.fits: list[Fit] = []

    def __call__(
        self,
        inputs: torch.Tensor,
        network: Any,
        ages: torch.Tensor | None = None,
        target_ages: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Fit every scan, and predict it.

        Args:
            inputs: prepared scans ``(B, 1, *grid)`` in [0, 1], 0 outside the brain.
            network: the trained ``BrainINR``, or its wrapper of distributed training.
            ages: of the scans, weeks, ``(B,)``; None, or NaN for a scan, fits the age too.
            target_ages: weeks, ``(B,)`` or ``(B, A)``; None predicts each scan at its own age: the reconstruction.
            args: not used.
            kwargs: not used.

        Returns:
            ``(B, A, *grid)`` float32 in [0, 1].
        """
        network, scans = _bare(network), convert_to_tensor(inputs, track_meta=False)
        given = torch.full((len(scans),), math.nan) if ages is None else torch.as_tensor(ages).reshape(-1)
        self.fits = [self.fit(scan, network, float(age)) for scan, age in zip(scans, given, strict=True)]
        own = torch.tensor([fit.age_weeks for fit in self.fits])
        targets = own if target_ages is None else torch.as_tensor(target_ages)
        return torch.stack(
            [
                self.predict(fit, network, row.tolist(), scan.shape[1:])
                for fit, scan, row in zip(self.fits, scans, targets.reshape(len(scans), -1), strict=True)
            ]
        )

    def fit(self, scan: torch.Tensor, network: BrainINR, age_weeks: float = math.nan) -> Fit:
        """Fit one scan ``(1, *grid)``; without an age, by Levenberg-Marquardt with the age as one more unknown."""
        settings = {**self.settings, "start": self.first_latent(scan, network), "age_scale": self.age_scale}
        if not math.isnan(age_weeks):
            return METHODS[self.method](network.inr, scan[0], age_weeks, **settings)
        if self.method != "lm":
            raise UserError("age: a scan has no age; expected its post-menstrual age in weeks. Only method lm can estimate it.")
        return estimate_age(network.inr, scan[0], self.age_starts, **settings)

    def first_latent(self, scan: torch.Tensor, network: BrainINR) -> torch.Tensor | None:
        """Where the fit of a scan ``(1, *grid)`` begins, ``(L,)``; None is 0."""
        if self.start == "zero":
            return None
        with torch.no_grad():
            return network.latents.mean() if self.start == "mean" else network.first_latent(scan[None].float())[0]

    def predict(self, fit: Fit, network: BrainINR, ages_weeks: Sequence[float], grid: Sequence[int]) -> torch.Tensor:
        """A fitted brain at a list of ages, ``(A, *grid)``."""
        ages = torch.tensor(ages_weeks, device=fit.latent.device) / self.age_scale
        with torch.no_grad():
            latents = network.latent_at(fit.latent.expand(len(ages), -1), torch.full_like(ages, fit.age_weeks / self.age_scale), ages)
        return predict_at(network.inr, latents, ages_weeks, grid, self.micro_batch, self.age_scale)


_GIVEN = ("inr", "image", "age_weeks", "brain", "start", "fit_age", "age_scale")


def _bare(network: Any) -> BrainINR:
    """The network without the wrapper of distributed training."""
    return network.module if isinstance(network, torch.nn.parallel.DistributedDataParallel) else network
