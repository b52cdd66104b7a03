"""From what a hospital has to what a method eats: ``python -m common.prepare BUNDLE --<input> FILE ... OUTPUT``, and the way back."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common import flag
from common.errors import UserError
from common.predict import read_config
from common.prediction_weights import find_weights, input_names


@dataclass(frozen=True)
class Recipe:
    """What a bundle's files must be.

    Attributes:
        reference: input on whose grid results are wanted; empty: the first one.
        spacing: "native", or mm of a grid like BraTS's.
        stripped: whether inputs must be 0 outside the brain.
        diffusion: whether the inputs are ADC and its Z map.
    """

    reference: str = ""
    spacing: str = "native"
    stripped: bool = False
    diffusion: bool = False


RECIPES = {"patchddm": Recipe("t1ce", "1", True), "ladp": Recipe("adc", stripped=True, diffusion=True)}
"""Of all other bundles ``inference.json`` itself does what is needed; they get the scan on its own grid, and a mask if wanted."""
LOOK = "Research only, never for diagnosis. Nobody has looked at this registration and this mask: look at the picture before you go on."
DIFFUSION = ("b0", "b1000", "dwi", "bvals", "norm_mean", "norm_sd")


def _inputs(bundle: str) -> list[str]:
    """Names of a bundle's inputs, which its weights may decide."""
    return input_names(read_config(bundle), find_weights(bundle, demo=True))


def prepare(bundle: str, output: str, named: Mapping[str, str], command: Sequence[str] = (), **options: Any) -> Path:
    """Prepare one case.

    Args:
        bundle: name, e.g. ``patchddm``.
        output: folder; ``<case>_<input>.nii.gz``, ``<case>_provenance.json``, ``<case>_prepared.png`` and ``masks/<case>_brain.nii.gz`` are
            written, after all work is done.
        named: file or DICOM folder by name of the input; for ADC also ``b0``, ``b1000``, ``dwi``, ``bvals``, ``norm_mean``, ``norm_sd``.
        command: as the user typed it, for the record.
        **options: ``case``, ``reference``, ``spacing``, ``strip``, ``brain``, ``b``, ``noise_floor``, ``device`` (None: the bundle's own),
            ``register`` (bool).

    Returns:
        The provenance record.

    Raises:
        UserError: an input is missing or cannot be used.
    """
    from common.provenance import Provenance

    recipe, inputs = RECIPES.get(bundle, Recipe()), _inputs(bundle)
    _check_inputs(bundle, recipe, inputs, named)
    case = options.get("case") or _case_name(next(iter(named.values())), [*inputs, *DIFFUSION])
    if not re.fullmatch(r"[\w.+-]+", case):
        raise UserError(f"--case: got '{case}'; expected letters, digits, '.', '_', '+' and '-', which file names can hold.")
    record = Provenance(list(command), bundle, case)
    result = _diffusion(named, record, options) if recipe.diffusion else _sequences(recipe, inputs, named, record, options)
    return _write(result, inputs, Path(output).expanduser().absolute(), case, record)


def _check_inputs(bundle: str, recipe: Recipe, inputs: list[str], named: Mapping[str, str]) -> None:
    extra = DIFFUSION if recipe.diffusion else ()
    unknown = sorted(set(named) - {*inputs, *extra})
    missing = [] if recipe.diffusion else [name for name in inputs if name not in named]
    if unknown or missing or not named:
        got = " ".join(f"--{name}" for name in named) or "none"
        ways = "--adc FILE, --b0 FILE --b1000 FILE, or --dwi FILE" if recipe.diffusion else " ".join(f"--{name} FILE" for name in inputs)
        raise UserError(f"got {got}, expected {ways} for the bundle '{bundle}': files, or folders with one DICOM series each.")


def _sequences(recipe: Recipe, inputs: list[str], named: Mapping[str, str], record: Any, options: Mapping[str, Any]) -> Any:
    from common.prepared_sequences import prepare_sequences

    strip = options.get("strip") or ("auto" if recipe.stripped else None)
    return prepare_sequences(
        {name: named[name] for name in inputs},
        options.get("reference") or recipe.reference or inputs[0],
        record,
        spacing=options.get("spacing") or recipe.spacing,
        strip=strip,
        brain=options.get("brain"),
        register=options.get("register", True),
        device=options.get("device"),
    )


