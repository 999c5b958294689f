"""Whole runs of the demo's config on a tiny miniature world, through ``train_net.py``."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gppf_d2.engine.step_clock import PARTS
from tests.engine.runs import (
    PROJECT,
    assert_equal_states,
    checkpoint,
    environment,
    losses,
    train,
)

TASKS = ["objects", "scenes", "boxes", "parsing", "depth"]


@pytest.fixture(scope="module")
def finished(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 processes over 6 iterations, with every replica compared after every step (I1)."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    pictures = "{pictures: {_target_: gppf_d2.analysis.TrainingPictures, period: 0}}"
    train(
        "mini_r18", output, "train.replica_check_period=1", "train.ema_decay=0.9",
        f"train.hooks={pictures}",
    )  # fmt: skip
    return output


@pytest.mark.timeout(280)
def test_i1_replicas_of_a_run_stay_equal_and_it_leaves_what_the_design_says(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.yaml", "run.json", "log.txt", "metrics.json", "routes.json", "routes.jsonl",
        "results.json", "model_0000003.pth", "model_0000006.pth", "model_final.pth",
    } <= names  # fmt: skip
    assert any(name.startswith("events.out.tfevents") for name in names)
    results = json.loads((finished / "results.json").read_text())
    assert list(results) == TASKS
    assert {"top1", "top5", "mean_per_class"} <= {k.split("/")[-1] for k in results["objects"]}
    assert "bbox/AP" in results["scenes"] and "segm/AP" in results["scenes"]
    assert "sem_seg/mIoU" in results["parsing"] and "depth/delta1" in results["depth"]
    routes = json.loads((finished / "routes.json").read_text())
    assert routes["num_units"] == 2 and len(routes["layers"]) == 9
    for task in TASKS:
        probabilities = routes["tasks"][task]["probabilities"]
        assert len(probabilities) == 9 and all(abs(sum(p) - 1) < 1e-5 for p in probabilities)
    history = (finished / "routes.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in history] == [1, 2, 4, 6]


def test_metrics_name_the_task_of_every_loss(finished: Path) -> None:
    last = json.loads((finished / "metrics.json").read_text().splitlines()[-1])
    for key in ("lr", "temperature", "grad_norm", "time", "data_time", "samples_per_second"):
        assert math.isfinite(last[key]), key
    shares = {task: last[f"wanted_share/{task}"] for task in TASKS}
    assert sum(shares.values()) == pytest.approx(1) and shares["scenes"] == pytest.approx(2 / 7)
    parts = [last[f"time/{part}"] for part in PARTS]
    assert min(parts) > 0 and 0.5 * last["time"] < sum(parts) < 1.05 * last["time"]
    for by_name in losses(finished).values():
        assert 1 <= len({name.split("/")[1] for name in by_name}) <= 2, "two ranks, two tasks"


def test_run_json_says_what_ran_where_and_on_what(finished: Path) -> None:
    run = json.loads((finished / "run.json").read_text())
    assert run["world_size"] == 2 and run["initial_weights"] == ""
    assert run["hardware"]["host_count"] == 1 and run["hardware"]["gpus"] == []
    assert run["hardware"]["cpu_cores"] >= 1 and run["hardware"]["cpu"]
    assert list(run["data"]) == TASKS
    (trained,), (evaluated,) = (run["data"]["parsing"][k].values() for k in ("train", "evaluation"))
    assert trained > evaluated > 0


def test_hooks_of_the_config_draw_pictures_for_tensorboard(finished: Path) -> None:
    (events,) = finished.glob("events.out.tfevents*")
    reader = EventAccumulator(str(events), size_guidance={"images": 0}).Reload()
    names = reader.Tags()["images"]
    assert {"routes/probabilities", "routes/agreement", "routes/curves"} <= set(names)
    (image,) = reader.Images("routes/probabilities")
    assert image.step in (5, 6) and image.width > 300 and image.height > 200


def test_i7_resume_is_bitwise(finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "resumed"
    output.mkdir()
    shutil.copy(finished / "model_0000003.pth", output)
    train("mini_r18", output, "--resume", "train.ema_decay=0.9")
    whole, resumed = losses(finished), losses(output)
    assert sorted(resumed) == [3, 4, 5]
    for iteration, values in resumed.items():
        assert values == whole[iteration], f"iteration {iteration}"
    one, two = checkpoint(finished, "model_final"), checkpoint(output, "model_final")
    one.pop("config"), two.pop("config")
    assert_equal_states(one, two)


def test_i7_another_world_size_goes_on_at_the_same_stream_positions(
    finished: Path, tmp_path: Path
) -> None:
    output = tmp_path / "one_process"
    output.mkdir()
    shutil.copy(finished / "model_0000003.pth", output)
    before = checkpoint(output, "model_0000003")["streams"]
    done = train(
        "mini_r18", output, "--resume", "--tasks", "objects,depth", "--allow-task-changes",
        "train.max_iter=4", processes=1,
    )  # fmt: skip
    after = checkpoint(output, "model_0000004")["streams"]
    sizes = {"objects": 4, "depth": 2}
    moved = {}
    for task, size in sizes.items():
        old, new = before["streams"][task], after["streams"][task]
        step = (new["epoch"] - old["epoch"]) * old["size"] + new["offset"] - old["offset"]
        moved[task] = step / size
    assert sorted(moved.values()) == [0, 1], "one process takes one batch of one task"
    assert "statistics are not shared" in done.stdout or "per-batch sampling" in done.stdout


def test_eval_only_repeats_the_results_of_the_run(finished: Path, tmp_path: Path) -> None:
    output = tmp_path / "evaluation"
    train(
        "mini_r18", output, "--eval-only", "--tasks", "objects,parsing",
        "--checkpoint", str(finished / "model_final.pth"), "train.ema_decay=0.9", processes=1,
    )  # fmt: skip
    expected = json.loads((finished / "results.json").read_text())
    found = json.loads((output / "results.json").read_text())
    assert list(found) == ["objects", "parsing"]
    for task, metrics in found.items():
        for name, value in metrics.items():
            wanted = expected[task][name]  # null where a class has no truth
            assert value == wanted or value == pytest.approx(wanted, rel=1e-4, abs=1e-4), name


def test_a_finished_folder_is_not_overwritten(finished: Path) -> None:
    done = train("mini_r18", finished, status=1)
    for rank in (0, 1):
        assert f"[rank {rank}] error: " in done.stderr
    assert "--resume" in done.stderr and "Traceback" not in done.stderr
    assert train("mini_r18", finished, "--resume").returncode == 0, "nothing is left to do"


def slow(*arguments: object) -> object:
    return pytest.param(*arguments, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tasks.objects.train=mini_object_train"], "mini_objects_train"),
        (["schedule.policy=pinned"], "5"),
        # the same way to the sentence: `make test` takes two of them
        slow(["train.amp=float8"], "float32, bfloat16, float16"),
        slow(["schedule.policy=random"], "sampled, stratified, pinned, per_batch"),
        slow(["train.virtual_ranks=2"], "train.virtual_ranks is 2"),
        slow(["tasks.depth.batch_size=0"], "batch_size"),
    ],
)
def test_bad_input_is_one_sentence_on_every_rank(
    mini_root: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = train("mini_r18", tmp_path / "run", *arguments, status=1)
    for rank in (0, 1):
        lines = [x for x in done.stderr.splitlines() if x.startswith(f"[rank {rank}] error: ")]
        assert len(lines) == 1 and words in lines[0], done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_prints_time_and_loss_of_every_task(mini_root: Path, tmp_path: Path) -> None:
    done = train("mini_r18", tmp_path / "run", "--dry-run", processes=1)
    for task in TASKS:
        assert any(line.startswith(task) for line in done.stdout.splitlines()), done.stdout
    assert not list((tmp_path / "run").glob("*.pth"))


def tool(name: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"gppf_d2.tools.{name}", *arguments],
        capture_output=True, text=True, timeout=200, check=False, cwd=PROJECT, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, f"{name}: {done.stdout}\n{done.stderr}"


@pytest.mark.timeout(280)
def test_the_tools_of_the_demo_work_on_a_run(finished: Path, mini_root: Path) -> None:
    weights = str(finished / "model_final.pth")
    exported = str(finished / "backbone.pth")
    tool(
        "export_backbone", "--checkpoint", weights, "--task", "scenes",
        "--format", "torchvision", "--output", exported,
    )  # fmt: skip
    resnet = torchvision.models.resnet18()
    missing, unexpected = resnet.load_state_dict(
        torch.load(exported, weights_only=True), strict=False
    )
    assert set(missing) == {"fc.weight", "fc.bias"} and not unexpected
    tool("contact_sheets", str(finished), "--count", "1")
    assert {p.stem for p in (finished / "predictions").glob("*.png")} == set(TASKS)
    images = sorted((mini_root / "mini/coco/val2017").glob("*.jpg"))[:2]
    tool(
        "predict", "--config-file", str(finished / "config.yaml"), "--checkpoint", weights,
        "--task", "scenes", "--output", str(finished / "pictures"), *map(str, images),
    )  # fmt: skip
    assert len(list((finished / "pictures").glob("*.png"))) == 2
    tool("report", str(finished))
    page = (finished / "report.html").read_text()
    for task in TASKS:
        assert task in page
