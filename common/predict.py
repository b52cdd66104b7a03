"""Predict without a config: ``python -m common.predict <bundle> INPUT OUTPUT``, a thin layer over the bundle's ``inference.json``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import bundle_root, config_dir, flag, user_error_in
from common.errors import UserError

SIMULATED = "*** trained on SIMULATED data: a demonstration, not a result ***"
WIDTH = 140
"""Characters of the longest line of a table on the screen."""
NOT_VERIFIED = "Research only: nobody has verified these weights on data such as yours. Never for diagnosis."


def read_config(bundle: str) -> dict[str, Any]:
    """A bundle's ``inference.json``, unparsed.

    Raises:
        UserError: no such bundle, or one without inference.
    """
    path = Path(config_dir(bundle)) / "inference.json"
    if not path.is_file():
        raise UserError(f"{path}: no such file; the bundle '{bundle}' has no inference config.")
    return json.loads(path.read_text(encoding="utf-8"))


def data_overrides(config: Mapping[str, Any], source: str | None, named: Mapping[str, str]) -> dict[str, Any]:
    """Config values for the data: a data set's path, or one case whose inputs were named.

    Args:
        config: the bundle's inference config; its ``inputs`` are the names in channel order, its ``facts`` what else may be named.
        source: data set in any form of ``common.data.dataset.find_cases``, a folder of files, or one file; None with named inputs.
        named: input name -> file, all inputs or none; of a bundle with one input also a folder with one DICOM series, or a file of it.

    Returns:
        Overrides with absolute paths.

    Raises:
        UserError: neither or both are given, an input is missing, a path does not exist, or a folder that is not one series.
    """
    inputs = list(config.get("inputs", []))
    if bool(named) == (source is not None):
        raise UserError(f"give either INPUT and OUTPUT, or {' '.join(f'--{name} PATH' for name in inputs)} and OUTPUT.")
    if source is not None:
        return {"dataset_dir": _existing(source, "INPUT")}
    facts = {name: named[name] for name in config.get("facts", []) if name in named}
    if set(named) - set(facts) != set(inputs):
        got, needed = (" ".join(f"--{name}" for name in names) for names in (named, inputs))
        raise UserError(f"got {got}, expected {needed}: all inputs of a case must be given together.")
    from common.data.cases import volume_stem, volume_suffix

    files = [_existing(named[name], f"--{name}") for name in inputs]
    if len(files) == 1 and not volume_suffix(files[0]):
        return {"cases": [_one_series(files[0], f"--{inputs[0]}")]}
    stem = volume_stem(files[0])
    return {"cases": [{"id": stem, "subject": stem, "image": files} | _facts(facts)]}


def _facts(named: Mapping[str, str]) -> dict[str, Any]:
    """What else is told of a case: an age in weeks, else a file."""
    from common.data.cases import parse_age

    return {name: parse_age(text, "--age") if name == "age" else _existing(text, f"--{name}") for name, text in named.items()}


def _one_series(path: str, argument: str) -> dict[str, Any]:
    """The case of a folder with one DICOM series, or of a file of it."""
    from common.data.cases import VOLUME_SUFFIXES, some
    from common.data.dicom_folders import read_dicom_folders

    cases = read_dicom_folders(Path(path))
    if len(cases) != 1:
        found = f"holds {len(cases)} cases ({some(case['id'] for case in cases)})" if cases else "holds no DICOM files"
        raise UserError(
            f"{argument}: {path} {found}, expected one: a folder with one DICOM series, or a file {' '.join(VOLUME_SUFFIXES)}."
            " A folder of several cases is given as INPUT, without an option."
        )
    return cases[0]


def _existing(path: str, argument: str) -> str:
    """Absolute path: MONAI would take a text that starts with ``@``, ``$`` or ``%`` for an expression."""
    if not path.strip() or not os.path.exists(os.path.expanduser(path)):
        raise UserError(f"{argument}: '{path}' does not exist (relative paths start at {os.getcwd()}).")
    return os.path.abspath(os.path.expanduser(path))


def weight_overrides(bundle: str, config: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Config values for the weights: their place, and the settings they were trained with.

    Args:
        bundle: name of the bundle, which the weights must have been trained for.
        config: its inference config.
        weights: folder with ``model.pt`` (and ``weights.json``), or one file of weights.

    Raises:
        UserError: no weights there, those of another bundle, or trained with settings that the config does not know.
    """
    from common.weights import RECORD, read_record

    path = Path(weights).expanduser().absolute()
    if not (path.is_file() or (path / "model.pt").is_file()):
        raise UserError(
            f"There are no weights at {path}: expected model.pt and, with the settings of its training, {RECORD}. Train them\n"
            f"  python -m monai.bundle run --config_file {os.path.join(config_dir(bundle), 'train.json')}\n"
            "or put trained ones there, or give their folder or file by --weights."
        )
    record = read_record(path)
    if record.get("bundle", bundle) != bundle:
        raise UserError(f"{path}: the weights were trained for the bundle '{record['bundle']}', not for '{bundle}'.")
    settings = record.get("settings", {})
    unknown = sorted(set(settings) - set(config))
    if unknown:
        raise UserError(
            f"{path}: {RECORD} holds settings that inference.json of {bundle} does not know: {', '.join(unknown)}."
            f" The weights are from version {record.get('version')} of this collection: use that version, or train again."
        )
    return {"ckpt_dir": str(path), **settings}


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

    Returns:
        The rows of the table.

    Raises:
        UserError: a mistake in the arguments, or cases that failed, named after the others are done.
    """
    from common.device import check_device
    from common.weights import read_record

    config = read_config(bundle)
    trained: dict[str, Any] = {}
    if "ckpt_dir" in config:
        trained = weight_overrides(bundle, config, weights or os.path.join(bundle_root(bundle), "models"))
    overrides = data_overrides(config | trained, source, named or {}) | trained
    options: dict[str, tuple[str, Any]] = {
        "vote_members": ("--members", members),
        "save_vote_share": ("--vote_share", vote_share or None),
        "device": ("--device", device and check_device(device)),
    }
    for key, (option, value) in options.items():
        if value is not None and key not in config:
            raise UserError(f"the bundle '{bundle}' has no setting '{key}'; leave its option {option} away.")
        overrides |= {} if value is None else {key: value}
    overrides |= {"save_pictures": True} if "save_pictures" in config else {}
    overrides["output_dir"] = _output_folder(output, source)
    simulated = "ckpt_dir" in overrides and bool(read_record(overrides["ckpt_dir"]).get("simulated"))
    print(SIMULATED if simulated else NOT_VERIFIED, flush=True)
    try:
        return run_config(str(Path(config_dir(bundle)) / "inference.json"), overrides)
    finally:
        print(f"Results: {overrides['output_dir']}\n{SIMULATED if simulated else NOT_VERIFIED}", flush=True)


def _output_folder(output: str, source: str | None) -> str:
    path = Path(output).expanduser().absolute()
    if source is not None and path.resolve() == Path(source).expanduser().resolve():
        raise UserError(f"OUTPUT: {path} is INPUT; give another folder, or the results would be taken for images next time.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"OUTPUT: {path} cannot be made ({error.strerror}); give a folder that can be written.") from error
    return str(path)


def run_config(config_file: str, overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run an inference config in this process and print the rows that its ``CaseRows`` handlers collected.

    Args:
        config_file: ``inference.json``.
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


def _trained_inputs(bundle: str, line: Sequence[str]) -> dict[str, Any]:
    """The inputs of the weights asked for, where they were trained with others than the config's (BTCV's ct in place of FeTA's t2w)."""
    from common.weights import read_record

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--weights")
    weights = parser.parse_known_args(line)[0].weights or os.path.join(bundle_root(bundle), "models")
    settings = read_record(Path(weights).expanduser()).get("settings", {})
    return {"inputs": settings["inputs"]} if "inputs" in settings else {}


