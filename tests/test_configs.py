"""Rules for every config of every bundle; configs are parsed, nothing is built."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator
from monai.bundle.reference_resolver import ReferenceResolver

import common
from common.study_runs import plan_row, read_study

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
FILES = [path for bundle in BUNDLES for path in sorted((bundle / "configs").glob("*.json"))]
STUDIES = [path for path in FILES if path.name.startswith("study_")]
CONFIGS = [path for path in FILES if path.name != "metadata.json" and path not in STUDIES]
BASES = [path for path in CONFIGS if "imports" in json.loads(path.read_text(encoding="utf-8"))]
OVERLAYS = [path for path in CONFIGS if path not in BASES]

HEAD = ["imports", "common", "bundle_root", "dataset_dir", "ckpt_dir", "output_dir", "device"]
MIDDLE = ["network_def", "network", "loss", "optimizer", "lr_scheduler", "train", "validate"]
TAIL = ["initialize", "run", "finalize"]
MAY_HOLD_ONE_IF = {"device", "common", "bundle_root", "amp_dtype", "backend"}
STRUCTURAL = {-1, 0, 1, 2}  # axes, dimensions, "one channel": not numbers of a method
# what differs between train.json and inference.json by nature
BY_CONFIG = {"_desc_", "imports", "output_dir", "simulated", "cases", "network", *TAIL}


def name(path: Path) -> str:
    return f"{path.parents[1].name}/{path.name}"


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name)


def load(*paths: Path) -> ConfigParser:
    """The merged config as MONAI merges it."""
    return ConfigParser(ConfigParser.load_config_files([str(path) for path in paths]))


def base_of(overlay: Path) -> Path:
    """The stand-alone config an overlay belongs to: the one its name begins with, else train.json, or the one its keys say."""
    keys = [key for key in json.loads(overlay.read_text(encoding="utf-8")) if key != "_desc_"]
    bases = [path for path in BASES if path.parent == overlay.parent]
    bases.sort(key=lambda base: (not overlay.name.startswith(f"{base.stem}_"), base.name != "train.json"))
    return max(bases, key=lambda base: sum(key in load(base) for key in keys))


def merged(path: Path) -> dict[str, Any]:
    return load(path).get() if path in BASES else load(base_of(path), path).get()


def nodes(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of a config with its path, parents first."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from nodes(child, (*path, str(key)))


def expressions(config: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    return ((path, value) for path, value in nodes(config) if isinstance(value, str) and value.startswith("$"))


def components(config: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    return ((path, value) for path, value in nodes(config) if isinstance(value, dict) and "_target_" in value)


def is_component(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def locate_target(target: str, locator: ComponentLocator) -> Any:
    """The object MONAI builds for a ``_target_``, short name or dotted."""
    if "." in target:
        return locate(target)
    modules = locator.get_component_module_name(target)
    module = modules[0] if isinstance(modules, list) else modules
    return locate(f"{module}.{target}") if module else None


@pytest.fixture(scope="module")
def locator() -> ComponentLocator:
    return ComponentLocator()


def test_there_are_bundles_to_test() -> None:
    assert any(bundle.name == "ladp" for bundle in BUNDLES)
    assert {"train.json", "inference.json"} <= {path.name for path in BASES if path.parents[1].name == "ladp"}


@each(CONFIGS)
def test_every_target_imports_and_accepts_its_arguments(path: Path, locator: ComponentLocator) -> None:
    for place, node in components(merged(path)):
        target = node["_target_"]
        found = locate_target(target, locator)
        assert found is not None, f"{'::'.join(place)}: {target} does not import"
        arguments = {key: value for key, value in node.items() if not (key.startswith("_") and key.endswith("_"))}
        signature = inspect.signature(found)
        try:
            bind = signature.bind if node.get("_mode_", "default") == "default" else signature.bind_partial
            bind(**arguments)
        except TypeError as error:
            pytest.fail(f"{'::'.join(place)}: {target}{signature}: {error}")


@each(OVERLAYS)
def test_every_key_of_an_overlay_exists_in_its_base_or_is_used_by_the_overlay_itself(path: Path) -> None:
    base, overlay = load(base_of(path)), json.loads(path.read_text(encoding="utf-8"))
    used = {ref for _, value in nodes(overlay) if isinstance(value, str) for ref in ReferenceResolver.match_refs_pattern(value)}
    unknown = [key for key in overlay if key != "_desc_" and key not in base and key not in used]
    assert not unknown, f"not in {base_of(path).name} and not used here: {unknown}"


@each(OVERLAYS)
def test_every_key_of_an_overlay_changes_something(path: Path) -> None:
    base, overlay = load(base_of(path)), json.loads(path.read_text(encoding="utf-8"))
    idle = [key for key, value in overlay.items() if key in base and base[key] == value]
    assert not idle
    assert len(overlay) > 1
    if path.name.startswith("variant_"):
        assert 1 <= len(overlay) - 1 <= 10, "a variant is one factor of 1-10 keys"


@each(CONFIGS)
def test_expressions_are_short_and_plain(path: Path) -> None:
    forbidden = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr)
    for place, text in expressions(json.loads(path.read_text(encoding="utf-8"))):
        where = f"{'::'.join(place)}: {text}"
        assert len(text) <= 100, where
        code = re.sub(r"@(\w+(?:::\w+)*)", lambda match: match[1].replace("::", "__"), text[1:])
        tree = ast.parse(code)
        assert len(tree.body) == 1, where
        if place[0] == "imports":
            assert isinstance(tree.body[0], ast.Import | ast.ImportFrom), where
            continue
        assert isinstance(tree.body[0], ast.Expr), where
        kinds = list(ast.walk(tree))
        assert not [kind for kind in kinds if isinstance(kind, forbidden)], where
        choices = sum(isinstance(kind, ast.IfExp) for kind in kinds)
        assert choices <= (place[-1].split("::")[-1] in MAY_HOLD_ONE_IF), where


@each(BASES)
def test_keys_read_like_a_methods_section(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    keys = [key for key in config if key != "_desc_"]
    assert next(iter(config)) == "_desc_"
    head = [key for key in HEAD if key in keys]
    assert keys[: len(head)] == head
    assert keys[-3:] == TAIL
    assert [key for key in keys if key in MIDDLE] == [key for key in MIDDLE if key in keys]
    first = next(index for index, key in enumerate(keys) if is_component(config[key]))
    assert first <= keys.index("network_def")
    late = [key for key in keys[first:-3] if not isinstance(config[key], dict | list) and not str(config[key]).startswith("$")]
    assert not late, f"settings below the first component: {late}"


@each(OVERLAYS)
def test_keys_of_an_overlay_keep_the_order_of_its_base(path: Path) -> None:
    order = list(load(base_of(path)).get())
    tops = list(dict.fromkeys(key.split("::")[0] for key in json.loads(path.read_text(encoding="utf-8"))))
    known = [key for key in tops if key in order]
    assert known == sorted(known, key=order.index)


@each(BASES)
def test_numbers_of_the_method_stand_only_at_the_top(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    keys = list(config)
    first = next(index for index, key in enumerate(keys) if is_component(config[key]))
    below = {key: config[key] for key in keys[first:]}
    numbers = [(place, value) for place, value in nodes(below) if isinstance(value, int | float) and not isinstance(value, bool)]
    written = ["::".join(place) for place, value in numbers if value not in STRUCTURAL or isinstance(value, float)]
    assert not written, f"write these once, at the top, and refer to them by @id: {written}"


@each(CONFIGS)
def test_every_reference_resolves(path: Path) -> None:
    parser = load(path) if path in BASES else load(base_of(path), path)
    for place, value in nodes(parser.get()):
        if isinstance(value, str) and place[-1:] != ("_desc_",):
            for reference in ReferenceResolver.match_refs_pattern(value):
                assert reference in parser, f"{'::'.join(place)}: @{reference} is nowhere"


def recorded_by(train: Path) -> set[str]:
    """The settings that a training writes beside its weights: a block, ``@settings``, or ``$dict(@settings, more=@more)``."""
    config = load(train)
    (step,) = [step for step in config["run"] if isinstance(step, dict) and step["_target_"] == "common.training.train"]
    settings = step["settings"]["settings"]
    if isinstance(settings, dict):
        return set(settings)
    assert "@settings" in settings
    return {*config["settings"], *re.findall(r"(\w+)=@\1\b", settings)}


def without_weights(path: Path, **more: Any) -> ConfigParser:
    """A config whose folder of weights is empty: settings that weights record have the config's own values."""
    return ConfigParser(load(path).get() | {"ckpt_dir": "/none"} | more)


