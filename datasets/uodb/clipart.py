"""Clipart1k: clip art, the 20 classes of VOC, 500 images to train on and 500 to test.

See ``cross_domain`` for the layout.
"""

from __future__ import annotations

import argparse

from . import cross_domain

FOLDER = "clipart"
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


def prepare(chosen: argparse.Namespace) -> None:
    """Write both JSON files."""
    cross_domain.convert(chosen, FOLDER, CLASSES)
