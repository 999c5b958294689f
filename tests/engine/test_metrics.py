"""Per-task metrics: a loss is averaged over the ranks that ran its task and keeps its name."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage

from gppf_d2.engine.metrics import TaskMetrics, progress_line
from gppf_d2.evaluation.metric_names import overall
from tests.harness import run_distributed


def test_losses_are_averaged_per_task_in_one_process() -> None:
    metrics = TaskMetrics()
    metrics.record("a", {"box": torch.tensor(1.0), "cls": torch.tensor(3.0)}, 4)
    metrics.record("a", {"box": torch.tensor(3.0), "cls": torch.tensor(5.0)}, 4)
    metrics.record("b", {"ce": torch.tensor(10.0)}, 2, num_replaced=1)
    metrics.step()
    result = metrics.reduce(None)
    assert result["loss/a/box"] == pytest.approx(2) and result["loss/a/total"] == pytest.approx(6)
    assert result["loss/b/total"] == pytest.approx(10) and result["replaced/b"] == 1
    assert result["share/a"] == pytest.approx(2 / 3)
    assert "loss/a/box" not in metrics.reduce(None), "a reduction starts anew"


def test_the_console_line_names_the_labels_of_a_student() -> None:
    with EventStorage(9) as storage:
        losses = {"boxes.loss_cls": 1.0, "boxes.loss_box_reg": 0.5, "depth.loss_depth": 2.0}
        for name, value in {**losses, "total": 3.5}.items():
            storage.put_scalar(f"loss/student/{name}", value)
        storage.put_scalar("loss/coco/loss_cls", 1.0)
        storage.put_scalar("loss/coco/total", 1.0)
        line = progress_line(storage, 20)
    assert line.startswith("10/20  eta")
    assert line.endswith("|  coco 1  student 3.5 (boxes 1.5, depth 2)")


def _reduce(rank: int, world_size: int) -> dict[str, float]:
    metrics = TaskMetrics()
    if rank == 0:
        metrics.record("a", {"loss": torch.tensor(1.0)}, 1)
    elif rank == 1:
        metrics.record("b", {"other": torch.tensor(5.0)}, 1)
        metrics.record("a", {"loss": torch.tensor(4.0)}, 1)
    metrics.step()
    metrics.clock.read = lambda: {"data": float(rank)}  # seconds
    return metrics.reduce(dist.group.WORLD, {"weight/a/boxes": 2.0} if rank == 1 else None)


def test_ranks_with_different_tasks_do_not_mix_their_losses() -> None:
    results = run_distributed(_reduce, 3)
    assert results[0] == results[1] == results[2]
    assert results[0]["loss/a/loss"] == pytest.approx(2.5)
    assert results[0]["loss/b/other"] == pytest.approx(5.0)
    assert results[0]["weight/a/boxes"] == 2.0, "what one rank knows, rank 0 can write"
    assert results[0]["time/data"] == 1, "the mean over the ranks"
    assert results[0]["data_time"] == 2, "of the rank that waited longest"


def test_values_of_single_classes_are_told_from_names_of_datasets_with_hyphens() -> None:
    kept = {"bbox/AP": 1.0, "my-set/bbox/AP50": 2.0, "sem_seg/BoundaryIoU": 3.0}
    dropped = {"bbox/AP-pen/pencil": 4.0, "my-set/sem_seg/IoU-t-shirt": 5.0, "x/AP50-a b": 6.0}
    assert overall({**kept, **dropped}) == kept
