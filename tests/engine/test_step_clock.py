"""The laps of a step add up to its parts; what lies between steps belongs to none."""

from __future__ import annotations

import types

import pytest
import torch

from gppf_d2.engine import metrics as metrics_module
from gppf_d2.engine import step_clock
from gppf_d2.engine.hardware import hardware, machine
from gppf_d2.engine.metrics import TaskMetrics
from gppf_d2.engine.step_clock import PARTS, StepClock


class Watch:
    """A clock that moves when it is told to."""

    seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    for module in (step_clock, metrics_module):
        monkeypatch.setattr(module, "time", watch)
    return watch


def test_laps_add_up_by_part_and_the_pause_between_two_steps_counts_nowhere(watch: Watch) -> None:
    clock = StepClock()
    for _ in range(2):
        clock.start()
        watch.sleep(1)
        clock.lap("data")
        watch.sleep(0.5)
        clock.lap("forward")
        watch.sleep(2)
        clock.lap("data")
        watch.sleep(5)  # between the steps
    assert clock.read() == {"data": 6, "forward": 1}
    assert clock.read() == {}


def test_metrics_give_the_seconds_of_every_part_per_iteration(watch: Watch) -> None:
    metrics = TaskMetrics()
    for seconds in (2, 4):
        metrics.clock.start()
        watch.sleep(seconds)
        metrics.clock.lap("data")
        watch.sleep(1)
        metrics.step()
    watch.sleep(7)
    metrics.rest(7)
    result = metrics.reduce(None)
    assert {f"time/{part}" for part in PARTS} <= set(result)
    assert result["time/data"] == result["data_time"] == 3 and result["time"] == 4
    assert result["time/update"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA events need a GPU")
def test_laps_on_a_gpu_measure_the_queued_work() -> None:
    device = torch.device("cuda")
    clock = StepClock(device)
    x = torch.rand(2048, 2048, device=device)
    clock.start()
    for _ in range(20):
        x = x @ x
    clock.lap("forward")
    clock.lap("backward")
    seconds = clock.read()
    assert seconds["forward"] > seconds["backward"] >= 0


def test_hardware_counts_machines_and_gpus_in_use_and_keeps_their_names_out() -> None:
    one = {"cpu": "P", "cpu_cores": 8, "memory_gb": 64.0}
    seen = [
        {"host": "a", "gpu": ("u", "G"), **one},
        {"host": "a", "gpu": ("u", "G"), **one},  # two processes on one GPU
        {"host": "b", "gpu": ("u", "G"), **one},
    ]
    assert hardware(seen) == {"host_count": 2, "gpus": ["G", "G"], **one}
    here = machine(torch.device("cpu"))
    assert here["gpu"] is None and here["cpu"] and here["cpu_cores"] >= 1


def test_a_gpu_is_told_from_others_that_also_are_number_0_of_their_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    for uuid in "uv":
        found = types.SimpleNamespace(uuid=uuid, name="G")
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index, f=found: f)
        seen.append(machine(torch.device("cuda")))
    assert hardware(seen)["gpus"] == ["G", "G"] and hardware(seen)["host_count"] == 1
