"""Time and peak memory of the lego backbone with N = 2, relative to the same backbone with N = 1.

    python -m gppf_d2.tools.bench_lego [--size 160] [--batch 4] [--reps 7] [--bf16]

Forward and backward of a whole ResNet-50 in training, statistics local. Times are medians of
paired, interleaved repeats in one process; peaks are taken in a process per variant (the resident
high-water mark beyond the built model on a CPU, which needs Linux, allocated bytes on a GPU).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from gppf_d2.modeling.lego import LegoResNet, draw_gates

# name -> (units, gate mode, mixing, checkpointing)
VARIANTS = {
    "N=1": (1, "soft", "in_step", False),
    "soft in_step": (2, "soft", "in_step", False),
    "soft plain": (2, "soft", "plain", False),
    "hard": (2, "hard", "in_step", False),
    "N=1 checkpoint": (1, "soft", "in_step", True),
    "soft in_step checkpoint": (2, "soft", "in_step", True),
}
FEATURES = ["res2", "res3", "res4", "res5"]


class Bench:
    """One variant, ready to run.

    Args:
        name: one of ``VARIANTS``.
        options: the command line.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        units, self.mode, mixing, checkpointing = VARIANTS[name]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        layout = torch.channels_last if options.bf16 else torch.contiguous_format
        self.backbone = LegoResNet(50, units, mixing=mixing, checkpoint=checkpointing).to(
            self.device, memory_format=layout
        )
        self.logits = nn.Parameter(torch.zeros(len(self.backbone.layer_names), units))
        x = torch.randn(options.batch, 3, options.size, options.size, device=self.device)
        self.x = x.contiguous(memory_format=layout)
        self.bf16 = options.bf16

    def step(self) -> None:
        """One forward and backward."""
        cast = torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()
        with cast:
            gates = draw_gates(self.logits.to(self.device), self.mode)
            features, _ = self.backbone([self.x], gates, FEATURES)
        sum(f.float().square().mean() for f in features[0].values()).backward()
        self.backbone.zero_grad(set_to_none=True)
        self.logits.grad = None

    def seconds(self) -> float:
        """Time of one step."""
        start = time.perf_counter()
        self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def peak_bytes(name: str, options: argparse.Namespace) -> float:
    """Memory of a step beyond the built model, in this process."""
    bench = Bench(name, options)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        bench.step()
        return torch.cuda.max_memory_allocated() - before
    small = Bench("N=1 checkpoint", argparse.Namespace(**{**vars(options), "batch": 2, "size": 32}))
    small.step()  # imports and thread pools are not the variant's
    del small
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is resident now
    before = _high_water()
    bench.step()
    return _high_water() - before


def _high_water() -> int:
    """Largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def measure_peaks(arguments: list[str]) -> dict[str, float]:
    """Peaks of all variants, each in a process of its own."""
    environment = {
        **os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536",
    }  # fmt: skip
    peaks = {}
    for name in VARIANTS:
        command = [sys.executable, "-m", "gppf_d2.tools.bench_lego", *arguments, "--peak", name]
        output = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        peaks[name] = json.loads(output.stdout.splitlines()[-1])
    return peaks


def measure_times(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per step of all variants, interleaved; the first round warms up."""
    benches = {name: Bench(name, options) for name in VARIANTS}
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    names = list(VARIANTS)
    for repeat in range(options.reps + 1):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            seconds = benches[name].seconds()
            if repeat:
                times[name].append(seconds)
    return times


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=160, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast and channels_last")
    parser.add_argument("--peak", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peak:
        print(json.dumps(peak_bytes(options.peak, options)))
        return
    peaks = measure_peaks(arguments)
    times = measure_times(options)
    form = "bf16 autocast, channels_last" if options.bf16 else "fp32"
    print(
        f"lego ResNet-50, {options.batch} images of {options.size} px, {form}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    print(f"{'variant':26s} {'time':>6s} {'peak':>6s}   (N=1 is 1)")
    for name in VARIANTS:
        ratio = statistics.median(a / b for a, b in zip(times[name], times["N=1"]))
        print(f"{name:26s} {ratio:6.2f} {peaks[name] / peaks['N=1']:6.2f}")


if __name__ == "__main__":
    main()
