"""The laps of a step add up to its parts; what lies between steps belongs to none."""

from __future__ import annotations

import time

import pytest
import torch

from gppf_d2.engine.hardware import hardware, machine
from gppf_d2.engine.metrics import TaskMetrics
from gppf_d2.engine.step_clock import PARTS, StepClock


def test_laps_add_up_by_part_and_the_pause_between_two_steps_counts_nowhere() -> None:
    clock = StepClock()
    for _ in range(2):
        clock.start()
        time.sleep(0.01)
        clock.lap("data")
        clock.lap("forward")
        time.sleep(0.02)
        clock.lap("data")
        time.sleep(0.05)  # between the steps
    seconds = clock.read()
    assert set(seconds) == {"data", "forward"}
    assert 0.06 <= seconds["data"] < 0.1 and seconds["forward"] < 0.01
    assert clock.read() == {}


def test_metrics_give_the_seconds_of_every_part_per_iteration() -> None:
    metrics = TaskMetrics()
    for _ in range(2):
        metrics.clock.start()
        time.sleep(0.02)
        metrics.clock.lap("data")
        metrics.step()
    result = metrics.reduce(None)
    assert {f"time/{part}" for part in PARTS} <= set(result)
    assert result["time/data"] == pytest.approx(0.02, abs=0.01)
    assert result["time/data"] == result["data_time"] <= result["time"]
    assert result["time/update"] == 0.0


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
        {"host": "a", "gpu": (0, "G"), **one},
        {"host": "a", "gpu": (0, "G"), **one},  # two processes on one GPU
        {"host": "b", "gpu": (0, "G"), **one},
    ]
    assert hardware(seen) == {"host_count": 2, "gpus": ["G", "G"], **one}
    here = machine(torch.device("cpu"))
    assert here["gpu"] is None and here["cpu"] and here["cpu_cores"] >= 1
