"""How alike the layers of networks represent the same images (GPPF, appendix A).

    python -m gppf_d2.tools.cka MODEL [MODEL ...] (--dataset NAME [--data-root DIR] | --images DIR)

MODEL is RUN (a run folder: all its tasks), RUN:task, a file of weights, or FILE.py:function, which
returns a torch module; NAME= in front names it. One pass over the images gives every network with
itself and with every other: DIR/cka/NAME.json, which the report shows, and DIR/cka/NAME/, a heat
map of each pair; NAME is MODELS.DATASET.SIZE.KERNEL. Printed are how far a block of layers stands
out in each network (0: not at all) and how alike each two networks are. Memory does not grow with
the number of images.

torchrun --nproc-per-node N -m gppf_d2.tools.cka ... shares the batches, one GPU each. A wrong call
ends with one sentence and status 2.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.utils import comm
from tabulate import tabulate

from gppf_d2.analysis.figures import save_png
from gppf_d2.analysis.similarity.features import Layers
from gppf_d2.analysis.similarity.figures import pair_figure, similarity_figure
from gppf_d2.analysis.similarity.images import SquareImages, plan_batches, read_batches
from gppf_d2.analysis.similarity.similarity import (
    FOLDER,
    KERNELS,
    Network,
    Similarity,
    accumulate,
    choose_kernel,
)
from gppf_d2.data.index.image_files import open_images
from gppf_d2.distributed.consensus import agreed
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.launch import Launch, launch, refuse
from gppf_d2.engine.setup import load_records
from gppf_d2.pseudo.labeller import device_of
from gppf_d2.tools.cka_models import load_networks

REPORT_SECONDS = 5.0
LONGEST_NAME = 60  # of the models in a file's name


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be measured: all that can be wrong in a call has been looked at."""

    networks: tuple[Layers, ...]
    images: SquareImages
    batches: list[list[int]]
    kernel: str
    bandwidth: float
    batch_size: int
    passes: int
    dataset: str
    device: torch.device
    workers: int
    output: Path


def prepare(args: argparse.Namespace) -> Job:
    """Load networks and list images.

    Raises:
        UserError, ValueError, OSError: the call cannot be meant.
    """
    if args.data_root:
        if not os.path.isdir(args.data_root):
            raise UserError(f"--data-root {args.data_root!r} is not a folder.")
        os.environ["DETECTRON2_DATASETS"] = args.data_root
    if not args.bandwidth > 0:
        raise UserError(f"--bandwidth is {args.bandwidth:g}; give a positive number, such as 1.")
    if args.bandwidth != 1 and args.kernel != "rbf":
        raise UserError(
            f"--bandwidth is of the rbf kernel, the kernel is {args.kernel}; add --kernel rbf."
        )
    if args.workers < 0:
        raise UserError(f"--workers is {args.workers}; give 0 or more processes.")
    if args.images and not os.path.isdir(args.images):
        raise UserError(f"--images {args.images!r} is not a folder.")
    device = device_of(args.device)
    loaded = load_networks(args.models, args.layers, args.timm_model)
    records = load_records([args.dataset]) if args.dataset else open_images(args.images)
    images = SquareImages(records, args.size)
    batches = plan_batches(len(records), args.count, args.batch_size, args.passes, args.seed)
    output = (args.output or loaded.run or Path()) / FOLDER
    output.mkdir(parents=True, exist_ok=True)
    return Job(
        networks=loaded.networks, images=images, batches=batches, kernel=args.kernel,
        bandwidth=args.bandwidth, batch_size=min(args.batch_size, max(map(len, batches))),
        passes=args.passes, dataset=args.dataset or Path(args.images).resolve().name,
        device=device, workers=args.workers, output=output,
    )  # fmt: skip


def measure(job: Job) -> Similarity:
    """Run the networks over the images.

    Collective: all ranks must call; each takes its share of the batches.

    Raises:
        ValueError: an image cannot be read, or a layer cannot be compared; on all ranks.
    """
    rank, world_size = comm.get_rank(), comm.get_world_size()
    device = job.device
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    for network in job.networks:
        network.root.to(device)
    progress = _Progress(sum(map(len, job.batches)), world_size if rank == 0 else 0)
    with agreed():
        calibration = None
        if job.kernel == "rbf":
            calibration = next(read_batches(job.images, job.batches[:1])).to(device)
        kernel = choose_kernel(job.networks, job.kernel, job.bandwidth, calibration)
        mine = read_batches(job.images, job.batches[rank::world_size], job.workers)
        cka = accumulate(job.networks, mine, kernel, device, progress.add)
    cka.reduce()
    return Similarity(
        networks=tuple(Network(one.name, one.names, one.iteration) for one in job.networks),
        matrix=cka.matrix().numpy(),
        kernel=job.kernel,
        bandwidth=job.bandwidth if job.kernel == "rbf" else None,
        images=cka.images // job.passes,
        batch_size=job.batch_size,
        passes=job.passes,
        size=job.images.size,
        dataset=job.dataset,
    )


