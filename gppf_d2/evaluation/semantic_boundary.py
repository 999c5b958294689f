"""Boundary IoU of semantic segmentation (Cheng et al., CVPR 2021).

For a class with true mask G and predicted mask P, G_d the pixels of G within d of its contour:

    boundary IoU = |G_d and P_d| / |G_d or P_d|,  d = 2 % of the image's diagonal

A pixel is in G_d if the square of 2 d + 1 pixels around it leaves G; outside the image counts as
outside of G, as in the authors' code. Pixels without a label are cut out of truth and prediction
alike, and their edges are contours of both.
"""

from __future__ import annotations

import cv2
import numpy as np

WIDTH = 0.02  # d over the diagonal


def boundary_counts(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels of all classes' boundary regions in one image.

    Args:
        truth: labels 0 to K - 1, or K without a label, [H, W].
        predicted: labels 0 to K - 1, [H, W].
        num_classes: K.

    Returns:
        int64 [3, K]: pixels in both regions, in the true one, in the predicted one.
    """
    labelled = truth < num_classes
    predicted = np.where(labelled, predicted, num_classes)
    distance = max(1, round(WIDTH * float(np.hypot(*truth.shape))))
    true_region = labelled & _near_contour(truth, distance)
    predicted_region = labelled & _near_contour(predicted, distance)
    both = true_region & predicted_region & (truth == predicted)
    return np.stack(
        [
            np.bincount(labels[region], minlength=num_classes)
            for labels, region in (
                (truth, both),
                (truth, true_region),
                (predicted, predicted_region),
            )
        ]
    )


def _near_contour(labels: np.ndarray, distance: int) -> np.ndarray:
    """Whether the square around a pixel holds another label or leaves the image, bool [H, W]."""
    # the image's outside is 0: below all labels, never the largest of a square
    shifted = (labels + 1).astype(np.uint16)
    square = np.ones((2 * distance + 1,) * 2, dtype=np.uint8)
    outside = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    return cv2.erode(shifted, square, **outside) != cv2.dilate(shifted, square, **outside)
