"""Write a bundle's network for deployment: TorchScript with its configs inside, as MONAI Deploy reads it, and ``torch.export`` beside it.

MONAI's ``ckpt_export`` writes the first alone, packs the config as it stands, whose sizes need not be the weights', and compares nothing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ckpt_export
from monai.networks.nets.swin_unetr import SwinTransformer
from torch import nn

from common import config_dir
from common.atomic import write_atomic, write_json
from common.command_line import run_command
from common.errors import UserError
from common.weights import load_weights, read_record

logger = logging.getLogger("brain_bundles")
Inputs = tuple[torch.Tensor, ...]
TOLERANCE = 1e-4
"""Largest difference that counts as equal, relative to the largest value of the output."""


def example_inputs(bundle: str, config: ConfigParser, batch: int = 2, times: int = 1) -> Inputs:
    """Random inputs of a bundle's network, the same at every call.

    Args:
        bundle: its name.
        config: its ``inference.json`` with the settings of the weights.
        batch: B.
        times: 1 or more: larger sides, to ask an export whether it holds for other sizes.

    Returns:
        The tensors of one call: LADP ``(B, C, 64, 64)`` raw ADC and ZADC, the disruptive autoencoder ``(B, C, *patch_size)`` in [0, 1],
        position regression ``(B, 1, P + 8, P + 8, P + 8)`` HU, the brain autoencoder ``(B, 1, 32, 32)`` (or a volume) in [0, 1], PatchDDM
        image, coordinates and mask ``(B, C, S, S, S)`` with timesteps ``(B,)``, the neonatal INR points ``(B, 64, 1 + dims)`` with rows
        ``(B,)``.

    Raises:
        UserError: a bundle that this module does not know.
    """
    found = _INPUTS.get(bundle)
    if found is None:
        raise UserError(f"export: the inputs of the network of '{bundle}' are not known; expected one of {sorted(_INPUTS)}.")
    generator = torch.Generator().manual_seed(7)
    return found(lambda key: config.get_parsed_content(key), batch, times, generator)


def _ladp(get: Callable[[str], Any], batch: int, times: int, generator: torch.Generator) -> Inputs:
    return (3000 * torch.rand((batch, get("image_channels"), 64 * times, 64 * times), generator=generator) - 500,)


def _dae(get: Callable[[str], Any], batch: int, times: int, generator: torch.Generator) -> Inputs:
    return (torch.rand((batch, get("image_channels"), *(side * times for side in get("patch_size"))), generator=generator),)


def _position(get: Callable[[str], Any], batch: int, times: int, generator: torch.Generator) -> Inputs:
    return (3000 * torch.rand((batch, 1, *[get("patch_size") + 8 * times] * 3), generator=generator) - 1024,)


def _brain(get: Callable[[str], Any], batch: int, times: int, generator: torch.Generator) -> Inputs:
    return (torch.rand((batch, 1, *[32 * times] * get("spatial_dims")), generator=generator),)


def _patchddm(get: Callable[[str], Any], batch: int, times: int, generator: torch.Generator) -> Inputs:
    channels = get("network_def").in_channels
    side = times * max(16, 2 ** (len(get("multipliers")) - 1))
    return torch.rand((batch, channels, side, side, side), generator=generator), torch.arange(batch) * 10


def _inr(get: Callable[[str], Any], batch: int, times: int, generator: torch.Generator) -> Inputs:
    return torch.rand((batch, 64 * times, 1 + get("dims")), generator=generator) - 0.5, torch.zeros(batch, dtype=torch.long)


_INPUTS: dict[str, Callable[[Callable[[str], Any], int, int, torch.Generator], Inputs]] = {
    "ladp": _ladp,
    "disruptive_autoencoder": _dae,
    "position_regression": _position,
    "brain_autoencoder": _brain,
    "patchddm": _patchddm,
    "neonatal_inr": _inr,
}


def frozen_config(bundle: str, weights: str | os.PathLike[str], deploy: bool = True) -> dict[str, Any]:
    """``inference.json`` with the settings of the weights written out, which a reader of TorchScript has no record to look up.

    Args:
        bundle: its name.
        weights: folder with ``model.pt`` and ``weights.json``.
        deploy: lay ``deploy.json`` over it where the bundle has one: pre- and postprocessing of MONAI's own parts alone.
    """
    folder = Path(config_dir(bundle))
    files = [folder / "inference.json", *([folder / "deploy.json"] if deploy and (folder / "deploy.json").is_file() else [])]
    config: dict[str, Any] = {}
    for file in files:
        config |= {key: value for key, value in json.loads(file.read_text(encoding="utf-8")).items() if not (config and key == "_desc_")}
    config["ckpt_dir"] = str(Path(weights).absolute())
    parser = ConfigParser(dict(config))
    recorded = [key for key, value in config.items() if isinstance(value, str) and value.startswith("$@common.trained(")]
    return config | {key: parser.get_parsed_content(key) for key in recorded}


def export(bundle: str, weights: str, output: str) -> dict[str, Any]:
    """Write ``model.ts`` (where TorchScript can hold the network), ``model.pt2`` and ``export.json``, and compare both with the network.

    Args:
        bundle: its name.
        weights: folder with ``model.pt`` and ``weights.json``.
        output: folder for the files.

    Returns:
        What ``export.json`` says: per file ``largest_difference``, ``scale`` (largest value), ``batch_1``, ``batch_3`` and ``other_sides``
        (whether inputs of those give equal outputs too), or why there is none.

    Raises:
        UserError: no such bundle, no weights, or an export that computes something else; then its file is not written.
    """
    config_dir(bundle)  # says what there is
    file = Path(weights) / "model.pt"
    if not file.is_file():
        raise UserError(f"There are no weights at {file}: train first (train.json), or give their folder (--weights).")
    config = ConfigParser(frozen_config(bundle, weights, deploy=False))
    network: nn.Module = config.get_parsed_content("network_def")
    load_weights(network, file)
    network.eval()
    report: dict[str, Any] = {"bundle": bundle, "simulated": bool(read_record(weights).get("simulated"))}
    goal, inputs = Path(output), example_inputs(bundle, config)
    further = {f"batch_{count}": example_inputs(bundle, config, batch=count) for count in (1, 3)}
    further["other_sides"] = example_inputs(bundle, config, times=2)
    if len(inputs) > 1:
        report["model.ts"] = f"none: MONAI's ckpt_export knows networks of one input, this one takes {len(inputs)}"
    else:
        report["model.ts"] = _write(goal / "model.ts", lambda path: _torchscript(bundle, weights, path, inputs), network, inputs, further)
    report["model.pt2"] = _write(goal / "model.pt2", lambda path: _torch_export(network, path, inputs), network, inputs, further)
    write_json(goal / "export.json", report)
    for name in ("model.ts", "model.pt2"):
        logger.info("%s: %s", goal / name, report[name])
        print(f"{goal / name}: {report[name]}")
    return report


def _torchscript(bundle: str, weights: str, path: Path, inputs: Inputs) -> Callable[..., Any]:
    """Trace; ``inference.json`` and ``metadata.json`` go into the file."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, which is why model.pt2 lies beside it
        config, made = Path(folder) / "inference.json", Path(folder) / "model.ts"  # torch writes the name into the file
        config.write_text(json.dumps(frozen_config(bundle, weights) | {"ckpt_dir": "models"}), encoding="utf-8")
        ckpt_export(
            net_id="network_def",
            filepath=str(made),
            ckpt_file=str(Path(weights) / "model.pt"),
            meta_file=str(Path(config_dir(bundle)) / "metadata.json"),
            config_file=str(config),
            use_trace=True,
            input_shape=list(inputs[0].shape),
            converter_kwargs={"device": "cpu"},
        )
        shutil.copyfile(made, path)
        return torch.jit.load(str(path), map_location="cpu")


