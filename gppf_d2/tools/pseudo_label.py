"""Label images with teachers: boxes, masks, segments, classes, depth, for students to train on.

    python -m gppf_d2.tools.pseudo_label --config-file FILE \\
        [--shard i/n] [--data-root DIR] [key=value ...]

The same command goes on where a killed one stopped, and does nothing where all is done. Several
machines share the work with ``--shard 0/4``, ``--shard 1/4``, ..., the processes of one with
``torchrun --nproc-per-node N -m gppf_d2.tools.pseudo_label ...``, one GPU each. Whoever comes last
writes ``manifest.json``; with a kill in between give any of the commands again.

Images that cannot be read, or on which a teacher's numbers overflow, get no labels: they are
counted, the first ten named, all of them listed
in the manifest, and the exit status is 0. A wrong call or config ends with one sentence and 2,
before anything is labelled.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence

import torch
from detectron2.config import LazyConfig
from detectron2.utils.logger import setup_logger
from omegaconf import OmegaConf

from gppf_d2.data.samples import one_line
from gppf_d2.engine.errors import UserError, show_traceback
from gppf_d2.engine.launch import speaks_for_itself, under_torchrun
from gppf_d2.engine.output_folder import TALKATIVE
from gppf_d2.pseudo.labeller import Outcome, label_images
from gppf_d2.pseudo.settings import LABELLING, Settings

HARDLY = 0.01  # share of the pixels that have a label

logger = logging.getLogger("gppf_d2.pseudo")


def load_settings(path: str, overrides: Sequence[str] = ()) -> Settings:
    """Read the config of a labelling.

    Args:
        path: a LazyConfig ``.py``.
        overrides: ``key=value`` strings; keys without a section are those of ``labelling``. The
            file may have sections of its own, which values refer to. A mapping takes the place of
            what was there (``teachers.depth={...}``), ``teachers.depth=null`` leaves it out.

    Raises:
        UserError: no such file, a broken one, or a value that cannot be meant.
    """
    if not os.path.isfile(path):
        raise UserError(f"There is no config file {path!r}; the shipped ones are under configs/.")
    try:
        cfg = LazyConfig.load(path)
    except Exception as error:
        raise UserError(f"The config file {path!r} cannot be read: {one_line(error)}") from error
    sections = {"labelling", "teachers", "options", *cfg}
    changes = []
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, _ = key.partition(".")
        if not (equals and (section in sections if dot else key in LABELLING)):
            near = difflib.get_close_matches(key, [*LABELLING, *sections], n=1)
            raise UserError(
                f"The override {override!r} is not key=value with one of {', '.join(LABELLING)} or "
                f"with a key below {', '.join(sorted(sections))}."
                + (f" Did you mean {near[0]!r}?" if near else "")
            )
        if dot and value.startswith("{"):
            OmegaConf.update(cfg, key, None)
        changes.append(override if dot else f"labelling.{override}")
    try:
        return Settings.of(LazyConfig.apply_overrides(cfg, changes))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The overrides of {path!r} cannot be applied: {one_line(error)}"
        ) from error


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) from "i/n".

    Raises:
        UserError: not two numbers with 0 <= i < n.
    """
    first, slash, second = text.partition("/")
    if not (slash and first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise UserError(f"--shard is {text!r}; write i/n with i from 0 to n - 1, as 0/4.")
    return int(first), int(second)


def share_of(part: tuple[int, int]) -> tuple[int, int]:
    """The share of this process: its rank's part of the ``--shard`` of its machine."""
    if not under_torchrun():
        return part
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    return part[0] * world_size + rank, part[1] * world_size


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.pseudo_label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--shard", default="0/1", metavar="i/n", help="make every n-th shard")
    parser.add_argument("--data-root", default="", metavar="DIR", help="$DETECTRON2_DATASETS")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    options = make_parser().parse_intermixed_args(arguments)
    rank = f"[{os.environ['RANK']}]" if under_torchrun() else ""
    setup_logger(name="gppf_d2", abbrev_name=f"gppf_d2{rank}")
    for name, level in TALKATIVE.items():
        logging.getLogger(name).setLevel(level)
    try:
        part = share_of(parse_shard(options.shard))
        if options.data_root:
            if not os.path.isdir(options.data_root):
                raise UserError(f"--data-root {options.data_root!r} is not a folder.")
            os.environ["DETECTRON2_DATASETS"] = options.data_root
        settings = load_settings(options.config_file, options.overrides)
        outcome = label_images(settings, part)
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on with the next shard.", file=sys.stderr)
        return 130
    except Exception as error:
        if not speaks_for_itself(error):
            raise
        show_traceback(error)
        print(f"error: {error}", file=sys.stderr)
        return 2
    _say(settings, outcome)
    return 0


def _say(settings: Settings, outcome: Outcome) -> None:
    """The last lines."""
    if outcome.images:
        logger.info(
            "Labelled %d images in %.0f s: %.1f images/s",
            outcome.images, outcome.seconds, outcome.images / outcome.seconds,
        )  # fmt: skip
    if outcome.corrupt:
        logger.warning("%d images have no labels; the manifest says why.", outcome.corrupt)
    if outcome.manifest is None:
        logger.info(
            "Other shards of '%s' are not there yet; the commands with the other --shard, or this "
            "one without it, make them.",
            settings.output,
        )
        return
    for name, label in outcome.manifest["labels"].items():
        counts = {key: value for key, value in label["counts"].items() if key != "per_class"}
        text = ", ".join(f"{key} {value:,}" for key, value in counts.items())
        logger.info("%s (%s): %s", name, label["kind"], text)
        if not counts.get("instances", 1) or counts.get("labelled", 1) < HARDLY:
            logger.warning(
                "Hardly anything passed the threshold %g of '%s': its teacher is too unsure; train "
                "it longer, or lower options.%s.threshold.",
                label["threshold"], name, name,
            )  # fmt: skip
    logger.info(
        "'%s' is complete: %d images, %d of them could not be labelled.",
        settings.output, outcome.manifest["images"]["count"], len(outcome.manifest["corrupt"]),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
