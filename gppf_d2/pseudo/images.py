"""The images that are to be labelled: a folder, or a registered dataset."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from gppf_d2.data.index.image_files import open_images
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.setup import load_records
from gppf_d2.pseudo.settings import Settings

ASKED_NAMES = 10_000  # that the digest covers, spread evenly
NEAR = 2  # levels above the labels that still count as beside them


@dataclass(frozen=True)
class Images:
    """Records of all images.

    Args:
        records: with "file_name".
        root: folder to which names are relative.
        dataset: registered name; "" for a folder.
    """

    records: Any
    root: str
    dataset: str

    def relative(self, file_name: str) -> str:
        """A file name as it is stored: relative to the root where it lies below it."""
        inside = os.path.abspath(file_name)
        return inside[len(self.root) + 1 :] if inside.startswith(self.root + os.sep) else file_name

    def facts(self, output: str) -> dict[str, Any]:
        """What the manifest says of the images.

        Args:
            output: folder of the labels; images that lie beside or below it are named relative to
                it, so that both can be moved together.
        """
        total = len(self.records)
        digest = hashlib.sha256()
        for index in np.unique(np.linspace(0, total - 1, min(total, ASKED_NAMES)).round()):
            name = self.relative(str(self.records[int(index)]["file_name"]))
            digest.update(f"{int(index)} {name}\n".encode("utf-8", "surrogateescape"))
        where = {"dataset": self.dataset} if self.dataset else {"folder": self._seen_from(output)}
        return {**where, "count": total, "digest": digest.hexdigest()}

    def _seen_from(self, output: str) -> str:
        path = os.path.relpath(os.path.realpath(self.root), _real(output))
        far = path.split(os.sep)[: NEAR + 1] == [os.pardir] * (NEAR + 1)
        return self.root if far else path


def open_data(settings: Settings) -> Images:
    """The images of a labelling.

    Raises:
        UserError: no such folder or dataset, or no image in it.
    """
    try:
        if settings.images:
            root = os.path.abspath(os.path.expanduser(settings.images))
            if not os.path.isdir(root):
                raise UserError(f"There is no folder of images '{settings.images}'.")
            if f"{_real(settings.output)}{os.sep}".startswith(f"{_real(root)}{os.sep}"):
                raise UserError(
                    f"output '{settings.output}' lies among the images of '{settings.images}', "
                    "which would change with every shard; name a folder beside them."
                )
            return Images(open_images(root), root, "")
        records = load_records([settings.dataset])
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    root = os.path.abspath(os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets")))
    return Images(records, root, settings.dataset)


def _real(path: str) -> str:
    return os.path.realpath(os.path.expanduser(path))
