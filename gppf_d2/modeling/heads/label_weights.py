"""Weights of the losses of several labels: numbers, the scaling rule, or learned (MuST, section
3.2). `multi_label` says where they enter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.config import instantiate
from torch import nn


def scaling_rule(
    student_batch: int, student_lr: float, teacher_batch: int, teacher_lr: float
) -> float:
    """A label's weight w = (b_s lr_t) / (b_t lr_s) (MuST, section 3.2): its loss moves the student
    as far an image as it moved the teacher.

    Args:
        student_batch: b_s, images in a step of the student.
        student_lr: lr_s, its learning rate.
        teacher_batch: b_t, images in a step of the label's teacher.
        teacher_lr: lr_t, its learning rate.

    Raises:
        ValueError: one that is not positive.
    """
    given = {
        "student_batch": student_batch, "student_lr": student_lr,
        "teacher_batch": teacher_batch, "teacher_lr": teacher_lr,
    }  # fmt: skip
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"scaling_rule: {name} is {value!r}; give a positive number.")
    return (student_batch * teacher_lr) / (teacher_batch * student_lr)


class LogVariances(nn.ParameterDict):
    """s_h by label. Weight decay would pull every weight to 1, so there is none."""

    undecayed = True


def read_weights(
    weights: Mapping[str, Any], labels: Iterable[str], learned: bool = False
) -> dict[str, float]:
    """w_h of every label.

    Args:
        weights: label -> a number, or a lazy call that gives one; 1 where a label is not named.
        labels: all there are.
        learned: there are s_h beside the numbers. With w_h = 0 nothing would hold s_h back.

    Raises:
        ValueError: no such label, or no such weight.
    """
    labels = list(labels)
    unknown = [name for name in weights if name not in labels]
    if unknown:
        raise ValueError(
            f"weights names {unknown[0]!r}, which is no label; the labels are {', '.join(labels)}."
        )
    found = {label: instantiate(weights[label]) if label in weights else 1.0 for label in labels}
    for label, weight in found.items():
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not (number and math.isfinite(weight) and weight >= 0 and (weight or not learned)):
            raise ValueError(
                f"The weight of {label!r} is {weight!r}; give a finite number "
                + ("> 0 where weights are learned, or leave the label out." if learned else ">= 0.")
            )
    return {label: float(weight) for label, weight in found.items()}
