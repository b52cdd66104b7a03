"""The console command: what it passes on, and that it is quick."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common import __version__, cli


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from common.cli import main; main(['--help']); print(sorted({'torch', 'monai', 'numpy', 'fire'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *usage, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert all(any(line.startswith(f"  {command} ") for line in usage) for command in cli.COMMANDS)


def test_version_and_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out == f"brain-bundles {__version__}\n"
    assert cli.main(["path", "ladp"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder.is_absolute() and (folder / "inference.json").is_file()


def test_without_a_command_the_usage_is_shown_and_the_exit_code_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 1
    assert "usage: brain-bundles COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predikt"], "got 'predikt', expected one of predict, prepare, check, list, simulate, study, path"),
        (["path"], "usage: brain-bundles path BUNDLE"),
        (["path", "lapd"], "There is no bundle 'lapd'"),
        (["predict", "lapd", "in", "out"], "There is no bundle 'lapd'"),
        (["predict", "ladp"], "got 0 paths (), expected INPUT and OUTPUT. See brain-bundles predict --help"),
        (["simulate", "bonbit", "somewhere"], "layout: got 'bonbit'"),
        (["simulate", "bonbid", "somewhere", "--subject", "3"], "unknown parameter --subject"),
        (["check", "bonbit", "somewhere"], "layout: got 'bonbit'"),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_1(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_check_passes_its_exit_code_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "bonbid", str(tmp_path)]) == 1
    assert "ERROR" in capsys.readouterr().out


def test_study_scores_and_its_mistakes_have_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["study", "score", str(tmp_path / "gone"), str(tmp_path / "gone"), str(tmp_path / "out")])
    assert stop.value.code == 1 and "gone" in capsys.readouterr().err
