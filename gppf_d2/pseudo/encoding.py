"""Encode and write beside the teachers' inference: a thread that takes what batches gave.

The main thread announces images (`add`), hands over reduced outputs (`take`) and ends a shard
(`finish`); the thread encodes labels into the rows of that shard and writes it when it is complete.
Its queue is short, so that memory stays bounded when writing is the slower half.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from gppf_d2.data.pseudo_labels import Row, StoredLabel, encode
from gppf_d2.engine.errors import UserError
from gppf_d2.pseudo.counting import count
from gppf_d2.pseudo.loading import Picture
from gppf_d2.pseudo.outputs import host_value
from gppf_d2.pseudo.store import LabelFolder

QUEUED = 4  # batches
NAMED = 10  # images without labels that the log names
SUSPICIOUS = 8  # images without labels, and no other in their shard: that is no accident

logger = logging.getLogger(__name__)


class Encoder:
    """The writing half of a labelling; a context manager around the whole of it.

    Args:
        labels: by name.
        folder: where shards go.
        relative: file name -> the name that is stored.
    """

    def __init__(
        self,
        labels: Mapping[str, StoredLabel],
        folder: LabelFolder,
        relative: Callable[[str], str],
    ) -> None:
        self._labels, self._folder, self._relative = labels, folder, relative
        self._rows: dict[int, Row] = {}  # of the shard at hand, in order
        self._queue: queue.Queue[Any] = queue.Queue(QUEUED)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self.corrupt = 0

    def __enter__(self) -> Encoder:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None:
            self._check()

    def add(self, picture: Picture) -> None:
        """Announce the next image of the shard at hand."""
        name = self._relative(picture.file_name)
        self._rows[picture.index] = Row(
            index=picture.index, file_name=name, image_hash=picture.image_hash,
            height=picture.height, width=picture.width,
            error=picture.error.replace(picture.file_name, name),
        )  # fmt: skip

    def size(self, index: int) -> tuple[int, int]:
        """H, W of an image of the shard at hand."""
        row = self._rows[index]
        return row.height, row.width

    def take(self, found: Sequence[tuple[int, str, Mapping[str, Tensor]]], copied: Any) -> None:
        """Take reduced outputs.

        Args:
            found: index of the image, label and tensors on the host.
            copied: a CUDA event after which the tensors are complete; None where they are.
        """
        self._check()
        self._queue.put(([(self._rows[index], name, data) for index, name, data in found], copied))

    def finish(self, shard: int) -> None:
        """End the shard at hand."""
        self._check()
        rows, self._rows = list(self._rows.values()), {}
        self._queue.put((shard, rows))

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._failure is not None:
                continue  # nobody must wait for room in the queue
            try:
                if isinstance(item[0], int):
                    self._refuse_nothing(*item)
                    self._folder.write(*item)
                    self._report(item[1])
                else:
                    self._encode(*item)
            except BaseException as error:
                self._failure = error

    def _encode(self, found: Sequence[tuple[Row, str, Mapping[str, Tensor]]], copied: Any) -> None:
        if copied is not None:
            copied.synchronize()
        for row, name, tensors in found:
            label = self._labels[name]
            value = host_value(label, tensors)
            try:
                row.cells[name] = encode(label, value)
            except FloatingPointError as error:  # of this image; all others shall be labelled
                row.error = f"label {name!r}: {error}"
                continue
            except ValueError as error:
                raise UserError(f"Label {name!r} of '{row.file_name}': {error}.") from error
            row.counts[name] = count(label, value)

    def _refuse_nothing(self, shard: int, rows: Sequence[Row]) -> None:
        """Stop where no image of a shard has labels: rather the folder is gone, or the teacher
        broken, than all these images."""
        if len(rows) >= SUSPICIOUS and all(row.error for row in rows):
            raise UserError(
                f"None of the {len(rows)} images of shard {shard} gets labels, from "
                f"'{rows[0].file_name}' on ({rows[0].error}); see that the images are there and "
                "the teachers sound, and give the same command again."
            )

    def _report(self, rows: Sequence[Row]) -> None:
        """Count the images of a shard that have no labels, and name the first ones."""
        for row in rows:
            if row.error:
                self.corrupt += 1
                if self.corrupt <= NAMED:
                    more = "; further ones are only counted" if self.corrupt == NAMED else ""
                    logger.warning("No labels for '%s': %s%s", row.file_name, row.error, more)
