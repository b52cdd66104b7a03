"""Pictures of anomaly maps: what must be in them, where left and right are, and that they repeat."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from common.anomaly_charts import memory_figure, parameters_figure, patch_size_figure, roc_figure
from common.anomaly_figures import anomaly_figure, brightest_voxel
from common.errors import UserError
from common.skull_view import VIEWS, cast_rays, look_from, skull_figure

N = 20


def pixels(png: bytes) -> np.ndarray:
    from PIL import Image

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Pixels within 12 of a colour."""
    return (np.abs(picture.astype(int) - colour) <= 12).all(-1)


def ball(radius: float) -> np.ndarray:
    x, y, z = np.meshgrid(*[np.arange(N) - (N - 1) / 2] * 3, indexing="ij")
    return x**2 + y**2 + z**2 < radius**2


def spot(x: int, y: int, z: int) -> np.ndarray:
    values = np.zeros((N, N, N), dtype=np.float32)
    values[x, y, z] = 1
    return values


def draw(**change: Any) -> bytes:
    arguments: dict[str, Any] = {"image": np.where(ball(8), 40, -1024), "maps": {"E": spot(5, 12, 10)}, "title": "case", "head": ball(9)}
    return anomaly_figure(**(arguments | change))


def test_brightest_voxel_is_looked_for_in_the_structure_alone() -> None:
    values = spot(3, 4, 5) + 2 * spot(15, 4, 5)
    assert brightest_voxel(values) == (15, 4, 5)
    assert brightest_voxel(values, np.arange(N)[:, None, None] < 10 + 0 * values) == (3, 4, 5)
    assert brightest_voxel(values, np.zeros_like(values)) == (15, 4, 5)  # no structure: anywhere
    values[15, 4, 5] = np.nan
    assert brightest_voxel(values) == (3, 4, 5)


def test_a_map_of_the_patients_left_is_drawn_at_the_right() -> None:
    # RAS: small x is left. In the axial panel, the first of the lower row, the bright spot must lie right of the panel's middle.
    picture = pixels(draw(maps={"E": np.where(ball(9), np.linspace(1, 0, N)[:, None, None], 0)}, at=(10, 10, 10)))
    rows, columns = picture.shape[:2]
    panel = picture[rows // 2 :, : columns // 3].astype(int).sum(-1)
    bright, dark = (np.nonzero(panel > 500)[1], np.nonzero((panel > 60) & (panel < 200))[1])
    inside = bright[bright > 40]  # left of that the label
    assert np.median(inside) > np.median(dark)


def test_a_row_per_map_and_the_truth_in_green() -> None:
    one, two = pixels(draw()), pixels(draw(maps={"E": spot(5, 12, 10), "AE": spot(1, 1, 1)}))
    assert two.shape[0] > 1.3 * one.shape[0] and two.shape[1] == one.shape[1]
    green = (0x00, 0xC7, 0x8B)
    assert near(pixels(draw(truth=spot(5, 12, 10))), green).sum() > 50 and near(one, green).sum() == 0


@pytest.mark.filterwarnings("error")
def test_same_input_gives_the_same_bytes_and_odd_input_is_drawn() -> None:
    assert draw() == draw()
    pixels(draw(maps={"E": np.zeros((N, N, N))}, head=np.zeros((N, N, N))))  # nothing found, no head
    pixels(draw(at=(0, 19, 0)))  # outside of the head
    pixels(draw(head=ball(9) * 1 + ball(6) * 2, truth=np.zeros((N, N, N))))  # labels, and a truth without lesion
    pixels(draw(maps={"E": -np.ones((N, N, N))}, ranges={"E": (-2.0, 0.0)}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"maps": {}}, "got no map"),
        ({"image": np.ones((1, N, N, N))}, r"the CT has shape \(1, 20, 20, 20\), expected a volume"),
        ({"maps": {"E": np.ones((2, 2, 2))}}, r"E has shape \(2, 2, 2\), expected \(20, 20, 20\) as the CT"),
        ({"window": (80, 0)}, "window is \\(80, 0\\), expected"),
        ({"at": (0, 0, 20)}, "expected a voxel of the volume"),
    ],
)
def test_input_that_cannot_be_drawn_is_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        draw(**change)


@pytest.mark.parametrize(
    ("view", "voxel"),
    [
        ("left", (0, 1, 2)),  # nearest: small x; the viewer's right is the back of the head (small y)
        ("right", (2, 1, 2)),
        ("front", (1, 2, 2)),
        ("back", (1, 0, 2)),
        ("top", (1, 1, 2)),
    ],
)
def test_each_view_meets_its_own_side_first(view: str, voxel: tuple[int, int, int]) -> None:
    cube = np.zeros((3, 3, 3))
    cube[voxel] = 1
    seen = look_from(cube, view)
    assert seen[0].sum() == 1 and seen[1:].sum() == 0
    assert view == "top" or seen[0, 1, 2] == 1  # in the middle of the picture, at its upper edge


