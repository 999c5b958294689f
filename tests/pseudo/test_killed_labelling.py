"""Labelling in real processes: killed at random moments, dealt out by hand and by torchrun."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gppf_d2.data.pseudo_labels import read_manifest
from tests.engine.runs import QUICK
from tests.pseudo.labelling import equal
from tests.pseudo.test_teachers import run_folder

pytestmark = pytest.mark.slow

CONFIG = """
from detectron2.config import LazyCall as L
from gppf_d2.pseudo import RunTeacher
labelling = dict(
    images={images!r}, output="", shard_size=3, batch_size=2, num_workers=1, device="cpu",
    threads=1,
)
teachers = dict(lego=L(RunTeacher)(run={run!r}, labels=dict(
    boxes="scenes", segments="parsing", depth="depth", classes="objects")))
options = dict(boxes=dict(threshold=0.05), segments=dict(threshold=0.1))
"""


@pytest.fixture(scope="module")
def world(mini_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, a run folder and 40 images, one of them cut off."""
    root = tmp_path_factory.mktemp("killed")
    images = root / "images"
    images.mkdir()
    files = sorted((mini_root / "mini/coco/train2017").iterdir())
    for index in range(40):
        shutil.copy(files[index % len(files)], images / f"{index:03d}.jpg")
    (images / "017.jpg").write_bytes((images / "017.jpg").read_bytes()[:500])
    run_folder(QUICK / "mini_r18.py", root / "run")
    (root / "labels.py").write_text(CONFIG.format(images=str(images), run=str(root / "run")))
    return root


def command(world: Path, output: str, *arguments: str) -> list[str]:
    return [
        "-m", "gppf_d2.tools.pseudo_label", "--config-file", str(world / "labels.py"),
        f"output={world / output}", *arguments,
    ]  # fmt: skip


def finish(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def whole(world: Path) -> Path:
    finish(command(world, "whole"))
    assert len(read_manifest(world / "whole").labelled()) == 39
    return world / "whole"


def test_killed_five_times_it_writes_the_same_bytes(world: Path, whole: Path) -> None:
    output, dice = world / "killed", random.Random(0)
    progress = []
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, *command(world, "killed")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        shards = len(progress) and progress[-1]
        limit = time.monotonic() + 120
        while len(list(output.glob("shard-*"))) <= shards and time.monotonic() < limit:
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.7))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        progress.append(len(list(output.glob("shard-*"))))
        assert not (output / "manifest.json").exists()
    assert 5 <= progress[-1] < 14 and progress == sorted(set(progress))
    finish(command(world, "killed"))
    assert equal(output, whole)


def test_two_commands_side_by_side_make_the_folder_of_one(world: Path, whole: Path) -> None:
    both = [
        subprocess.Popen([sys.executable, *command(world, "parts", "--shard", f"{part}/2")])
        for part in range(2)
    ]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert equal(world / "parts", whole)


def test_equal_commands_side_by_side_do_no_harm(world: Path, whole: Path) -> None:
    both = [subprocess.Popen([sys.executable, *command(world, "twice")]) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert equal(world / "twice", whole)


def test_torchrun_makes_the_folder_of_one(world: Path, whole: Path) -> None:
    finish(
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         *command(world, "torchrun")]
    )  # fmt: skip
    assert equal(world / "torchrun", whole)
