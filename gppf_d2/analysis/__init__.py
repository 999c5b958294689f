"""See a run: routes, training curves, predictions, and one report page.

Import from here what users call: ``Predictor`` for images, ``write_report`` and ``draw_routes`` for
a run folder, ``write_label_page`` for pseudo labels. The modules: ``run_folder`` reads, ``routes``
and ``curves`` draw numbers, ``drawing`` (and ``sheets``) draw what heads say, ``predictions`` asks
them, ``output_files`` writes it down, ``report`` and ``label_page`` put pages together, ``figures``
holds the common look.
"""

from gppf_d2.analysis.drawing import draw
from gppf_d2.analysis.label_page import write_label_page
from gppf_d2.analysis.output_files import to_json
from gppf_d2.analysis.predictions import JointPredictor, Predictor, find_images
from gppf_d2.analysis.report import draw_routes, write_report
from gppf_d2.analysis.sheets import SheetRow, contact_sheet
from gppf_d2.analysis.truth import truth_of

__all__ = [
    "JointPredictor",
    "Predictor",
    "SheetRow",
    "contact_sheet",
    "draw",
    "draw_routes",
    "find_images",
    "to_json",
    "truth_of",
    "write_label_page",
    "write_report",
]
