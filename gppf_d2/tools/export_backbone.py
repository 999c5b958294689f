"""Export the backbone of one task's route, or of a route from a file, from a checkpoint.

    python -m gppf_d2.tools.export_backbone [--config-file F] --checkpoint C [--route R] --task T
        --format detectron2|torchvision|timm --output X.pth|X.pkl|X.safetensors [--ema]

Writes X, X.json, which holds the route, how decided it is, how the weights came to be and the
settings (stride, norm, mean, std, pixel format) that a stock model needs with them, and X.md, the
same as a model card. The config comes from the checkpoint where it is not given. With --route the
checkpoint's own controllers are not asked, and --task names a task of the file, where it has
several. Bad input ends with one sentence and exit status 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import LazyConfig

from gppf_d2.export.backbone import export_backbone
from gppf_d2.modeling.weight_files import first_line


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.export_backbone",
        description="Export the backbone of one task's route as a plain one of the libraries.",
    )
    cli.add_argument("--checkpoint", required=True, help="a model_*.pth of a run")
    cli.add_argument("--task", default=None, help="whose route is taken")
    cli.add_argument(
        "--route", default=None, metavar="FILE", help="routes.json of a run, or another route file"
    )
    cli.add_argument("--format", required=True, help="detectron2, torchvision or timm")
    cli.add_argument("--output", required=True, help=".pth, .safetensors, or .pkl (detectron2)")
    cli.add_argument(
        "--config-file", default=None, help="config of the run; default: the one in the checkpoint"
    )
    cli.add_argument("--ema", action="store_true", help="take the averaged parameters")
    return cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        config = _load_config(options.config_file) if options.config_file else None
        report = export_backbone(
            options.checkpoint,
            options.task,
            options.format,
            options.output,
            config,
            ema=options.ema,
            route_file=options.route,
        )
    except (ValueError, OSError) as error:
        print(f"export_backbone: {error}", file=sys.stderr)
        return 1
    print(report)
    return 0


def _load_config(path: str) -> Mapping[str, Any]:
    if not os.path.isfile(path):
        raise ValueError(
            f"There is no config file {path!r}; give a LazyConfig .py or a config.yaml."
        )
    try:
        return LazyConfig.load(path)
    except Exception as error:
        raise ValueError(f"The config file {path!r} cannot be read: {first_line(error)}") from error


if __name__ == "__main__":
    sys.exit(main())
