import gc
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from common.handlers import resource_log
from common.handlers.resource_log import ResourceLog, resident_mib

LINUX = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not tell a process its memory")


@pytest.fixture
def clock(monkeypatch):
    """A clock of its own."""
    now = {"now": 50.0}
    monkeypatch.setattr(resource_log, "time", SimpleNamespace(perf_counter=lambda: now["now"]))
    return now


def run(folder, step=lambda engine, batch: None, epochs=1, network=None, **settings):
    engine = Engine(step)
    log = ResourceLog(network or nn.Linear(3, 2), str(folder), **settings)
    log.attach(engine)
    engine.run([0, 1, 2], max_epochs=epochs)
    return log


def row(folder):
    return json.loads((folder / "resources.json").read_text(encoding="utf-8"))


def test_the_file_says_what_the_training_cost(tmp_path, clock):
    def step(engine, batch):
        clock["now"] += 0.5

    run(tmp_path, step, epochs=4)
    found = row(tmp_path)
    assert list(found) == ["parameters", "device", "peak_memory_mib", "seconds", "epochs", "iterations"]
    assert found["parameters"] == 3 * 2 + 2
    assert found["seconds"] == 4 * 3 * 0.5  # from the start of the training, not of the process
    assert (found["epochs"], found["iterations"]) == (4, 12)
    assert found["device"] == f"CPU, {torch.get_num_threads()} threads"


def test_it_is_written_after_every_epoch(tmp_path):
    seen = []
    engine = Engine(lambda engine, batch: None)
    ResourceLog(nn.Linear(1, 1), str(tmp_path)).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(row(tmp_path)["epochs"]))
    engine.run([0, 1], max_epochs=3)
    assert seen == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["resources.json"]  # no temporary file stays


def test_the_second_rank_writes_nothing(tmp_path):
    run(tmp_path, rank=1)
    assert list(tmp_path.iterdir()) == []


def test_frozen_weights_are_not_counted(tmp_path):
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5))
    network[0].requires_grad_(False)
    run(tmp_path, network=network)
    assert row(tmp_path)["parameters"] == 2 * 5 + 5


@LINUX
def test_the_memory_of_a_process_is_some_mib_and_its_peak_is_not_below_it():
    assert 10 < resident_mib("VmRSS") < 1e6
    assert resident_mib("VmHWM") >= resident_mib("VmRSS") - 1
    assert resident_mib("VmNothing") is None


@LINUX
def test_the_peak_is_what_the_training_took_beyond_what_was_there(tmp_path):
    gc.collect()  # what earlier tests left must not go back to the system while this one runs
    before = torch.ones(4, 2**20)  # 16 MiB that were there

    def step(engine, batch):
        torch.ones(24, 2**20).sum()  # 96 MiB, given back at once

    log = run(tmp_path, step)
    if log.before is None:
        pytest.skip("this system does not let a process begin its peak anew")
    assert 80 < row(tmp_path)["peak_memory_mib"] < 200
    assert before.sum() == 4 * 2**20


def test_where_the_system_does_not_tell_its_memory_there_is_no_peak(tmp_path, monkeypatch):
    monkeypatch.setattr(resource_log, "_STATUS", tmp_path / "none")
    assert resident_mib("VmRSS") is None
    run(tmp_path)
    assert row(tmp_path)["peak_memory_mib"] is None


def test_where_the_peak_cannot_begin_anew_there_is_none(tmp_path, monkeypatch):
    (tmp_path / "refs").mkdir()  # cannot be written to
    monkeypatch.setattr(resource_log, "_RESET", tmp_path / "refs")
    run(tmp_path / "eval")
    assert row(tmp_path / "eval")["peak_memory_mib"] is None


def test_a_training_on_the_cpu_of_a_machine_with_a_gpu_is_logged_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    run(tmp_path)
    assert row(tmp_path)["device"].startswith("CPU, ")


def test_a_training_on_a_gpu_is_logged_with_its_name_and_what_torch_allocated(tmp_path, monkeypatch):
    monkeypatch.setattr(ResourceLog, "device", torch.device("cuda", 1))
    resets = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, number {device.index}")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**20)
    run(tmp_path)
    assert (row(tmp_path)["device"], row(tmp_path)["peak_memory_mib"]) == ("a GPU, number 1", 3)
    assert resets == [torch.device("cuda", 1)]
