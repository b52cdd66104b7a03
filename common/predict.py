"""Predict without a config: ``python -m common.predict <bundle> INPUT OUTPUT``, a thin layer over the bundle's ``inference.json``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from common import config_dir, flag, user_error_in
from common.errors import UserError
from common.prediction_data import data_overrides
from common.prediction_weights import find_weights, input_names, weight_overrides

WIDTH = 140
"""Characters of the longest line of a table on the screen."""
FAST = "inference_fast.json"
"""The overlay of ``--fast``; its ``_desc_`` says what is given up."""


def read_config(bundle: str) -> dict[str, Any]:
    """A bundle's ``inference.json``, unparsed.

    Raises:
        UserError: no such bundle, or one without inference.
    """
    path = Path(config_dir(bundle)) / "inference.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; the bundle '{bundle}' has no inference config.")
    return json.loads(path.read_text(encoding="utf-8"))


def read_fast(bundle: str) -> dict[str, Any]:
    """A bundle's overlay of ``--fast``, unparsed.

    Raises:
        UserError: the bundle has none.
    """
    path = Path(config_dir(bundle)) / FAST
    if not path.is_file():
        raise UserError(f"{path}: no such file; the bundle '{bundle}' has no faster way, leave --fast away.")
    return json.loads(path.read_text(encoding="utf-8"))


def predict(
    bundle: str,
    output: str,
    source: str | None = None,
    named: Mapping[str, str] | None = None,
    *,
    device: str | None = None,
    weights: str | None = None,
    members: int | None = None,
    vote_share: bool = False,
    demo: bool = False,
    fast: bool = False,
) -> list[dict[str, Any]]:
    """Run a bundle's ``inference.json``: results on the source grid, a table and a picture per case, all in one folder.

    Args:
        bundle: name, e.g. ``ladp``.
        output: folder of results; made where it does not exist, results of the same name are replaced.
        source: see :func:`data_overrides`.
        named: see :func:`data_overrides`.
        device: ``cpu``, ``cuda`` or ``cuda:<number>``; None lets the config choose.
        weights: folder or file; None takes the bundle's own ``models/``.
        members: how many members of the ensemble; None takes all. Of bundles with an ensemble only.
        vote_share: also write maps of the share of members that agree on a voxel. Of bundles with an ensemble only.
        demo: also take weights that were trained on simulated data; without own ones the bundle's ``demo_weights/``.
        fast: give up accuracy for time, by the bundle's overlay `FAST`, whose ``_desc_`` is printed. It goes before what the weights
            record; the options above go before it.

    Returns:
        The rows of the table.

    Raises:
        UserError: a mistake in the arguments, or cases that failed, named after the others are done.
    """
    from common.device import check_device
    from common.weights import print_origin

    config, overlay = read_config(bundle), read_fast(bundle) if fast else {}
    path = find_weights(bundle, weights, demo)
    trained = weight_overrides(bundle, config, path, demo) if "ckpt_dir" in config else {}
    overrides = data_overrides(config | {"inputs": input_names(config, path)}, source, named or {})
    overrides |= {key: value for key, value in trained.items() if key not in overlay}
    options: dict[str, tuple[str, Any]] = {
        "vote_members": ("--members", members),
        "save_vote_share": ("--vote_share", vote_share or None),
        "device": ("--device", device and check_device(device)),
    }
    for key, (option, value) in options.items():
        if value is not None and key not in config:
            raise UserError(f"the bundle '{bundle}' has no setting '{key}'; leave its option {option} away.")
        overrides |= {} if value is None else {key: value}
    overrides |= {"save_pictures": True} if "save_pictures" in config and "save_pictures" not in overlay else {}
    overrides["output_dir"] = _output_folder(output, source)
    if fast:
        print(f"Fast: {overlay['_desc_']}", flush=True)
    files = [str(Path(config_dir(bundle)) / name) for name in ("inference.json", *([FAST] if fast else []))]
    try:
        return run_config(files, overrides)  # its run begins with the same line
    finally:
        print(f"Results: {overrides['output_dir']}")
        print_origin(overrides.get("ckpt_dir"))


def _output_folder(output: str, source: str | None) -> str:
    path = Path(output).expanduser().absolute()
    if source is not None and path.resolve() == Path(source).expanduser().resolve():
        raise UserError(f"OUTPUT: {path} is INPUT; give another folder, or the results would be taken for images next time.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT: {path} cannot be made ({error.strerror}); give a folder that can be written.") from error
    return str(path)


def run_config(config_file: str | Sequence[str], overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run an inference config in this process and print the rows that its ``CaseRows`` handlers collected.

    Args:
        config_file: ``inference.json``, or a list of it and its overlays.
        overrides: values by config id.

    Returns:
        The rows; also printed when some cases failed.

    Raises:
        UserError: the mistake that MONAI wrapped.
    """
    from monai.bundle import ConfigWorkflow

    from common.inference import CaseRows

    workflow = ConfigWorkflow(config_file, workflow_type="infer", **overrides)
    rows: list[dict[str, Any]] = []
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        mistake = user_error_in(error)
        if mistake is None:
            raise
        raise mistake from None
    finally:
        handlers: Any = workflow.parser.ref_resolver.resolved_content.get("handlers") or []
        rows += [row for handler in handlers if isinstance(handler, CaseRows) for row in handler.rows]
        if rows:
            print(as_table(rows), flush=True)
    return rows


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as aligned text with a head, in blocks of at most `WIDTH` characters that begin with the first column; empty without rows."""
    if not rows:
        return ""
    cells = [list(rows[0]), *([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    first, *others = [[cell.rjust(max(map(len, column))) for cell in column] for column in zip(*cells, strict=True)]
    first = [cell.strip().ljust(len(cell)) for cell in first]
    blocks = [[first]]
    for column in others:
        if len(blocks[-1]) > 1 and sum(len(held[0]) + 2 for held in blocks[-1]) + len(column[0]) > WIDTH:
            blocks.append([first])
        blocks[-1].append(column)
    return "\n\n".join("\n".join("  ".join(line) for line in zip(*block, strict=True)) for block in blocks)


def _named_inputs(bundle: str, config: Mapping[str, Any], line: Sequence[str]) -> list[str]:
    """The inputs that a command line may name, which depend on the weights it asks for."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--weights")
    parser.add_argument("--demo", action="store_true")
    given = parser.parse_known_args(line)[0]
    return input_names(config, find_weights(bundle, given.weights, given.demo))


