"""Pseudo labels: teachers label images, once, for students to be trained on (MuST, section 3.1).

``teacher`` says what a teacher is, ``run_teacher``, ``detectron2_teacher`` and
``callable_teacher`` are the three that come along; ``labeller`` runs them over images and
``store`` keeps the folder. What lies in it, and how it is read, is ``gppf_d2.data.pseudo_labels``.
"""

from gppf_d2.pseudo.callable_teacher import CallableTeacher
from gppf_d2.pseudo.detectron2_teacher import Detectron2Teacher
from gppf_d2.pseudo.labeller import label_images
from gppf_d2.pseudo.run_teacher import RunTeacher
from gppf_d2.pseudo.settings import Settings
from gppf_d2.pseudo.teacher import Label, Teacher

__all__ = [
    "CallableTeacher",
    "Detectron2Teacher",
    "Label",
    "RunTeacher",
    "Settings",
    "Teacher",
    "label_images",
]