def _arguments(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
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
    line = list(sys.argv[1:] if arguments is None else arguments)
    bundle = line[0] if line and not line[0].startswith("-") else None
    group = parser.add_argument_group("named inputs", "one case, a path per input, in place of INPUT; the names are the bundle's")
    config = read_config(bundle) | _trained_inputs(bundle, line) if bundle is not None else {}
    for name in config.get("inputs", []):
        group.add_argument(f"--{name}", metavar="PATH", dest=f"input_{name}")
    for name in config.get("facts", []):
        group.add_argument(f"--{name}", metavar="WEEKS" if name == "age" else "PATH", dest=f"input_{name}")
    return parser.parse_intermixed_args(line)


def main(arguments: Sequence[str] | None = None, prog: str = "python -m common.predict") -> int:
    """Run the command.

    Args:
        arguments: command line; None takes that of the process.
        prog: name of the command in its help.

    Returns:
        Exit code: 0, or 1 after a mistake or failed cases, whose text is printed without a traceback.
    """
    try:
        given = _arguments(arguments, prog)
        named = {key[len("input_") :]: value for key, value in vars(given).items() if key.startswith("input_") and value is not None}
        if len(given.paths) != (1 if named else 2):
            expected = "OUTPUT alone beside named inputs" if named else "INPUT and OUTPUT"
            raise UserError(f"got {len(given.paths)} paths ({' '.join(given.paths)}), expected {expected}. See {prog} --help.")
        options = {"device": given.device, "weights": given.weights, "members": given.members}
        share = flag(given.vote_share, "--vote_share")
        predict(given.bundle, given.paths[-1], None if named else given.paths[0], named, vote_share=share, **options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
