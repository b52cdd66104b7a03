"""Read a Decathlon-style datalist, since MONAI's ``load_decathlon_datalist`` gives neither ids nor subjects and checks no file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.data.cases import Case, existing, finish_cases, parse_age, parse_fold, subject_of, volume_stem
from common.data.modalities import BUILT_IN
from common.data.scan_facts import scan_facts
from common.errors import UserError

SECTIONS = ("training", "validation", "test", "testing")


def read_datalist(
    path: str | os.PathLike[str],
    labelled: bool = False,
    facts: Sequence[str] = (),
    modality: str | Sequence[str] | None = None,
    sections: Sequence[str] = (),
) -> list[Case]:
    """Cases of a datalist JSON: ``{"training": [{"image": ..., "label": ...}, ...], "validation": [...], "test": [...]}``.

    ``image`` is one path or a list with one per input; an item may also be a bare path. ``id``, ``subject``, ``fold``, ``age``,
    ``findings``, ``reads``, ``healthy``, ``truth`` and ``modality`` are kept; without an id it is the file's stem. Where the file has a
    validation list and no folds, that list becomes fold 0 and the training list fold 1, so that ``fold=0`` validates what the file says.
    A ``modality`` beside the lists holds for all cases that name none: a text, or the Decathlon's object where it has one entry that is a
    built-in modality (``{"0": "CT"}``; not ``{"0": "MRI"}``, which tells no contrast).

    Args:
        path: the JSON file, or the folder that holds ``dataset.json``; relative paths start at the JSON's folder.
        labelled: True reads training and validation (test only where both are empty) and demands labels; False reads every list.
        facts: what else of an item is kept, such as ``brain`` (a path) and ``head_circumference_cm``; see ``common.data.scan_facts``.
        modality: of all cases, as the caller knows it; it must not contradict the file, but wins over the Decathlon's object.
        sections: the lists to read; empty leaves the choice to ``labelled``.

    Returns:
        Cases sorted by id.

    Raises:
        UserError: not such a file, an item without an image, a file that does not exist, missing labels, or two modalities of one case.
    """
    file = Path(path) / "dataset.json" if Path(path).is_dir() else Path(path)
    content = _read_json(file)
    lists = {name: items for name, items in content.items() if name in SECTIONS and items and (not sections or name in sections)}
    if not lists:
        raise UserError(f'{file}: no cases; expected {{"training": [{{"image": path or list of paths, "label": path}}, ...]}}.')
    for name, items in lists.items():
        if not isinstance(items, list):
            raise UserError(f"{file}: {name!r} is a {type(items).__name__}; expected a list of cases.")
    chosen = [name for name in ("training", "validation") if name in lists] if labelled else []
    cases: list[Case] = []
    for name in chosen or lists:
        cases += [_case(item, file, f"{file}: {name}[{number}]", facts) for number, item in enumerate(lists[name])]
        if "validation" in lists and name in ("training", "validation") and not _has_folds(lists):
            for case in cases[-len(lists[name]) :]:
                case["fold"] = 0 if name == "validation" else 1
    _set_modality(cases, content.get("modality"), modality, file)
    _name_cases(cases, file.parent)
    return finish_cases(cases, file, labelled)


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{file}: no such file.")
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: not a JSON file ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds a {type(content).__name__}; expected an object with some of {', '.join(SECTIONS)}.")
    return content


def _has_folds(lists: dict[str, list[Any]]) -> bool:
    return any(isinstance(item, dict) and "fold" in item for items in lists.values() for item in items)


def _case(item: Any, file: Path, where: str, facts: Sequence[str] = ()) -> Case:
    """One item with absolute paths; ``id`` and ``subject`` only where it names them."""
    item = {"image": item} if isinstance(item, str) else item
    image = item.get("image") if isinstance(item, dict) else None
    if not image or not isinstance(image, (str, list)) or not all(isinstance(part, str) for part in image):
        raise UserError(f'{where}: no "image"; expected {{"image": path or list of paths, "label": path}}, got {str(item)[:80]}.')
    if isinstance(image, str):
        case: Case = {"image": existing(image, file.parent, where)}
    else:
        case = {"image": [existing(part, file.parent, where) for part in image]}
    if item.get("label"):
        label = item["label"][0] if isinstance(item["label"], list) and len(item["label"]) == 1 else item["label"]
        if not isinstance(label, str):
            raise UserError(f'{where}: "label" is {str(label)[:80]}; expected one path.')
        case["label"] = existing(label, file.parent, where)
    case.update({key: str(item[key]) for key in ("id", "subject") if item.get(key)})
    if item.get("truth"):
        case["truth"] = existing(str(item["truth"]), file.parent, where)
    for key, kind in (("findings", dict), ("reads", dict), ("healthy", bool)):
        if item.get(key) is not None:
            if not isinstance(item[key], kind):
                raise UserError(f'{where}: "{key}" is {str(item[key])[:80]}; expected a {kind.__name__} as in common.data.cases.Case.')
            case[key] = item[key]
    if item.get("modality") is not None:
        case["modality"] = _modality(item["modality"], where)
    if item.get("fold") is not None:
        case["fold"] = parse_fold(item["fold"], where)
    if item.get("age") is not None:
        case["age"] = parse_age(item["age"], where)
    return case | scan_facts(item, facts, file.parent, where)


def _modality(value: Any, where: str) -> str | list[str]:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f'{where}: "modality" is {str(value)[:80]!r}; expected a name such as ct or t1, or a list with one per image.')
    return value


def _set_modality(cases: list[Case], header: Any, given: str | Sequence[str] | None, file: Path) -> None:
    """Give cases the modality of their file, or that of the caller; their own stays."""
    said = _modality(header, str(file)) if header and isinstance(header, (str, list)) else None
    if given is None and isinstance(header, dict) and len(header) == 1:
        named = str(next(iter(header.values()))).strip().lower()
        said = named if named in BUILT_IN else None
    for case in cases:
        own = case.setdefault("modality", said) if said is not None else case.get("modality")
        if given is not None:
            if own is not None and _lower(own) != _lower(given):
                raise UserError(
                    f"{file}: the modality of {volume_stem(_first(case))} is {_words(own)} in the file, but the caller says"
                    f" {_words(given)}; correct one of them."
                )
            case["modality"] = given


def _lower(modality: str | Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in ([modality] if isinstance(modality, str) else modality)]


def _words(modality: str | Sequence[str]) -> str:
    return repr(modality if isinstance(modality, str) else ", ".join(modality))


def _first(case: Case) -> str:
    return str(case["image"] if isinstance(case["image"], str) else case["image"][0])


def _name_cases(cases: list[Case], folder: Path) -> None:
    """Give ids to cases without one: the stem, or the whole relative path where stems repeat (``sub1/t1.nii``, ``sub2/t1.nii``)."""
    firsts = [_first(case) for case in cases]
    stems = [volume_stem(first) for first in firsts]
    unique = max(Counter(stems).values(), default=0) == 1
    for case, first, stem in zip(cases, firsts, stems, strict=True):
        long = volume_stem(os.path.relpath(first, folder).replace(os.sep, "-").lstrip(".-"))
        case.setdefault("id", stem if unique else long)
        case.setdefault("subject", subject_of(case["id"]))
