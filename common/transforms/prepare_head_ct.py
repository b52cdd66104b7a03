"""Bring a head CT to the reference cube once and keep it on disk, since MONAI's ``PersistentDataset`` hashes paths, not contents."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common import flag
from common.atomic import write_atomic, write_text
from common.data.head_ct import HeadCT, read_head_ct
from common.errors import UserError
from common.transforms.head_masks import AIR_HU, structures
from common.transforms.head_volume import Head, prepare_head
from common.transforms.prepared_cache import known_digest, load_prepared, source_digest
from common.transforms.reference_frame import ReferenceFrame, cube_affine, image_path, resample_hu
from common.transforms.register_head import Rigid, align_centres, register_heads
from common.transforms.truth_on_cube import resample_truth

CACHE_VERSION: Final = 1
"""Part of every key: raise it when the code computes something else, and old entries are left alone."""


class HasReference(Protocol):
    """Anything that knows the reference frame: a :class:`ReferenceFrame`, or a model that carries one."""

    def reference(self) -> ReferenceFrame:
        """The frame."""


class PrepareHeadCTd(MapTransform):
    """Read a head CT, register it, resample it once to the reference cube, find its structures.

    Adds to the case ``image`` (MetaTensor ``(1, n, n, n)`` int16, HU, -1024 outside the head), ``structures`` (the same grid, uint8, labels
    of ``head_masks``) and, where the case has a truth, ``truth`` (uint8). The affine is voxel index to world of the source file: the rigid
    registration is only another affine of the cube. Meta: ``filename_or_obj``, ``source_affine``, ``source_shape``, ``registered``,
    ``quality`` (metric, start_metric, overlap, rotation_deg, reason, notes).

    Args:
        keys: key of the image, a DICOM folder or a file, or a list of one.
        frame: object whose ``reference()`` gives the :class:`ReferenceFrame`.
        size: side of the cube, voxels.
        spacing_mm: spacing of the cube, mm.
        cache_dir: folder of prepared cases; None keeps nothing. An entry is found by the content of the source, so a moved folder is not
            prepared again and a changed file is.
        register: False aligns centres only (the ablation).
        truth_key: key of the truth file; resampled too where a case has it.
    """

    def __init__(
        self,
        keys: KeysCollection,
        frame: HasReference,
        size: int = 256,
        spacing_mm: float = 1.0,
        cache_dir: str | os.PathLike[str] | None = None,
        register: bool | str = True,
        truth_key: str = "truth",
    ) -> None:
        super().__init__(keys)
        if size < 8 or spacing_mm <= 0:
            raise UserError(f"size, spacing_mm: got {size}, {spacing_mm}; expected at least 8 voxels of a positive number of mm.")
        self.frame, self.size, self.spacing_mm = frame, int(size), float(spacing_mm)
        self.cache_dir = Path(cache_dir) if cache_dir else None
        self.register, self.truth_key = flag(register, "register"), truth_key
        self._head: tuple[str, Head] | None = None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Prepare one case, or take it from the cache."""
        result = dict(data)
        for key in self.key_iterator(result):
            path, truth = image_path(result, str(key)), result.get(self.truth_key)  # type: ignore[arg-type]
            entry = self.prepare(path, os.fspath(truth) if isinstance(truth, (str, os.PathLike)) else None)
            record = entry.pop("record")
            for name, array in entry.items():
                result[key if name == "image" else self.truth_key if name == "truth" else name] = _as_tensor(array, record, path)
        return result

    def prepare(self, path: str, truth: str | None = None) -> dict[str, Any]:
        """Arrays ``image``, ``structures`` (and ``truth``), each ``(n, n, n)``, and ``record`` of one source file.

        With a cache the arrays are mapped from disk (copy on write), so a crop reads only its own pages.
        """
        if self.cache_dir is None:
            return self._compute(path, truth)
        folder = self.cache_dir / self.key(path, truth)
        if not (folder / "record.json").is_file():
            entry = self._compute(path, truth)
            for name in sorted(set(entry) - {"record"}):
                write_atomic(folder / f"{name}.npy", lambda temporary, array=entry[name]: np.save(temporary, array))  # type: ignore[misc]
            # last: an entry with a record is whole; two processes write the same bytes
            write_text(folder / "record.json", json.dumps(entry["record"], indent=1))
        return load_prepared(folder)

    def key(self, path: str, truth: str | None = None) -> str:
        """Name of the cache entry: a digest of contents, parameters and version."""
        reference = self.frame.reference()
        volume = np.ascontiguousarray(reference.volume)
        parts = [CACHE_VERSION, self.size, self.spacing_mm, self.register, reference.spacing_mm, volume.shape]
        parts += [hashlib.sha256(volume.tobytes()).hexdigest(), source_digest(path, self.cache_dir)]
        parts += [source_digest(truth, self.cache_dir)] if truth else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

    def is_prepared(self, path: str, truth: str | None = None) -> bool:
        """Whether :meth:`prepare` would find the case in the cache; answered without reading the source."""
        sources = [path, truth] if truth else [path]
        if self.cache_dir is None or any(known_digest(source, self.cache_dir) is None for source in sources):
            return False
        return (self.cache_dir / self.key(path, truth) / "record.json").is_file()

    def _compute(self, path: str, truth: str | None) -> dict[str, Any]:
        ct = read_head_ct(path)
        rigid = self._pose(ct, path)
        affine = rigid.matrix @ cube_affine(self.size, self.spacing_mm)
        hu = resample_hu(ct.hu, ct.affine, affine, self.size, self.spacing_mm)
        labels = structures(hu, self.spacing_mm)
        if not labels.any():
            raise UserError(f"{path}: no head found in the volume (nothing as thick as a head above -300 HU). Leave the case out.")
        image = np.where(labels > 0, np.rint(hu).clip(AIR_HU, 3071), AIR_HU).astype(np.int16)
        entry: dict[str, Any] = {"image": image, "structures": labels, "record": self._record(ct, rigid, affine, path)}
        if truth:
            entry["truth"] = resample_truth(truth, affine, self.size, self.spacing_mm)
        return entry

    def _pose(self, ct: HeadCT, path: str) -> Rigid:
        """Pose of the head: world of the reference to world of the source."""
        reference = self.frame.reference()
        digest = hashlib.sha256(np.ascontiguousarray(reference.volume).tobytes()).hexdigest()
        if self._head is None or self._head[0] != digest:
            self._head = (digest, prepare_head(reference.volume.astype(np.float32), reference.affine, reference.spacing_mm))
        fixed, moving = self._head[1], prepare_head(ct.hu, ct.affine, reference.spacing_mm)
        if not moving.mask.any():
            raise UserError(f"{path}: no head found in the volume (nothing as thick as a head above -300 HU). Leave the case out.")
        if self.register:
            return register_heads(fixed, moving)
        return Rigid(align_centres(fixed, moving, np.eye(3)), 0.0, 0.0, 0.0, 0.0, False, "registration is switched off")

    def _record(self, ct: HeadCT, rigid: Rigid, affine: np.ndarray, path: str) -> dict[str, Any]:
        quality = {name: round(getattr(rigid, name), 4) for name in ("metric", "start_metric", "overlap", "rotation_deg")}
        return {
            "source": path,
            "size": self.size,
            "spacing_mm": self.spacing_mm,
            "matrix": rigid.matrix.tolist(),
            "affine": affine.tolist(),
            "source_affine": ct.affine.tolist(),
            "source_shape": [int(size) for size in ct.hu.shape],
            "registered": rigid.ok,
            "quality": quality | {"reason": rigid.reason, "notes": "; ".join(ct.notes)},
        }


