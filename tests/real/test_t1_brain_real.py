"""The brain in real T1 volumes, with skull and without: no truth, so sizes, pieces and places only. ``-s`` prints the numbers.

Nine have a skull (one defaced, eight of old people at 2 mm), one is stripped already. Pictures of all ten were looked at when this was
written: no scalp, eyes or neck muscle in the masks, the cord cut off; the widest sulci of the oldest brains are partly left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import center_of_mass, label

from common.data.brain_slices import select_slices
from common.transforms.t1_brain import extract_t1_brain

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", ROOT.parent / "shared" / "data"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (REAL / "t1").is_dir(), reason=f"no real volumes at {REAL}; set BRAIN_BUNDLES_REAL_DATA"),
]
HEADS = ("sub-datalad_T1w", *(f"nichart_Subj{number}_T1" for number in range(1, 9)))


def load(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Volume with axes P, S, R and its spacing, mm."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt("PSR"))
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj, np.float32), tuple(float(step) for step in turned.header.get_zooms())


@pytest.mark.parametrize("name", HEADS)
def test_the_brain_of_a_real_head_has_a_plausible_size_place_and_shape(name: str) -> None:
    volume, spacing = load(REAL / "t1" / f"{name}.nii.gz")
    brain = extract_t1_brain(volume, spacing)
    size = brain.sum() * np.prod(spacing) / 1000
    chosen = select_slices(volume, brain=brain)
    print(f"{name}: {size:.0f} ml, {len(chosen)} of {volume.shape[2]} slices, {len(chosen) * spacing[2]:.0f} mm")
    assert 900 < size < 1800 and label(brain)[1] == 1
    sides = [(np.ptp(np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))) + 1) * spacing[axis] for axis in range(3)]
    assert 140 < sides[0] < 205 and 100 < sides[1] < 175 and 115 < sides[2] < 165, "length, height and width of a brain, mm"
    middle = np.array(center_of_mass(brain)) * spacing
    assert abs(middle[2] - 0.5 * volume.shape[2] * spacing[2]) < 20, "in the middle from left to right"
    assert 80 < len(chosen) * spacing[2] < 150 and np.all(np.diff(chosen) == 1), "one run of slices"
    assert volume[brain].mean() > 1.3 * volume[~brain].mean()


def test_a_real_volume_without_skull_gives_its_foreground() -> None:
    volume, spacing = load(REAL / "ms_lesions" / "patient19_T1.nii.gz")
    brain = extract_t1_brain(volume, spacing)
    size = brain.sum() * np.prod(spacing) / 1000
    print(f"patient19: {size:.0f} ml")
    assert 900 < size < 1800 and label(brain)[1] == 1
    assert brain[volume > 30].mean() > 0.99, "nearly all of its signal"
