"""The package as a whole: light import, one direction of imports, versions, and a user's mistakes without tracebacks."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import common
from common.errors import UserError

PACKAGE = Path(common.__file__).parent
RANKS = {"data": 0, "transforms": 0, "networks": 1, "losses": 2, "metrics": 2, "inferers": 3, "handlers": 4}
FLOOR = {"errors", "atomic", "weights", "command_line"}
"""Modules beside the rooms that every room may import; all others stand above the rooms."""


def imports(file):
    """Absolute names of all modules a file imports, at its head or inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if "bundles" not in path.relative_to(PACKAGE).parts)


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[0] in RANKS], ids=str)
def test_layers_point_one_way(file):
    for name in imports(PACKAGE / file):
        package, _, inside = name.partition(".")
        module = inside.split(".")[0]
        if package != "common":
            continue
        if module in RANKS:
            assert RANKS[module] <= RANKS[file.parts[0]], f"{file} imports {name}"
        elif (PACKAGE / f"{module}.py").is_file() and file.parts[0] != "handlers":  # handlers may draw figures
            assert module in FLOOR, f"{file} imports {name}"


def test_every_room_has_its_place_in_the_layers():
    assert {f.parts[0] for f in FILES if len(f.parts) > 1} <= set(RANKS)


def test_losses_and_metrics_never_call_a_network():
    for room in ("losses", "metrics"):
        for file in (PACKAGE / room).glob("*.py"):
            assert not [name for name in imports(file) if name.startswith("common.networks")], file


@pytest.mark.parametrize("file", FILES, ids=str)
def test_nothing_in_common_imports_a_bundle(file):
    assert not [name for name in imports(PACKAGE / file) if name.split(".")[0] == "bundles" or name.startswith("common.bundles")]


def test_importing_the_package_imports_nothing_heavy():
    heavy = ["torch", "monai", "ignite", "numpy", "scipy", "itk", "nibabel", "nilearn", "matplotlib", "pandas", "jinja2", "tqdm"]
    code = f"import sys, common; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_its_own_version_is_accepted():
    common.require(common.__version__)


def test_another_version_names_both_and_the_folder():
    with pytest.raises(UserError) as caught:
        common.require("9.9.9")
    text = str(caught.value)
    assert f"needs package 'common' 9.9.9, but {common.__version__} is imported from {PACKAGE}" in text
    assert "Use config and package of one version, or put the right one first on PYTHONPATH." in text


def wrapped(mistake):
    """A mistake as MONAI and ignite pass it on: raised from, and raised while handling."""
    try:
        try:
            try:
                raise mistake
            except Exception as error:
                raise RuntimeError("Failed to evaluate ConfigExpression") from error
        except RuntimeError:
            raise KeyError("while handling")  # noqa: B904
    except KeyError as error:
        return error


def test_a_users_mistake_is_printed_alone_however_deep_it_lies(capsys):
    common.require(common.__version__)
    error = wrapped(UserError("adc.mha: found NaN, expected numbers; mask it."))
    sys.excepthook(type(error), error, error.__traceback__)
    assert capsys.readouterr().err == "\nerror: adc.mha: found NaN, expected numbers; mask it.\n"


def test_any_other_error_keeps_its_traceback(capsys):
    common.require(common.__version__)
    error = wrapped(ValueError("a bug of ours"))
    sys.excepthook(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert "a bug of ours" in printed
    assert "error: " not in printed.splitlines()[0]


def test_the_nearest_mistake_of_a_chain_is_found_and_circles_end():
    inner, outer = UserError("inner"), UserError("outer")
    outer.__cause__ = inner
    assert common.user_error_in(outer) is outer
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert common.user_error_in(first) is None
    assert common.user_error_in(None) is None


@pytest.mark.parametrize("value", [True, "true", "True", " TRUE ", "yes", 1, "1"])
def test_switches_that_are_on(value):
    assert common.flag(value) is True


@pytest.mark.parametrize("value", [False, "false", "False", "no", 0, "0"])
def test_switches_that_are_off(value):
    assert common.flag(value) is False


@pytest.mark.parametrize("value", ["maybe", "", None, 2])
def test_a_switch_that_is_neither_is_an_error(value):
    with pytest.raises(UserError, match=rf"resume: got '{value}', expected true or false"):
        common.flag(value, "resume")


def make_bundle(folder):
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text("{}")
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, and the package installed in a folder without bundles."""
    here, site = tmp_path / "here", tmp_path / "site"
    here.mkdir()
    (site / "common").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(common, "__file__", str(site / "common" / "__init__.py"))
    return here, site


def test_root_is_the_working_directory_when_it_is_a_bundle(elsewhere):
    make_bundle(elsewhere[0])
    make_bundle(elsewhere[0] / "bundles" / "ladp")  # the nearer one wins
    assert common.bundle_root("ladp") == "."


def test_root_is_the_bundle_below_a_repository(elsewhere):
    make_bundle(elsewhere[0] / "bundles" / "ladp")
    assert common.bundle_root("ladp") == os.path.join("bundles", "ladp")


def test_root_is_the_archive_this_package_is_vendored_in(elsewhere):
    make_bundle(elsewhere[1])
    assert common.bundle_root("ladp") == str(elsewhere[1])


def test_root_is_the_bundle_beside_this_package_in_a_checkout(elsewhere):
    make_bundle(elsewhere[1] / "bundles" / "ladp")
    assert common.bundle_root("ladp") == str(elsewhere[1] / "bundles" / "ladp")


def test_root_of_an_installed_wheel_is_a_folder_below_the_working_directory(elsewhere):
    make_bundle(elsewhere[1] / "common" / "bundles" / "ladp")
    assert common.bundle_root("ladp") == os.path.join("brain_bundles", "ladp")


def test_configs_of_an_installed_wheel_lie_inside_it(elsewhere):
    inside = make_bundle(elsewhere[1] / "common" / "bundles" / "ladp")
    assert common.config_dir("ladp") == str(inside / "configs")


def test_configs_of_a_checkout_lie_in_its_bundle(elsewhere):
    make_bundle(elsewhere[0] / "bundles" / "ladp")
    assert common.config_dir("ladp") == os.path.join("bundles", "ladp", "configs")


def test_a_bundle_that_is_nowhere_is_an_error(elsewhere):
    with pytest.raises(UserError, match="There is no bundle 'x' here; run from a checkout or an unpacked archive, or install the wheel"):
        common.config_dir("x")
