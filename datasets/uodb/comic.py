"""Comic2k: comics, 6 of VOC's classes, 1,000 images to train on and 1,000 to test.

See ``cross_domain`` for the layout.
"""

from __future__ import annotations

import argparse

from . import cross_domain

FOLDER = "comic"
CLASSES = cross_domain.ART


def prepare(chosen: argparse.Namespace) -> None:
    """Write both JSON files."""
    cross_domain.convert(chosen, FOLDER, CLASSES)
