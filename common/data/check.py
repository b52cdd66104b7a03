"""Look through a data set before a run: what is there, what is missing, what is inconsistent, one line per finding."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data import bonbid
from common.data.cases import Case, some
from common.data.dataset import detect_form, find_cases, get_layout, is_simulated
from common.errors import UserError


class Finding(NamedTuple):
    """One line of the check: ``level`` is "ok", "note" (worth a look) or "error" (a run would stop or be wrong)."""

    level: str
    text: str


def check_dataset(layout: str, dataset_dir: str | os.PathLike[str], inputs: Sequence[str] | None = None) -> Iterator[Finding]:
    """Findings on a data set, as they are made; a file that cannot be used does not stop the others.

    Args:
        layout: name of the public layout; other forms of data (table, BIDS, datalist, 4D files) are recognised.
        dataset_dir: file or folder.
        inputs: names of the inputs in channel order; None takes the layout's.

    Yields:
        Findings: the form, the files, every case that cannot be used, and counts.
    """
    names = tuple(inputs or get_layout(layout).inputs)
    path = Path(dataset_dir).expanduser()
    try:
        form = detect_form(path, layout)
        yield Finding("ok", f"{path}: {f'the layout of {layout}' if form == 'layout' else form}")
        if is_simulated(path):
            yield Finding("note", "simulated cohort (SIMULATED.txt): these are not patients")
        root = bonbid.find_training_root(path) if form == "layout" and layout == "bonbid" else None
        if root is not None:
            files, strange = bonbid.index_training(root)
            yield from _check_training_files(root, files, strange)
            cases = bonbid.complete_cases(files)
        else:
            cases = find_cases(path, layout, names)
    except UserError as error:
        yield Finding("error", str(error))
        return
    yield from _check_counts(cases)
    yield from _check_volumes(cases, names)


def _check_training_files(root: Path, files: dict[str, dict[bonbid.Key, list[Path]]], strange: list[Path]) -> Iterator[Finding]:
    """Companions and counts of BONBID-HIE's training archive."""
    counts = {kind: sum(map(len, found.values())) for kind, found in files.items()}
    yield Finding("ok", ", ".join(f"{bonbid.FOLDERS[kind]}: {count} files" for kind, count in counts.items()))
    for text in bonbid.companion_errors(files):
        yield Finding("error", text)
    for path in strange:
        yield Finding("note", f"{path}: ignored, its name does not fit the layout")
    count = len(files["adc"])
    level = "ok" if count == bonbid.PUBLIC_CASES or is_simulated(root) else "note"
    yield Finding(level, f"{count} cases with an ADC map; the public training release has {bonbid.PUBLIC_CASES}")


def _check_counts(cases: Sequence[Case]) -> Iterator[Finding]:
    """Cases, subjects, labels, ages and folds."""
    subjects = {case["subject"] for case in cases}
    yield Finding("ok" if cases else "error", f"{len(cases)} complete cases of {len(subjects)} subjects")
    bare = [case["id"] for case in cases if "label" not in case]
    if bare:
        yield Finding("note", f"{len(bare)} cases without a label (fine for inference, not for training): {some(bare)}")
    for key in ("age", "fold"):
        present = sum(key in case for case in cases)
        if 0 < present < len(cases):
            level = "error" if key == "fold" else "note"
            yield Finding(
                level, f"{key}: {present} of {len(cases)} cases have one; missing: {some(c['id'] for c in cases if key not in c)}"
            )


def _check_volumes(cases: Sequence[Case], inputs: Sequence[str]) -> Iterator[Finding]:
    """Every file of every case: readable, one grid, finite, label values, plausible ranges."""
    from tqdm import tqdm

    from common.transforms.load_case import LoadCased

    load = LoadCased(channels=len(inputs), brain_key="brain" if "adc" in inputs else None, brain_channel=_channel("adc", inputs))
    shapes: Counter[tuple[int, ...]] = Counter()
    spacings, broken, empty = [], 0, 0
    for case in tqdm(cases, desc="Reading", leave=False, disable=None):
        try:
            volume = load(case)
        except UserError as error:
            broken += 1
            yield Finding("error", f"case {case['id']}: {error}")
            continue
        shapes[tuple(volume["image"].shape[1:])] += 1
        spacings.append(volume["image"].pixdim.numpy())
        empty += int("label" in volume and not volume["label"].any())
        yield from (Finding("note", f"case {case['id']}: {text}") for text in implausible(volume, inputs))
    if spacings:
        low, high = np.min(spacings, axis=0), np.max(spacings, axis=0)
        sizes = some((" x ".join(map(str, shape)) + f" ({count})" for shape, count in shapes.most_common()), 4)
        yield Finding("ok", f"grids: {sizes}; spacing {_triple(low)} to {_triple(high)} mm")
    yield Finding(
        "error" if broken else "ok", f"{len(cases) - broken} of {len(cases)} complete cases can be used; {empty} labels are empty"
    )


def implausible(volume: dict[Any, Any], inputs: Sequence[str]) -> list[str]:
    """What a reader of ADC and Z maps should look at again, in words; never an error.

    Args:
        volume: case after ``LoadCased``.
        inputs: names of the inputs; only ``adc`` and ``zadc`` are looked at.

    Returns:
        One text per oddity: unit or order of the maps, no skull stripping, lesion outside the brain.
    """
    texts = []
    image = volume["image"].numpy()
    if "adc" in inputs:
        brain = volume["brain"].numpy()[0]
        middle = float(np.median(image[_channel("adc", inputs)][brain]))
        if not 200 <= middle <= 4000:
            texts.append(
                f"median ADC in the brain {middle:.4g}; expected 200 to 4000 (1e-6 mm2/s): another unit, or ADC and Z map swapped?"
            )
        if brain.mean() > 0.9:
            texts.append(f"ADC is above 0 in {100 * brain.mean():.0f} % of the voxels; expected 0 outside the brain (skull-stripped)")
        outside = int((volume["label"].numpy()[0].astype(bool) & ~brain).sum()) if "label" in volume else 0
        if outside:
            texts.append(f"{outside} lesion voxels lie where ADC is not above 0")
    if "zadc" in inputs:
        largest = float(np.abs(image[_channel("zadc", inputs)]).max())
        if largest > 10.01:
            texts.append(f"largest |Z| {largest:.4g}; expected at most 10 (clipped), or ADC and Z map are swapped")
    return texts


def _channel(name: str, inputs: Sequence[str]) -> int:
    return list(inputs).index(name) if name in inputs else 0


def _triple(values: np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def print_check(layout: str, dataset_dir: str | os.PathLike[str], inputs: Sequence[str] | None = None) -> int:
    """Print the findings and a last line with their number.

    Args:
        layout: name of the public layout.
        dataset_dir: file or folder.
        inputs: names of the inputs in channel order; None takes the layout's.

    Returns:
        Exit code: 1 when there is an error, else 0.
    """
    counts: Counter[str] = Counter()
    for finding in check_dataset(layout, dataset_dir, inputs):
        counts[finding.level] += 1
        print(f"{finding.level.upper():5}  {finding.text}", flush=True)
    print(f"Checked {dataset_dir}: {counts['error']} errors, {counts['note']} notes.")
    return 1 if counts["error"] else 0
