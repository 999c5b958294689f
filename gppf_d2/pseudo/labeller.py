"""Run teachers over images and fill a folder of pseudo labels (MuST, section 3.1).

Data workers decode every image once and map it for each teacher; here teachers run on batches of
images of one size; a thread encodes and writes. A shard is a function of images, teachers and
options alone: batches are made up within a shard, in the order of its images, and no image gets
another padding than alone. Memory is that of a shard's labels, a few batches and what the workers
read ahead.

The last bits of a network's sums, and bytes of shards with them, may depend on the machine, on the
threads of a process and on the batch size; who is killed and how many share the work do not count.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import instantiate

from gppf_d2.data.pseudo_labels import StoredLabel, encode
from gppf_d2.data.samples import one_line
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.setup import AMP_DTYPES
from gppf_d2.pseudo.encoding import Encoder
from gppf_d2.pseudo.images import Images, open_data
from gppf_d2.pseudo.loading import Parts, Picture, chunks
from gppf_d2.pseudo.outputs import host_value, reduce_output, to_host
from gppf_d2.pseudo.settings import Settings
from gppf_d2.pseudo.store import LabelFolder
from gppf_d2.pseudo.teacher import PROBE, Inputs, Teacher

REPORT_SECONDS = 10.0
WAITING_BATCHES = 8  # for a teacher, until the fullest is run although others would fit into it

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a call has done.

    Args:
        images: labelled here and now.
        corrupt: of them without labels: they cannot be read, or a teacher fails on them.
        seconds: it took.
        manifest: of the folder; None while shards of other processes are missing.
    """

    images: int
    corrupt: int
    seconds: float
    manifest: Mapping[str, Any] | None


def label_images(
    settings: Settings, part: tuple[int, int] = (0, 1), device: torch.device | None = None
) -> Outcome:
    """Label what is not labelled yet.

    Args:
        settings: what to do.
        part: (i, n): this process makes every n-th shard from the i-th on.
        device: where the teachers run; None takes ``settings.device``.

    Returns:
        What was done.

    Raises:
        UserError: images, teachers or folder are not as they must be; before anything is labelled.
    """
    with _threads(settings.threads):
        return _label_images(settings, part, device or device_of(settings.device))


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """PyTorch's number of CPU threads in this block; 0 leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _label_images(settings: Settings, part: tuple[int, int], device: torch.device) -> Outcome:
    images = open_data(settings)
    teachers = build_teachers(settings)
    labels = prepare(settings, teachers, device)
    asked = {
        "images": images.facts(settings.output),
        "shard_size": settings.shard_size,
        "amp": settings.amp,
        "labels": {name: label.facts() for name, label in labels.items()},
        "teachers": {name: teacher.describe() for name, teacher in teachers.items()},
    }
    folder = LabelFolder(settings.output, asked)
    labeller = _Labeller(settings, images, labels, list(teachers.values()), folder, device)
    start = time.perf_counter()
    labeller.run(folder.missing(*part))
    seconds = time.perf_counter() - start
    return Outcome(labeller.done, labeller.encoder.corrupt, seconds, folder.finish())


def build_teachers(settings: Settings) -> dict[str, Teacher]:
    """The teachers of a labelling, on the CPU.

    Raises:
        UserError: one that cannot be built.
    """
    found: dict[str, Teacher] = {}
    for name, config in settings.teachers.items():
        if not isinstance(config, Teacher) and "_target_" not in (config or {}):
            raise UserError(
                f"teachers.{name} is {config}; write L(RunTeacher)(...) or another teacher."
            )
        try:
            found[name] = instantiate(config)
        except TypeError as error:
            raise UserError(f"teachers.{name}: {one_line(error)}.") from error
    return found


def device_of(name: str) -> torch.device:
    """The device that a config names; "auto" is this process's GPU where there is one.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    usable = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    if device.type not in usable:
        raise UserError(f"device is {name!r}; allowed are auto, cpu and, with a GPU, cuda.")
    return device


def prepare(
    settings: Settings, teachers: Mapping[str, Teacher], device: torch.device
) -> dict[str, StoredLabel]:
    """Move the teachers to the device, and find out how each label is stored.

    Raises:
        UserError: a label that cannot be stored or that two teachers give, or a wrong option.
    """
    found: dict[str, StoredLabel] = {}
    settings.check_options({name: 0 for teacher in teachers.values() for name in teacher.labels})
    for key, teacher in teachers.items():
        with inference(settings.amp, device):
            outputs = teacher.prepare(device)
        for name, label in teacher.labels.items():
            if name in found:
                raise UserError(
                    f"The teachers {found[name].teacher!r} and {key!r} both give {name!r}; name "
                    "one of the labels otherwise."
                )
            found[name] = settings.stored(name, label, key)
            _try_out(name, found[name], outputs[name])
    return found


