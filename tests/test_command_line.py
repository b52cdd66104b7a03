"""Functions as command lines."""

from __future__ import annotations

import pytest

from common.command_line import run_command
from common.errors import UserError


def fail(kind: str) -> None:
    """Raise what a command might raise."""
    raise UserError("kind: got this, expected that.") if kind == "user" else RuntimeError("a bug")


def test_a_users_mistake_ends_in_its_message_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"):
        run_command(fail, "common.fail", ["user"])
    assert capsys.readouterr().err == "error: kind: got this, expected that.\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        run_command({"fail": fail}, "common.fail", ["fail", "bug"])


def test_a_command_is_called_by_its_name_with_typed_arguments() -> None:
    seen: list[object] = []
    run_command({"keep": lambda number, text="": seen.append((number, text))}, "common.keep", ["keep", "3", "--text=a b"])
    assert seen == [(3, "a b")]
