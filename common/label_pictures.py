"""Pictures of labels over an image, with a colour per class and a legend; ``common.figures`` draws contours of one structure."""

from __future__ import annotations

import colorsys
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from numpy.typing import NDArray

from common.atomic import write_atomic
from common.charts import png_of
from common.data.cases import volume_stem
from common.figures import _bounds, _default_window, _orient, _show
from common.handlers.case_pictures import volume
from common.inference import case_id
from common.metrics.class_metrics import ClassNames, class_table
from common.transforms.to_source_grid import to_source_grid
from common.weights import read_record

_COLOURS = (
    "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#3D8BFF", "#D55E00", "#CC79A7", "#9B59E0",
    "#8BD346", "#00D5D5", "#B5651D", "#FF9DA7", "#C0C0FF", "#808000", "#FF40FF", "#FFFFFF",
)  # fmt: skip
"""The first seven are after Okabe and Ito, told apart with every common form of colour blindness."""

ERROR_COLOUR = "#FF3030"
OPACITY = 0.6


def label_colours(numbers: Iterable[int]) -> dict[int, str]:
    """Colour of each label, the same for a number in every picture: a table for 1 to 16, hues by the golden ratio beyond."""
    return {number: _COLOURS[number - 1] if number <= len(_COLOURS) else _hue(number) for number in numbers}


def _hue(number: int) -> str:
    parts = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.55 + 0.4 * (number % 2), 1.0)
    return "#{:02X}{:02X}{:02X}".format(*(round(255 * part) for part in parts))


def choose_slices(labels: Sequence[NDArray[Any]], slices: int) -> list[int]:
    """Slices that together show all classes well; each next one favours classes that those before showed little of.

    Args:
        labels: label maps of one case, ``(X, Y, Z)`` each.
        slices: how many at most, >= 1.

    Returns:
        Indices along the third axis, ascending; even steps where nothing is labelled.
    """
    depth, largest = labels[0].shape[2], max(int(part.max()) for part in labels)
    areas = np.zeros((depth, largest))
    for part in labels:
        areas += [np.bincount(part[..., z].ravel(), minlength=largest + 1)[1:] for z in range(depth)]
    if not areas.any():
        return sorted({int((step + 0.5) * depth / slices) for step in range(slices)})
    share, weight, chosen = areas / np.maximum(areas.max(axis=0), 1), np.ones(largest), list[int]()
    while len(chosen) < slices:
        gain = share @ weight
        gain[[*chosen, *np.flatnonzero(~areas.any(axis=1))]] = -1
        best = int(gain.argmax())
        if gain[best] < 0:
            break
        chosen.append(best)
        weight = weight * (1 - share[best])
    return sorted(chosen)


def image_planes(image: torch.Tensor, affine: Any, shape: Sequence[int], places: Sequence[int], channel: int = 0) -> NDArray[Any]:
    """Slices of an image on another grid, of which only these are resampled.

    Args:
        image: ``(C, *grid)``; a ``MetaTensor`` unless it lies on the wanted grid.
        affine: of the wanted grid, ``(4, 4)``; None where it is not known.
        shape: ``(X, Y, Z)`` of the wanted grid.
        places: indices along its third axis.
        channel: of the image.

    Returns:
        ``(X, Y, len(places))``, float; 0 outside of the image.
    """
    own, one = getattr(image, "affine", None), torch.as_tensor(image[channel : channel + 1])
    if tuple(image.shape[1:]) == tuple(shape) and (own is None or affine is None or np.allclose(own, affine, atol=1e-3)):
        return np.asarray(one[0].detach().cpu().float())[..., list(places)]
    start = torch.as_tensor(np.asarray(affine), dtype=torch.float64)
    planes = []
    for place in places:
        here = start.clone()
        here[:3, 3] += start[:3, 2] * place
        planes.append(np.asarray(to_source_grid(one.detach().cpu(), own, here, (*shape[:2], 1)).as_tensor()[0, ..., 0]))
    return np.stack(planes, axis=-1)


class Planes(NamedTuple):
    """Slices of a case that are drawn.

    Attributes:
        image: ``(X, Y, n)``, float16.
        labels: name -> ``(X, Y, n)``, integers; with two of them, their difference is drawn too.
        maps: name -> ``(X, Y, n)``, float16 in [0, 1].
        rows: names of the n slices.
        spacing_mm: voxel edges, mm.
        axes: where the axes point, such as ``LPS``; None where it is not known. See ``common.figures.overlay_figure``.
    """

    image: NDArray[Any]
    labels: dict[str, NDArray[Any]]
    maps: dict[str, NDArray[Any]]
    rows: list[str]
    spacing_mm: list[float]
    axes: str | None


def label_planes(item: Mapping[str, Any], result: Mapping[str, Any], channel: int = 0, slices: int = 3) -> Planes:
    """What a picture of a case needs, a few MB.

    Args:
        item: ``image`` ``(C, *grid)``, on any grid of the same world; perhaps ``label``, on that of ``pred``.
        result: ``pred``, ``(1, X, Y, Z)`` integers, and perhaps ``entropy``, ``(1, X, Y, Z)`` in [0, 1].
        channel: of the image.
        slices: at most, see :func:`choose_slices`.
    """
    labels = {"truth": volume(item["label"])} if "label" in item else {}
    labels["prediction"] = volume(result["pred"])
    placed = next((held for held in (result["pred"], item.get("label"), item["image"]) if isinstance(held, MetaTensor)), None)
    affine = None if placed is None else np.asarray(placed.affine.cpu())
    chosen = choose_slices([part.astype(np.int64, copy=False) for part in labels.values()], slices)
    image = image_planes(item["image"], affine, labels["prediction"].shape, chosen, channel).astype(np.float16)
    maps = {"uncertainty": volume(result["entropy"])[..., chosen].clip(0, 1).astype(np.float16)} if "entropy" in result else {}
    spacing = [1.0] * 3 if placed is None else [float(edge) for edge in placed.pixdim[:3]]
    axes = None if affine is None else "".join(nibabel.aff2axcodes(affine))
    cut = {name: part[..., chosen].astype(np.int32) for name, part in labels.items()}
    return Planes(image, cut, maps, [f"slice {z}" for z in chosen], spacing, axes)


