"""Self-supervision as a task like any other: SimCLR on two views of each image.

Both views go through the backbone as ONE batch of 2B, the one training call of a micro-step. The
negatives are the other images of this rank's batch: other ranks may run other tasks, so the head
issues no collective, and the batch size per process is the number of images that are told apart.

Shapes: B images on this rank, D features, E ``out_channels``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

from gppf_d2.modeling.heads.image_batch import ImageHead


class ContrastiveHead(ImageHead):
    """Projection MLP and NT-Xent loss on the pooled feature.

    In evaluation the head gives the pooled feature itself, as ``NearestNeighbourEvaluator`` wants.

    Args:
        backbone: a Detectron2 Backbone, usually a SharedBackbone.
        pixel_mean: per channel, of images in [0, 255].
        pixel_std: per channel.
        in_feature: the feature to pool; default the one of the largest stride.
        hidden_channels: width of the MLP's hidden layer; default D.
        out_channels: E.
        temperature: of the loss, > 0.
        norm: after the hidden layer, as in Detectron2; with the statistics of this rank.

    Raises:
        ValueError: a feature that the backbone does not give, a temperature that is not positive.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        in_feature: str | None = None,
        hidden_channels: int | None = None,
        out_channels: int = 128,
        temperature: float = 0.1,
        norm: str = "BN",
    ) -> None:
        super().__init__(backbone, pixel_mean, pixel_std)
        self.in_feature, channels = self.choose_feature(in_feature)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be positive.")
        self.temperature = temperature
        hidden = hidden_channels or channels
        # 1x1 convolutions: Detectron2's norms take [B, D, 1, 1]
        self.project = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=not norm),
            get_norm(norm, hidden) or nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(hidden, out_channels, 1),
        )

    def forward(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[dict]:
        """The loss in training, else per sample the feature.

        Args:
            samples: in training with "views" [2, 3, S, S], else with "image" [3, H, W].

        Returns:
            {"loss_contrastive"}, or a list of {"features": [D]}.
        """
        if not self.training:
            return [{"features": feature} for feature in self.pooled(samples).flatten(1).float()]
        both = [{"image": sample["views"][view]} for view in (0, 1) for sample in samples]
        projected = self.project(self.pooled(both)).flatten(1)
        return {"loss_contrastive": self.loss(projected)}

    def pooled(self, samples: Sequence[Mapping[str, Any]]) -> Tensor:
        """The backbone's feature averaged over the image: [B, D, 1, 1]."""
        features = self.backbone(self.preprocess(samples).tensor)[self.in_feature]
        return features.mean(dim=(2, 3), keepdim=True)

    def loss(self, projected: Tensor) -> Tensor:
        """NT-Xent: each view tells its partner from all other views of the batch.

        With unit vectors z and s_ij = z_i . z_j / temperature the mean over i of
        -log(exp(s_ip) / sum_{j != i} exp(s_ij)), p the other view of the same image. A batch of one
        image has nothing to tell apart: its loss is 0.

        Args:
            projected: [2B, E], first all first views, then all second ones.
        """
        unit = F.normalize(projected.float(), dim=1)
        with torch.autocast(unit.device.type, enabled=False):
            similarity = unit @ unit.T / self.temperature
        similarity.fill_diagonal_(-torch.inf)
        partners = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
        return F.cross_entropy(similarity, partners)