def write(similarity: Similarity, folder: Path) -> list[Path]:
    """The JSON file, the picture of all maps, and a picture of each.

    Args:
        similarity: what was measured.
        folder: that is written to.
    """
    stem = _stem(similarity)
    written = [
        similarity.save(folder / f"{stem}.json"),
        save_png(similarity_figure(similarity), folder / f"{stem}.png"),
    ]
    for first, second in [*((name, name) for name in similarity.names), *similarity.pairs]:
        name = first if first == second else f"{first}-{second}"
        figure = pair_figure(similarity, first, second)
        written.append(save_png(figure, folder / stem / f"{_plain(name)}.png"))
    return written


def _run(job: Job) -> None:
    """On every rank: measure; rank 0 writes and tells."""
    similarity = measure(job)
    if comm.is_main_process():
        written = write(similarity, job.output)
        print(tell(similarity))
        print(f"Wrote {written[0]}, {written[1].name} and a picture of each pair")


def tell(similarity: Similarity) -> str:
    """Tables of the scores and of the mean similarities."""
    rows = []
    for name in similarity.names:
        block, layers = similarity.blocks[name], similarity.layers_of(name)
        where = f"{layers[block.first]} to {layers[block.last]}" if block.score else "none"
        rows.append((name, f"{block.score:.3f}", where))
    text = tabulate(rows, headers=["network", "block structure", "block"], disable_numparse=True)
    if similarity.pairs:
        means = [
            (
                f"{one}, {other}",
                similarity.same_layers(one, other),
                similarity.all_layers(one, other),
            )
            for one, other in similarity.pairs
        ]
        head = ["mean similarity", "same layer", "any two layers"]
        text += "\n\n" + tabulate(means, headers=head, floatfmt=".3f")
    return text


class _Progress:
    """A line every few seconds: images, images/s, time left.

    Args:
        total: images of all ranks.
        ranks: that work like this one; 0 says nothing.
    """

    def __init__(self, total: int, ranks: int) -> None:
        self.total, self.ranks, self.done = total, ranks, 0
        self.start = self.said = time.perf_counter()

    def add(self, images: int) -> None:
        """Count images of this rank."""
        self.done += images
        now = time.perf_counter()
        if not self.ranks or now - self.said < REPORT_SECONDS:
            return
        self.said = now
        done = min(self.total, self.done * self.ranks)
        speed = done / (now - self.start)
        left = time.strftime("%H:%M:%S", time.gmtime((self.total - done) / speed))
        print(f"{done:,} of {self.total:,} images, {speed:.1f} images/s, {left} left", flush=True)


def _stem(similarity: Similarity) -> str:
    names = _plain("+".join(similarity.names))
    if len(names) > LONGEST_NAME:
        digest = hashlib.sha256("\n".join(similarity.names).encode()).hexdigest()[:8]
        names = f"{len(similarity.names)}-networks-{digest}"
    return f"{names}.{_plain(similarity.dataset)}.{similarity.size}.{similarity.kernel}"


def _plain(text: str) -> str:
    """Text that may be the name of a file."""
    return re.sub(r"[^\w.+-]+", "-", text)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m gppf_d2.tools.cka",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="[NAME=]RUN[:task] or a file")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--dataset", default="", metavar="NAME", help="a registered dataset")
    where.add_argument("--images", default="", metavar="DIR", help="a folder of images")
    parser.add_argument("--data-root", default="", metavar="DIR", help="$DETECTRON2_DATASETS")
    parser.add_argument("--kernel", choices=KERNELS, default=KERNELS[0])
    parser.add_argument(
        "--bandwidth", type=float, default=1.0, metavar="X",
        help="of rbf, in median distances of a layer (default: 1)",
    )  # fmt: skip
    numbers = {
        "count": (1024, "images"),
        "batch-size": (64, "images of a batch"),
        "passes": (1, "over the images, in different batches"),
        "size": (224, "side of the square images, in pixels"),
        "seed": (0, "of the choice and order of images"),
        "workers": (2, "processes that read images"),
    }
    for name, (default, what) in numbers.items():
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{what} ({default})"
        )
    parser.add_argument(
        "--layers", default="", metavar="PATTERN", help='some of them, such as "stem,res[34].*"'
    )
    parser.add_argument(
        "--timm-model", default="", metavar="NAME", help="of weights that are no ResNet or Swin"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="default: the first run, else where you are"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool; returns the exit status."""
    args = make_parser().parse_args(arguments)
    try:
        job = prepare(args)
    except Exception as error:
        return refuse(error)
    gpus = torch.cuda.device_count() if job.device.type == "cuda" else 0
    return launch(_run, Launch(num_gpus=gpus), (job,))


if __name__ == "__main__":
    sys.exit(main())
