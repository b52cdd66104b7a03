"""``python -m common.data check <layout> DIR``, ``... simulate <layout> DIR`` and ``... list DIR --modality ct --output LIST.json``."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from common.errors import UserError


def check(layout: str, dataset_dir: str, inputs: str | tuple[str, ...] | None = None, manifest: str | None = None) -> None:
    """Say what is in a data set and what is wrong with it, one line per finding; exit code 1 if anything is.

    Args:
        layout: layout of the public data set, e.g. bonbid or cq500; tables, BIDS trees, datalists and 4D files are recognised.
        dataset_dir: folder or file.
        inputs: names of the inputs, parted by commas; the layout's by default.
        manifest: CSV that says of every series why it was kept or dropped (cq500); cq500_series.csv in the working directory by default.
    """
    from common.data.check import print_check

    names = inputs.split(",") if isinstance(inputs, str) else inputs
    code = print_check(layout, str(dataset_dir), names, manifest)
    if code:
        raise SystemExit(code)


def simulate(layout: str, dataset_dir: str, **parameters: Any) -> None:
    """Make a simulated cohort in the layout of a public data set.

    Args:
        layout: layout, e.g. bonbid.
        dataset_dir: folder to make; it may exist when it is empty or holds this very cohort.
        **parameters: of the generator, e.g. --subjects 20 --seed 1 --style main.
    """
    from common.data.simulate.cohort import GENERATORS

    if layout not in GENERATORS:
        raise UserError(f"layout: got {layout!r}; expected one of {', '.join(sorted(GENERATORS))}.")
    module, function = GENERATORS[layout].split(":")
    generator = getattr(importlib.import_module(module), function)
    _refuse_unknown(generator, parameters)
    print(f"Wrote {generator(Path(str(dataset_dir)).expanduser(), **parameters)} (SIMULATED: these are not patients)")


def make_list(
    dataset_dir: str,
    modality: str | tuple[str, ...],
    output: str,
    validation: float = 0.05,
    seed: int = 0,
    against: str | tuple[str, ...] = (),
    subject: str | None = None,
    series: str | None = None,
    min_slices: int | None = None,
) -> None:
    """Build a datalist for pre-training from a tree of scans, split by patient; duplicates are left out, each with a line that says why.

    Args:
        dataset_dir: tree of DICOM series (TCIA), .mhd (LUNA16), .nii.gz, .mha or .nrrd files, or a BraTS tree.
        modality: ct, t1, t1ce, t2, flair or a name of your own; of a BraTS tree several, parted by commas.
        output: the JSON file to write; it lists patients by the PatientID of their headers.
        validation: share of the patients that validates.
        seed: of the draw.
        against: lists built before, parted by commas: what is in them is left out here, and their patients stay in their part.
        subject: regular expression with one group that finds the patient in a path below the tree; by default PatientID or folder.
        series: regular expression that description or path must fit, to choose one of several series; all by default.
        min_slices: DICOM series of fewer slices are left out; 20 by default.
    """
    from common.data.dicom_series import MIN_SLICES
    from common.data.list_builder import build_list, write_list

    others = list(filter(None, against.split(","))) if isinstance(against, str) else against
    fewest = MIN_SLICES if min_slices is None else min_slices
    names = modality if isinstance(modality, str) else tuple(map(str, modality))
    pattern = None if subject is None else str(subject)
    content = build_list(str(dataset_dir), names, validation, seed, others, pattern, series, fewest)
    print(f"Wrote {write_list(content, str(output))}")


def _refuse_unknown(function: Any, parameters: dict[str, Any]) -> None:
    known = [name for name in inspect.signature(function).parameters if name != "out_dir"]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise UserError(
            f"unknown parameter {', '.join('--' + name for name in unknown)}; expected some of {', '.join('--' + k for k in known)}."
        )


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: command line; None takes that of the process.

    Returns:
        Exit code: 0, or 1 after a mistake, whose text is printed without a traceback.
    """
    import fire

    commands: dict[str, Any] = {"check": check, "simulate": simulate, "list": make_list}
    try:
        fire.Fire(commands, command=arguments, name="python -m common.data")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
