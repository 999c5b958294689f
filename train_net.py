#!/usr/bin/env python
"""Pre-train, resume, evaluate or try out a gppf_d2 config.

python train_net.py --config-file configs/quick/mini_r18.py --num-processes 2
torchrun --nproc-per-node 8 train_net.py --config-file ... --num-gpus 8
python train_net.py --config-file ... --eval-only --tasks scenes train.num_workers=2
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings

# Deprecations inside Detectron2 and torch that a user of either can do nothing about. Here, at the
# top, so that spawned processes have it too.
for _module in ("torch", "detectron2", "fvcore", "builtins"):
    warnings.filterwarnings("ignore", module=rf"{_module}(\..*)?")

EPILOG = """\
Overrides are key=value with the config's keys: train.max_iter=100 tasks.coco.batch_size=4 ...
GPPF_D2_TRACEBACK=1 in the environment shows the traceback behind a one-sentence error.
"""


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="FILE", help="a LazyConfig, see configs/")
    add("--num-processes", type=int, metavar="N", help="processes on this machine (CPU)")
    add("--num-gpus", type=int, metavar="N", help="GPUs of this machine (default: all, 0: CPU)")
    add("--processes-per-gpu", type=int, default=1, metavar="K", help="ranks on every GPU")
    add("--num-machines", type=int, default=1, metavar="M")
    add("--machine-rank", type=int, default=0, metavar="R")
    add("--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0")
    add("--resume", action="store_true", help="go on from the newest checkpoint")
    add("--allow-task-changes", action="store_true", help="resume with tasks added or removed")
    add("--eval-only", action="store_true", help="evaluate a checkpoint")
    add("--dry-run", action="store_true", help="one step of every task: time and memory, then exit")
    add("--checkpoint", default="", metavar="FILE", help="for --eval-only (default: the newest)")
    add("--tasks", metavar="a,b", help="train or evaluate only these tasks")
    add("--data-root", default="", metavar="DIR", help="where datasets lie ($DETECTRON2_DATASETS)")
    add("overrides", nargs="*", metavar="key=value")
    return parser.parse_intermixed_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Parse, start the processes, return the exit status."""
    args = parse_arguments(argv)
    import torch

    from gppf_d2.engine.config import load_config
    from gppf_d2.engine.errors import UserError
    from gppf_d2.engine.launch import Launch, launch, report_error, under_torchrun
    from gppf_d2.engine.run import RunArguments, run

    tasks = None
    if args.tasks is not None:
        tasks = tuple(name.strip() for name in args.tasks.split(",") if name.strip())
    try:
        if args.data_root and not os.path.isdir(args.data_root):
            raise UserError(f"--data-root {args.data_root!r} is not a folder.")
        cfg = load_config(args.config_file, args.overrides, tasks)
        gpus = args.num_gpus
        if gpus is None:
            on_cpu = args.num_processes is not None or str(cfg.train.device) == "cpu"
            gpus = 0 if on_cpu else torch.cuda.device_count()
        if gpus and str(cfg.train.device) == "cpu":
            raise UserError(f"--num-gpus is {gpus} but train.device is cpu; leave one of them out.")
        if args.eval_only and (args.dry_run or args.resume):
            raise UserError("--eval-only evaluates: leave --dry-run and --resume out.")
        if under_torchrun() and (args.num_processes is not None or args.num_machines > 1):
            raise UserError(
                "torchrun has started the processes: leave --num-processes and --num-machines out."
            )
        if args.checkpoint and not args.eval_only:
            raise UserError("--checkpoint goes with --eval-only; training goes on with --resume.")
        if args.allow_task_changes and not (args.resume or args.eval_only):
            raise UserError("--allow-task-changes goes with --resume or --eval-only.")
        if gpus and args.num_processes is not None:
            raise UserError("Give either --num-processes (CPU) or --num-gpus, not both.")
        processes = 1 if args.num_processes is None else args.num_processes
        how = Launch(
            num_processes=gpus * args.processes_per_gpu if gpus else processes,
            num_gpus=gpus,
            processes_per_gpu=args.processes_per_gpu,
            num_machines=1 if under_torchrun() else args.num_machines,
            machine_rank=0 if under_torchrun() else args.machine_rank,
            dist_url=args.dist_url,
        )
    except UserError as error:
        report_error(error, int(os.environ.get("RANK", 0)))
        return 1
    arguments = RunArguments(
        config_file=args.config_file,
        overrides=tuple(args.overrides),
        tasks=tasks,
        resume=args.resume,
        eval_only=args.eval_only,
        dry_run=args.dry_run,
        checkpoint=args.checkpoint,
        allow_task_changes=args.allow_task_changes,
        data_root=args.data_root,
        device="" if gpus else "cpu",
        command=shlex.join(["train_net.py", *(sys.argv[1:] if argv is None else argv)]),
    )
    return launch(run, how, (arguments,))


if __name__ == "__main__":
    sys.exit(main())
