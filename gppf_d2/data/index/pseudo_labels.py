"""Images with pseudo labels, as records: those of the labelled dataset, and where the labels are.

A folder of label shards (``gppf_d2.data.pseudo_labels``) names its images: a folder or a registered
dataset. Their records stay as they are, annotations included, and get

    dataset_name   the registered dataset, or "pseudo_<name of the folder of labels>"
    pseudo_shard   path of the shard with the image's labels
    pseudo_row     its row there

Nothing is stored twice, so there is no index beside that of the images. Images that could not be
read when they were labelled are left out.
"""

from __future__ import annotations

import dataclasses
import os
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gppf_d2.data.index.catalog import open_records
from gppf_d2.data.index.image_files import open_images
from gppf_d2.data.index.records import RecordSequence
from gppf_d2.data.pseudo_labels import Manifest, open_shard, read_manifest, stored_name

LOOKS = 8  # images whose names are compared at every opening


@dataclass(frozen=True)
class PseudoLabelSource:
    """The images of a folder of label shards.

    Args:
        folder: with the manifest and the shards.
    """

    folder: str

    @property
    def name(self) -> str:
        """What the images are called where they are no registered dataset's."""
        return f"pseudo_{os.path.basename(os.path.abspath(self.folder))}"

    def open_records(self) -> RecordSequence:
        """Open the images through their own index, and compare some names with those labelled.

        Raises:
            FileNotFoundError: there is no manifest, or no shard.
            ValueError: the images are not there, or others than those that were labelled.
        """
        manifest = read_manifest(self.folder)
        what = f"dataset '{manifest.dataset}'" if manifest.dataset else f"'{manifest.image_folder}'"
        try:
            if manifest.dataset:
                images = open_records(manifest.dataset)
            else:
                images = open_images(manifest.image_folder)
        except (FileNotFoundError, KeyError) as error:
            text = error.args[0] if isinstance(error, KeyError) else error
            raise ValueError(
                f"The labels in '{self.folder}' are of the images of {what}: {text}"
            ) from error
        records = PseudoRecords(images, manifest, manifest.dataset or self.name)
        self._compare(records, images, manifest, what)
        return records

    def _compare(
        self, records: PseudoRecords, images: RecordSequence, manifest: Manifest, what: str
    ) -> None:
        fault = ""
        if len(images) != len(manifest):
            fault = f"{len(images):,} images"
        elif len(records):
            for index in np.linspace(0, len(records) - 1, LOOKS).astype(int).tolist():
                record = records[index]
                if not is_labelled_image(record):
                    fault = f"'{record['file_name']}' in another place"
                    break
        if fault:
            raise ValueError(
                f"The labels in '{self.folder}' are of {len(manifest):,} images of {what}, which "
                f"now has {fault}; restore the images that were labelled, or label anew"
            )


def is_labelled_image(record: Mapping[str, Any]) -> bool:
    """Whether the name of a record's image is the one that its pseudo labels were made of.

    Names below the root of the images are stored from there on; of others, which may have moved,
    the last part is compared.
    """
    labelled = open_shard(record["pseudo_shard"]).cell("file_name", record["pseudo_row"])
    name = stored_name(record["file_name"])
    if os.path.isabs(labelled):
        return os.path.basename(labelled) == os.path.basename(name)
    return f"{os.sep}{name}".endswith(f"{os.sep}{labelled}")


class PseudoRecords(RecordSequence):
    """The images that have labels; they keep the objects of their own annotations.

    Args:
        images: all images that were to be labelled.
        manifest: of the labels.
        name: of the dataset, for records that do not say.
    """

    def __init__(self, images: RecordSequence, manifest: Manifest, name: str) -> None:
        self._images, self._name = images, name
        unreadable = np.array(sorted(entry["index"] for entry in manifest.corrupt), np.int64)
        # how many records come before each image that is left out
        self._before = unreadable - np.arange(len(unreadable))
        # without its lists, which every worker would get
        self._manifest = dataclasses.replace(manifest, corrupt=(), labels={}, teachers={})

    def __len__(self) -> int:
        return len(self._images) - len(self._before)

    def _record(self, index: int) -> dict[str, Any]:
        image = index + bisect_right(self._before, index)
        shard, row = self._manifest.place(image)
        record = {"dataset_name": self._name} | self._images[image]
        return record | {"pseudo_shard": shard, "pseudo_row": row}

    def object_table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not len(self._before):
            return self._images.object_table()
        kept = np.ones(len(self._images), bool)
        kept[self._before + np.arange(len(self._before))] = False
        return self._images.select(kept).object_table()
