"""Console command ``brain-bundles``; the work is done by the modules, which are imported when their command is called."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from common import __version__, config_dir, user_error_in
from common.errors import UserError

USAGE = """usage: brain-bundles COMMAND ...

  predict BUNDLE INPUT OUTPUT     results for new images, e.g. brain-bundles predict ladp scans/ results/
  prepare BUNDLE --INPUT FILE ... OUTPUT   scans registered and stripped of the skull, as predict takes them
  check LAYOUT DIR                say what is in a data set and what is wrong with it
  list DIR --modality ct ...      make a list of scans for pre-training, split by patient, duplicates left out
  simulate LAYOUT DIR             make a simulated cohort in the layout of a public data set
  study score ...                 score folders of predictions against the truth
  study run STUDY.json ...        train and evaluate every row of a study, to one table and its figures
  path BUNDLE                     print the folder of a bundle's configs, for python -m monai.bundle run

brain-bundles COMMAND --help tells more; --version prints the version.
Train: python -m monai.bundle run --config_file "$(brain-bundles path ladp)/train.json"
Research only, never for diagnosis. Configs are code: run only those you trust."""


def _predict(arguments: list[str]) -> int:
    return importlib.import_module("common.predict").main(arguments, prog="brain-bundles predict")


def _prepare(arguments: list[str]) -> int:
    return importlib.import_module("common.prepare").main(arguments, prog="brain-bundles prepare")


def _check(arguments: list[str]) -> int:
    return importlib.import_module("common.data.__main__").main(["check", *arguments])


def _list(arguments: list[str]) -> int:
    return importlib.import_module("common.data.__main__").main(["list", *arguments])


def _simulate(arguments: list[str]) -> int:
    return importlib.import_module("common.data.__main__").main(["simulate", *arguments])


def _study(arguments: list[str]) -> int:
    importlib.import_module("common.study").main(arguments)
    return 0


def _path(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise UserError("usage: brain-bundles path BUNDLE, e.g. brain-bundles path ladp")
    print(os.path.abspath(config_dir(arguments[0])))
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "predict": _predict,
    "prepare": _prepare,
    "check": _check,
    "list": _list,
    "simulate": _simulate,
    "study": _study,
    "path": _path,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: command line; None takes that of the process.

    Returns:
        Exit code: 0, or 1 after a mistake, whose text is printed without a traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if words else 1
    if words[0] == "--version":
        print(f"brain-bundles {__version__}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise UserError(f"got '{words[0]}', expected one of {', '.join(COMMANDS)}. See brain-bundles --help.")
        return COMMANDS[words[0]](words[1:])
    except Exception as error:
        mistake = user_error_in(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
