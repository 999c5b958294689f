"""See a run: routes, training curves, predictions, and one report page.

Import from here what users call: ``Predictor`` for images, ``write_report`` and ``draw_routes`` for
a run folder. The modules: ``run_folder`` reads, ``routes`` and ``curves`` draw numbers, ``drawing``
and ``predictions`` draw what heads say, ``report`` puts a page together, ``figures`` holds the
common look.
"""

from gppf_d2.analysis.drawing import SheetRow, contact_sheet, draw
from gppf_d2.analysis.predictions import Predictor, find_images, to_json, truth_of
from gppf_d2.analysis.report import draw_routes, write_report

__all__ = [
    "Predictor",
    "SheetRow",
    "contact_sheet",
    "draw",
    "draw_routes",
    "find_images",
    "to_json",
    "truth_of",
    "write_report",
]
