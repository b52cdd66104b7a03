"""Settings of a run against those of the weights."""

import json

import pytest

from common.errors import UserError
from common.trained_settings import check_settings


@pytest.fixture
def weights(tmp_path):
    record = {"settings": {"process": "flow", "multipliers": [1, 2], "coordinates": True}}
    (tmp_path / "weights.json").write_text(json.dumps(record))
    return tmp_path


def test_equal_settings_pass_however_they_are_written(weights):
    check_settings(weights, {"process": "flow", "multipliers": (1, 2), "coordinates": "true", "steps": 3})


def test_other_settings_are_refused_with_the_options_to_give(weights):
    with pytest.raises(UserError, match=r'other settings than process diffusion. Give: --process "flow"'):
        check_settings(weights, {"process": "diffusion", "multipliers": [1, 2]})


def test_without_a_record_nothing_is_compared(tmp_path):
    check_settings(tmp_path, {"process": "diffusion"})


def test_several_folders_are_compared_one_after_the_other(weights, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    check_settings([str(weights), str(other)], {"process": "flow"})
    (other / "weights.json").write_text(json.dumps({"settings": {"process": "diffusion"}}))
    with pytest.raises(UserError, match=r"The weights in .*other were trained with other settings than process flow"):
        check_settings([str(weights), str(other)], {"process": "flow"})
