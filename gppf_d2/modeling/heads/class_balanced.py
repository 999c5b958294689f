"""The classification loss of LVIS' second stage (GPPF, table 2; class-balanced loss [24], eq. 4).

Legend: K classes, n_k objects of class k in the training set, R regions of a batch, y_r the class
of region r or the background.

    w_k  = (1 - beta) / (1 - beta^n_k)      then scaled so that the sum over the classes is K
    loss = 1/R sum_r w[y_r] (-log softmax(z_r)[y_r])

(1 - beta^n) / (1 - beta) is the effective number of n objects: close to n for a rare class, at most
1 / (1 - beta) for any. The paper is about images of one class each and says nothing about regions
of background. They are taken as one more class, of which there is no end: n to infinity gives the
weight 1 - beta, scaled as the others are. So a region of background weighs what an object of a very
frequent class weighs, as it does without balancing. With the weight 1, the mean over the classes,
background would weigh about a hundred times as much as those on LVIS, and the detector would forget
them. The mean over R is Detectron2's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor

Counts = Sequence[int]


class ClassBalancedOutputLayers(FastRCNNOutputLayers):
    """Detectron2's Fast R-CNN predictor with a class-balanced classification loss.

    Parameters and state keys are those of ``FastRCNNOutputLayers``, so that either loads the
    other's weights; evaluation is the same. A Cascade R-CNN has one at each of its stages.

    Args:
        input_shape: of the pooled features.
        class_counts: objects of each class in the training set, or what gives them when it is
            called, once, at the first loss: who only evaluates needs no training set.
        beta: in [0, 1); 0 weighs all classes alike.
        background_weight: in the place of the limit above.
        **arguments: of ``FastRCNNOutputLayers``.

    Raises:
        ValueError: beta or the background's weight out of range, or a loss that is not softmax.
    """

    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        class_counts: Counts | Callable[[], Counts],
        beta: float = 0.999,
        background_weight: float | None = None,
        **arguments: object,
    ) -> None:
        super().__init__(input_shape, **arguments)
        if not 0 <= beta < 1:
            raise ValueError(f"beta is {beta}; give a number from 0 to below 1.")
        if background_weight is not None and not background_weight >= 0:
            raise ValueError(f"background_weight is {background_weight}; it must not be negative.")
        if self.use_sigmoid_ce:
            raise ValueError("The class-balanced loss is softmax's; set use_sigmoid_ce=False.")
        self.beta, self.background_weight = beta, background_weight
        self._counts = class_counts
        self._weights: Tensor | None = None

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Detectron2's losses with the classification loss weighted.

        Args:
            predictions: scores [R, K + 1], the background last, and box deltas.
            proposals: of each image, with "gt_classes".

        Returns:
            {"loss_cls", "loss_box_reg"}.

        Raises:
            ValueError: the counts are not one per class.
        """
        found = super().losses(predictions, proposals)
        scores = predictions[0]
        if not proposals or not len(scores):
            return found
        classes = torch.cat([one.gt_classes for one in proposals])
        weights = self._weights_like(scores)
        total = F.cross_entropy(scores.to(weights.dtype), classes, weights, reduction="sum")
        scale = self.loss_weight.get("loss_cls", 1.0)
        return {**found, "loss_cls": total / len(scores) * scale}

    def _weights_like(self, scores: Tensor) -> Tensor:
        if self._weights is None:
            counts = self._counts() if callable(self._counts) else self._counts
            if len(counts) != self.num_classes:
                raise ValueError(
                    f"class_counts has {len(counts)} numbers and num_classes is "
                    f"{self.num_classes}; give one per class."
                )
            weights = class_balanced_weights(counts, self.beta, self.background_weight)
            # half-precision scores get their loss in fp32
            self._weights = weights.to(torch.promote_types(scores.dtype, torch.float32))
        self._weights = self._weights.to(scores.device)
        return self._weights


def class_balanced_weights(
    counts: Counts, beta: float, background_weight: float | None = None
) -> Tensor:
    """The weights of all classes, the background's last: [K + 1], fp64.

    Classes without an object never are a label: they get 0 and are left out of K.

    Args:
        counts: n_k >= 0.
        beta: in [0, 1).
        background_weight: None gives the background the limit of the weights for endless objects.

    Raises:
        ValueError: no class has an object.
    """
    number = torch.tensor(list(counts), dtype=torch.float64)
    some = number > 0
    if not some.any():
        raise ValueError("No class has an object; are these the counts of the training set?")
    weights = torch.where(some, (1 - beta) / (1 - beta ** number.clamp(min=1)), 0.0)
    scale = some.sum() / weights.sum()
    background = (1 - beta) * scale if background_weight is None else background_weight
    return torch.cat([weights * scale, torch.as_tensor([background], dtype=torch.float64)])
