"""DIODE: surface normals from a laser scanner, 1024 x 768, outdoors and indoors.

Layout, below ``diode``:

    {train,val}/{outdoor,indoors}/scene_*/scan_*/<name>.png            DIODE Depth
    {train,val}/{outdoor,indoors}/scene_*/scan_*/<name>_normal.npy     DIODE Normal
    {outdoor,indoors}_{train,val}.txt                                  made: one picture per line

``diode_normals_{train,val}`` is the outdoor part (16,884 + 446 pictures, MuST's "17k"), and
``diode_indoors_normals_{train,val}`` the other (8,574 + 325), less the few training pictures that
the release has no normals of. The lists come from ``datasets/prepare_diode.py``; the maps are read
as they are: vectors with x to the right, y up and z to the viewer, (0, 0, 0) where there is none.
"""

from __future__ import annotations

import functools
import os

from gppf_d2.data.registration import register_dataset

# name of the dataset -> part of the download, images with normals where that is known for sure
PARTS = {
    "diode_normals": ("outdoor", {"train": None, "val": 446}),
    "diode_indoors_normals": ("indoors", {"train": None, "val": 325}),
}


def load_list(list_file: str, folder: str) -> list[dict]:
    """Records of the pictures that a list names, in its order.

    Args:
        list_file: a path without suffix per line.
        folder: what the paths are relative to.

    Raises:
        FileNotFoundError: there is no list.
    """
    with open(list_file) as file:
        names = file.read().split()
    return [
        {
            "file_name": os.path.join(folder, f"{name}.png"),
            "image_id": index,
            "normals_file_name": os.path.join(folder, f"{name}_normal.npy"),
        }
        for index, name in enumerate(names)
    ]


def register(root: str) -> None:
    """Register the splits of both parts; ``root`` is the folder that holds ``diode``."""
    folder = os.path.join(root, "diode")
    for name, (part, sizes) in PARTS.items():
        for split, size in sizes.items():
            list_file = os.path.join(folder, f"{part}_{split}.txt")
            register_dataset(
                f"{name}_{split}",
                root,
                functools.partial(load_list, list_file, folder),
                hint=f"run `python datasets/prepare_diode.py --root {root}` on the downloads",
                evaluator_type="normals",
                official_size=size,
            )
