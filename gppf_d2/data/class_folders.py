"""Images in one folder per class, as the loaders of small datasets list them.

``gppf_d2.data.index.image_folder`` is for sets of millions of images, whose list is kept in an
index beside them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def list_class_folders(
    folder: str, classes: Sequence[str], suffix: str, advice: str, *, partly: bool = False
) -> list[tuple[str, int]]:
    """The images of a folder of class folders: in the order of the classes, then by name.

    Args:
        folder: holds a folder per class.
        classes: names of the folders in the order of their labels.
        suffix: how the names of images end; other files are passed over, hidden ones too.
        advice: what to do where the folders are others, in the imperative.
        partly: some of the classes may be missing, though not all.

    Returns:
        (path, label) of each image.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the class folders are others.
    """
    with os.scandir(folder) as entries:
        found = {entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."}
    strange = sorted(found - set(classes))
    missing = [name for name in classes if name not in found]
    if strange or not found or (missing and not partly):
        fault = f"holds '{strange[0]}', which is none" if strange else f"lacks '{missing[0]}'"
        raise ValueError(f"'{folder}' {fault} of the {len(classes)} class folders; {advice}")
    return [
        (os.path.join(folder, name, file), label)
        for label, name in enumerate(classes)
        if name in found
        for file in sorted(os.listdir(os.path.join(folder, name)))
        if file.endswith(suffix) and not file.startswith(".")
    ]
