"""Predicted instances on disk: written as they come, read once by rank 0.

Every rank appends to three anonymous temporary files, which the system removes whatever happens to
the process:

    images   a JSON line per image: [image_id, number of instances, height, width]
    rows     a ``ROW`` per instance: class, score, box, length of the mask's RLE and its area
    masks    the RLEs' bytes, one after the other

``collect`` brings them to rank 0 rank by rank, as bytes in chunks over the gloo group: no object is
pickled, the ranks may be on different machines, and the memory of rank 0 is what the final arrays
take, whatever the number of ranks. An image that a padding sampler hands out twice counts once.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from detectron2.utils import comm

ROW = np.dtype(
    [
        ("category", "i4"),  # contiguous
        ("score", "f8"),
        ("box", "f4", 4),  # x, y, width, height in pixels
        ("mask_bytes", "i4"),  # length of its RLE; 0 without masks
        ("mask_area", "i4"),  # in pixels
    ]
)
CHUNK = 1 << 24  # bytes per message
FILES = ("images", "rows", "masks")


@dataclass
class Predictions:
    """All predicted instances, in the order of the ranks' images.

    Attributes:
        image_ids: ids of the I images that were predicted, each once.
        sizes: height and width of the images, int64 [I, 2].
        image: index into ``image_ids`` per instance, int64 [P].
        rows: ``ROW`` [P].
        rles: compressed RLE counts per instance, bytes [P], or None.
    """

    image_ids: list[Hashable]
    sizes: np.ndarray
    image: np.ndarray
    rows: np.ndarray
    rles: np.ndarray | None

    def select(self, chosen: np.ndarray) -> Predictions:
        """Some of the instances, by indices or flags."""
        rles = None if self.rles is None else self.rles[chosen]
        return Predictions(self.image_ids, self.sizes, self.image[chosen], self.rows[chosen], rles)


class PredictionStore:
    """Instances of the images that this rank predicted.

    Args:
        folder: where the temporary files are; None takes the system's folder (TMPDIR).
    """

    def __init__(self, folder: str | None = None) -> None:
        # open as long as the store lives
        self._files = {name: tempfile.TemporaryFile(dir=folder) for name in FILES}  # noqa: SIM115
        self._seen: set[Hashable] = set()

    def add(
        self,
        image_id: Hashable,
        size: tuple[int, int],
        rows: np.ndarray,
        rles: list[bytes] | None,
    ) -> None:
        """Append the instances of one image; a second call for the same image is ignored.

        Args:
            image_id: an int or a str.
            size: height and width in pixels.
            rows: ``ROW`` [R]; "mask_bytes" is filled in here.
            rles: compressed RLE counts [R], or None without masks.
        """
        if image_id in self._seen:
            return
        self._seen.add(image_id)
        if rles is not None:
            rows["mask_bytes"] = [len(rle) for rle in rles]
            self._files["masks"].write(b"".join(rles))
        self._files["rows"].write(rows.tobytes())
        line = json.dumps([image_id, len(rows), *size], default=int)  # numpy's integers
        self._files["images"].write(line.encode() + b"\n")

    def collect(self) -> Predictions | None:
        """Bring the instances of all ranks together.

        Collective: all ranks must call.

        Returns:
            On rank 0 all predictions; None on other ranks.
        """
        parts = {name: _collect(file) for name, file in self._files.items()}
        return _decode(**parts) if comm.is_main_process() else None


def _collect(file) -> np.ndarray | None:
    """The bytes of one file of all ranks in rank order, uint8, on rank 0."""
    size = file.seek(0, 2)
    sizes = [size]
    if comm.get_world_size() > 1:
        # the group that Detectron2's own gathering uses: gloo, also beside NCCL
        group = comm._get_global_gloo_group()
        own = torch.tensor([size])
        received = [torch.zeros_like(own) for _ in range(comm.get_world_size())]
        dist.all_gather(received, own, group=group)
        sizes = [int(number) for number in received]
    file.seek(0)
    if not comm.is_main_process():
        for start in range(0, size, CHUNK):
            data = bytearray(file.read(min(CHUNK, size - start)))
            dist.send(torch.frombuffer(data, dtype=torch.uint8), dst=0, group=group)
        return None
    content = np.empty(sum(sizes), dtype=np.uint8)
    file.readinto(memoryview(content)[:size])
    position = size
    for rank, length in enumerate(sizes[1:], start=1):
        for start in range(0, length, CHUNK):
            piece = content[position + start : position + min(start + CHUNK, length)]
            dist.recv(torch.from_numpy(piece), src=rank, group=group)
        position += length
    return content


def _decode(images: np.ndarray, rows: np.ndarray, masks: np.ndarray) -> Predictions:
    """Predictions from the files' bytes; the first prediction of an image counts."""
    entries = [json.loads(line) for line in images.tobytes().splitlines()]
    ids, counts, heights, widths = zip(*entries) if entries else ((), (), (), ())
    indices = {}
    first = np.array([indices.setdefault(key, n) == n for n, key in enumerate(ids)], dtype=bool)
    counts = np.array(counts, dtype=np.int64)
    kept = np.repeat(first, counts)
    rows = rows.view(ROW)
    rles = None
    if masks.size:
        ends = np.cumsum(rows["mask_bytes"], dtype=np.int64)
        starts = ends - rows["mask_bytes"]
        rles = np.empty(np.count_nonzero(kept), dtype=object)
        rles[:] = [
            masks[start:end].tobytes()
            for start, end in zip(starts[kept].tolist(), ends[kept].tolist())
        ]
    sizes = np.array([heights, widths], dtype=np.int64).T.reshape(-1, 2)
    return Predictions(
        image_ids=list(indices),
        sizes=sizes[first],
        image=np.repeat(np.arange(first.sum()), counts[first]),
        rows=rows[kept],
        rles=rles,
    )
