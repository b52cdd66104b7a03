"""The report page: self-contained, honest about its data, escaped, repeatable."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.charts import load_figure
from common.errors import UserError
from common.report import pick_cases, write_report

NAN = float("nan")
PNG = load_figure([0.1], [0.5])


def report(folder: Path, **change: Any) -> str:
    """Write a small report with some arguments changed and return the page."""
    arguments: dict[str, Any] = {
        "title": "LADP",
        "simulated": False,
        "data_note": "Eight held-out subjects.",
        "summary": [{"metric": "dice", "stratum": "<1 %", "mean": 0.61234, "sd": np.float32(0.05), "n": 8}],
        "rows": [{"id": "a", "dice": 0.5, "masd_mm": NAN}, {"id": "b", "dice": 0.25, "masd_mm": 1234.5}],
        "curves": [{"member": 0, "stage": "fine-tuning", "epoch": 1, "loss": 0.5}],
        "figures": [{"caption": "Best case", "png": PNG}],
        "notes": ["No patient was seen."],
        "config": {"seed": 0, "path": Path("models/model.pt")},
    }
    path = write_report(folder, **(arguments | change))
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects tags with attributes, and checks that each one that opens is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = report(tmp_path)
    tags = Tags(page).found
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in tags}
    sources = [a[key] for _, a in tags for key in ("src", "href") if key in a]
    assert len(sources) == 2 and all(str(s).startswith("data:image/png;base64,") for s in sources)
    assert not re.search(r"http|@import|url\(", page)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_simulated_data_is_said_in_title_heading_and_banner_and_only_then(tmp_path: Path) -> None:
    page = report(tmp_path, simulated=True)
    assert "<title>SIMULATED DATA, not patients: LADP</title>" in page
    assert "<h1>SIMULATED DATA: LADP</h1>" in page
    assert page.count("SIMULATED DATA") == 3
    assert "SIMULATED" not in report(tmp_path, simulated=False)


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&\"Ω案"
    page = report(
        tmp_path,
        title=evil,
        data_note=evil,
        summary=[{evil: evil}],
        rows=[{"id": evil}],
        figures=[{"caption": evil, "png": PNG}],
        notes=[evil],
        config={evil: evil},
    )
    assert "<script" not in page and page.count("&lt;script&gt;") == 11  # title 2, caption 2, config 2, summary 2, note, data, id
    assert "Ω案" in page
    Tags(page)


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    assert report(tmp_path / "a") == report(tmp_path / "b")


def test_numbers_are_aligned_rounded_and_headed_with_their_unit(tmp_path: Path) -> None:
    page = report(tmp_path)
    assert '<td class="number">0.612</td><td class="number">0.050</td><td class="number">8</td>' in page
    assert '<th scope="col" class="number">MASD (mm)</th>' in page
    assert '<td class="number">1234.5</td>' in page
    named = report(tmp_path, summary=[{"metric": m, "mean": 1.0} for m in ("nsd_2mm", "volume_error_ml", "dice, lesion load <1 %")])
    assert all(f"<td>{text}</td>" in named for text in ("NSD 2 mm", "volume error (ml)", "Dice, lesion load &lt;1 %"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (NAN, "\u2013"),
        (None, "\u2013"),
        (np.float64("nan"), "\u2013"),
        (float("inf"), "∞"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (np.int64(12345), "12345"),
        (0.0, "0.000"),
        (-0.25, "-0.250"),
        (0.00012, "1.2e-04"),
        (150.04, "150.0"),
        ("<1 %", "&lt;1 %"),
    ],
)
def test_cells_show_values_as_people_read_them(tmp_path: Path, value: object, text: str) -> None:
    page = report(tmp_path, summary=[{"mean": value}], rows=[])
    assert re.search(rf"<td[^>]*>{re.escape(text)}</td>", page)


def test_dash_has_a_legend_only_where_one_is_shown(tmp_path: Path) -> None:
    legend = "no value, because"
    assert report(tmp_path).count(legend) == 1
    assert legend not in report(tmp_path, rows=[{"id": "a", "dice": 1.0}])
    assert report(tmp_path, rows=[{"id": "a", "dice": 1.0}, {"id": "b"}]).count(legend) == 1  # a missing key


def test_configuration_is_folded_and_readable_back(tmp_path: Path) -> None:
    from html import unescape

    page = report(tmp_path)
    found = re.search(r"<details>.*?<pre>(.*?)</pre>.*?</details>", page, re.S)
    assert found and json.loads(unescape(found[1])) == {"seed": 0, "path": str(Path("models/model.pt"))}
    assert "<details>" not in report(tmp_path, config=None)


def test_parts_without_content_say_so_and_stay_valid(tmp_path: Path) -> None:
    page = report(tmp_path, summary=[], rows=[], curves=[], figures=[], notes=[], config=None)
    assert "No metric was measured" in page and "No case was processed" in page
    assert "take nothing on this page as verified" in page
    assert "<img" not in page and "not for diagnosis" in page
    Tags(page)


def test_figure_that_is_no_png_is_refused_and_the_old_page_stays(tmp_path: Path) -> None:
    before = report(tmp_path)
    for figure in ({"caption": "x", "png": b"GIF89a"}, {"caption": "", "png": PNG}, {"caption": "x"}):
        with pytest.raises(UserError, match=r"figures\[1\] has .* expected"):
            report(tmp_path, figures=[{"caption": "ok", "png": PNG}, figure])
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before


def rows(*values: Any) -> list[dict[str, Any]]:
    """Cases a, b, c, ... with these Dice values."""
    return [{"id": chr(97 + i), "dice": v} for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.2, 0.9, 0.5), {"best": "b", "median": "c", "worst": "a"}),
        ((0.2, 0.9, 0.5, 0.4), {"best": "b", "median": "c", "worst": "a"}),  # of .5 and .4 the better one
        ((0.5, 0.5, 0.5), {"best": "a", "median": "b", "worst": "c"}),
        ((NAN, 0.9, 0.5, None, 0.1), {"best": "b", "median": "c", "worst": "e"}),
        ((NAN, NAN, NAN), {"best": "a", "median": "b", "worst": "c"}),
        ((0.1, 0.2), {"best": "b", "worst": "a"}),
        ((0.1,), {"best": "a"}),
        ((), {}),
    ],
)
def test_best_median_and_worst_case_are_chosen(values: tuple[Any, ...], expected: dict[str, str]) -> None:
    assert pick_cases(rows(*values)) == expected
    assert pick_cases(rows(*values)[::-1]) == expected  # the order of the rows does not matter


def test_distances_rank_the_other_way() -> None:
    assert pick_cases(rows(0.2, 0.9, 0.5), higher_is_better=False) == {"best": "a", "median": "c", "worst": "b"}
    assert pick_cases([{"id": 1, "masd_mm": 3.0}, {"id": 2, "masd_mm": 1.0}], "masd_mm", higher_is_better=False) == {"best": 2, "worst": 1}


def test_further_tables_stand_behind_the_metrics_with_their_notes(tmp_path: Path) -> None:
    tables = [
        {"heading": "Readers <1>", "rows": [{"finding": "fracture", "kappa": 0.632}], "note": "Fleiss."},
        {"heading": "Cost", "rows": []},
    ]
    page = report(tmp_path, tables=tables)
    Tags(page)
    assert (
        page.index("<h2>Metrics</h2>")
        < page.index("<h2>Readers &lt;1&gt;</h2>")
        < page.index("<h2>Cost</h2>")
        < page.index("<h2>Cases</h2>")
    )
    assert '<td class="number">0.632</td>' in page and '<p class="soft">Fleiss.</p>' in page
    assert report(tmp_path, tables=()) == report(tmp_path)
