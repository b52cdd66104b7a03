"""Pictures of cases and charts of runs: what must be in them, what must not stop them, and that they repeat."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest

from common.charts import curves_figure, load_figure, reliability_figure
from common.errors import UserError
from common.figures import overlay_figure, pick_slices

SPACING = (1.0, 1.0, 3.0)
NAN = float("nan")


def volume(shape: tuple[int, int, int] = (20, 24, 6)) -> np.ndarray:
    """A head of random values above 0 with a border of 0."""
    image = np.zeros(shape, dtype=np.float32)
    image[2:-2, 2:-2] = np.random.RandomState(0).uniform(500, 2000, (shape[0] - 4, shape[1] - 4, shape[2]))
    return image


def block(shape: tuple[int, int, int] = (20, 24, 6), z: slice = slice(2, 4)) -> np.ndarray:
    """A lesion of 4 x 4 voxels in some slices."""
    mask = np.zeros(shape, dtype=np.uint8)
    mask[6:10, 5:9, z] = 1
    return mask


def pixels(png: bytes) -> np.ndarray:
    """Decode a PNG to ``(rows, columns, 3)`` uint8; fails when it is none."""
    from PIL import Image

    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels within 12 of a colour in each channel."""
    return int((np.abs(picture.astype(int) - colour) <= 12).all(-1).sum())


def overlay(**change: Any) -> bytes:
    """Draw a small case with some arguments changed."""
    arguments: dict[str, Any] = {
        "images": {"ADC": volume()},
        "masks": {"truth": block(), "prediction": np.roll(block(), 3, axis=1)},
        "maps": {"vote share": block().astype(np.float32)},
        "spacing_mm": SPACING,
        "title": "case",
        "slices": 1,
    }
    return overlay_figure(**(arguments | change))


GREEN, ORANGE = (0x00, 0xC7, 0x8B), (0xFF, 0xA6, 0x1A)


def test_truth_is_green_and_prediction_is_orange_on_the_image() -> None:
    both, only_truth = pixels(overlay()), pixels(overlay(masks={"truth": block()}))
    assert near(both, GREEN) > 100 and near(both, ORANGE) > 50
    assert near(only_truth, GREEN) > 100 and near(only_truth, ORANGE) == 0


def test_same_input_gives_the_same_bytes_whatever_the_users_settings() -> None:
    import matplotlib

    first = overlay()
    with matplotlib.rc_context({"font.size": 30, "image.origin": "upper", "savefig.dpi": 33}):
        assert overlay() == first
        assert matplotlib.rcParams["font.size"] == 30


def test_flipped_array_with_flipped_axis_codes_gives_the_same_picture() -> None:
    flipped = {
        "images": {"ADC": volume()[::-1, ::-1]},
        "masks": {"truth": block()[::-1, ::-1], "prediction": np.roll(block(), 3, axis=1)[::-1, ::-1]},
        "maps": {"vote share": block()[::-1, ::-1].astype(np.float32)},
    }
    stored, turned, wrong = (pixels(png).astype(int) for png in (overlay(axes="LPS"), overlay(axes="RAS", **flipped), overlay(axes="RAS")))
    assert np.abs(stored - turned).mean() < 0.3  # dashes may start elsewhere
    assert np.abs(stored - wrong).mean() > 10


def bright_spot(spot: tuple[slice, slice], axes: str | None) -> tuple[float, float]:
    """Draw a grey square with one white spot; where its centre is, as shares of the square (from the top, from the left)."""
    image = np.full((20, 20, 1), 1.0)
    image[spot] = 2.0
    picture = pixels(overlay(images={"a": image}, masks={}, maps={}, windows={"a": (0.0, 2.0)}, axes=axes))
    grey = (picture == 128).all(-1)
    top, bottom = np.flatnonzero(grey.sum(1) > 50)[[0, -1]]
    left, right = np.flatnonzero(grey.sum(0) > 50)[[0, -1]]
    white = np.argwhere((picture[top:bottom, left:right] == 255).all(-1)).mean(0)
    return float(white[0] / (bottom - top)), float(white[1] / (right - left))


HIGH, LOW = slice(14, 18), slice(2, 6)  # centres at 0.8 and 0.2


@pytest.mark.parametrize(
    ("spot", "axes"),
    [
        ((HIGH, HIGH), None),  # as stored: x to the right, y upwards
        ((HIGH, LOW), "LPS"),  # the patient's left and anterior
        ((LOW, HIGH), "RAS"),
        ((HIGH, HIGH), "LAS"),
        ((LOW, HIGH), "ASR"),  # a sagittal slice: posterior to the right, superior up
    ],
)
def test_spot_at_the_left_front_of_the_patient_is_at_the_upper_right(spot: tuple[slice, slice], axes: str | None) -> None:
    assert bright_spot(spot, axes) == pytest.approx((0.2, 0.8), abs=0.03)


@pytest.mark.parametrize(("spacing", "ratio"), [((1.0, 1.0, 3.0), 1.0), ((1.0, 2.0, 3.0), 2.0), ((0.9, 0.45, 8.0), 0.5)])
def test_voxels_keep_their_shape_in_mm(spacing: tuple[float, float, float], ratio: float) -> None:
    picture = pixels(overlay(images={"a": np.ones((20, 20, 2))}, masks={}, maps={}, windows={"a": (0.0, 4.0)}, spacing_mm=spacing))
    grey = (picture == 64).all(-1)
    rows, columns = (int((grey.sum(axis) > 50).sum()) for axis in (1, 0))
    assert rows / columns == pytest.approx(ratio, rel=0.03)