def prepare_cases(cases: Sequence[Mapping[str, Any]], transform: PrepareHeadCTd, num_workers: int = 0) -> list[dict[str, Any]]:
    """Prepare many cases ahead of training, with a progress bar; what is cached already costs nothing.

    Args:
        cases: each with "id" and the transform's key.
        transform: with a ``cache_dir``.
        num_workers: processes; 0 or 1 works in this one.

    Returns:
        One record per case, in order, with "id" and, where a case failed, "error" instead of the rest; who calls it says so.

    Raises:
        UserError: no cache, or no case could be prepared; the text names the first ones and why.
    """
    from tqdm import tqdm

    if transform.cache_dir is None:
        raise UserError("cache_dir: got None; preparing ahead needs a folder to keep the cases in.")
    worker = PrepareHeadCTd(
        transform.keys, transform.frame.reference(), transform.size, transform.spacing_mm, transform.cache_dir, transform.register,
        transform.truth_key,
    )  # fmt: skip
    records: dict[int, dict[str, Any]] = {}
    later = [index for index, case in enumerate(cases) if num_workers > 1 and not _is_prepared(worker, case)]
    with tqdm(total=len(cases), desc="prepare head CT", unit="case", disable=None) as bar:
        for index in sorted(set(range(len(cases))) - set(later)):
            records[index] = _prepare_one(worker, dict(cases[index]))
            bar.update()
        if later:  # starting processes takes seconds
            _in_processes(worker, {index: cases[index] for index in later}, num_workers, records, bar)
    ordered = [records[index] for index in range(len(cases))]
    failed = [record for record in ordered if "error" in record]
    if cases and len(failed) == len(cases):
        raise UserError(f"none of {len(cases)} cases could be prepared; the first: {failed[0]['id']}: {failed[0]['error']}")
    return ordered


