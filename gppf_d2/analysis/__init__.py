"""See a run: results, predictions, routes, similarity of layers, training; one report page.

Import from here what users call: ``Predictor`` for images, ``write_report`` and ``draw_routes`` for
a run folder, ``write_comparison`` for several, ``write_label_page`` for pseudo labels. Each topic
has a folder whose ``section`` is its part of the report; ``run_folder`` reads what a run wrote,
``report`` and ``label_page`` put pages together from ``page``, ``figures`` holds the common look.
"""

from gppf_d2.analysis.comparison.page import write_comparison
from gppf_d2.analysis.label_page import write_label_page
from gppf_d2.analysis.predictions.drawing import draw
from gppf_d2.analysis.predictions.output_files import to_json
from gppf_d2.analysis.predictions.predictor import JointPredictor, Predictor, find_images
from gppf_d2.analysis.predictions.sheets import SheetRow, contact_sheet
from gppf_d2.analysis.predictions.truth import truth_of
from gppf_d2.analysis.report import draw_routes, write_report
from gppf_d2.analysis.training.pictures import TrainingPictures

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
