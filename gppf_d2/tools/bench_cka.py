"""Time, memory and error of minibatch CKA, against comparing every pair of layers by itself.

    python -m gppf_d2.tools.bench_cka [--images 512] [--batch 64] [--reps 2]

Two made networks with the feature sizes of ResNet-50's stem and 16 blocks at 64 pixels, 17 x 17
layers, the linear kernel. The plain form keeps all features and takes for every pair both kernel
matrices, centres them and multiplies. It is timed on the 17 pairs of equal layers: a pair costs
what its two layers cost, so all 17 x 17 take 17 times as long. Ours takes all batches and gives the
34 x 34 layers of both. Times are the best of interleaved repetitions in one process, those of the
networks not included. Peaks are high-water marks of a process for each form (Linux), with the
features that it has to hold: all, or one layer's of one batch. The error is that against the
unbiased value of all images at once; minibatches compare an eighth of all pairs of images in a
pass, and their sum over passes in other orders approaches it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gppf_d2.analysis.similarity.cka import CKA, linear_kernel

SIZE = 64  # pixels
STAGES = [(64, 1, 4), (256, 3, 4), (512, 4, 8), (1024, 6, 16), (2048, 3, 32)]
WIDTHS = [channels * (SIZE // stride) ** 2 for channels, count, stride in STAGES
          for _ in range(count)]  # fmt: skip
LAYERS = len(WIDTHS)
PASSES = 64  # that show where minibatches lead
TARGET = 50  # times faster
TOLERANCE = 1e-3  # of CKA: on average in one pass, at most in many


def features(network: int, layer: int, images: int) -> Tensor:
    """What a layer gives [images, width]: a signal that drifts from layer to layer, noise, ReLU."""
    generator = torch.Generator().manual_seed(network)
    signal = torch.randn(images, 32, generator=torch.Generator().manual_seed(2))
    steps = torch.randn(layer + 1, images, 32, generator=generator)
    weights = torch.randn(32, WIDTHS[layer], generator=generator.manual_seed(3 + layer))
    weights *= torch.arange(1, 33)[:, None] ** -0.5
    noise = torch.randn(images, WIDTHS[layer], generator=generator)
    return ((signal + 0.1 * steps.sum(0)) @ weights).add_(noise, alpha=0.2).relu_()


def both_networks(images: int) -> list[list[Tensor]]:
    """Features [images, width] of all layers, network by network."""
    return [[features(net, layer, images) for layer in range(LAYERS)] for net in range(2)]


def plain_cka(x: Tensor, y: Tensor) -> float:
    """CKA of two layers, as GPPF writes it: equation 2 with HSIC = tr(KHLH) / (n - 1)^2."""
    count = len(x)
    centring = torch.eye(count) - 1 / count
    first, second = x @ x.T, y @ y.T

    def hsic(k: Tensor, m: Tensor) -> Tensor:
        return torch.trace(k @ centring @ m @ centring) / (count - 1) ** 2

    return (hsic(first, second) / (hsic(first, first) * hsic(second, second)).sqrt()).item()


def plain(networks: list[list[Tensor]]) -> list[float]:
    """CKA of all pairs of equal layers."""
    return [plain_cka(x, y) for x, y in zip(*networks)]


def streamed(networks: list[list[Tensor]], batch: int) -> CKA:
    """CKA of all layers with all, batch by batch."""
    cka = CKA(2 * LAYERS)
    for start in range(0, len(networks[0][0]), batch):
        part = slice(start, start + batch)
        cka.update(torch.stack([linear_kernel(x[part]) for layers in networks for x in layers]))
    return cka


def error_of(kernels: Tensor, expected: Tensor, batch: int, passes: int) -> Tensor:
    """Of minibatches [L, L], from the kernels of all images; their centre does not matter."""
    cka, generator = CKA(len(kernels)), torch.Generator().manual_seed(0)
    order = torch.arange(kernels.shape[-1])
    for _ in range(passes):
        for part in order.split(batch):
            cka.update(kernels[:, part[:, None], part])
        order = torch.randperm(len(order), generator=generator)
    return (cka.matrix() - expected).abs()


def peak_bytes(form: str, options: argparse.Namespace) -> int:
    """Memory of one form beyond an idle process."""
    linear_kernel(torch.rand(4, 4))  # what is loaded at first use is not the form's
    Path("/proc/self/clear_refs").write_text("5")  # the mark falls to what is resident now
    before = _high_water()
    if form == "plain":
        networks = both_networks(options.images)
        plain_cka(networks[0][1], networks[1][1])  # the widest
    else:
        cka = CKA(2 * LAYERS)
        for _ in range(options.images // options.batch):
            kernels = [
                linear_kernel(features(net, layer, options.batch))
                for net in range(2)
                for layer in range(LAYERS)
            ]
            cka.update(torch.stack(kernels))
    return _high_water() - before


def _high_water() -> int:
    """Largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def seconds(function: Callable, *arguments) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def report_times(networks: list[list[Tensor]], options: argparse.Namespace) -> None:
    """Print the line of the times."""
    slow, fast = [], []
    for _ in range(options.reps):
        slow.append(LAYERS * seconds(plain, networks))
        fast += [seconds(streamed, networks, options.batch) for _ in range(3)]
    ratio = min(slow) / min(fast)
    verdict = "PASS" if ratio >= TARGET else "MISS"
    print(
        f"{'time, s':12s} {min(slow):8.2f} {min(fast):8.2f} {ratio:7.1f} {TARGET:7g}  {verdict}",
        flush=True,
    )


def report_errors(networks: list[list[Tensor]], options: argparse.Namespace) -> None:
    """Print what the minibatches and the biased value are off by."""
    kernels = torch.stack([linear_kernel(x) for layers in networks for x in layers])
    whole = CKA(2 * LAYERS)
    whole.update(kernels)
    expected = whole.matrix()
    equal = torch.tensor(plain(networks)) - expected[:LAYERS, LAYERS:].diagonal()
    print(f"CKA differs from the unbiased value of all images, {expected.min():.2f} to 1, by")
    print(f"  {equal.abs().max():.4f} at most in the plain, biased form")
    for passes in (1, PASSES):
        error = error_of(kernels, expected, options.batch, passes)
        judged = error.mean() if passes == 1 else error.max()
        verdict = "PASS" if judged <= TOLERANCE else "MISS"
        print(
            f"  {error.mean():.4f} on average and {error.max():.4f} at most in minibatches, "
            f"{passes} pass{'es' * (passes > 1)}  {verdict}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Run the bench."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64, help="images of a minibatch")
    parser.add_argument("--reps", type=int, default=2, help="repetitions of the times")
    parser.add_argument("--peak", choices=["plain", "ours"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.peak:
        print(json.dumps(peak_bytes(options.peak, options)))
        return
    print(
        f"{LAYERS} x {LAYERS} layers, {options.images} images in minibatches of {options.batch}, "
        "one thread"
    )
    print(f"{'':12s} {'plain':>8s} {'ours':>8s} {'ratio':>7s} {'target':>7s}")
    peaks = []
    environment = {
        **os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536",
    }  # fmt: skip
    for form in ("plain", "ours"):
        command = [sys.executable, "-m", "gppf_d2.tools.bench_cka", *arguments, "--peak", form]
        output = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        peaks.append(int(output.stdout.splitlines()[-1]) / 2**20)
    networks = both_networks(options.images)
    report_times(networks, options)
    print(f"{'peak, MiB':12s} {peaks[0]:8.0f} {peaks[1]:8.0f} {peaks[0] / peaks[1]:7.1f}")
    report_errors(networks, options)


if __name__ == "__main__":
    main()
