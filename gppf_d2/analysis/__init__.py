"""See a run: routes, training curves, predictions, and one report page.

Import from here what users call: ``Predictor`` for images, ``write_report`` and ``draw_routes`` for
a run folder, ``write_comparison`` for several, ``write_label_page`` for pseudo labels. The modules:
``run_folder`` reads, ``routes`` and ``curves`` draw numbers, ``drawing`` (and ``sheets``) draw what
heads say, ``predictions`` asks them, ``output_files`` writes it down, ``report``, ``comparison``
and ``label_page`` put pages together, ``live`` serves them, ``figures`` holds the common look.
"""

from gppf_d2.analysis.comparison import write_comparison
from gppf_d2.analysis.drawing import draw
from gppf_d2.analysis.label_page import write_label_page
from gppf_d2.analysis.output_files import to_json
from gppf_d2.analysis.predictions import JointPredictor, Predictor, find_images
from gppf_d2.analysis.report import draw_routes, write_report
from gppf_d2.analysis.sheets import SheetRow, contact_sheet
from gppf_d2.analysis.training_pictures import TrainingPictures
from gppf_d2.analysis.truth import truth_of

__all__ = [
    "JointPredictor",
    "Predictor",
    "SheetRow",
    "TrainingPictures",
    "contact_sheet",
    "draw",
    "draw_routes",
    "find_images",
    "to_json",
    "truth_of",
    "write_comparison",
    "write_label_page",
    "write_report",
]
