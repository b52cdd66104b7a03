"""Transforms, networks, losses, inferers and metrics shared by all bundles of the collection.

Importing this package imports nothing heavy; every config calls :func:`require` first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from common.errors import UserError

__version__ = "0.1.0"


def user_error_in(error: BaseException | None) -> UserError | None:
    """The ``UserError`` that caused an exception, through any number of wrappers, or None."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        if isinstance(error, UserError):
            return error
        seen.add(id(error))
        waiting += [error.__context__, error.__cause__]
    return None


def print_user_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """An ``excepthook``: the text of a ``UserError`` alone, a traceback for everything else."""
    mistake = user_error_in(error)
    if mistake is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"\nerror: {mistake}", file=sys.stderr)


def require(version: str) -> None:
    """Refuse to run a bundle with another version of this package, and show a user's mistakes without a traceback.

    Args:
        version: the collection's version that the config was written for.

    Raises:
        UserError: this package has another version.
    """
    sys.excepthook = print_user_error
    if version != __version__:
        raise UserError(
            f"The config needs package 'common' {version}, but {__version__} is imported from {os.path.dirname(__file__)}. "
            "Use config and package of one version, or put the right one first on PYTHONPATH."
        )


def flag(value: object, name: str = "flag") -> bool:
    """A switch as the command line gives it: ``--resume false`` arrives as the text ``false``, which Python takes for true.

    Args:
        value: a bool, 0 or 1, or one of the texts true, false, yes, no, 1, 0 in any case.
        name: the switch, for the message.

    Raises:
        UserError: any other value.
    """
    text = str(value).strip().lower()
    if text not in ("true", "false", "yes", "no", "1", "0"):
        raise UserError(f"{name}: got '{value}', expected true or false.")
    return text in ("true", "yes", "1")


def trained(ckpt_dir: str | Path | Sequence[str | Path] | None, key: str, default: Any) -> Any:
    """A setting as the weights were trained with it, for configs that take any weights; see :func:`common.trained_settings.trained`."""
    from common.trained_settings import trained as recorded

    return recorded(ckpt_dir, key, default)


def bundle_root(name: str) -> str:
    """Folder of a bundle, for configs that are run from anywhere.

    In this order: the working directory when it is a bundle; ``bundles/<name>`` below it; the bundle this package is
    vendored in, or the one beside it in a checkout. From an installed wheel, whose folder is not for results,
    ``brain_bundles/<name>`` below the working directory.

    Args:
        name: the bundle's name, e.g. ``ladp``.
    """
    if os.path.isfile(os.path.join("configs", "metadata.json")):
        return "."
    nearby = os.path.join("bundles", name)
    if os.path.isfile(os.path.join(nearby, "configs", "metadata.json")):
        return nearby
    parent = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (parent, os.path.join(parent, "bundles", name)):
        if os.path.isfile(os.path.join(folder, "configs", "metadata.json")):
            return folder
    return os.path.join("brain_bundles", name)


def config_dir(name: str) -> str:
    """Folder of a bundle's configs: in a checkout, in an unpacked archive, or inside the installed wheel.

    Args:
        name: the bundle's name.

    Raises:
        UserError: no such bundle.
    """
    inside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bundles", name)
    for folder in (bundle_root(name), inside):
        if os.path.isfile(os.path.join(folder, "configs", "metadata.json")):
            return os.path.join(folder, "configs")
    raise UserError(f"There is no bundle '{name}' here; run from a checkout or an unpacked archive, or install the wheel.")
