"""Look through a data set before a run: what is there, what is missing, what is inconsistent, one line per finding."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import write_csv
from common.data.cases import Case, Finding, is_simulated, some
from common.data.dataset import Layout, detect_form, find_cases, get_layout
from common.errors import UserError

EMPTY_LABEL = "the label is empty"
"""Counted, not told case by case: a case without a lesion is no mistake."""


def check_dataset(layout: str, dataset_dir: str | os.PathLike[str], inputs: Sequence[str] | None = None) -> Iterator[Finding]:
    """Findings on a data set, as they are made; a file that cannot be used does not stop the others.

    Args:
        layout: name of the public layout; other forms of data (table, BIDS, datalist, 4D files) are recognised.
        dataset_dir: file or folder.
        inputs: names of the inputs in channel order; None takes the layout's.

    Yields:
        Findings: the form, the files, every case that cannot be used, and counts.
    """
    known = get_layout(layout)
    names = tuple(inputs or known.inputs)
    path = Path(dataset_dir).expanduser()
    try:
        form = detect_form(path, layout)
        yield Finding("ok", f"{path}: {f'the layout of {layout}' if form == 'layout' else form}")
        if is_simulated(path):
            yield Finding("note", "simulated cohort (SIMULATED.txt): these are not patients")
        findings, cases = known.check(path) if form == "layout" else ([], find_cases(path, layout, names))
        yield from findings
    except UserError as error:
        yield Finding("error", str(error))
        return
    yield from _check_counts(cases, "findings" if known.findings else None if known.facts else "label")
    yield from _check_volumes(cases, names, known)


def _check_counts(cases: Sequence[Case], truth: str | None) -> Iterator[Finding]:
    """Cases, subjects, labels (or findings; None where a case needs neither), ages and folds."""
    subjects = {case["subject"] for case in cases}
    yield Finding("ok" if cases else "error", f"{len(cases)} complete cases of {len(subjects)} subjects")
    bare = [case["id"] for case in cases if truth is not None and truth not in case]
    if bare:
        what = "a label (fine for inference, not for training)" if truth == "label" else f"{truth} (fine for inference, not for evaluation)"
        yield Finding("note", f"{len(bare)} cases without {what}: {some(bare)}")
    for key in ("age", "fold", "healthy", "brain"):
        present = sum(key in case for case in cases)
        if 0 < present < len(cases):
            level = "error" if key == "fold" else "note"
            yield Finding(
                level, f"{key}: {present} of {len(cases)} cases have one; missing: {some(c['id'] for c in cases if key not in c)}"
            )


def _check_volumes(cases: Sequence[Case], inputs: Sequence[str], layout: Layout) -> Iterator[Finding]:
    """Every file of every case: readable, one grid, finite, label values, plausible ranges."""
    from tqdm import tqdm

    look = layout.look or _loader(inputs)
    shapes: Counter[tuple[int, ...]] = Counter()
    spacings, broken, empty = [], 0, 0
    for case in tqdm(cases, desc="Reading", leave=False, disable=None):
        try:
            shape, spacing, oddities = look(case)
        except UserError as error:
            broken += 1
            yield Finding("error", f"case {case['id']}: {error}")
            continue
        shapes[shape] += 1
        spacings.append(spacing)
        empty += EMPTY_LABEL in oddities
        yield from (Finding("note", f"case {case['id']}: {text}") for text in oddities if text != EMPTY_LABEL)
    if spacings:
        low, high = np.min(spacings, axis=0), np.max(spacings, axis=0)
        sizes = some((" x ".join(map(str, shape)) + f" ({count})" for shape, count in shapes.most_common()), 4)
        yield Finding("ok", f"grids: {sizes}; spacing {_triple(low)} to {_triple(high)} mm")
    labels = "" if layout.findings or layout.facts else f"; {empty} labels are empty"
    yield Finding("error" if broken else "ok", f"{len(cases) - broken} of {len(cases)} complete cases can be used{labels}")


def _loader(inputs: Sequence[str]) -> Callable[[Case], tuple[tuple[int, ...], tuple[float, ...], list[str]]]:
    """Function that reads a case with ``LoadCased``: its shape, spacing in mm, and what is odd."""
    from common.transforms.load_case import LoadCased

    load = LoadCased(channels=len(inputs), brain_key="brain" if "adc" in inputs else None, brain_channel=_channel("adc", inputs))

    def look(case: Case) -> tuple[tuple[int, ...], tuple[float, ...], list[str]]:
        keyed: Any = case  # its keys are str, those of MONAI any Hashable
        volume = load(keyed)
        empty = [EMPTY_LABEL] if "label" in volume and not volume["label"].any() else []
        spacing = tuple(float(step) for step in volume["image"].pixdim)
        return tuple(volume["image"].shape[1:]), spacing, implausible(volume, inputs) + empty

    return look


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


def print_check(
    layout: str,
    dataset_dir: str | os.PathLike[str],
    inputs: Sequence[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
) -> int:
    """Print the findings and a last line with their number.

    Args:
        layout: name of the public layout.
        dataset_dir: file or folder.
        inputs: names of the inputs in channel order; None takes the layout's.
        manifest: CSV for what was chosen from a tree of several series per case, and why; None writes ``<layout>_series.csv`` in the
            working directory. Only for layouts in which something is chosen.

    Returns:
        Exit code: 1 when there is an error, else 0.
    """
    counts: Counter[str] = Counter()
    for finding in check_dataset(layout, dataset_dir, inputs):
        counts[finding.level] += 1
        print(f"{finding.level.upper():5}  {finding.text}", flush=True)
    print(f"Checked {dataset_dir}: {counts['error']} errors, {counts['note']} notes.")
    known, path = get_layout(layout), Path(dataset_dir).expanduser()
    if known.manifest is not None and path.is_dir() and known.matches(path):
        rows = [{key: value for key, value in row.items() if key != "folder"} for row in known.manifest(path)]
        print(f"Wrote {write_csv(Path(manifest or f'{layout}_series.csv'), rows)}")
    return 1 if counts["error"] else 0
