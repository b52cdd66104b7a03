"""The head around the template's brain: skull, face, neck, vessels and dura as smooth maps in template space.

The ICBM152 template that nilearn ships ends at the brain's surface, so everything outside it is built here from the signed distance to that
surface and from ellipsoids placed by hand; places are template mm (MNI: x right, y front, z up). A person's head is these maps, deformed
and filled with Hounsfield units (`head.py`). The face is a sketch: it gives position cues such as orbits, sinuses and petrous bones, not
anatomy to be measured.
Source: places were read off the MNI coordinates of common anatomical landmarks; sizes of adult landmarks are textbook values.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from common.data.simulate.anatomy import Array, load_template, sample_volume
from common.data.simulate.face import AIR, BASE, STROKES
from common.data.simulate.soft_shapes import Canvas, shape_share, share

Triple = tuple[float, float, float]

HEAD = ("hull", "body", "skull_mm", "face_hu", "face", "air", "base", "vessels", "dura")
"""Maps of the rigid head: signed distance to the inside of the skull (mm, < 0 inside), signed distance to face and neck without the vault
(mm), expected thickness of the skull (mm), Hounsfield units of face and neck, and shares of face, air cells, bone of the skull base,
venous sinuses and large arteries, falx and tentorium."""
TISSUE = ("grey", "white", "ventricle", "periventricular")
"""Maps that move with the brain: shares of grey and white matter, of ventricle, and closeness to a ventricle, all in [0, 1]."""
_PAD = ((2, 3), (2, 13), (20, 0))  # voxels of 2 mm added to the template's grid so that face and neck fit


@dataclass(frozen=True)
class HeadAtlas:
    """Maps of the head on a grid of ``step_mm``.

    Attributes:
        head: ``(9, X, Y, Z)`` float32, see ``HEAD``.
        tissue: ``(4, X, Y, Z)`` float32, see ``TISSUE``.
        first_mm: template position of voxel (0, 0, 0), mm.
        step_mm: voxel size, template mm.
    """

    head: torch.Tensor
    tissue: torch.Tensor
    first_mm: NDArray[np.float64]
    step_mm: float

    def sample_head(self, points: Array, first: int = 0, stop: int = len(HEAD)) -> Array:
        """Maps ``first`` to ``stop`` of ``HEAD`` at template positions ``(..., 3)``; returns ``(stop - first, ...)``."""
        return sample_volume(self.head[first:stop], points, self.first_mm, self.step_mm)

    def sample_tissue(self, points: Array) -> Array:
        """All maps of ``TISSUE`` at template positions ``(..., 3)``; returns ``(4, ...)``."""
        return sample_volume(self.tissue, points, self.first_mm, self.step_mm)

    def surface_point(self, direction: Array, centre: Triple = (0.0, -18.0, 12.0)) -> Array:
        """Where a ray from the middle of the brain meets the inside of the skull, ``(3,)``, template mm."""
        ray = np.arange(20.0, 130.0, 0.5, dtype=np.float32)[:, None] * direction.astype(np.float32) + np.array(centre, np.float32)
        return ray[np.argmin(np.abs(self.sample_head(ray, 0, 1)[0]))]


@functools.lru_cache(maxsize=1)
def load_head_atlas() -> HeadAtlas:
    """Build the maps once per process (about two seconds)."""
    template = load_template()
    grey, white, _, brain = (np.pad(m, _PAD) for m in template.maps.numpy())
    first = template.first_mm - template.step_mm * np.array([p[0] for p in _PAD])
    canvas = Canvas(brain.shape, first, template.step_mm)
    cord = canvas.tube((0, -42, -68), (0, -50, -120), 5.0)
    white = np.maximum(white, cord)
    hull = _hull(brain, canvas)
    ventricle = _ventricles(1 - grey - white, hull)
    near = np.clip(2.2 * gaussian_filter(ventricle, 3.0) * white, 0, 1)
    body = _body(canvas)
    face_hu, face, air, base = paint_face(canvas, hull, body)
    vessels, dura = _vessels(canvas, hull), _dura(canvas, hull)
    head = [hull, body, _skull_thickness(canvas), face_hu, face, air, base, vessels, dura]
    return HeadAtlas(_stack(head), _stack([grey, white, ventricle, near]), first, template.step_mm)


def _stack(maps: list[Array]) -> torch.Tensor:
    return torch.from_numpy(np.stack(maps).astype(np.float32))


def _hull(brain: Array, canvas: Canvas, gap_mm: float = 12.0) -> Array:
    """Signed distance to the inside of the skull: the brain with its fissures closed, and the spinal canal."""
    step = canvas.step
    outside = distance_transform_edt(brain < 0.5, sampling=step)
    closed = distance_transform_edt(outside < gap_mm, sampling=step) > gap_mm - step / 2
    signed = distance_transform_edt(~closed, sampling=step) - distance_transform_edt(closed, sampling=step)
    smooth = gaussian_filter(signed.astype(np.float32), 1.2)
    canal = canvas.tube_distance((0, -42, -66), (0, -50, -130), 10.5)
    result: Array = (-4.0 * np.logaddexp(-smooth / 4.0, -canal / 4.0)).astype(np.float32)  # a smooth minimum
    return result


def _ventricles(fluid: Array, hull: Array) -> Array:
    """Share of ventricle: the largest pool of fluid far from the skull."""
    pools, count = label((fluid > 0.5) & (hull < -24.0))
    largest = 1 + int(np.argmax(np.bincount(pools.ravel(), minlength=count + 1)[1:]))
    body = distance_transform_edt(pools != largest) < 2.1
    return (fluid * body).astype(np.float32)


def _body(canvas: Canvas) -> Array:
    """Signed distance to face and neck, mm; the vault is not part of it."""
    shapes = [
        ((0, 36, -70), (62, 54, 60)),
        ((0, 92, -56), (12, 20, 24)),
        ((36, 60, -66), (25, 24, 30)),
        ((-36, 60, -66), (25, 24, 30)),
        ((0, 46, -108), (48, 42, 26)),
        ((0, -32, -140), (61, 64, 92)),
        ((0, -84, -82), (46, 30, 46)),
        ((62, 8, -34), (14, 34, 44)),
        ((-62, 8, -34), (14, 34, 44)),
    ]
    total = np.zeros(canvas.shape, np.float32)
    for centre, radii in shapes:
        total += np.exp(np.clip(-canvas.distance(centre, radii) / 5.0, -40, 40))
    smooth = -5.0 * np.log(total)
    ears = np.minimum(canvas.distance((85, -30, -42), (4, 13, 25)), canvas.distance((-85, -30, -42), (4, 13, 25)))
    return np.minimum(smooth, ears).astype(np.float32)


def _skull_thickness(canvas: Canvas) -> Array:
    """Expected thickness of the skull, mm: 6 at the vault, 3 at the temples, 9 at the inion and the frontal crest."""

    def bump(centre: Triple, width: Triple) -> Array:
        squares = sum(((axis - c) / w) ** 2 for axis, c, w in zip((canvas.x, canvas.y, canvas.z), centre, width, strict=True))
        return np.exp(-0.5 * squares).astype(np.float32)

    thickness = np.full(canvas.shape, 6.0, np.float32) + 3.5 * bump((0, -118, -22), (22, 16, 20)) + 2.5 * bump((0, 82, 5), (28, 14, 26))
    for side in (-1.0, 1.0):
        thickness -= 3.0 * bump((side * 74, -5, -8), (14, 30, 22))
        thickness -= 1.5 * bump((side * 40, -95, -55), (22, 22, 16))
        thickness += 5.0 * bump((side * 58, -42, -42), (13, 15, 15))
        thickness += 1.5 * bump((side * 42, -50, 72), (26, 30, 20))
    return thickness


def _vessels(canvas: Canvas, hull: Array) -> Array:
    """Share of venous sinuses (sagittal, transverse, sigmoid, straight) and of the arteries of the base."""
    rim = share(np.abs(hull + 3.0) - 3.0, 1.0)
    sagittal = rim * share(np.abs(canvas.x) - (3.2 - hull / 3.0 - 1.0), 1.0) * share(-(canvas.z + 10 - 0.25 * (canvas.y + 100)), 2.0)
    transverse = rim * share(np.abs(canvas.z + 16 + 0.12 * (np.abs(canvas.x) - 10)) - 3.5, 1.0) * share(canvas.y + 46, 2.0)
    tubes = [canvas.tube((0, -46, 6), (0, -98, -12), 2.6), canvas.tube((0, -16, -48), (0, -12, -26), 1.9)]
    for side in (-1.0, 1.0):
        tubes.append(canvas.tube((side * 60, -52, -26), (side * 44, -44, -58), 3.6))
        tubes.append(canvas.tube((side * 10, 2, -24), (side * 34, 4, -16), 1.6))
        tubes.append(canvas.tube((side * 11, 2, -40), (side * 10, 4, -22), 2.2))
        tubes.append(canvas.tube((side * 2, -14, -26), (side * 18, -26, -18), 1.4))
    return np.clip(np.maximum.reduce([sagittal, transverse, *tubes]), 0, 1)


def _dura(canvas: Canvas, hull: Array) -> Array:
    """Share of falx and tentorium, thin sheets."""
    free_edge = ((canvas.y + 16) / 66.0) ** 2 + ((canvas.z - 4) / 46.0) ** 2
    falx = (
        share(np.abs(canvas.x) - 0.9, 1.0)
        * share(1.0 - free_edge, 0.05)
        * share(-(canvas.z + 12), 3.0)
        * share(-(canvas.z - 6 + 0.4 * (canvas.y + 60)), 60.0)
    )
    sheet = canvas.z - (2.0 - 0.42 * np.abs(canvas.x) - 0.16 * (-46.0 - canvas.y))
    notch = (canvas.x / 22.0) ** 2 + ((canvas.y + 26) / 26.0) ** 2
    tentorium = share(np.abs(sheet) - 0.9, 1.2) * share(1.0 - notch, 0.1) * share(canvas.y + 18, 4.0)
    return (np.maximum(falx, tentorium) * share(hull, 1.0)).astype(np.float32)


def paint_face(canvas: Canvas, hull: Array, body: Array) -> tuple[Array, Array, Array, Array]:
    """Face and neck: Hounsfield units, where they hold, air cells, and bone of the skull base inside the hull (see ``HEAD``)."""
    hu = _muscle(canvas)
    for shape, where, value in STROKES:
        weight = shape_share(canvas, shape, where)
        hu += weight * (np.float32(value) - hu)
    air = np.maximum.reduce([shape_share(canvas, shape, where) for shape, where in AIR])
    base = np.maximum.reduce([shape_share(canvas, shape, where) for shape, where in BASE])
    speckle = gaussian_filter(np.random.default_rng(5).standard_normal(canvas.shape), 1.1).astype(np.float32)
    mastoid = canvas.both((57, -40, -42), (13, 15, 17)) * share(-speckle / float(speckle.std()) * 2.0, 2.0)
    ethmoid = canvas.ellipsoid((0, 50, -40), (11, 20, 11)) * share(-(speckle / float(speckle.std()) + 0.4) * 2.0, 2.0)
    air = np.maximum.reduce([air, mastoid, ethmoid])
    deep = share(body + 6.0, 3.0) * share(-(hull - 6.0), 4.0)
    hu += np.maximum(air * share(-(hull - 2.0), 2.0), 0) * (np.float32(-980.0) - hu)
    front = share(-(canvas.y - 20.0), 8.0) * share(canvas.z + 14.0, 6.0)
    return hu, np.maximum(deep, front * share(body + 2.0, 2.0)).astype(np.float32), air, base


def _muscle(canvas: Canvas) -> Array:
    """Muscle with planes of fat between, HU."""
    texture = gaussian_filter(np.random.default_rng(3).standard_normal(canvas.shape), (1.6, 1.6, 3.5)).astype(np.float32)
    fat = share(-(texture / float(texture.std()) - 0.9) * 2.0, 1.5)
    return (55.0 - 140.0 * fat).astype(np.float32)
