"""The frame all heads are brought to: one training head, made straight, in the middle of a cube. MONAI has no notion of one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.ndimage import affine_transform

from common.data.head_ct import HeadCT, read_head_ct
from common.errors import UserError
from common.transforms.head_masks import AIR_HU, foreground_mask
from common.transforms.head_volume import Head, pool_to, prepare_head, upper_centre
from common.transforms.register_head import register_heads

CUBE_MM: Final = 256.0
"""Side of the cube, mm: 256 voxels of 1 mm."""


@dataclass(frozen=True)
class ReferenceFrame:
    """The reference head at registration spacing.

    Attributes:
        volume: ``(m, m, m)`` int16, HU, -1024 outside the head; axes R, A, S, the mid-sagittal plane in the middle of the first.
        spacing_mm: spacing of ``volume``, mm; its world is that of :func:`cube_affine`.
    """

    volume: np.ndarray
    spacing_mm: float

    def reference(self) -> ReferenceFrame:
        """Itself: what ``PrepareHeadCTd`` asks of its ``frame``."""
        return self

    @property
    def affine(self) -> np.ndarray:
        """Voxel index to reference world, ``(4, 4)``, mm."""
        return cube_affine(self.volume.shape[0], self.spacing_mm)


def cube_affine(n: int, spacing_mm: float) -> np.ndarray:
    """Affine of the cube of ``n`` voxels of ``spacing_mm`` around the origin: ``(4, 4)`` float64, voxel index to mm, axes R, A, S."""
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -(n - 1) / 2 * spacing_mm
    return affine


def make_reference(ct: HeadCT, registration_spacing_mm: float = 4.0) -> ReferenceFrame:
    """Make a head the reference: its own mirror image tells its mid-sagittal plane, which becomes x = 0.

    The head is registered to its left-right mirror image; half of that transform makes it straight (roll and yaw). Pitch stays as it is.
    The origin lies in the mid-sagittal plane, half-way between forehead and occiput, 80 mm below the vertex: the middle of the upper
    160 mm.

    Args:
        ct: a head that covers the vertex.
        registration_spacing_mm: spacing of the frame, mm; the cube has 256 mm in all.

    Returns:
        The frame.

    Raises:
        UserError: no head in the volume.
    """
    head = prepare_head(ct.hu, ct.affine, registration_spacing_mm)
    if not head.mask.any():
        raise UserError("reference: no head found in the volume (nothing as thick as a head above -300 HU); choose another training case.")
    side = round(CUBE_MM / registration_spacing_mm)
    affine = straight_pose(head) @ cube_affine(side, registration_spacing_mm)
    volume = resample_hu(ct.hu, ct.affine, affine, side, registration_spacing_mm)
    volume[~foreground_mask(volume, registration_spacing_mm)] = AIR_HU
    return ReferenceFrame(np.rint(volume).astype(np.int16), registration_spacing_mm)


def straight_pose(head: Head) -> np.ndarray:
    """Rigid matrix ``(4, 4)`` from the straight frame to the head's world: the head's mirror plane is x = 0 there.

    The registration T to the mirror image W(p) = V(M p) gives S = M T, which maps the head onto itself. Were the head symmetric, S would be
    the reflection at its mid-sagittal plane: the plane's normal is the eigenvector of S to the eigenvalue nearest -1.
    """
    centre = upper_centre(head.points)
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = 2 * centre[0]
    found = register_heads(head, _mirrored(head, mirror))
    reflection = mirror @ found.matrix if found.ok else mirror
    values, vectors = np.linalg.eig(reflection[:3, :3])
    normal = np.real(vectors[:, np.argmin(np.abs(values + 1))])
    normal *= np.sign(normal[0]) / np.linalg.norm(normal)
    pose = np.eye(4)
    pose[:3, :3] = _turn_x_to(normal)
    on_plane = (centre + (reflection @ [*centre, 1.0])[:3]) / 2
    straight = upper_centre(head.points @ pose[:3, :3])
    pose[:3, 3] = pose[:3, :3] @ [normal @ on_plane, straight[1], straight[2]]
    return pose


def resample_hu(hu: np.ndarray, source_affine: np.ndarray, target_affine: np.ndarray, n: int, spacing_mm: float) -> np.ndarray:
    """Resample HU to a cube by one linear interpolation, after averaging blocks where the cube is coarser than the source.

    Args:
        hu: source, ``(X, Y, Z)``, HU.
        source_affine: ``(4, 4)``, voxel index of the source to world, mm.
        target_affine: ``(4, 4)``, voxel index of the cube to the same world.
        n: side of the cube, voxels.
        spacing_mm: spacing of the cube, mm.

    Returns:
        ``(n, n, n)`` float32, HU; -1024 outside the source.
    """
    pooled, affine = pool_to(hu, source_affine, spacing_mm)
    to_source = np.linalg.inv(affine) @ target_affine
    where = (to_source[:3, :3], to_source[:3, 3])
    return np.asarray(affine_transform(pooled, *where, output_shape=(n, n, n), order=1, cval=AIR_HU, output=np.float32))


def choose_reference(cases: Sequence[Mapping[str, Any]], name: str | None = None, candidates: int = 7) -> HeadCT:
    """The training head that serves as reference.

    Args:
        cases: training cases, each with "id" and "image".
        name: id of a case, or a path of a volume, to take that one; None looks at up to ``candidates`` cases, evenly spaced, and takes
            that of median head volume, so that no badly cut one wins.
        candidates: how many to look at, >= 1.

    Returns:
        The head.

    Raises:
        UserError: no cases, a name that is neither case nor file, or no candidate that can be read.
    """
    if name:
        return read_head_ct(_named(cases, name))
    if not cases:
        raise UserError("reference: got no training cases; give at least one, or name a file.")
    chosen = [cases[index] for index in sorted({round(i) for i in np.linspace(0, len(cases) - 1, min(candidates, len(cases)))})]
    heads: list[tuple[float, HeadCT]] = []
    problems: list[str] = []
    for case in chosen:
        try:
            ct = read_head_ct(image_path(case))
        except UserError as error:
            problems.append(f"{case.get('id', '?')}: {error}")
            continue
        heads.append((float(prepare_head(ct.hu, ct.affine, 8.0).mask.sum()), ct))
    heads = sorted((head for head in heads if head[0] > 0), key=lambda head: head[0])
    if not heads:
        raise UserError("reference: none of the training cases looked at holds a head that can be read. " + " ".join(problems))
    return heads[(len(heads) - 1) // 2][1]


def image_path(case: Mapping[str, Any], key: str = "image") -> str:
    """Path of a case's image, which may be written as a path or as a list of one."""
    image = case[key]
    paths = [image] if isinstance(image, (str, os.PathLike)) else list(image)
    if len(paths) != 1:
        raise UserError(f"case {case.get('id', '?')}: {len(paths)} images, expected one head CT; give one DICOM folder or one file.")
    return os.fspath(paths[0])


def _named(cases: Sequence[Mapping[str, Any]], name: str) -> str:
    for case in cases:
        if case.get("id") == name:
            return image_path(case)
    if os.path.exists(os.path.expanduser(name)):
        return os.path.expanduser(name)
    raise UserError(
        f"reference: '{name}' is neither a training case nor a file; cases are {', '.join(str(c.get('id')) for c in cases[:5])}, ..."
    )


def _mirrored(head: Head, mirror: np.ndarray) -> Head:
    """W(p) = V(M p) in RAS order: the same voxels with the mirrored affine, turned round along the first axis."""
    affine = mirror @ head.affine
    affine[:3, 3] += affine[:3, 0] * (head.hu.shape[0] - 1)
    affine[:3, 0] *= -1
    points = head.points @ mirror[:3, :3].T + mirror[:3, 3]
    return Head(np.flip(head.hu, 0), affine, np.flip(head.mask, 0), points)


def _turn_x_to(normal: np.ndarray) -> np.ndarray:
    """The smallest rotation that turns the x axis to a unit vector (not to -x)."""
    axis = np.cross([1.0, 0.0, 0.0], normal)
    skew = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.asarray(np.eye(3) + skew + skew @ skew / (1 + normal[0]))