def _diffusion(named: Mapping[str, str], record: Any, options: Mapping[str, Any]) -> Any:
    from common.prepared_diffusion import DiffusionFiles, prepare_diffusion

    for option in ("reference", "spacing"):
        if options.get(option):
            raise UserError(f"--{option}: ADC and Z map stay on the grid of the diffusion scan; leave the option away.")
    renamed = {"b1000": "weighted", "dwi": "series"}
    files = DiffusionFiles(**{renamed.get(name, name): path for name, path in named.items()}, b=options.get("b") or 1000.0)
    return prepare_diffusion(
        files,
        record,
        strip=options.get("strip") or "auto",
        brain=options.get("brain"),
        register=options.get("register", True),
        floor=options.get("noise_floor"),
        device=options.get("device"),
    )


def _case_name(path: str, inputs: Sequence[str]) -> str:
    """Stem of a file, or name of a folder, without the name of the input at its end."""
    from common.data.cases import volume_stem

    stem = volume_stem(Path(path).expanduser().absolute())
    short = re.sub(rf"[-_.]?(?:{'|'.join(map(re.escape, inputs))})$", "", stem, flags=re.IGNORECASE)
    return re.sub(r"[^\w.+-]+", "_", short).strip("_") or "case"


def _write(result: Any, inputs: Sequence[str], folder: Path, case: str, record: Any) -> Path:
    """Write what was prepared; the record last, so that it stands for a complete case."""
    from common.atomic import write_atomic
    from common.brought_back import RECORD_SUFFIX
    from common.provenance import sha256_of
    from common.transforms.save_like_source import save_volume

    native = result.native
    record.content["native"] = {"path": native.path, "sha256": sha256_of(native.path), "shape": list(native.volume.shape)}
    record.content["native"]["affine"] = native.affine.tolist()
    record.content["prepared"] = {"shape": list(result.volumes[inputs[0]].shape), "affine": result.affine.tolist()}
    for name in inputs:
        record.add_output(name, save_volume(result.volumes[name], result.affine, folder / f"{case}_{name}.nii.gz", np.float32))
    if result.brain is not None:
        path = save_volume(result.brain.astype(np.uint8), result.affine, folder / "masks" / f"{case}_brain.nii.gz", np.uint8)
        record.add_output("brain", path)
    write_atomic(folder / f"{case}_prepared.png", lambda path: path.write_bytes(_picture(result, inputs, case)))
    return record.write(folder / f"{case}{RECORD_SUFFIX}")


def _picture(result: Any, inputs: Sequence[str], case: str) -> bytes:
    """Slices of all inputs with the outline of the brain, which shows a wrong registration at once."""
    import nibabel

    from common.figures import overlay_figure

    axes = "".join(nibabel.aff2axcodes(result.affine))
    up = next((axis for axis, letter in enumerate(axes) if letter in "IS"), 2)
    order = [axis for axis in range(3) if axis != up] + [up]  # slices are cut across the axis to the top
    images = {name.upper(): result.volumes[name].transpose(order) for name in inputs}
    brain = np.ones(result.volumes[inputs[0]].shape, bool) if result.brain is None else result.brain
    middle = np.flatnonzero(brain.transpose(order).any(axis=(0, 1)))
    chosen = np.zeros(brain.transpose(order).shape, bool)
    for share in (0.3, 0.5, 0.7):
        chosen[..., middle[int(share * (len(middle) - 1))]] = True
    masks = {"brain": chosen & brain.transpose(order)}
    spacing = np.linalg.norm(result.affine[:3, :3], axis=0)[order].tolist()
    return overlay_figure(images, masks, {}, spacing, f"{case}, prepared", axes="".join(axes[axis] for axis in order))


