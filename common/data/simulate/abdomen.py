"""An abdomen of ellipsoids and tubes in Hounsfield units with thirteen organs (MONAI's phantoms hold disks, no organs).

Places are mm from the middle of the body (x to the right, y to the front, z up), chosen by hand to look like an adult; every organ is moved
and sized by chance and the whole is bent. It has the neighbourhoods and contrasts of a CT in the portal venous phase, not its anatomy.

Source of values: common textbook ranges (liver 90-120, spleen 100-130, kidneys 150-200, large vessels 130-180, pancreas 75-105, bile 0-20,
fat -115 to -90, muscle 50-65 HU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from common.data.btcv import ORGANS
from common.data.simulate.anatomy import Array
from common.data.simulate.soft_shapes import Canvas, Triple, share

WALL: Final = (150.0, 100.0)
"""Half-axes of the outside of the abdominal wall's muscle, mm; fat and skin lie around it."""
AIR_HU: Final = -1000.0
_BEND_MM, _MARGIN_MM = 4.0, 6.0  # root mean square of the bending along each axis; room for soft borders around a piece


@dataclass(frozen=True)
class Part:
    """What is painted at once: ``strokes``, each an ellipsoid (centre, radii) or a tube (start, stop, (radius,)); ``hu``, smallest and
    largest value; ``organ``, a name of ``ORGANS`` or "" for background; ``inner``, (share of the radii, HU) of a core."""

    strokes: tuple[tuple[tuple[float, ...], ...], ...]
    hu: tuple[float, float]
    organ: str = ""
    inner: tuple[float, float] | None = None


def _sides(x: float, *rest: float) -> tuple[Triple, Triple]:
    return (x, rest[0], rest[1]), (-x, rest[0], rest[1])


PARTS: Final[tuple[Part, ...]] = (
    *(Part(((place, (68, 84, 76)),), (-880, -820)) for place in _sides(78, -8, 158)),  # lungs
    Part((((-22, 34, 150), (58, 48, 52)),), (110, 160)),  # heart
    *(Part((((x, -62, -170), (x * 0.75, -66, 15), (19,)),), (50, 65)) for x in (40, -40)),  # psoas
    *(Part((((x, -98, -200), (x, -98, 200), (25,)),), (45, 62)) for x in (36, -36)),  # muscles of the back
    Part((((104, -4, -170), (100, 6, -32), (21,)),), (20, 60), inner=(0.7, -300)),  # ascending colon
    Part((((-114, -24, -170), (-112, -22, 10), (18,)),), (20, 60), inner=(0.7, -300)),  # descending colon
    Part((((70, 5, 55), (78, 82, 62)), ((2, 44, 68), (62, 34, 36))), (90, 120), "liver"),
    Part((((-66, 30, 66), (37, 37, 46)), ((-58, 42, 32), (2, 52, 14), (18,))), (60, 85), "stomach", inner=(0.86, 15)),
    Part((((-106, -36, 64), (28, 44, 45)),), (100, 130), "spleen"),
    Part((((67, -50, -8), (27, 26, 52)),), (150, 200), "right kidney", inner=(0.62, 135)),
    Part((((-66, -50, 8), (27, 26, 53)),), (150, 200), "left kidney", inner=(0.62, 135)),
    *(Part((((x, -42, z), (9, 10, 13)),), (-100, -60)) for x, z in ((45, -8), (-44, 8))),  # fat of the renal sinus
    Part(
        (((36, 16, -28), (30, 18, 8), (16,)), ((28, 18, 0), (-12, 16, 14), (11,)), ((-12, 16, 14), (-70, -10, 36), (9.5,))),
        (75, 105), "pancreas",
    ),
    Part((((44, 12, 14), (52, 8, -34), (10,)), ((52, 8, -34), (-4, -6, -40), (10,))), (25, 70)),  # duodenum
    Part((((58, 52, 4), (14, 15, 27)),), (0, 20), "gallbladder"),
    Part((((-6, -20, 170), (-12, -18, 104), (8.5,)), ((-12, -18, 104), (-38, 8, 88), (8.5,))), (40, 65), "oesophagus"),
    Part((((38, -46, 54), (48, -58, 42), (4.0,)), ((38, -46, 54), (37, -62, 44), (3.6,))), (60, 95), "right adrenal gland"),
    Part((((-30, -34, 46), (-44, -42, 36), (4.0,)), ((-30, -34, 46), (-33, -50, 36), (3.6,))), (60, 95), "left adrenal gland"),
    Part(
        (((16, 2, 6), (44, 12, 46), (7.5,)), ((16, 2, 6), (-84, -24, 44), (5.0,)), ((44, 12, 46), (74, 16, 58), (6,))),
        (140, 185), "portal and splenic vein",
    ),
    Part((((24, -38, -180), (24, -34, 40), (11.5,)), ((24, -34, 40), (22, -18, 104), (12,))), (125, 170), "inferior vena cava"),
    Part((((-8, -38, -80), (-12, -40, 180), (11,)),), (135, 180), "aorta"),
    *(Part((((-8, -38, -80), (x, -44, -180), (7.5,)),), (135, 180)) for x in (26, -40)),  # iliac arteries
    Part((((0, -72, -220), (0, -72, 220), (21,)),), (140, 260)),  # vertebrae
    Part((((0, -96, -220), (0, -120, -220), (6,)), ((0, -112, -220), (0, -112, 220), (7,))), (350, 600)),  # spinous processes
    Part((((0, -97, -220), (0, -97, 220), (9,)),), (20, 45)),  # spinal canal
)  # fmt: skip
"""In the order of painting: a later part covers an earlier one."""