def _try_out(name: str, label: StoredLabel, output: Any) -> None:
    """Go with the output for the probe all the way that others will go."""
    try:
        reduced = reduce_output(label, output, PROBE)
        encode(label, host_value(label, {key: value.cpu() for key, value in reduced.items()}))
    except (ValueError, FloatingPointError) as error:
        raise UserError(f"Label {name!r}: {error}.") from error


@contextlib.contextmanager
def inference(amp: str, device: torch.device) -> Iterator[None]:
    """No gradients, the asked precision, and on a GPU the same sums every time."""
    dtype = AMP_DTYPES[amp]
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        yield


class _Waiting:
    """Images of a shard that wait for others of their size, for one teacher."""

    def __init__(self, teacher: Teacher, batch_size: int) -> None:
        self.teacher, self.batch_size = teacher, batch_size
        self._groups: dict[tuple, list[tuple[int, Inputs]]] = {}
        self._count = 0

    def add(self, index: int, inputs: Inputs) -> list[tuple[int, Inputs]]:
        """A batch that is to be run now; empty where there is none."""
        key = self._key(inputs)
        group = self._groups.setdefault(key, [])
        group.append((index, inputs))
        self._count += 1
        if len(group) < self.batch_size:
            if self._count < WAITING_BATCHES * self.batch_size:
                return []
            key = max(self._groups, key=lambda key: len(self._groups[key]))
        batch = self._groups.pop(key)
        self._count -= len(batch)
        return batch

    def rest(self) -> list[list[tuple[int, Inputs]]]:
        """All that waits."""
        groups, self._groups, self._count = self._groups, {}, 0
        return list(groups.values())

    def _key(self, inputs: Inputs) -> tuple:
        return tuple(
            tuple(-(-side // divisor) for side in sample["image"].shape) if divisor else ()
            for sample, divisor in zip(inputs, self.teacher.divisors)
        )


class _Labeller:
    """The loop of one process."""

    def __init__(
        self,
        settings: Settings,
        images: Images,
        labels: Mapping[str, StoredLabel],
        teachers: Sequence[Teacher],
        folder: LabelFolder,
        device: torch.device,
    ) -> None:
        self.settings, self.images, self.labels = settings, images, labels
        self.teachers, self.device = teachers, device
        self.encoder = Encoder(labels, folder, images.relative)
        self.done = 0

    def run(self, shards: Sequence[int]) -> None:
        """Make some shards."""
        settings, total = self.settings, len(self.images.records)
        parts = Parts(shards, settings.shard_size, total, settings.batch_size)
        if not shards:
            return
        loader = chunks(
            self.images.records, self.teachers, parts, settings.num_workers,
            pinned=self.device.type == "cuda",
        )  # fmt: skip
        start = said = time.perf_counter()
        # workers are forked before the encoder's thread begins
        loaded = iter(loader)
        waiting = [_Waiting(one, settings.batch_size) for one in self.teachers]
        with self.encoder, inference(settings.amp, self.device):
            for chunk in loaded:
                if chunk.failure:
                    raise UserError(chunk.failure)
                for picture in chunk.pictures:
                    self._add(picture, waiting)
                if chunk.part.last:
                    for one in waiting:
                        for batch in one.rest():
                            self._label(one.teacher, batch)
                    self.encoder.finish(chunk.part.shard)
                self.done += len(chunk.pictures)
                if time.perf_counter() - said > REPORT_SECONDS:
                    said = time.perf_counter()
                    _report(self.done, parts.images, said - start)

    def _add(self, picture: Picture, waiting: list[_Waiting]) -> None:
        self.encoder.add(picture)
        for one, inputs in zip(waiting, picture.inputs):
            batch = one.add(picture.index, inputs)
            if batch:
                self._label(one.teacher, batch)

    def _label(self, teacher: Teacher, batch: list[tuple[int, Inputs]]) -> None:
        """Run a teacher, and hand what is stored to the encoder."""
        outputs = teacher([inputs for _, inputs in batch])
        found = []
        for (index, inputs), output in zip(batch, outputs):
            size = self.encoder.size(index)
            for name, label in teacher.labels.items():
                window = inputs[label.mapper].get("window")
                try:
                    reduced = reduce_output(self.labels[name], output[name], size, window)
                except ValueError as error:
                    raise UserError(f"The teacher of {name!r}: {error}.") from error
                found.append((index, name, to_host(reduced)))
        copied = None
        if self.device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record()
        self.encoder.take(found, copied)


def _report(done: int, total: int, seconds: float) -> None:
    speed = done / seconds
    left = time.strftime("%H:%M:%S", time.gmtime((total - done) / speed))
    days = int((total - done) / speed) // 86400
    logger.info(
        "%d of %d images (%.1f %%), %.1f images/s, %s%s left",
        done, total, 100 * done / total, speed, f"{days} days " if days else "", left,
    )  # fmt: skip
