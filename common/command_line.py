"""A function as a command line; ``fire`` alone would answer a user's mistake with a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common import user_error_in


def run_command(command: Callable[..., Any] | Mapping[str, Callable[..., Any]], name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a function, or one of several by name, with the arguments of a command line.

    Args:
        command: the function, or functions by the word that calls them.
        name: of the module, for its help.
        arguments: of the command line; None takes the process's.

    Raises:
        SystemExit: status 1 after a user's mistake, whose message is on stderr.
    """
    import fire

    try:
        fire.Fire(command if callable(command) else dict(command), command=None if arguments is None else list(arguments), name=name)
    except Exception as error:
        mistake = user_error_in(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(1)
