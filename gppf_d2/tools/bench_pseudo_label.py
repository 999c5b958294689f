"""What labelling costs beside the teachers: files to shards against inference on mapped samples.

    python -m gppf_d2.tools.bench_pseudo_label [--images 16] [--size 480] [--repeats 3]

Two teachers with random weights on JPEGs of 640 x 480 that are made up here: Detectron2's Mask
R-CNN with a ResNet-50-FPN, of which ten boxes and masks an image are stored, and a ResNet-50 with
heads for 133 segments, 1,000 classes and depth. In one run, interleaved, medians of paired repeats:

- ``bare``: both teachers on samples that are mapped and batched already, outputs dropped;
- ``labelling``: ``label_images`` on the files, from the first one read to the last shard written.

The overhead in time, and in CPU time of all processes, which other work on the machine does not
disturb. One thread for inference (``--threads``), decoding in ``--workers`` processes beside it.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.modeling import build_model

from gppf_d2.data.mappers import DetectionMapper
from gppf_d2.data.pseudo_labels import read_manifest
from gppf_d2.modeling.heads import ClassificationHead, DepthHead, SemanticHead
from gppf_d2.modeling.lego import LegoResNet
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from gppf_d2.pseudo import Label, Settings, Teacher, label_images
from gppf_d2.pseudo.labeller import device_of, inference, prepare
from gppf_d2.pseudo.teacher import Inputs, on_device, share_equal
from gppf_d2.tools.bench_mapper import make_records

TARGET = 0.10  # of the bare teachers' time
PIXELS = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375]}
STAGES = ["res2", "res3", "res4", "res5"]


class MadeUpTeacher(Teacher):
    """A network built here.

    Args:
        network: is moved to the device.
        run: samples -> outputs by kind.
        kinds: label -> kind.
        size: short side of the images.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        run: Callable[[Inputs], list[dict[str, Any]]],
        kinds: dict[str, str],
        size: int,
    ) -> None:
        self.network, self.run = network.eval(), run
        self.labels = {name: Label(kind) for name, kind in kinds.items()}
        resize = T.ResizeShortestEdge(size, 2 * size)
        self.mappers = [DetectionMapper(False, augmentations=[resize], image_format="RGB")]
        self.divisors = [32]

    def describe(self) -> dict[str, Any]:
        return {"type": "made up", "weights_hash": ""}

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    def __call__(self, batch: Sequence[Inputs]) -> list[dict[str, Any]]:
        device = next(self.network.parameters()).device
        outputs = self.run([sample for (sample,) in on_device(batch, device)])
        return [
            {name: output[label.kind] for name, label in self.labels.items()} for output in outputs
        ]


def mask_teacher(size: int) -> MadeUpTeacher:
    """Detectron2's Mask R-CNN; the threshold is 0, since random weights are never sure."""
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.MASK_ON", True, "INPUT.FORMAT", "RGB",
         "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.RESNETS.OUT_FEATURES", STAGES,
         "MODEL.FPN.IN_FEATURES", STAGES, "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
         "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"],
         "MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [256], [512]],
         "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
         "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 10,
         "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 2,
         "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7, "MODEL.ROI_MASK_HEAD.NUM_CONV", 4,
         "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead",
         "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14]
    )  # fmt: skip
    network = build_model(cfg)
    return MadeUpTeacher(network, network, {"boxes": "instances"}, size)