class BentCanvas(Canvas):
    """A canvas with a voxel size per axis whose coordinates are bent; pieces of it are canvases too."""

    def __init__(self, x: Array, y: Array, z: Array, step_mm: float) -> None:
        self.x, self.y, self.z, self.step, self.shape = x, y, z, step_mm, x.shape

    @staticmethod
    def draw(rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: Triple) -> BentCanvas:
        """Bend a grid around the middle of the body by three waves along each axis, and size it by some per cent."""
        steps = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
        straight = np.stack(np.meshgrid(*steps, indexing="ij")).astype(np.float32)
        bent = straight / (1.0 + 0.06 * np.clip(rng.standard_normal(3), -1.8, 1.8)).astype(np.float32)[:, None, None, None]
        for axis in range(3):
            for _ in range(3):
                wave = rng.standard_normal(3)
                wave *= 2 * np.pi / (rng.uniform(130, 260) * np.linalg.norm(wave))
                phase = np.tensordot(wave.astype(np.float32), straight, 1) + np.float32(rng.uniform(0, 2 * np.pi))
                bent[axis] += np.float32(_BEND_MM * np.sqrt(2 / 3)) * np.sin(phase)
        return BentCanvas(bent[0], bent[1], bent[2], float(spacing_mm[0]))

    def piece(self, strokes: Sequence[Sequence[Sequence[float]]]) -> tuple[tuple[slice, ...], BentCanvas] | None:
        """The box that holds some strokes, as slices and as a canvas; None where it lies outside."""
        ends = [np.array(s[0]) + sign * np.array(s[-1][0] if len(s) == 3 else s[1]) for s in strokes for sign in (-1, 1)]
        ends += [np.array(s[1]) + sign * s[2][0] for s in strokes if len(s) == 3 for sign in (-1, 1)]
        low, high = np.min(ends, axis=0) - _MARGIN_MM, np.max(ends, axis=0) + _MARGIN_MM
        box = []
        for axis, (values, a, b) in enumerate(zip((self.x, self.y, self.z), low, high, strict=True)):
            others = tuple(i for i in range(3) if i != axis)
            near = np.flatnonzero((values.max(axis=others) >= a) & (values.min(axis=others) <= b))
            if not len(near):
                return None
            box.append(slice(int(near[0]), int(near[-1]) + 1))
        where = tuple(box)
        return where, BentCanvas(self.x[where], self.y[where], self.z[where], self.step)

    def nearest(self, strokes: Sequence[Sequence[Sequence[float]]]) -> Array:
        """Signed distance to the union of strokes, mm."""
        each = [self.distance(*s) if len(s) == 2 else self.tube_distance(s[0], s[1], s[2][0]) for s in strokes]  # type: ignore[arg-type]
        result: Array = np.minimum.reduce(each)
        return result


