"""Masks of a whole volume from a diffusion model: n samples with noise of their own, their mean and variance.

MONAI's ``DiffusionInferer.sample`` puts the noised tensor in front of its condition, knows no coordinates and no ensemble.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.networks.schedulers import RFlowScheduler, Scheduler
from monai.utils import convert_to_tensor
from tqdm import tqdm

from common import flag
from common.errors import UserError
from common.inferers.mask_diffusion import network_input
from common.inferers.volume_frame import VolumeFrame
from common.networks.diffusion_unet import DiffusionUNet


def case_seed(case: str | bytes, sample: int, seed: int = 0) -> int:
    """Seed of one sample of one case: the same on every machine, another one for every case and sample.

    Args:
        case: the case's id, or its voxels where there is no id.
        sample: index of the sample; the first n samples are the same in every ensemble of n or more.
        seed: base seed of the run.

    Returns:
        An integer in [0, 2 ** 63).
    """
    name = crc32(case.encode() if isinstance(case, str) else case)
    return int(np.random.SeedSequence((seed, sample, name)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class RunningMoments:
    r"""Mean and variance of tensors that come one after the other, by Welford's update.

    .. math:: \mu_n = \mu_{n-1} + \frac{x_n - \mu_{n-1}}{n}, \quad M_n = M_{n-1} + (x_n - \mu_{n-1})(x_n - \mu_n), \quad \sigma^2 = M_n / n
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros(())

    def add(self, values: torch.Tensor) -> None:
        """Take one more tensor, float, all of one shape."""
        if self.count == 0:
            self.mean, self.squares = torch.zeros_like(values), torch.zeros_like(values)
        self.count += 1
        difference = values - self.mean
        self.mean += difference / self.count
        self.squares += difference * (values - self.mean)

    @property
    def variance(self) -> torch.Tensor:
        """Variance with divisor n, 0 after one tensor."""
        return self.squares / max(self.count, 1)


class CaseImages:
    """``prepare_batch`` of an evaluator: image and label as usual, and the cases' ids for the inferer's seeds.

    Args:
        id_key: key of the ids; where a batch has none, the seeds come from the voxels.
    """

    def __init__(self, id_key: str = "id") -> None:
        self.id_key = id_key

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, tuple[()], dict[str, Any]]:
        """Image ``(B, C, X, Y, Z)``, label or None, (), and the inferer's argument ``cases``."""
        # tensors as they are: postprocessing asks an image that is a MetaTensor for its grid and its file; unlabelled use leaves paths
        found = {key: batch[key] for key in ("image", "label") if isinstance(batch.get(key), torch.Tensor)}
        image, label = (
            found[key].to(device=device, non_blocking=non_blocking, **kwargs) if key in found else None for key in ("image", "label")
        )
        ids = batch.get(self.id_key)
        return image, label, (), {"cases": None if ids is None else [str(name) for name in ids]}