def _is_prepared(worker: PrepareHeadCTd, case: Mapping[str, Any]) -> bool:
    try:
        return worker.is_prepared(image_path(case, str(worker.keys[0])), case.get(worker.truth_key))
    except (UserError, OSError):
        return False  # preparing it will say what is wrong


def _in_processes(
    worker: PrepareHeadCTd, cases: Mapping[int, Mapping[str, Any]], num_workers: int, records: dict[int, dict[str, Any]], bar: Any
) -> None:
    """Prepare cases, by their place in the list, in processes of their own; sets the records of the same places."""
    import multiprocessing

    # spawned, not forked: a fork inherits the locked threads of torch and ITK
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures: dict[Future[dict[str, Any]], int] = {pool.submit(_prepare_one, worker, dict(case)): i for i, case in cases.items()}
        for future in as_completed(futures):
            index = futures[future]
            try:
                records[index] = future.result()
            except Exception as error:  # the process died: memory, a signal
                records[index] = {"id": str(cases[index].get("id")), "error": f"{type(error).__name__}: {error}"}
            bar.update()


def _prepare_one(transform: PrepareHeadCTd, case: dict[str, Any]) -> dict[str, Any]:
    """Record of one case; a failure becomes its text, so that the others go on."""
    name = str(case.get("id"))
    try:
        truth = case.get(transform.truth_key)
        path = image_path(case, str(transform.keys[0]))
        return {"id": name, "folder": str(transform.cache_dir / transform.key(path, truth)), **transform.prepare(path, truth)["record"]}  # type: ignore[operator]
    except Exception as error:
        return {"id": name, "error": str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"}


def _as_tensor(array: np.ndarray, record: Mapping[str, Any], path: str) -> MetaTensor:
    meta = {
        "filename_or_obj": path,
        "source_affine": torch.tensor(record["source_affine"], dtype=torch.float64),
        "source_shape": torch.tensor(record["source_shape"]),
        "registered": bool(record["registered"]),
        "quality": dict(record["quality"]),
    }
    return MetaTensor(torch.from_numpy(array)[None], affine=torch.tensor(record["affine"], dtype=torch.float64), meta=meta)