def pixel_teacher(size: int) -> MadeUpTeacher:
    """Three heads on one ResNet-50."""
    tasks = ("segments", "depth", "classes")
    model = MultiTaskModel(LegoResNet(50, num_units=1), tasks)

    def view(*features: str) -> SharedBackbone:
        return SharedBackbone(list(features))

    model.add_head(
        "segments", lambda: SemanticHead(backbone=view(*STAGES), num_classes=133, **PIXELS)
    )
    model.add_head(
        "depth", lambda: DepthHead(backbone=view(*STAGES), depth_range=(0.1, 10.0), **PIXELS)
    )
    model.add_head(
        "classes", lambda: ClassificationHead(backbone=view("res5"), num_classes=1000, **PIXELS)
    )

    def run(samples: Inputs) -> list[dict[str, Any]]:
        with model.shared_features(tasks):
            outputs = [model.inference(task, samples) for task in tasks]
        return [{key: value for one in image for key, value in one.items()}
                for image in zip(*outputs)]  # fmt: skip

    kinds = {"segments": "sem_seg", "depth": "depth", "classes": "classes"}
    return MadeUpTeacher(model, run, kinds, size)


def batches(teacher: Teacher, records: Sequence[dict[str, Any]], size: int) -> list[list[Inputs]]:
    """The samples of all images, mapped, in batches: the images have one size."""
    mapped = [[mapper(dict(record)) for mapper in teacher.mappers] for record in records]
    for inputs in mapped:
        share_equal(inputs)
    return [mapped[start : start + size] for start in range(0, len(mapped), size)]


class Cost(NamedTuple):
    """What a call has taken: seconds, and CPU seconds of this process and its children."""

    seconds: float
    cpu: float


def cost(call: Callable[[], Any]) -> Cost:
    """Run something and say what it took."""
    start, before = time.perf_counter(), os.times()
    call()
    after = os.times()
    return Cost(time.perf_counter() - start, sum(after[:4]) - sum(before[:4]))


def infer(
    teachers: dict[str, Teacher], ready: dict[str, list], device: torch.device, amp: str
) -> None:
    """The teachers alone."""
    with inference(amp, device):
        for name, teacher in teachers.items():
            for batch in ready[name]:
                teacher(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, default=480, help="short side that teachers see")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="float32")
    options = parser.parse_args(arguments)
    if min(options.images, options.repeats, options.threads, options.batch_size) < 1:
        parser.error("at least 1 image, repeat, thread and image in a batch")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = device_of(options.device)
    teachers = {"boxes": mask_teacher(options.size), "pixels": pixel_teacher(options.size)}
    taken: dict[str, list[Cost]] = {"bare": [], "labelling": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        records = make_records(folder, options.images)
        ready = {name: batches(one, records, options.batch_size) for name, one in teachers.items()}
        for repeat in range(options.repeats):
            settings = Settings(
                images=str(folder), output=f"{scratch}/labels{repeat}", teachers=teachers,
                batch_size=options.batch_size, num_workers=options.workers, amp=options.amp,
                options={"boxes": {"threshold": 0.0}},
            )  # fmt: skip
            probe = cost(lambda settings=settings: prepare(settings, teachers, device))
            whole = cost(lambda settings=settings: label_images(settings, device=device))
            taken["labelling"].append(Cost(*(a - b for a, b in zip(whole, probe))))
            taken["bare"].append(cost(lambda: infer(teachers, ready, device, options.amp)))
        labels = read_manifest(settings.output).labels
        size = sum(path.stat().st_size for path in Path(settings.output).glob("*.arrow"))
    print(
        f"{options.images} images on {device}, {options.threads} threads, {options.workers} "
        f"workers, {os.cpu_count()} cores; {len(labels)} labels, "
        f"{size / options.images / 1e3:.0f} kB an image"
    )
    for name, costs in taken.items():
        seconds = statistics.median(one.seconds for one in costs)
        print(f"{name:10s} {options.images / seconds:8.2f} images/s")
    for number, what in enumerate(("time", "CPU time")):
        pairs = zip(taken["labelling"], taken["bare"])
        overhead = statistics.median(whole[number] / bare[number] - 1 for whole, bare in pairs)
        verdict = "PASS" if overhead <= TARGET else "MISS"
        print(f"overhead   {100 * overhead:8.1f} % {what:9s} target {100 * TARGET:.0f} % {verdict}")


if __name__ == "__main__":
    main()
