"""How well features tell classes apart, without a classifier: nearest neighbours by cosine.

For tasks without labels of their own (self-supervision): each image of a labelled dataset is
classified by its k nearest OTHER images of the same dataset (leave one out), which vote with
exp(cosine / temperature), k = 20 and temperature 0.07 as is usual in the literature. There is no
bank of train features, so that numbers compare between runs, not with those of papers.

D features an image. Features are kept as float16, 2 D bytes an image, and gathered once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from gppf_d2.evaluation.truth import metadata_of, truth_of

_CHUNK = 1024  # images whose neighbours are looked up at a time


class NearestNeighbourEvaluator(DatasetEvaluator):
    """Leave-one-out accuracy of a weighted vote of the nearest neighbours.

    Args:
        dataset_name: registered dataset whose metadata holds "classes".
        num_neighbours: k.
        temperature: of the votes, > 0.

    Raises:
        ValueError: no neighbour, or a temperature that is not positive.
    """

    def __init__(
        self, dataset_name: str, *, num_neighbours: int = 20, temperature: float = 0.07
    ) -> None:
        if num_neighbours < 1 or not temperature > 0:
            raise ValueError(
                f"num_neighbours is {num_neighbours} and temperature {temperature}; give at least "
                "one neighbour and a positive temperature"
            )
        self._num_classes = len(metadata_of(dataset_name, "classes"))
        self._num_neighbours, self._temperature = num_neighbours, temperature
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._features: list[np.ndarray] = []
        self._labels: list[int] = []

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Keep images.

        Args:
            inputs: samples with "label".
            outputs: for each sample "features" [D].

        Raises:
            ValueError: a label is out of range.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            label = int(truth_of(sample, "label"))
            if not 0 <= label < self._num_classes:
                raise ValueError(
                    f"'{sample.get('file_name')}' has label {label}, expected 0 to "
                    f"{self._num_classes - 1}; correct the dataset"
                )
            feature = F.normalize(output["features"].detach().float(), dim=0)
            self._features.append(feature.half().cpu().numpy())
            self._labels.append(label)

    def evaluate(self) -> OrderedDict | None:
        """Accuracy over the images of all ranks.

        Collective: all ranks must call.

        Returns:
            On rank 0 {"nearest_neighbour": {"top1"}} in percent, NaN with less than two images.
            None on other ranks.
        """
        mine = (np.stack(self._features) if self._features else None, self._labels)
        gathered = comm.gather(mine)
        if not comm.is_main_process():
            return None
        parts = [features for features, _ in gathered if features is not None]
        labels = torch.tensor([label for _, some in gathered for label in some])
        if len(labels) < 2:
            return OrderedDict(nearest_neighbour={"top1": float("nan")})
        features = torch.from_numpy(np.concatenate(parts)).float()
        right = sum(
            int((self._vote(features, labels, start) == labels[start : start + _CHUNK]).sum())
            for start in range(0, len(labels), _CHUNK)
        )
        return OrderedDict(nearest_neighbour={"top1": 100 * right / len(labels)})

    def _vote(self, features: torch.Tensor, labels: torch.Tensor, start: int) -> torch.Tensor:
        """Predicted classes of the images from ``start`` on."""
        chosen = features[start : start + _CHUNK]
        cosine = chosen @ features.T
        rows = torch.arange(len(chosen))
        cosine[rows, rows + start] = -torch.inf  # an image is not its own neighbour
        nearest, index = cosine.topk(min(self._num_neighbours, len(labels) - 1), dim=1)
        votes = torch.zeros(len(chosen), self._num_classes)
        votes.scatter_add_(1, labels[index], (nearest / self._temperature).exp())
        return votes.argmax(dim=1)