def paint_abdomen(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: Triple, fat_mm: float
) -> tuple[Array, NDArray[np.uint8]]:
    """Draw a body on a grid whose axes point to the right, front and top.

    Args:
        rng: source of chance.
        shape: voxels ``(X, Y, Z)``.
        spacing_mm: voxel size.
        fat_mm: thickness of the fat below the skin.

    Returns:
        Hounsfield units without noise ``(X, Y, Z)`` float32, and the labels 0 to 13, uint8, of the part that was painted last.
    """
    canvas = BentCanvas.draw(rng, shape, spacing_mm)
    hu, cavity = _trunk(rng, canvas, fat_mm)
    label = np.zeros(shape, np.uint8)
    for part in (*_bowel(rng), *PARTS):
        strokes, value = _vary(rng, part.strokes), float(rng.uniform(*part.hu))
        found = canvas.piece(strokes)
        if found is None:
            continue
        where, piece = found
        distance = piece.nearest(strokes)
        if part.organ:
            distance = np.maximum(distance, cavity[where])
        alpha = share(distance, piece.step / 2)
        inside = np.full(alpha.shape, value, np.float32)
        if part.inner:
            inside += share(distance + (1 - part.inner[0]) * -float(distance.min()), piece.step / 2) * np.float32(part.inner[1] - value)
        hu[where] += alpha * (inside - hu[where])
        label[where][alpha > 0.5] = ORGANS[part.organ] if part.organ else 0
    hu += gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 2.0) * np.float32(40.0) * (hu > 0) * (hu < 220)
    return gaussian_filter1d(hu, 0.3, axis=2), label


def _trunk(rng: np.random.Generator, canvas: BentCanvas, fat_mm: float) -> tuple[Array, Array]:
    """Air, skin, fat, muscle and ribs with fat inside: Hounsfield units, and the signed distance to the cavity, mm."""
    half = canvas.step / 2
    wall = canvas.distance((0, 0, 0), (*WALL, 1e5))
    cavity = np.maximum(wall + np.float32(rng.uniform(9, 15)), -canvas.y - 84.0)
    hu = np.full(canvas.shape, AIR_HU, np.float32)
    fat, muscle = (float(rng.uniform(*span)) for span in ((-115, -92), (50, 65)))
    for distance, value in ((wall - np.float32(fat_mm + 2.0), 20.0), (wall - np.float32(fat_mm), fat), (wall, muscle), (cavity, fat)):
        hu += share(distance, half) * (np.float32(value) - hu)
    across = np.mod(canvas.z - 0.45 * canvas.y, 28.0) - 14.0
    ribs = np.maximum(np.hypot(np.abs(wall + 6.0), across) - 5.0, 4.0 - 0.2 * (canvas.z - 20.0))
    return hu + share(ribs, half) * (np.float32(rng.uniform(350, 600)) - hu), cavity


def _vary(rng: np.random.Generator, strokes: tuple[tuple[tuple[float, ...], ...], ...]) -> list[tuple[tuple[float, ...], ...]]:
    """Move a part as a whole and size each stroke."""
    move = 3.0 * np.clip(rng.standard_normal(3), -2, 2)
    out = []
    for stroke in strokes:
        radii = np.array(stroke[-1]) * np.exp(0.07 * np.clip(rng.standard_normal(len(stroke[-1])), -2, 2))
        out.append((*(tuple(float(v) for v in np.array(place) + move) for place in stroke[:-1]), tuple(float(r) for r in radii)))
    return out


def _bowel(rng: np.random.Generator) -> list[Part]:
    """Loops of small bowel and transverse colon in the lower front of the cavity, some with gas."""
    parts = []
    for _ in range(int(rng.integers(16, 24))):
        centre = rng.uniform([-95, -8, -150], [95, 66, -18])
        along = rng.standard_normal(3) * (22, 10, 12)
        gas = (0.6, float(rng.choice([-850.0, 15.0, 220.0], p=[0.3, 0.5, 0.2])))
        ends = (tuple(float(v) for v in centre + sign * along) for sign in (-1, 1))
        parts.append(Part(((*ends, (float(rng.uniform(10, 17)),)),), (40, 95), inner=gas))
    return parts
