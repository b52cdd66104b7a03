"""What an MR sequence makes of tissues: signal from relaxation times, then coil, slice thickness and noise.

Source: relaxation times of grey and white matter at 3 T: Wansapura et al., J Magn Reson Imaging 1999; 9:531-538 (grey 1331 and 110 ms,
white 832 and 79.6 ms). Fluid, lesions and proton densities are chosen within common textbook ranges (oedema and tumour longer than grey
matter in both, necrosis towards fluid, gadolinium shortens T1), not taken from a table; spreads and artefacts are chosen so that the task
is neither trivial nor hopeless (a test holds the band).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from common.data.simulate.anatomy import Array, SmoothField


@dataclass(frozen=True)
class Tissue:
    """Relaxation times T1 and T2, ms, and proton density relative to water."""

    t1_ms: float
    t2_ms: float
    density: float


TISSUES = {
    "grey": Tissue(1331, 110, 0.82),
    "white": Tissue(832, 79.6, 0.70),
    "fluid": Tissue(4000, 1500, 1.0),
    "lesion": Tissue(1350, 170, 0.84),
    "oedema": Tissue(1500, 185, 0.90),
    "tumour": Tissue(1600, 150, 0.86),
    "necrosis": Tissue(2600, 350, 0.95),
    "vessel": Tissue(1900, 90, 0.75),
}
"""Tissues at 3 T. "lesion" is gliosis of white matter, "tumour" solid tumour before contrast medium."""


@dataclass(frozen=True)
class Sequence:
    """Repetition, echo and inversion time, ms (0: no inversion)."""

    repetition_ms: float
    echo_ms: float
    inversion_ms: float = 0.0


@dataclass(frozen=True)
class Scanner:
    """How a site's images look; two styles differ in these numbers only.

    Attributes:
        sequences: T1 (with and without contrast medium), T2, FLAIR.
        relaxation: factor on all T1 (about 0.8 at 1.5 T).
        spread: between-subject standard deviation of every relaxation time, share.
        bias: largest root mean square of the multiplicative field, share.
        noise: smallest and largest standard deviation of the noise in units of white matter's signal.
        thickness_mm: smallest and largest blur (full width at half maximum) across slices.
    """

    sequences: tuple[Sequence, ...] = (Sequence(550, 12), Sequence(5000, 100), Sequence(9000, 110, 2500))
    relaxation: float = 1.0
    spread: float = 0.04
    bias: float = 0.08
    noise: tuple[float, float] = (0.03, 0.08)
    thickness_mm: tuple[float, float] = (1.0, 5.0)


def signal(tissue: Tissue, sequence: Sequence) -> float:
    r"""Signal of a spin echo, with or without inversion.

    .. math:: S = \rho\,\left|1 - 2 e^{-TI/T_1} + e^{-TR/T_1}\right| e^{-TE/T_2}, \qquad S = \rho\,(1 - e^{-TR/T_1}) e^{-TE/T_2}

    Args:
        tissue: relaxation times and proton density.
        sequence: timing.

    Returns:
        Signal in units of that of water at full recovery, in [0, 1].
    """
    recovered = np.exp(-sequence.repetition_ms / tissue.t1_ms)
    if sequence.inversion_ms:
        magnetisation = abs(1 - 2 * np.exp(-sequence.inversion_ms / tissue.t1_ms) + recovered)
    else:
        magnetisation = 1 - recovered
    return float(tissue.density * magnetisation * np.exp(-sequence.echo_ms / tissue.t2_ms))


def draw_tissues(rng: np.random.Generator, scanner: Scanner) -> dict[str, Tissue]:
    """One person's tissues on one scanner."""
    factors = 1.0 + scanner.spread * np.clip(rng.standard_normal((len(TISSUES), 2)), -2, 2)
    return {
        name: Tissue(tissue.t1_ms * scanner.relaxation * float(a), tissue.t2_ms * float(b), tissue.density)
        for (name, tissue), (a, b) in zip(TISSUES.items(), factors, strict=True)
    }


def acquire(
    rng: np.random.Generator, clean: Array, brain: NDArray[np.bool_], points: Array, white: float, scanner: Scanner, step_mm: float
) -> NDArray[np.int16]:
    """Add what the scanner adds to one sequence, and store it in arbitrary units.

    Args:
        rng: source of chance.
        clean: signal in the brain, ``(N,)``.
        brain: ``(X, Y, Z)`` bool with N voxels.
        points: template positions of the voxels, ``(N, 3)``, mm.
        white: signal of white matter, the unit of the noise.
        scanner: bias field, noise and thickness.
        step_mm: distance of two slices.

    Returns:
        ``(X, Y, Z)`` int16, 0 outside the brain, at least 1 inside; Rician noise.
    """
    field = np.exp(SmoothField.draw(rng, 34.0, float(scanner.bias * rng.uniform(0.3, 1.0))).at(points)[0])
    sigma = float(rng.uniform(*scanner.thickness_mm)) * 0.4247 / step_mm
    image = np.zeros(brain.shape, np.float32)
    image[brain] = clean * field
    weight = gaussian_filter1d(brain.astype(np.float32), sigma, axis=2, mode="constant")[brain]
    blurred = gaussian_filter1d(image, sigma, axis=2, mode="constant")[brain] / weight
    noise = rng.standard_normal((2, len(clean)), dtype=np.float32) * np.float32(white * rng.uniform(*scanner.noise))
    magnitude = np.hypot(blurred + noise[0], noise[1])
    unit = np.exp(rng.uniform(np.log(250.0), np.log(2500.0))) / white
    out = np.zeros(brain.shape, np.int16)
    out[brain] = np.clip(np.rint(magnitude * np.float32(unit)), 1, 32767)
    return out