@each([path for path in BASES if path.name == "inference.json"])
def test_inference_repeats_training_without_a_difference(path: Path) -> None:
    train, inference = load(path.with_name("train.json")), without_weights(path)
    assert train["network_def"] == inference["network_def"]
    shared = [key for key in inference.get() if key in train and key not in (*BY_CONFIG, "ckpt_dir")]
    recorded = recorded_by(path.with_name("train.json"))
    values = {key: inference.get_parsed_content(key) if key in recorded else inference[key] for key in shared}
    expected = {key: train.get_parsed_content(key) if key in recorded else train[key] for key in shared}
    assert values == expected
    assert all(type(values[key]) is type(expected[key]) for key in shared), "2 is not 2.0"


@each([path for path in BASES if path.name == "inference.json"])
def test_inference_takes_every_setting_that_a_training_records_from_its_weights(path: Path, tmp_path: Path) -> None:
    recorded = recorded_by(path.with_name("train.json"))
    assert recorded and not recorded - set(load(path).get())
    (tmp_path / "weights.json").write_text(json.dumps({"settings": {key: [key, 0.5, None] for key in recorded}}))
    parser = without_weights(path, ckpt_dir=str(tmp_path))
    assert {key: parser.get_parsed_content(key) for key in recorded} == {key: [key, 0.5, None] for key in recorded}
    assert {key for key, value in parser.get().items() if "common.trained(" in str(value)} == recorded


