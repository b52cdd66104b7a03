"""Each bundle's ``docs/equations.md``: every place it names exists, every value is the one in the config."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(ROOT.glob("bundles/*/configs/metadata.json"))
HEADER = ["paper", "says", "lives in", "config id", "value", "as paper?"]
NONE = "-"
# which machine, which part of a study, how often one looks: no numbers of a method
TECHNICAL = {"rank", "num_workers", "fold", "val_interval", "resume"}


class Row(NamedTuple):
    """One row of a page, cells without backticks."""

    bundle: Path
    line: int
    paper: str
    says: str
    lives_in: str
    config_id: str
    value: str
    as_paper: str

    def __str__(self) -> str:
        return f"{self.bundle.name}:{self.line}:{self.paper}"


def page_of(bundle: Path) -> Path:
    return bundle / "docs" / "equations.md"


def read_rows(bundle: Path) -> Iterator[Row]:
    """Rows of all tables of a page."""
    for number, line in enumerate(page_of(bundle).read_text(encoding="utf-8").splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells and cells != HEADER and set(line) - set("|- "):
            assert len(cells) == len(HEADER), f"{page_of(bundle)}:{number}: {len(cells)} cells"
            yield Row(bundle, number, *(cell.strip("`") if 2 <= index <= 4 else cell for index, cell in enumerate(cells)))


BUNDLES = [path.parents[1] for path in PAGES]
ROWS = [row for bundle in BUNDLES if page_of(bundle).is_file() for row in read_rows(bundle)]
each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
each_row = pytest.mark.parametrize("row", ROWS, ids=str)


def load(bundle: Path, *names: str) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_files([str(bundle / "configs" / name) for name in names]))


def config_of(row: Row) -> tuple[ConfigParser, str]:
    """The merged config a row speaks of, and the id in it: ``gamma`` or ``variant_ddp.json sigma_roi``."""
    name, key = row.config_id.split(" ") if " " in row.config_id else ("train.json", row.config_id)
    alone = "imports" in json.loads((row.bundle / "configs" / name).read_text(encoding="utf-8"))
    base = "inference.json" if name.startswith("inference_") else "train.json"
    return load(row.bundle, name) if alone else load(row.bundle, base, name), key


def value_at(parser: ConfigParser, key: str) -> Any:
    """The value of an id; one that only refers to another id is followed."""
    value = parser[key]
    while isinstance(value, str) and re.fullmatch(r"@\w+(?:::\w+)*", value):
        value = parser[value[1:]]
    return value


def place_of(row: Row) -> Any:
    """The object (``module:object``) or the file that a row names."""
    if ":" not in row.lives_in:
        assert (ROOT / row.lives_in).is_file(), f"no file {row.lives_in}"
        return row.lives_in
    module, name = row.lives_in.split(":")
    return getattr(import_module(module), name)


def nodes(value: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Every ``_target_`` of a config with all ``_desc_`` on the way to it."""
    if isinstance(value, dict):
        above = f"{above} {value.get('_desc_', '')}"
        if "_target_" in value:
            yield value["_target_"], above
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(child, above)


@each_bundle
def test_every_bundle_has_the_page(bundle: Path) -> None:
    assert page_of(bundle).is_file()
    assert any(row.bundle == bundle for row in ROWS)


@each_row
def test_every_place_exists(row: Row) -> None:
    place_of(row)


@each_row
def test_every_value_is_the_one_that_runs(row: Row) -> None:
    if row.value == NONE:
        assert row.config_id == NONE, "a config id needs its value beside it"
        return
    expected = json.loads(row.value)
    found = place_of(row) if row.config_id == NONE else value_at(*config_of(row))
    assert found == expected and type(found) is type(expected)


@each_row
def test_every_deviation_has_its_reason(row: Row) -> None:
    verdict = re.match(r"(yes|deviation|not stated|added)\b", row.as_paper)
    assert verdict, f"begin with yes, deviation, not stated or added: {row.as_paper}"
    assert verdict[1] == "yes" or re.match(r"(deviation|not stated|added): .{8,}", row.as_paper), "say why"
    assert row.says


@each_bundle
def test_no_equation_is_left_out(bundle: Path) -> None:
    numbers: set[int] = set()
    for row in (row for row in ROWS if row.bundle == bundle):
        for first, last in re.findall(r"Eqs?\. (\d+)(?:-(\d+))?", row.paper):
            numbers |= set(range(int(first), int(last or first) + 1))
    assert numbers == set(range(1, max(numbers) + 1))


@each_bundle
def test_every_number_and_every_variant_of_the_configs_has_a_row(bundle: Path) -> None:
    config = json.loads((bundle / "configs" / "train.json").read_text(encoding="utf-8"))
    numbers = {key for key, value in config.items() if isinstance(value, int | float) and key not in TECHNICAL}
    rows = [row for row in ROWS if row.bundle == bundle]
    assert not numbers - {row.config_id for row in rows}
    variants = {path.name for path in (bundle / "configs").glob("variant_*.json")}
    assert not variants - {row.config_id.split(" ")[0] for row in rows}


@each_bundle
def test_the_component_of_an_equation_names_it_in_the_config(bundle: Path) -> None:
    described: dict[str, str] = {}
    for target, text in nodes(load(bundle, "train.json").get()):
        described[target.rsplit(".", 1)[-1]] = described.get(target.rsplit(".", 1)[-1], "") + text
    for row in (row for row in ROWS if row.bundle == bundle and row.paper.startswith("Eq")):
        name = row.lives_in.rsplit(":", 1)[-1]
        assert name not in described or "Eq." in described[name], f"{name} computes {row.paper}; say so in its _desc_"