def _torch_export(network: nn.Module, path: Path, inputs: Inputs) -> Callable[..., Any]:
    """Export with every dimension free that the network leaves free; torch finds out which. A Swin transformer's windows fix its sides."""
    fixed = any(
        isinstance(part, SwinTransformer) for part in network.modules()
    )  # torch was still looking for other sides after six minutes
    free = tuple(dict.fromkeys(range(1 if fixed else tensor.ndim), torch.export.Dim.AUTO) for tensor in inputs)
    program = torch.export.export(network, inputs, dynamic_shapes=free)
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _write(
    path: Path, make: Callable[[Path], Callable[..., Any]], network: nn.Module, inputs: Inputs, further: dict[str, Inputs]
) -> dict[str, Any]:
    """Make a file under a temporary name, compare what it computes with the network, and give it its name."""
    result: dict[str, Any] = {}

    def write(temporary: Path) -> None:
        made = make(temporary)
        difference, scale = _difference(made, network, inputs)
        if not difference <= TOLERANCE * scale:
            raise UserError(
                f"{path}: computes something else than the network: outputs differ by {difference:g} of {scale:g}; not written."
            )
        result.update(largest_difference=difference, scale=scale)
        result.update({name: _holds(made, network, other) for name, other in further.items()})

    write_atomic(path, write)
    return result


@torch.no_grad()
def _difference(made: Callable[..., Any], network: nn.Module, inputs: Inputs) -> tuple[float, float]:
    expected, found = network(*inputs), made(*inputs)
    if found.shape != expected.shape:
        return float("inf"), 0.0
    return float((found - expected).abs().max()), float(expected.abs().max())


def _holds(made: Callable[..., Any], network: nn.Module, inputs: Inputs) -> bool:
    try:
        difference, scale = _difference(made, network, inputs)
    except Exception:  # a trace or a program that is bound to its sizes raises what it likes
        return False
    return difference <= TOLERANCE * scale


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``python -m common.export <bundle> --weights DIR --output DIR``."""

    def command(bundle: str, weights: str, output: str) -> None:
        export(bundle, str(weights), str(output))

    command.__doc__ = export.__doc__
    run_command(command, "common.export", arguments)


if __name__ == "__main__":
    main()
