"""Fit a latent to one scan with the network frozen: the paper's AdamW, and Levenberg-Marquardt, a few dozen passes in place of thousands.

Neither MONAI nor torch has a damped least-squares solver.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from common.errors import UserError
from common.inferers.voxel_error import Linearised, VoxelError, frozen
from common.inferers.voxel_sampling import foreground_gaps, sample_voxels
from common.networks.wire_inr import WireINR

AGE_RANGE = (20.0, 50.0)
"""Weeks."""
DAMPING_RANGE = (1e-9, 1e6)
PSNR_GAIN = 0.01
"""dB; a smaller gain on the check sample counts as none."""


@dataclass(frozen=True)
class FitStep:
    """A fit after one step: seconds since its start, mean squared error on the fitted voxels (of AdamW, before the step), the latent
    ``(L,)`` and the age."""

    seconds: float
    error: float
    latent: torch.Tensor
    age_weeks: float


@dataclass(frozen=True)
class Fit:
    """A latent and what is known about it.

    Attributes:
        latent: ``(L,)`` float32.
        age_weeks: the age given, or the fitted one.
        psnr: dB, on the voxels fitted last; clipped values, data range 1, brain and rest in the sample's proportion.
        check_psnr: dB, likewise on voxels that no step was fitted to.
        evaluations: voxels passed forward through the network.
        seconds: of the whole fit.
        history: the fit after every step.
    """

    latent: torch.Tensor
    age_weeks: float
    psnr: float
    check_psnr: float
    evaluations: int
    seconds: float
    history: list[FitStep] = field(default_factory=list, repr=False)


class FitScan:
    """A prepared scan that a latent is fitted to, and the draws of its voxels.

    Args:
        inr: the network.
        image: ``(*grid)`` in [0, 1], 0 outside the brain.
        brain: mask ``(*grid)``; None takes the voxels above 0.
        foreground: share of the draws inside the brain; None draws from the whole image alike.
        age_scale: weeks that are t = 1.
        seed: of the draws.

    Raises:
        UserError: the image has another number of axes than the network, or holds nothing.
    """

    def __init__(
        self, inr: WireINR, image: torch.Tensor, brain: torch.Tensor | None, foreground: float | None, age_scale: float, seed: int
    ) -> None:
        if image.ndim != inr.dims:
            raise UserError(
                f"image: got {image.ndim} axes {tuple(image.shape)}, but the network is made for {inr.dims}; give one scan (*grid)."
            )
        self.inr, self.age_scale, self.foreground = inr, age_scale, foreground
        self.image = image.to(next(inr.parameters()).device).as_subclass(torch.Tensor)
        mask = self.image > 0 if brain is None else brain.to(self.image.device).as_subclass(torch.Tensor) > 0
        if not bool(mask.any()):
            raise UserError("image: there is no brain in it (no voxel above 0, or an empty mask); nothing to fit a latent to.")
        self.gaps = foreground_gaps(mask)
        self.generator = torch.Generator(self.image.device).manual_seed(seed)

    def draw(self, count: int) -> VoxelError:
        """The error on voxels drawn anew."""
        flat = sample_voxels(self.gaps, self.image.numel(), count, self.foreground, self.generator)
        return VoxelError(self.inr, self.image, flat, self.age_scale)

    def draws(self, count: int, size: int) -> Iterator[VoxelError]:
        """The error on ``count`` voxels drawn anew, in parts of at most ``size`` of them."""
        return (self.draw(min(size, count - first)) for first in range(0, count, size))

    def parts(self, size: int) -> Iterator[VoxelError]:
        """The error on every voxel of the image once, in parts of at most ``size`` of them."""
        every = torch.arange(self.image.numel(), device=self.image.device)
        return (VoxelError(self.inr, self.image, part, self.age_scale) for part in every.split(size))

    def start(self, latent: torch.Tensor | None) -> torch.Tensor:
        """Where the search begins, ``(L,)``: 0 where nothing is given."""
        zero = torch.zeros(self.inr.latent_size, device=self.image.device)
        return zero if latent is None else zero + latent.detach().to(zero)


def damped_step(normal: torch.Tensor, gradient: torch.Tensor, damping: float) -> torch.Tensor | None:
    r"""Solve :math:`(J^\top J + \mu d I)\,\delta = -J^\top r` by Cholesky's method.

    Args:
        normal: :math:`J^\top J`, ``(P, P)`` float64.
        gradient: :math:`J^\top r`, ``(P,)`` float64.
        damping: :math:`\mu`, in units of :math:`d`, the mean of the diagonal of :math:`J^\top J`.

    Returns:
        :math:`\delta`, ``(P,)`` float32; None where the matrix is not positive definite.

    Source: Levenberg, Q. Appl. Math. 2(2), 1944. Deviation: not Marquardt's diagonal, since all numbers of a latent are of one kind.
    """
    damped = normal + damping * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    factor, failed = torch.linalg.cholesky_ex(damped)
    return None if bool(failed) else -torch.cholesky_solve(gradient[:, None], factor)[:, 0].float()


class LevenbergMarquardt:
    """The search for latent and age on one sample of voxels; ``step`` tries one damped step and takes it when the error falls.

    Args:
        sample: the error to make small.
        latent: where to begin, ``(L,)``.
        age_weeks: the scan's age, or where its search begins.
        fit_age: the age is one more unknown.
        damping: the first one.
        bound: see :func:`fit_lm`.
        age_range: see :func:`fit_lm`.
    """

    def __init__(
        self,
        sample: VoxelError,
        latent: torch.Tensor,
        age_weeks: float,
        fit_age: bool,
        damping: float,
        bound: float | None,
        age_range: Sequence[float] = AGE_RANGE,
    ) -> None:
        self.sample, self.fit_age, self.damping, self.bound, self.age_range = sample, fit_age, damping, bound, age_range
        self.tries, self.growth = 0, 2.0
        self.there: Linearised | None = None
        self._take(latent, age_weeks, sample.linearise(latent, age_weeks))

    def renew(self, sample: VoxelError) -> None:
        """Go on from here on other voxels: a minimum of one sample is none of the next, so the search does not stay in it."""
        self.sample = sample
        self._take(self.latent, self.age_weeks, sample.linearise(self.latent, self.age_weeks))

    @property
    def stuck(self) -> bool:
        """No step, however short, makes the error smaller."""
        return self.damping > DAMPING_RANGE[1]

    def step(self) -> bool:
        """Try one step; whether it was taken."""
        self.tries += 1
        if self.there is not None:
            jacobian = self.there.jacobian(self.fit_age)
            self.normal, self.gradient = (jacobian.T @ jacobian).double(), (jacobian.T @ self.there.residual).double()
            self.there = None
        change = damped_step(self.normal, self.gradient, self.damping)
        if change is not None:
            latent, age_weeks = self._moved(change)
            there = self.sample.linearise(latent, age_weeks)
            if there.error < self.error:
                self._relax((self.error - there.error) / self._promised(change))
                self._take(latent, age_weeks, there)
                return True
        self.damping *= self.growth
        self.growth *= 2
        return False

    def _promised(self, change: torch.Tensor) -> float:
        """By how much the mean squared error would fall if the residuals were linear."""
        d = change.double()
        return float(-(2 * d @ self.gradient + d @ self.normal @ d)) / len(self.sample)

    def _relax(self, gain: float) -> None:
        """Damp the next step less the better the linear forecast was (gain 1), and more where it was poor.

        Source: Nielsen, IMM-REP-1999-05, technical report of DTU, 1999.
        """
        factor = max(1 / 3, 1 - (2 * min(gain, 1.0) - 1) ** 3)
        self.damping, self.growth = max(self.damping * factor, DAMPING_RANGE[0]), 2.0

    def _moved(self, change: torch.Tensor) -> tuple[torch.Tensor, float]:
        latent = self.latent + change[: len(self.latent)]
        latent = latent if self.bound is None else latent.clamp(-self.bound, self.bound)
        if not self.fit_age:
            return latent, self.age_weeks
        low, high = self.age_range
        return latent, min(max(self.age_weeks + float(change[-1]) * self.sample.age_scale, low), high)

    def _take(self, latent: torch.Tensor, age_weeks: float, there: Linearised) -> None:
        self.latent, self.age_weeks, self.error = latent, age_weeks, there.error
        self.there = there  # its Jacobian waits until a step from here is wanted


def fit_lm(
    inr: WireINR,
    image: torch.Tensor,
    age_weeks: float,
    brain: torch.Tensor | None = None,
    voxels: int = 4096,
    check: int = 4096,
    foreground: float | None = 0.9,
    iterations: int = 60,
    damping: float = 0.1,
    patience: int = 5,
    redraw: int = 0,
    start: torch.Tensor | None = None,
    fit_age: bool = False,
    bound: float | None = None,
    age_range: Sequence[float] = AGE_RANGE,
    age_scale: float = 100.0,
    seed: int = 0,
) -> Fit:
    """Fit the latent, and the age if asked, by Levenberg-Marquardt on samples of voxels.

    Args:
        inr: the network; it is frozen here and left as it was.
        image: prepared scan ``(*grid)`` in [0, 1], 0 outside the brain.
        age_weeks: post-menstrual age; with ``fit_age`` where the search begins.
        brain: mask ``(*grid)``; None takes the voxels above 0.
        voxels: size of a fitted sample; some dozens per number of the latent.
        check: size of the sample that says when to stop and which step is returned.
        foreground: share of both samples inside the brain, as in training; None draws from the whole image alike.
        iterations: most steps, those not taken counted.
        damping: the first one.
        patience: stop after so many steps in a row without a better check.
        redraw: draw new voxels after so many tries; 0 keeps the first ones. Not shown to help.
        start: first latent, ``(L,)``; None is 0.
        fit_age: the age is one more unknown.
        bound: no number of the latent goes beyond it (the table's rows keep within 1); None lets them.
        age_range: a fitted age stays between these, weeks; the network knows nothing of others.
        age_scale: weeks that are t = 1.
        seed: of the draws; the same seed gives the same fit.

    Raises:
        UserError: see :class:`FitScan`.

    Source: ours; the paper fits by AdamW (:func:`fit_adamw`).
    """
    begin, scan = time.perf_counter(), FitScan(inr, image, brain, foreground, age_scale, seed)
    unseen, sample, worse = scan.draw(check), scan.draw(voxels), 0
    with frozen(inr):
        search = LevenbergMarquardt(sample, scan.start(start), float(age_weeks), fit_age, damping, bound, age_range)
        history = [FitStep(time.perf_counter() - begin, search.error, search.latent, search.age_weeks)]
        checks = [unseen.psnr(search.latent, search.age_weeks)]
        while search.tries < iterations and worse < patience and not search.stuck:
            if redraw and search.tries and search.tries % redraw == 0:
                search.renew(scan.draw(voxels))
            if search.step():
                history.append(FitStep(time.perf_counter() - begin, search.error, search.latent, search.age_weeks))
                checks.append(unseen.psnr(search.latent, search.age_weeks))
                worse = 0 if checks[-1] > max(checks[:-1]) + PSNR_GAIN else worse + 1
        best = history[max(range(len(checks)), key=checks.__getitem__)]
        psnr = search.sample.psnr(best.latent, best.age_weeks)
    renewals = (search.tries - 1) // redraw if redraw and search.tries else 0
    evaluations = voxels * (search.tries + renewals + 2) + check * len(checks)
    return Fit(best.latent, best.age_weeks, psnr, max(checks), evaluations, time.perf_counter() - begin, history)


def fit_adamw(
    inr: WireINR,
    image: torch.Tensor,
    age_weeks: float,
    brain: torch.Tensor | None = None,
    steps: int = 1000,
    lr: float = 1e-3,
    ratio: float | None = 0.05,
    foreground: float | None = 0.9,
    weight_decay: float = 0.01,
    micro_batch: int = 65536,
    check: int = 4096,
    start: torch.Tensor | None = None,
    age_scale: float = 100.0,
    seed: int = 0,
) -> Fit:
    r"""Fit the latent by AdamW, as the paper does.

    .. math:: \hat l = \arg\min_l \sum_{x} \big(f(t, x, l) - I(x)\big)^2

    Args:
        inr: the network; it is frozen here and left as it was.
        image: prepared scan ``(*grid)`` in [0, 1], 0 outside the brain.
        age_weeks: post-menstrual age.
        brain: mask ``(*grid)``; None takes the voxels above 0.
        steps: 1000 (3D) or 2000 (2D) in the paper.
        lr: step size.
        ratio: voxels drawn anew for each step, as a share of the whole; None takes all voxels in every step, as the equation is printed.
        foreground: share of the draws inside the brain; None draws from the whole image alike.
        weight_decay: of the latent; torch's default, as in the released code.
        micro_batch: voxels in memory at a time; gradients are added up over them.
        check: size of the sample that measures the result.
        start: first latent, ``(L,)``; None is 0.
        age_scale: weeks that are t = 1.
        seed: of the draws; the same seed gives the same fit.

    Raises:
        UserError: see :class:`FitScan`; also a ratio that is no share.

    Source: Bieder et al., PRIME-MICCAI 2024, Eq. 1 and Sec. 2.2, 3.
    """
    if ratio is not None and not 0 < ratio <= 1:
        raise UserError(f"ratio: got {ratio}, expected a share of the voxels above 0 and up to 1, or null for all voxels in every step.")
    begin, scan = time.perf_counter(), FitScan(inr, image, brain, foreground, age_scale, seed)
    unseen, count = scan.draw(check), image.numel() if ratio is None else max(1, round(ratio * image.numel()))
    latent, history = scan.start(start).requires_grad_(), []
    optimizer = torch.optim.AdamW([latent], lr=lr, weight_decay=weight_decay)
    with frozen(inr):
        for _ in range(steps):
            optimizer.zero_grad()
            error = 0.0
            for part in scan.parts(micro_batch) if ratio is None else scan.draws(count, micro_batch):
                loss = (part.values(latent, float(age_weeks)) - part.target).square().sum() / count
                loss.backward()
                error += float(loss.detach())
            optimizer.step()
            history.append(FitStep(time.perf_counter() - begin, error, latent.detach().clone(), float(age_weeks)))
        found = latent.detach().clone()
        psnr, check_psnr = scan.draw(min(count, check)).psnr(found, age_weeks), unseen.psnr(found, age_weeks)
    return Fit(found, float(age_weeks), psnr, check_psnr, steps * count + 2 * check, time.perf_counter() - begin, history)