class MaskSamplingInferer(Inferer):
    """Ensemble of samples of a whole volume.

    Args:
        scheduler: one of MONAI's or ours, as in training.
        frame: pads the volume to the cube of the training and cuts the result back.
        steps: evaluations of the network per sample.
        samples: size of the ensemble.
        seed: base seed, see :func:`case_seed`.
        channels: K, those of the mask (or of the image that is made).
        coordinates: the network gets coordinates.
        conditional: the network gets the image; False makes images from noise, and the inputs give the shape alone.
        signed: samples live in [-1, 1] and are brought to [0, 1].
        keep_samples: return the samples too.
        lean: evaluate a ``DiffusionUNet`` with less memory, by ``common.networks.lean_forward``.
        recompute: with ``lean``, compute the finest skips again in place of keeping them: less memory still, more time.
        sliding_window: MONAI's inferer that evaluates the network window by window in every step: less memory still, other group norms and
            seams; None evaluates the volume at once (the paper).
        progress: bar over all steps of a volume.

    Source: PatchDDM, Sec. 3 and 5. Deviation: every case has noise of its own; the released code starts every case from the same noise.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        frame: VolumeFrame,
        steps: int = 1000,
        samples: int = 1,
        seed: int = 0,
        channels: int = 1,
        coordinates: bool = True,
        conditional: bool = True,
        signed: bool = False,
        keep_samples: bool = False,
        lean: bool = False,
        recompute: bool = False,
        sliding_window: SlidingWindowInferer | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if samples < 1 or not 1 <= steps <= scheduler.num_train_timesteps:
            raise UserError(f"got {samples} samples of {steps} steps; expected 1 or more of 1 to {scheduler.num_train_timesteps} steps.")
        self.scheduler, self.frame, self.steps, self.samples, self.seed, self.channels = scheduler, frame, steps, samples, seed, channels
        self.coordinates, self.conditional = flag(coordinates, "coordinates"), flag(conditional, "conditional")
        self.signed, self.keep_samples = flag(signed, "signed"), flag(keep_samples, "keep_samples")
        self.lean, self.recompute = flag(lean, "lean"), flag(recompute, "recompute")
        self.sliding_window, self.progress = sliding_window, flag(progress, "progress")

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, cases: Sequence[str] | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Mean, variance and, if asked for, the samples, as channels; ``EnsembleMaskd`` takes them apart.

        Args:
            inputs: ``(B, C, X, Y, Z)`` in [0, 1], background 0, any sides.
            network: called as ``network(x, timesteps=t)``.
            args: not used.
            cases: B ids; None seeds from the voxels.
            kwargs: not used.

        Returns:
            ``(B, 2 K, X, Y, Z)`` float32: K means and K variances (divisor n); with ``keep_samples`` ``(B, (2 + n) K, X, Y, Z)``.
        """
        volumes = convert_to_tensor(inputs, track_meta=False)
        with torch.no_grad():
            return torch.stack([self._ensemble(v, network, cases[i] if cases is not None else None) for i, v in enumerate(volumes)])

    def _ensemble(self, image: torch.Tensor, network: Callable[..., torch.Tensor], case: str | None) -> torch.Tensor:
        name = case if case is not None else image.cpu().numpy().tobytes()
        shape, moments, kept = image.shape[1:], RunningMoments(), []
        window = self.frame.window(image, whole=not self.conditional)  # where images are made, theirs says nothing of the brain
        coordinates = self.frame.coordinates(window).to(image.device)[None] if self.coordinates else None
        padded = self.frame.embed(image, window)[None]
        x = padded.new_zeros(1, self.channels, *padded.shape[2:])
        seen = network_input(padded if self.conditional else None, coordinates, x)
        del padded, coordinates, x
        self.scheduler.set_timesteps(self.steps)  # type: ignore[operator]
        count = self.samples * len(self.scheduler.timesteps)
        with tqdm(total=count, desc="Sampling", leave=False, disable=None if self.progress else True) as bar:
            for index in range(self.samples):
                sample = self._sample(seen, network, case_seed(name, index, self.seed), bar)[0]
                sample = self.frame.restore((sample + 1) / 2 if self.signed else sample, window, shape)
                moments.add(sample)
                kept += [sample] if self.keep_samples else []
        return torch.cat([moments.mean, moments.variance, *kept])

    def _sample(self, seen: torch.Tensor, network: Callable[..., torch.Tensor], seed: int, bar: Any) -> torch.Tensor:
        """One sample from noise; its place in the network's input is overwritten in every step."""
        scheduler: Any = self.scheduler
        noise = torch.randn((1, self.channels, *seen.shape[2:]), generator=torch.Generator().manual_seed(seed))
        x, walk = noise.to(seen), torch.Generator(seen.device).manual_seed(seed + 1)
        noisy = "generator" in inspect.signature(scheduler.step).parameters
        scheduler.set_timesteps(self.steps)
        timesteps = scheduler.timesteps.tolist()
        for t, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
            seen[:, -self.channels :] = x
            output = self._evaluate(network, seen, torch.tensor([t], device=seen.device)).float()
            if isinstance(scheduler, RFlowScheduler):
                x, _ = scheduler.step(output, t, x, following)
            else:
                x, _ = scheduler.step(output, t, x, **({"generator": walk} if noisy else {}))
            bar.update()
        return x

    def _evaluate(self, network: Callable[..., torch.Tensor], seen: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        def forward(x: torch.Tensor) -> torch.Tensor:
            t = timesteps.expand(len(x))
            if self.lean and isinstance(network, DiffusionUNet):
                from common.networks.lean_forward import lean_forward

                return lean_forward(network, x, t, recompute=self.recompute)
            return network(x, timesteps=t)

        return forward(seen) if self.sliding_window is None else torch.as_tensor(self.sliding_window(seen, forward))
