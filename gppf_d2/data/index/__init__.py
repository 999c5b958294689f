"""Memory-mapped columnar index of dataset annotations.

``open_records(name)`` opens, and where needed first builds, the index of any dataset in
Detectron2's catalogs, ``open_images(folder)`` that of any folder of images. ``source`` says what
one is made from, ``records`` what it gives, ``store`` how it lies on disk and ``places`` where.
"""

from gppf_d2.data.index.catalog import open_records
from gppf_d2.data.index.coco import CocoJsonSource
from gppf_d2.data.index.image_files import ImageFilesSource, open_images
from gppf_d2.data.index.opening import open_source
from gppf_d2.data.index.places import join_run
from gppf_d2.data.index.records import RecordSequence, concatenate
from gppf_d2.data.index.source import Columns, DerivedSource, Source, Writer

__all__ = [
    "CocoJsonSource",
    "Columns",
    "DerivedSource",
    "ImageFilesSource",
    "RecordSequence",
    "Source",
    "Writer",
    "concatenate",
    "join_run",
    "open_images",
    "open_records",
    "open_source",
]
