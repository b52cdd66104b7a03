"""``python -m common.data check <layout> DIR`` and ``python -m common.data simulate <layout> DIR``."""

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

    commands: dict[str, Any] = {"check": check, "simulate": simulate}
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
