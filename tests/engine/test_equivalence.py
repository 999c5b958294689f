"""Invariant I5 end to end: N ranks with one task each equal one process that runs the N tasks.

With frozen statistics, in float64, through the real trainer with real heads: the ranks' gates,
samples and random draws are functions of (seed, iteration, rank), and virtual ranks are ranks too.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gppf_d2.engine.config import load_config
from gppf_d2.engine.run import RunArguments, Session
from gppf_d2.engine.training import Training
from tests.engine.runs import QUICK
from tests.harness import run_distributed

RANKS = 3
MODES = ("soft", "hard")


def parameters_of_both(rank: int, world_size: int, root: str, output: str) -> dict:
    """Train two steps with ``RANKS`` ranks in all, in each mode: parameters as numpy arrays."""
    os.environ["DETECTRON2_DATASETS"] = root
    torch.set_default_dtype(torch.float64)
    return {mode: parameters_after(world_size, output, mode) for mode in MODES}


def parameters_after(world_size: int, output: str, mode: str) -> dict:
    overrides = [
        "backbone.norm=FrozenBN", f"gates.mode={mode}", "train.max_iter=2",
        "train.num_workers=0", f"train.output_dir={output}/{world_size}_{mode}",
        f"train.virtual_ranks={RANKS if world_size == 1 else 1}", "train.accumulation=2",
        "tasks.objects.batch_size=2", "tasks.parsing.batch_size=1", "tasks.depth.batch_size=1",
    ]  # fmt: skip
    tasks = ["objects", "parsing", "depth"]  # nms refuses float64
    cfg = load_config(str(QUICK / "mini_r18.py"), overrides, tasks)
    for name in tasks:
        cfg.tasks[name].evaluators = []
    session = Session(cfg, RunArguments(config_file=""))
    with session.closing():
        Training(session).run()
    return {n: p.detach().numpy() for n, p in session.model.named_parameters()}


def alone(root: str, output: str) -> dict:
    """The same in one process of its own: the default dtype is a global setting."""
    context = torch.multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(parameters_of_both, (0, 1, root, output))


@pytest.mark.timeout(280)
def test_i5_equivalence_of_ranks_and_virtual_ranks(mini_root: Path, tmp_path: Path) -> None:
    assert not dist.is_initialized()
    one = alone(str(mini_root), str(tmp_path))
    many = run_distributed(parameters_of_both, RANKS, str(mini_root), str(tmp_path), timeout=200)
    for mode in MODES:
        for name, value in one[mode].items():
            for rank in range(RANKS):
                difference = abs(many[rank][mode][name] - value).max()
                assert difference < 1e-10, f"{name} on rank {rank}, {mode}: {difference}"