def _arguments(line: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse the command line; argparse, because fire knows no options whose names a config decides."""
    parser = argparse.ArgumentParser(prog=prog, description="Predict with a bundle; no config needed.", allow_abbrev=False)
    parser.add_argument("bundle", help="name of the bundle, e.g. ladp; comes first")
    parser.add_argument(
        "paths", nargs="*", metavar="INPUT OUTPUT", help="a data set, a folder of files or of DICOM series, or one; folder of results"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:<number>; default: the GPU where there is one")
    parser.add_argument("--weights", help="folder with model.pt and weights.json, or one file; default: the bundle's models/")
    parser.add_argument("--members", type=int, help="of an ensemble: how many members; default: all")
    share = "of an ensemble: also write maps of the share of members that agree"
    parser.add_argument("--vote_share", "--vote-share", nargs="?", const="true", default="false", help=share)
    demo = "take weights that were trained on simulated data, and the bundle's small ones where there are no others: to try, no result"
    parser.add_argument("--demo", action="store_true", help=demo)
    fast = "minutes on two cores and less accurate; it says what is given up, and options such as --members go before it"
    parser.add_argument("--fast", action="store_true", help=fast)
    bundle = line[0] if line and not line[0].startswith("-") else None
    group = parser.add_argument_group("named inputs", "one case, a path per input, in place of INPUT; the names are the bundle's")
    config = read_config(bundle) if bundle is not None else {}
    for name in _named_inputs(bundle, config, line) if bundle is not None else []:
        group.add_argument(f"--{name}", metavar="PATH", dest=f"input_{name}")
    for name in config.get("facts", []):
        group.add_argument(f"--{name}", metavar="WEEKS" if name == "age" else "PATH", dest=f"input_{name}")
    return parser.parse_intermixed_args(line)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m common.predict") -> int:
    """Run the command.

    Args:
        arguments: command line; None takes that of the process. After the word ``prepare`` it is that of ``common.prepare``.
        prog: name of the command in its help.

    Returns:
        Exit code: 0, or 1 after a mistake or failed cases, whose text is printed without a traceback.
    """
    line = list(sys.argv[1:] if arguments is None else arguments)
    if line[:1] == ["prepare"]:
        return import_module("common.prepare").main(line[1:], prog=f"{prog} prepare")
    try:
        given = _arguments(line, prog)
        named = {key[len("input_") :]: value for key, value in vars(given).items() if key.startswith("input_") and value is not None}
        if len(given.paths) != (1 if named else 2):
            expected = "OUTPUT alone beside named inputs" if named else "INPUT and OUTPUT"
            raise UserError(f"got {len(given.paths)} paths ({' '.join(given.paths)}), expected {expected}. See {prog} --help.")
        options = {"device": given.device, "weights": given.weights, "members": given.members}
        share = flag(given.vote_share, "--vote_share")
        source = None if named else given.paths[0]
        predict(given.bundle, given.paths[-1], source, named, vote_share=share, demo=given.demo, fast=given.fast, **options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