def _arguments(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    """Parse the command line; argparse, because fire knows no options whose names a config decides."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Bring the scans of one patient to what a bundle reads: registered, stripped of the skull, on one grid.",
        epilog=f"The way back: {prog} back RESULT_OR_FOLDER PREPARED_FOLDER OUTPUT",
        allow_abbrev=False,
    )
    parser.add_argument("bundle", help="name of the bundle, e.g. patchddm; comes first")
    parser.add_argument("output", metavar="OUTPUT", help="folder for the prepared files and their record")
    group = parser.add_argument_group("inputs", "a volume (.nii.gz, .mha, .nrrd) or a folder with one DICOM series each")
    recipe = RECIPES.get(arguments[0], Recipe())
    for name in (*_inputs(arguments[0]), *(DIFFUSION if recipe.diffusion else ())):
        group.add_argument(f"--{name}", metavar="PATH", dest=f"input_{name}")
    if recipe.diffusion:
        parser.add_argument("--b", type=float, help="b-value of --b1000, or the one wanted of --dwi, s/mm2; default: 1000")
        parser.add_argument("--noise_floor", type=float, help="mean signal of noise; default: measured in the air")
    parser.add_argument("--brain", metavar="PATH", help="mask of the brain in the reference's world, on any grid")
    parser.add_argument("--strip", help="how the brain is found without one: auto (stripped already), hd-bet, synthstrip, rough, none")
    parser.add_argument("--reference", help="input that stays where it is; default: the bundle's")
    parser.add_argument("--spacing", help="native, or mm of a grid like BraTS's; default: the bundle's")
    parser.add_argument("--register", default="true", help="false: believe the headers")
    parser.add_argument("--case", help="name of the case; default: from the file names")
    parser.add_argument("--device", help="cpu or cuda, for hd-bet and synthstrip")
    return parser.parse_args(list(arguments))


def _back(arguments: Sequence[str], prog: str) -> None:
    from common.brought_back import bring_back, bring_folder_back

    parser = argparse.ArgumentParser(prog=f"{prog} back", description="Bring results to the native grid of the reference scan.")
    parser.add_argument("result", help="mask or map on the prepared grid, or a folder of results")
    parser.add_argument("record", help="folder of the prepared files, or their provenance JSON")
    parser.add_argument("output", help="file, or folder where results are a folder")
    given = parser.parse_args(list(arguments))
    if not Path(given.result).exists():
        raise UserError(f"{given.result}: no such file or folder; expected a result of predict.")
    done = bring_folder_back if Path(given.result).is_dir() else lambda *paths: [bring_back(*paths)]
    print("\n".join(done(given.result, given.record, given.output)))


def main(arguments: Sequence[str] | None = None, prog: str = "python -m common.prepare") -> int:
    """Run the command.

    Args:
        arguments: command line; None takes that of the process.
        prog: name of the command in its help.

    Returns:
        Exit code: 0, or 1 after a mistake, whose text is printed without a traceback.
    """
    logging.basicConfig(format="%(message)s")
    line = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if line[:1] == ["back"]:
            _back(line[1:], prog)
            return 0
        if not line or line[0].startswith("-"):
            print(f"usage: {prog} BUNDLE --<input> FILE ... OUTPUT; {prog} BUNDLE --help tells more; {prog} back --help")
            return 0 if line[:1] in (["-h"], ["--help"]) else 1
        given = vars(_arguments(line, prog))
        named = {key[len("input_") :]: value for key, value in given.items() if key.startswith("input_") and value is not None}
        options = {key: value for key, value in given.items() if not key.startswith("input_") and key not in ("bundle", "output")}
        options["register"] = flag(given["register"], "--register")
        record = prepare(given["bundle"], given["output"], named, line, **options)
        print(f"Prepared: {record.parent}\nRecord: {record.name}; look at {record.name.replace('provenance.json', 'prepared.png')}")
        print(f"Next: python -m common.predict {given['bundle']} {record.parent} RESULTS")
        print(f"Back: {prog} back RESULTS {record.parent} NATIVE_RESULTS\n{LOOK}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
