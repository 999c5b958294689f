"""What Watercolor2k, Clipart1k and Comic2k (Inoue et al., CVPR 2018) have in common.

    <set>/JPEGImages/*.jpg, <set>/Annotations/*.xml, <set>/ImageSets/Main/{train,test}.txt

The layout is that of Pascal VOC, the splits are the official lists. A third list of watercolor and
comic, ``extra``, has images whose boxes are dummies of one pixel; it is not used.
"""

from __future__ import annotations

import argparse

from .boxes_json import BoxesJson, output
from .voc_folder import add_voc_folder

# the classes of Watercolor2k and Comic2k
ART = ("bicycle", "bird", "car", "cat", "dog", "person")


def convert(chosen: argparse.Namespace, name: str, classes: tuple[str, ...]) -> None:
    """Write both JSON files of the set ``name``, which is also the name of its folder."""
    source = (
        f"unpack {name}.zip of the cross-domain detection datasets "
        "(https://naoto0804.github.io/cross_domain_detection/) into the folder of the datasets"
    )
    for split in ("train", "test"):
        content = BoxesJson(classes)
        add_voc_folder(content, chosen, name, split, source)
        content.write(output(chosen.root, name, split))
