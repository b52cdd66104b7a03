"""Settings of the weights: read for a run, and compared with a run's own."""

import json
import subprocess
import sys

import pytest
from monai.bundle import ConfigParser

import common
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


def test_a_setting_is_the_one_of_the_weights_else_the_default(weights):
    (weights / "model.pt").touch()
    for place in (weights, str(weights), weights / "model.pt", [str(weights)]):
        assert common.trained(place, "process", "diffusion") == "flow"
        assert common.trained(place, "steps", 5) == 5
    for place in (weights / "nowhere", weights / "nowhere" / "model.pt", None, []):
        assert common.trained(place, "process", "diffusion") == "diffusion"


def test_values_are_those_of_json(tmp_path):
    settings = {"widths": [4, 4, 8], "hidden": None, "flat": False, "rule": {"ct": {"low": -175.0}}, "size": 2}
    (tmp_path / "weights.json").write_text(json.dumps({"settings": settings}))
    found = {key: common.trained(tmp_path, key, "default") for key in settings}
    assert found == settings and {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in settings.items()}


def test_of_several_folders_all_that_know_a_setting_must_agree(weights, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    assert common.trained([str(other), str(weights)], "process", "diffusion") == "flow", "a folder without a record does not say"
    (other / "weights.json").write_text(json.dumps({"settings": {"process": "diffusion"}}))
    with pytest.raises(
        UserError, match=r'The weights in .*other were trained with other settings than process flow\. Give: --process "diff'
    ):
        common.trained([str(weights), str(other)], "process", "diffusion")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"settings": [1]}', b"\xff\xfe"])
def test_a_damaged_record_is_named(content, tmp_path):
    (tmp_path / "weights.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r"weights\.json (cannot be read as the|is no) record of weights.* Copy it again .* or train them"):
        common.trained(tmp_path, "width", 1.0)


def test_a_config_reads_its_weights_and_an_override_wins(weights):
    config = {"common": "$__import__('common')", "ckpt_dir": str(weights), "process": "$@common.trained(@ckpt_dir, 'process', 'diffusion')"}
    assert ConfigParser(config).get_parsed_content("process") == "flow"
    assert ConfigParser(config | {"ckpt_dir": "/none"}).get_parsed_content("process") == "diffusion"
    assert ConfigParser(config | {"process": "other"}).get_parsed_content("process") == "other"


def test_the_package_stays_light():
    code = "import sys, common; assert callable(common.trained); sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
