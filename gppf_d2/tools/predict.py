"""Run one task of a checkpoint on images: pictures and JSON.

    python -m gppf_d2.tools.predict --config-file RUN/config.yaml --checkpoint RUN/model_final.pth
    \\ --task TASK --output FOLDER image.jpg folder/ [key=value ...]

For every image, also in folders of a folder, ``FOLDER/<stem>.png`` shows the prediction, and
``FOLDER/predictions.json`` holds all of them; pixel maps are written as ``<stem>_labels.png``,
``<stem>_depth.png`` and so on. What a task with several label heads says of an image comes side by
side. Images that cannot be read are named and left out, and the exit status is then 1; a wrong call
ends with one sentence and 2. From Python: ``build_predictor`` gives the same as an object.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import instantiate
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig
from PIL import Image

from gppf_d2.analysis.figures import write_file
from gppf_d2.analysis.predictions.output_files import save_maps
from gppf_d2.analysis.predictions.predictor import (
    JointPredictor,
    Predictor,
    UnreadableImageError,
    find_images,
)
from gppf_d2.data.catalog import register_all
from gppf_d2.engine.config import load_config
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.output_folder import TALKATIVE
from gppf_d2.engine.setup import build_tasks, load_model
from gppf_d2.tasks.spec import Evaluation


def build_predictor(
    cfg: DictConfig, checkpoint: str, task: str, min_score: float = 0.3
) -> Predictor:
    """A predictor for one task of a checkpoint, as the task's evaluation reads and augments: the
    first one, or one for each label head of a task that evaluates them by themselves.

    Args:
        cfg: the config of the run (``gppf_d2.engine.config.load_config``).
        checkpoint: a gppf_d2 checkpoint file.
        task: name of a task of the config.
        min_score: regions below it are not drawn.

    Raises:
        UserError: an unknown task, a task without evaluation, a checkpoint that does not fit.
    """
    parts = [part for _, part in build_predictors(cfg, checkpoint, task, min_score)]
    labels = [part.label for part in parts]
    if "" in labels:  # it runs all label heads there are
        return parts[labels.index("")]
    every = parts[0].model.heads[task].heads
    return JointPredictor(parts, [label for label in every if label not in labels])


def build_predictors(
    cfg: DictConfig, checkpoint: str, task: str, min_score: float = 0.3
) -> list[tuple[str, Predictor]]:
    """One predictor for every label head that a task evaluates, all with one model.

    Args:
        cfg: as of ``build_predictor``, like the other arguments.

    Returns:
        (dataset, predictor) of the first evaluation of every label head; a head without label heads
        has one.

    Raises:
        UserError: as ``build_predictor``.
    """
    tasks = build_tasks(cfg)
    if task not in tasks:
        raise UserError(f"Unknown task {task!r}; the config has {', '.join(tasks)}.")
    if not tasks[task].evaluators:
        raise UserError(
            f"Task {task!r} has no evaluation whose mapper would say how an image is read, and its "
            f"training mapper needs annotations; add one to tasks.{task}.evaluators."
        )
    evaluations: dict[str, Evaluation] = {}
    for entry in tasks[task].evaluators:
        evaluations.setdefault(entry.label, entry)
    register_all()
    model = load_model(cfg, checkpoint, tasks=[task])
    found = []
    for label, entry in evaluations.items():
        predictor = Predictor(
            model,
            task,
            instantiate(entry.mapper),
            MetadataCatalog.get(entry.dataset),
            min_score=min_score,
            tta=instantiate(entry.tta),
            label=label,
        )
        found.append((entry.dataset, predictor))
    return found


def predict_files(predictor: Predictor, files: Sequence[Path], output: Path) -> list[Path]:
    """Predict, draw and describe files.

    Args:
        predictor: what to run.
        files: images.
        output: folder of the pictures and of ``predictions.json``; made if it is not there.

    Returns:
        The files that could not be read.
    """
    _describe(output, predictor.task, [])  # known for results, also if it ends before it is full
    entries, failed = [], []
    for file, stem in zip(files, unique_stems(files)):
        try:
            _, image, found = predictor.predict(file)
        except UnreadableImageError as error:
            print(f"left out: {error}", file=sys.stderr)
            failed.append(file)
            continue
        picture = output / f"{stem}.png"
        Image.fromarray(predictor.draw(image, found)).save(picture)
        maps = save_maps(found, output / stem)
        size = {"height": image.shape[0], "width": image.shape[1]}
        entries.append(
            {"file": os.fspath(file), "picture": picture.name, **size}
            | predictor.to_json(found, **maps)
        )
        print(f"{file} -> {picture}")
    _describe(output, predictor.task, entries)
    return failed


def refuse_to_replace(files: Sequence[Path], output: Path) -> None:
    """Stop before a picture or a map takes the place of an image that it is made from.

    Raises:
        UserError: a PNG among the images lies in the folder that is written to.
    """
    for file in files:
        if file.suffix.lower() == ".png" and file.resolve().parent == output.resolve():
            raise UserError(
                f"The image '{file}' lies in the folder that PNG files are written to, and might "
                "be replaced by one; give another --output."
            )


def check_run(folder: Path) -> None:
    """Stop where a folder holds no run.

    Raises:
        UserError: no config.yaml in it.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(
            f"There is no run in '{folder}' (no config.yaml); give the output folder of a run of "
            "train_net.py."
        )


