"""Folders as Pascal VOC has them: Annotations/*.xml, ImageSets/Main/*.txt, JPEGImages/*.jpg."""

from __future__ import annotations

import argparse
from pathlib import Path

from preparing import need, read_text, spread

from .boxes_json import BoxesJson, present, read_voc_xml


def add_voc_folder(
    content: BoxesJson, chosen: argparse.Namespace, folder: str, split: str, advice: str
) -> None:
    """Add the images of a list, with all their objects.

    Args:
        content: receives them; its classes are those that the XML files may name.
        chosen: root, workers and partial.
        folder: folder of the set, below the root.
        split: name of the list in ``ImageSets/Main``, without suffix.
        advice: what to do where a file is missing.

    Raises:
        FileNotFoundError: there is no list, or an image has no annotation file.
        ValueError: an annotation file is damaged or names another class; or an image is missing.
    """
    home = need(chosen.root / folder, advice)
    listed = read_text(need(home / "ImageSets" / "Main" / f"{split}.txt", advice))
    names = [f"{name}.jpg" for name in listed.split()]
    names = present(home / "JPEGImages", names, chosen.partial)
    paths = [home / "Annotations" / f"{Path(name).stem}.xml" for name in names]
    for path in paths:
        need(path, advice)
    indices = {name: index for index, name in enumerate(content.classes)}
    annotations = spread(read_voc_xml, paths, chosen.workers, f"{folder} {split}")
    for name, path, (width, height, boxes) in zip(names, paths, annotations, strict=True):
        image_id = content.add_image(f"{folder}/JPEGImages/{name}", width, height)
        for label, x0, y0, x1, y1, difficult in boxes:
            if label not in indices:
                raise ValueError(
                    f"'{path}' names the class '{label}', expected one of "
                    f"{', '.join(content.classes)}; restore the original"
                )
            content.add_box(image_id, indices[label], x0, y0, x1, y1, difficult)