def planes_figure(planes: Planes, class_names: Mapping[int, str], title: str) -> bytes:
    """Draw a row per slice, a column for the image, for truth and prediction in colours over it, for where they differ, and for each map.

    Args:
        planes: see :func:`label_planes`.
        class_names: label number -> name.
        title: above the picture.

    Returns:
        PNG. The legend names the classes that are drawn.
    """
    image, labels, maps, rows, spacing_mm, axes = planes
    pair = list(labels.values())[:2]
    layers = {name: _coloured(part, label_colours(class_names)) for name, part in labels.items()}
    if len(pair) == 2:
        layers["errors"] = _coloured((pair[0] != pair[1]).astype(np.int32), {1: ERROR_COLOUR})
    inside = np.any([image != 0, *(part != 0 for part in labels.values())], axis=0)
    inside = inside if inside.any() else np.ones_like(inside)
    box, shades = (_bounds(inside, 0), _bounds(inside, 1)), _default_window(image[inside].astype(np.float64))
    width, height = (n * edge for n, edge in zip(inside[box].shape[:2], spacing_mm[:2], strict=True))
    present = [number for number in class_names if any((part == number).any() for part in labels.values())]
    columns = 1 + len(layers) + len(maps)

    def draw(figure: Any) -> None:
        panels = figure.subplots(len(rows), columns, squeeze=False)
        for index, line in enumerate(panels):
            for panel in line[: 1 + len(layers)]:
                _show(panel, image[box][..., index], "gray", shades)
            for panel, layer in zip(line[1:], layers.values(), strict=False):
                panel.imshow(layer[box][:, :, index].transpose(1, 0, 2), interpolation="nearest", origin="lower")
            for panel, part in zip(line[1 + len(layers) :], maps.values(), strict=True):
                shown = _show(panel, part[box][..., index], "cividis", (0.0, 1.0))
                if index == len(rows) - 1:
                    below = panels[:, list(line).index(panel)].tolist()
                    figure.colorbar(shown, ax=below, location="bottom", panchor=False, shrink=0.8, pad=0.02, ticks=[0, 0.5, 1])
            for panel in line:
                _orient(panel, spacing_mm, axes, letters=panel is panels[0, 0])
            line[0].set_ylabel(rows[index], fontsize=9)
        for panel, name in zip(panels[0], ["image", *layers, *maps], strict=True):
            panel.set_title(name, fontsize=9)
        # matplotlib's own wrapping takes dollars for formulas
        figure.suptitle(textwrap.fill(title, int(10 * figure.get_figwidth())), fontsize=11)
        _legend(figure, present, class_names, columns)

    tall = min(max(height / width, 0.3), 3.0)
    return png_of((2.4 * columns + 0.3, 2.4 * len(rows) * tall + 1.0 + 0.22 * math.ceil(len(present) / columns) + 0.35 * bool(maps)), draw)


def _coloured(labels: NDArray[Any], colours: Mapping[int, str]) -> NDArray[np.uint8]:
    """RGBA of a label map, ``(*shape, 4)``; background and labels without a colour are clear."""
    table = np.zeros((max([int(labels.max()), *colours]) + 1, 4), dtype=np.uint8)
    for number, colour in colours.items():
        table[number] = [*bytes.fromhex(colour[1:]), round(255 * OPACITY)]
    found: NDArray[np.uint8] = table[labels]
    return found


def _legend(figure: Any, present: Sequence[int], class_names: Mapping[int, str], columns: int) -> None:
    from matplotlib.patches import Patch

    if present:
        colours = label_colours(present)
        patches = [Patch(color=colours[number], label=class_names[number]) for number in present]
        figure.legend(
            handles=patches, loc="outside lower center", ncols=min(columns, len(present)), fontsize=8, facecolor="0.25", labelcolor="white",
            framealpha=1,
        )  # fmt: skip


class LabelPictures:
    """Handler of inference: a picture of every case that was written, with the labels' name and ``.png``.

    Args:
        class_names: see ``common.metrics.class_metrics.class_table``.
        output_dir: folder for the pictures.
        ckpt_dir: weights, or several folders of them; when a record says that they come from simulated data, the title says so too.
        channel: of the image, to draw on.
    """

    def __init__(self, class_names: ClassNames, output_dir: str, ckpt_dir: str | Sequence[str] | None = None, channel: int = 0) -> None:
        self.class_names, self.output_dir, self.channel = class_table(class_names), Path(output_dir), channel
        self.folders = [] if ckpt_dir is None else [ckpt_dir] if isinstance(ckpt_dir, str) else list(ckpt_dir)

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)

    def draw(self, engine: Engine) -> None:
        """Draw the cases of the batch that was just done."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        source = " by weights from SIMULATED data" if any(read_record(folder).get("simulated") for folder in self.folders) else ""
        for item, result in zip(batch, output, strict=True):
            title = f"{case_id(item)}: prediction{source}. Research only, not for diagnosis."
            png = planes_figure(label_planes({"image": item["image"]}, result, self.channel), self.class_names, title)
            path = self.output_dir / f"{volume_stem(result['pred_path'])}.png"
            write_atomic(path, lambda temporary, png=png: temporary.write_bytes(png))  # type: ignore[misc]