def check_min_score(score: float) -> None:
    """Stop where a threshold of scores is none.

    Raises:
        UserError: it does not lie in 0 to 1.
    """
    if not 0 <= score <= 1:
        raise UserError(f"--min-score is {score:g}; give a number from 0 to 1.")


def _describe(output: Path, task: str, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write ``predictions.json``, a line an image."""
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    text = f'{{"task": {json.dumps(task)}, "images": [\n{lines}\n]}}\n'
    write_file(output / "predictions.json", text.encode())


def unique_stems(files: Sequence[Path]) -> list[str]:
    """A name for every file's outputs: its stem, with a number where two files share it."""
    taken: set[str] = set()
    stems = []
    for file in files:
        stem, number = file.stem, 2
        while stem in taken:
            stem, number = f"{file.stem}-{number}", number + 1
        taken.add(stem)
        stems.append(stem)
    return stems


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.predict",
        description="Run one task of a checkpoint on images; writes pictures and predictions.json.",
    )
    parser.add_argument(
        "--config-file", required=True, metavar="FILE", help="the run's config.yaml, or its .py"
    )
    parser.add_argument(
        "--checkpoint", required=True, metavar="FILE", help="a checkpoint of the run"
    )
    parser.add_argument("--task", required=True, help="one of the config's tasks")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder that is written to"
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.3,
        metavar="S",
        help="objects below it are not drawn, 0 to 1 (default: 0.3)",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders, which are searched with their subfolders, and key=value for the "
        "config",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    options = make_parser().parse_intermixed_args(arguments)
    overrides = [text for text in options.inputs if "=" in text and not os.path.exists(text)]
    inputs = [text for text in options.inputs if text not in overrides]
    for name, level in TALKATIVE.items():
        logging.getLogger(name).setLevel(level)
    try:
        if not inputs:
            raise UserError("No image is named; give image files or folders.")
        check_min_score(options.min_score)
        files = find_images(inputs, made=options.output)
        refuse_to_replace(files, options.output)
        cfg = load_config(options.config_file, overrides)
        predictor = build_predictor(cfg, options.checkpoint, options.task, options.min_score)
        failed = predict_files(predictor, files, options.output)
    except (UserError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    count = len(files) - len(failed)
    pictures = "picture" if count == 1 else "pictures"
    print(f"Wrote {count} {pictures} and predictions.json to {options.output}")
    if failed:
        print(f"{len(failed)} of {len(files)} images could not be read.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