def test_the_viewers_right_is_the_side_of_the_patient_that_it_must_be() -> None:
    x, y, _ = np.meshgrid(range(3), range(3), range(3), indexing="ij")
    right_of = {"left": -y, "right": y, "front": -x, "back": x, "top": x}
    for view, grows in right_of.items():
        along = look_from(grows, view)
        assert (np.diff(along, axis=1) == 1).all(), view


def test_a_fracture_on_the_left_is_seen_from_the_left_and_the_front_but_not_from_the_right() -> None:
    skull = ball(9) & ~ball(7)
    values = np.where(skull & (np.arange(N)[:, None, None] < 4), 1.0, 0.1)
    seen = {view: cast_rays(skull, values, view) for view in VIEWS}
    assert np.nanmax(seen["left"].value) == pytest.approx(1) and np.isnan(seen["left"].shade).any()
    right = seen["right"].value[np.isfinite(seen["right"].value)]
    assert right.max() == pytest.approx(0.1)
    across = np.nonzero(seen["front"].value > 0.9)[0]  # looked at from the front the patient's left is at the viewer's right
    assert across.min() > seen["front"].value.shape[0] / 2


def test_shade_lies_between_black_and_white_and_the_side_to_the_light_is_brighter() -> None:
    shade = cast_rays(ball(9), spot(0, 0, 0), "front").shade
    lit = shade[np.isfinite(shade)]
    assert lit.min() >= 0 and lit.max() <= 1
    wide, tall = shade.shape
    upper_left, lower_right = shade[: wide // 2, tall // 2 :], shade[wide // 2 :, : tall // 2]
    assert np.nanmean(upper_left) > 1.2 * np.nanmean(lower_right)


def test_deep_errors_do_not_colour_the_surface() -> None:
    values = np.where(ball(3), 5.0, 0.0)
    found = cast_rays(ball(9), values, "left", spacing_mm=1.0, depth_mm=2.0).value
    assert found[np.isfinite(found)].max() == 0
    assert cast_rays(ball(9), values, "left", spacing_mm=1.0, depth_mm=10.0).value.max() == 5


def test_skull_figure_repeats_and_names_mistakes() -> None:
    skull, values = ball(9) & ~ball(6), spot(2, 10, 10)
    assert skull_figure(skull, values, "a", views=("left",)) == skull_figure(skull, values, "a", views=("left",))
    pixels(skull_figure(skull, values * 0, "no error at all", views=("top", "back")))
    for arguments, text in (
        ((skull * 0, values, "a"), "the mask holds no voxel"),
        ((skull, values[:5], "a"), "expected two volumes"),
    ):
        with pytest.raises(UserError, match=text):
            skull_figure(*arguments)
    with pytest.raises(UserError, match="expected one of left, right, front, back, top"):
        skull_figure(skull, values, "a", views=("below",))
    with pytest.raises(UserError, match="views: got none"):
        skull_figure(skull, values, "a", views=())


def curve(panel: str, label: str = "PPR", auroc: float = 0.8) -> dict[str, Any]:
    points = {"false_positive_rate": [0, 0.2, 1], "true_positive_rate": [0, 0.8, 1]} if auroc == auroc else {}
    return {"panel": panel, "label": label, "auroc": auroc, "low": 0.7, "high": 0.9} | (
        {"false_positive_rate": [], "true_positive_rate": []} | points
    )


def test_roc_figure_has_a_panel_per_task() -> None:
    one, two = pixels(roc_figure([curve("ICH")])), pixels(roc_figure([curve("ICH"), curve("fracture", auroc=float("nan"))]))
    assert two.shape[1] == pytest.approx(2 * one.shape[1], abs=2)
    with pytest.raises(UserError, match="expected a curve per task and method"):
        roc_figure([])


def test_sweeps_have_a_panel_per_task_and_do_not_care_for_the_order_of_rows() -> None:
    rows = [
        {"task": task, "method": method, "parameters": 10**k, "auroc": 0.5 + 0.05 * k, "low": 0.4, "high": 0.9, "marked": k == 3}
        for task in ("ICH", "fracture")
        for method in ("PPR", "AE")
        for k in (3, 4, 5)
    ]
    both, one = pixels(parameters_figure(rows)), pixels(parameters_figure(rows[:6]))
    assert both.shape[1] == pytest.approx(2 * one.shape[1], abs=2)
    assert parameters_figure(rows[:3]) == parameters_figure(rows[2::-1])
    patch = [{"task": "left", "patch_size": side, "auroc": value} for side, value in ((19, 0.7), (31, float("nan")), (39, 0.8))]
    assert patch_size_figure(patch) == patch_size_figure([patch[0], patch[2]])
    memory = [{"method": "PPR", "parameters": 10**k, "peak_memory_mib": 100.0 * k} for k in (3, 4)]
    assert pixels(memory_figure(memory, "SIMULATED")).shape[0] > pixels(memory_figure(memory)).shape[0]
    for figure in (parameters_figure, patch_size_figure, memory_figure):
        with pytest.raises(UserError, match="got nothing to draw"):
            figure([])


def test_matplotlib_is_imported_only_when_something_is_drawn() -> None:
    code = (
        "import sys; from common import anomaly_figures, anomaly_charts, skull_view; assert not {'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