def test_slices_with_the_largest_union_of_the_masks_are_chosen() -> None:
    truth, prediction = block(z=slice(1, 3)), block(z=slice(4, 5))
    prediction[:, :, 4] = 1
    images = {"ADC": volume()}
    assert pick_slices(images, {"truth": truth, "prediction": prediction}, 1) == [4]
    assert pick_slices(images, {"truth": truth, "prediction": prediction}, 2) == [1, 4]
    assert pick_slices(images, {"truth": truth, "prediction": prediction}, 6) == [1, 2, 4]


def test_without_any_lesion_the_slices_step_through_the_head() -> None:
    image = np.zeros((5, 5, 21))
    image[2, 2, 4:17] = 1.0  # head from 4 to 16: steps at 1/4, 1/2 and 3/4
    empty = {"truth": np.zeros_like(image)}
    assert pick_slices({"a": image}, empty, 3) == [7, 10, 13]
    assert pick_slices({"a": image}, {}, 1) == [10]
    assert pick_slices({"a": image * 0}, empty, 1) == [10]


@pytest.mark.parametrize("shape", [(16, 16, 1), (7, 31, 3), (1, 1, 1)])
def test_empty_masks_single_slices_and_slivers_are_drawn(shape: tuple[int, int, int]) -> None:
    zero = np.zeros(shape)
    png = overlay(images={"a": zero + 1, "b": zero - 1}, masks={"truth": zero, "prediction": zero}, maps={"m": zero}, slices=3)
    rows, columns, _ = pixels(png).shape
    assert 150 < rows < 3000 and 500 < columns < 1500


def test_nan_voxels_and_a_lesion_at_the_border_are_drawn() -> None:
    image, mask = volume(), np.ones((20, 24, 6), dtype=bool)
    image[5, 5, :] = np.nan
    assert near(pixels(overlay(images={"ADC": image}, masks={"truth": mask})), GREEN) > 100


@pytest.mark.filterwarnings("error")
def test_ids_beyond_ascii_and_with_dollars_are_text_not_formulas() -> None:
    assert overlay(title=r"Kind_Ä_Ω_案 $\frac{$ _^") != overlay()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"images": {}}, "got no image"),
        ({"images": {"ADC": np.ones((1, 4, 4, 4))}}, r"ADC has shape \(1, 4, 4, 4\), expected a volume"),
        ({"masks": {"truth": np.ones((3, 3, 3))}}, r"truth has shape \(3, 3, 3\), expected \(20, 24, 6\) as ADC"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "three positive numbers in mm"),
        ({"spacing_mm": (1.0, 1.0)}, "three positive numbers in mm"),
        ({"windows": {"adc": (0, 1)}}, r"windows name \['adc'\], expected names of images: \['ADC'\]"),
        ({"windows": {"ADC": (1, 1)}}, "darkest below brightest"),
        ({"axes": "LRS"}, "three letters such as 'RAS'"),
        ({"slices": 0}, "slices is 0"),
    ],
)
def test_input_that_cannot_be_drawn_is_named(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        overlay(**change)


def log(members: int = 2, **extra: Any) -> list[dict[str, Any]]:
    """A training log of two stages."""
    stages = ("pre-training", "fine-tuning")
    return [{"member": m, "stage": s, "epoch": e, "loss": 1.0 / e + m, **extra} for m in range(members) for s in stages for e in (1, 2, 3)]


def test_curves_have_one_panel_per_stage_and_one_for_the_metric() -> None:
    without, with_nan = pixels(curves_figure(log())), pixels(curves_figure(log(metric=NAN)))
    scored = [r | {"metric": 0.5} if r["stage"] == "fine-tuning" else r for r in log()]
    assert without.shape == with_nan.shape
    assert pixels(curves_figure(scored)).shape[1] == pytest.approx(1.5 * without.shape[1], abs=2)
    assert curves_figure(scored) == curves_figure(list(scored))


def test_curves_draw_one_epoch_many_members_nan_and_no_member() -> None:
    pixels(curves_figure([{"stage": "s", "epoch": 1, "loss": 0.3}]))
    pixels(curves_figure([{"stage": "s", "epoch": 1, "loss": NAN, "metric": None}]))
    pixels(curves_figure(log(members=10)))
    with pytest.raises(UserError, match="got no row"):
        curves_figure([])


def test_reliability_leaves_out_empty_bins_and_refuses_none() -> None:
    bins = [{"mean_predicted": 0.1, "observed": 0.2, "count": 9}, {"mean_predicted": NAN, "observed": NAN, "count": 0}]
    assert reliability_figure(bins) == reliability_figure(bins[:1])
    with pytest.raises(UserError, match="no bin with a count above 0"):
        reliability_figure(bins[1:])


def test_load_chart_draws_cases_without_lesion_and_counts_those_without_a_value() -> None:
    full = load_figure([0.0, 0.004, 0.2], [1.0, 0.5, 0.8])
    assert pixels(full).any()
    assert full == load_figure(np.array([0.0, 0.004, 0.2]), np.array([1.0, 0.5, 0.8]))
    pixels(load_figure([0.0], [NAN]))
    with pytest.raises(UserError, match="got 1 lesion loads and 2 Dice values"):
        load_figure([0.1], [0.1, 0.2])


def test_matplotlib_is_imported_only_when_something_is_drawn() -> None:
    code = "import sys, common.figures, common.charts; assert not {'matplotlib', 'torch', 'jinja2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