@each([path for path in BASES if path.name == "inference.json"])
def test_inference_says_what_its_weights_are_worth_before_it_loads_them(path: Path) -> None:
    steps = [step["_target_"] if isinstance(step, dict) else step for step in load(path)["run"]]
    loading = next(index for index, step in enumerate(steps) if step in ("common.weights.load_weights", "$@inferer.load(@network)"))
    assert "common.weights.print_origin" in steps[:loading]


@each(BASES)
def test_initialize_only_seeds_and_run_begins_with_the_version(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    assert "common" not in json.dumps(config["initialize"]), "the bundle's folder is not importable yet"
    assert config["run"][1] == f"$@common.require('{common.__version__}')"
    for overlay in (other for other in OVERLAYS if base_of(other) == path):
        steps = json.loads(overlay.read_text(encoding="utf-8")).get("run", config["run"])
        assert steps[:2] == config["run"][:2], name(overlay)


@each([path for path in FILES if path.name == "metadata.json"])
def test_the_collection_has_one_version(path: Path) -> None:
    metadata = json.loads(path.read_text(encoding="utf-8"))
    assert metadata["version"] == common.__version__
    assert metadata["version"] in metadata["changelog"]


@each([path for path in BASES if path.name == "train.json"])
def test_components_that_compute_an_equation_name_it(path: Path) -> None:
    texts = [value["_desc_"] for _, value in nodes(load(path).get()) if isinstance(value, dict) and "_desc_" in value]
    named = {number for text in texts for number in re.findall(r"Eq\. (\d+)", text)}
    assert named, "no _desc_ names an equation of the paper"
    known = (path.parents[1] / "docs" / "equations.md").read_text(encoding="utf-8")
    assert not [number for number in named if f"Eq. {number}" not in known]


@each(STUDIES)
def test_every_overlay_and_override_of_a_study_exists(path: Path) -> None:
    study = read_study(path)
    assert study.bundle == path.parents[1].name
    for row in study.rows:
        train, evaluate = plan_row(study, row)  # names overlays and overrides that are not there
        parsers = [load(*map(Path, job.files)) for job in (train, evaluate) if job is not None]
        for parser in parsers:
            texts = [value for _, value in nodes(parser.get()) if isinstance(value, str)]
            missing = [ref for text in texts for ref in ReferenceResolver.match_refs_pattern(text) if ref not in parser]
            assert not missing, f"{row.name}: {missing}"


@each([*CONFIGS, *STUDIES])
def test_every_config_says_what_it_is(path: Path) -> None:
    assert json.loads(path.read_text(encoding="utf-8"))["_desc_"].endswith((".", ")"))


@each(FILES)
def test_json_is_indented_by_four(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    depth = 0
    for number, line in enumerate(text.splitlines(), 1):
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
        closes_first = bare.lstrip()[:1] in ("]", "}")
        indent = len(line) - len(line.lstrip(" "))
        assert indent == 4 * (depth - closes_first), f"{name(path)}:{number}"
        assert line == line.rstrip() and "\t" not in line, f"{name(path)}:{number}"
        assert len(line) <= 140 or path.name == "metadata.json", f"{name(path)}:{number}"
        depth += sum(bare.count(c) for c in "[{") - sum(bare.count(c) for c in "]}")


@each([*CONFIGS, *STUDIES])
def test_no_key_is_written_twice(path: Path) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), f"{name(path)}: {sorted(key for key in keys if keys.count(key) > 1)}"
        return dict(pairs)

    json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)


def test_monai_too_refuses_a_key_written_twice(tmp_path: Path) -> None:
    twice = tmp_path / "twice.json"
    twice.write_text('{"gamma": 1, "gamma": 2}')
    with pytest.raises(ValueError, match="gamma"):
        ConfigParser.load_config_file(str(twice))
