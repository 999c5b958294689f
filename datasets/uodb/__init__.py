"""The ten sets of UODB that GPPF finetunes on, one module each.

A module has ``FOLDER``, the folder below the root by which its download is recognised, and
``prepare(chosen)``, which turns that download into ``uodb/annotations/<module>_{train,test}.json``
(``boxes_json``). ``chosen`` are the options of ``prepare_uodb.py``: root, workers, partial.
"""

from __future__ import annotations

SETS = (
    "kitti", "widerface", "pascal_voc", "lisa", "dota",
    "watercolor", "clipart", "comic", "kitchen", "deeplesion",
)  # fmt: skip
