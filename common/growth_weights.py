"""Weights without the children they were trained on: ``python -m common.growth_weights MODELS_DIR PUBLIC_DIR``; a latent is a picture."""

from __future__ import annotations

import shutil
from pathlib import Path

from common.atomic import save_tensors, write_json
from common.command_line import run_command
from common.errors import UserError
from common.weight_shards import parse_state, read_bytes, state_bytes
from common.weights import RECORD, read_record, read_weights

REFERENCE = "reference.npz"
"""Outline of the brain that scans are aligned to, kept beside weights of a rigid alignment."""


def public_bytes(path: Path) -> bytes:
    """A file of weights, whole or in parts, as it may be passed on: latents of children are taken out; what holds none is left as it is."""
    from common.networks.latent_table import without_subjects

    data = read_bytes(path)
    state = parse_state(data, path)
    table = next((key for key in state if key.endswith("identity_names")), None)
    if table is None:
        return data
    public = without_subjects(state)
    return data if state[table].equal(public[table]) else state_bytes(public)


def strip(models_dir: str, public_dir: str) -> None:
    """Write ``model.pt`` without the latents of children, and what inference needs beside it.

    The mean latent and the slope on age stay; what names the training scans (their digests) is taken out of ``weights.json``.

    Args:
        models_dir: folder of a training's weights.
        public_dir: another folder.

    Raises:
        UserError: no weights there, or both folders are one.
    """
    from common.networks.latent_table import without_subjects

    source, target = Path(models_dir).expanduser(), Path(public_dir).expanduser()
    if not (source / "model.pt").is_file() or source.resolve() == target.resolve():
        raise UserError(f"MODELS_DIR: got {source} for {target}; expected a folder with model.pt, and another folder for the result.")
    record = {key: value for key, value in read_record(source).items() if key != "trained_on"} | {"members": ["model.pt"]}
    written = [save_tensors(target / "model.pt", without_subjects(read_weights(source / "model.pt"))), write_json(target / RECORD, record)]
    if (source / REFERENCE).is_file():
        written.append(Path(shutil.copy(source / REFERENCE, target / REFERENCE)))
    print("\n".join(f"wrote {path}" for path in written))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_command(strip, "common.growth_weights", arguments)


if __name__ == "__main__":
    main()
