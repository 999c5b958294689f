"""One image, all its labels, one pass of the trunk, the weighted sum of losses (MuST, section 3.2).

A multi-label sample is {"image", "height", "width", "file_name", "labels"}, where "labels" maps the
name of a label to what a sample of its kind has, such as {"boxes": {"instances": ...}}. A label
that an image lacks is not there and gives no loss ("zero loss", section 4.2). With B images on this
rank, b_h of them with label h, and l_h the sum of what label head h returns for these:

    L_h = w_h (b_h / B) l_h
    "fixed"        sum over h of L_h
    "uncertainty"  sum over h of exp(-s_h) L_h + (b_h / B) s_h, s_h learned, 0 at the start

The second is Kendall, Gal and Cipolla's [25] with s_h the logarithm of label h's variance; an image
without the label has no term for it, so that s_h says how hard a label is and not how rare.

Where l_h is a mean over images, the mean over several ranks of equal B is the loss of one big
batch. For the task average to be that mean, every rank must contribute to every parameter: a label
that no image here has is a zero with a gradient of zeros.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.modeling import Backbone
from torch import Tensor, nn

from gppf_d2.modeling.head_losses import losses_of
from gppf_d2.modeling.heads.image_batch import normalised_batch
from gppf_d2.modeling.heads.label_weights import LogVariances, read_weights
from gppf_d2.modeling.heads.trunk import TrunkFeatures, TrunkView
from gppf_d2.modeling.view import SharedBackbone

WEIGHTINGS = ("fixed", "uncertainty")
_NAME = re.compile(r"[a-z][a-z0-9_]*")

Samples = Sequence[Mapping[str, Any]]


class MultiLabelHead(nn.Module):
    """The head of a task whose images have several labels: a trunk, and a label head for each.

    Any head of this package and any Detectron2 meta-architecture that takes a ``backbone`` is a
    label head, unchanged, around a `TrunkView`. State keys are ``trunk.*`` and ``heads.<label>.*``,
    and ``log_variances.<label>`` where weights are learned.

    Args:
        trunk: what all label heads share, a Detectron2 Backbone around a SharedBackbone.
        heads: label -> lazy config of its head, or a callable without arguments that builds it.
        weights: label -> w_h, a number >= 0 or a lazy call that gives one (`scaling_rule`); 1
            where a label is not named. Not 0 with "uncertainty".
        weighting: "fixed" or "uncertainty".

    Raises:
        ValueError: no head, a name, weight or weighting that cannot be, or a head that reaches the
            backbone in another way.
    """

    def __init__(
        self,
        *,
        trunk: Backbone,
        heads: Mapping[str, Any],
        weights: Mapping[str, Any] | None = None,
        weighting: str = "fixed",
    ) -> None:
        super().__init__()
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting is {weighting!r}; choose one of {', '.join(WEIGHTINGS)}.")
        _check_names(heads)
        self.trunk = trunk
        self._features = TrunkFeatures(trunk)
        with self._features.building():
            self.heads = nn.ModuleDict({name: _built(name, heads[name]) for name in heads})
        self.weights = read_weights(weights or {}, self.heads, learned=weighting == "uncertainty")
        self.weighting = weighting
        if weighting == "uncertainty":
            zeros = {name: nn.Parameter(torch.zeros(())) for name in self.heads}
            self.log_variances = LogVariances(zeros)
        self.input_format = _common("input_format", self.heads)
        self._normaliser = next((n for n, h in self.heads.items() if _normalises(h)), "")
        if not self._normaliser:
            raise ValueError(
                f"No label head of {', '.join(self.heads)} has pixel_mean and pixel_std, so that "
                "the trunk's input is unknown; give one of them these buffers."
            )

    def forward(self, samples: Samples) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training, else the outputs of all label heads.

        Args:
            samples: multi-label samples. A head of one label also takes samples of that label's
                kind as they are, without "labels"; evaluation needs none.

        Returns:
            {"<label>.<loss name>": w_h b_h / B times the loss}, with learned weights also
            {"<label>.log_variance"}, and {"absent": 0} where a label is on no image; or per image
            one dict with the outputs of all label heads. Of two heads with an output of one name
            the first keeps the name, the second's is called "<label>.<name>".

        Raises:
            ValueError: a label that has no head, or samples without "labels" where there are
                several heads.
        """
        if self.training:
            return self._losses(samples)
        outputs = self.outputs(samples)
        return [_merged(dict(zip(outputs, image))) for image in zip(*outputs.values())]

    def outputs(
        self, samples: Samples, labels: Iterable[str] | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """What label heads say in evaluation, from one pass of the trunk.

        Args:
            samples: as for `forward`.
            labels: whose heads run; None runs all.

        Returns:
            label -> one dict per sample.
        """
        samples = [{k: v for k, v in sample.items() if not _nests(k, v)} for sample in samples]
        samples = self._on_device(samples)
        features, size = self._run_trunk(samples)
        found = {}
        for label in self.heads if labels is None else labels:
            with self._features.giving(features, size, range(len(samples))):
                found[label] = self.heads[label](samples)
        return found

    def learned_weights(self) -> dict[str, float]:
        """label -> w_h exp(-s_h); empty where weights are fixed."""
        if self.weighting == "fixed":
            return {}
        learned = torch.stack([-s.detach() for s in self.log_variances.values()]).exp()
        factors = dict(zip(self.log_variances, learned.tolist()))
        return {label: weight * factors[label] for label, weight in self.weights.items()}

    def _losses(self, samples: Samples) -> dict[str, Tensor]:
        samples = [self._by_label(sample) for sample in self._on_device(samples)]
        features, size = self._run_trunk([image for image, _ in samples])
        losses: dict[str, Tensor] = {}
        absent: list[str] = []
        for label, head in self.heads.items():
            rows = [row for row, (_, labels) in enumerate(samples) if label in labels]
            if not rows:
                absent.append(label)
                continue
            labelled = [{**samples[row][0], **samples[row][1][label]} for row in rows]
            with self._features.giving(features, size, rows):
                found = losses_of(head, labelled, f"label {label!r}")
            losses |= self._weighted(label, found, len(rows) / len(samples))
        if absent:
            losses["absent"] = self._zero(absent, features)
        return losses

    def _weighted(self, label: str, losses: Mapping[str, Tensor], share: float) -> dict:
        """The terms of one label in the sum, by name; ``share`` is b_h / B."""
        weight: float | Tensor = self.weights[label]
        more = {}
        if self.weighting == "uncertainty":
            log_variance = self.log_variances[label]
            weight = weight * torch.exp(-log_variance)
            more[f"{label}.log_variance"] = share * log_variance
        scaled = {f"{label}.{name}": share * weight * loss for name, loss in losses.items()}
        return scaled | more

    def _zero(self, absent: Sequence[str], features: Mapping[str, Tensor]) -> Tensor:
        """A zero on which the trunk and all that belongs to absent labels depends."""
        modules: list[nn.Module] = [self.trunk, *(self.heads[label] for label in absent)]
        parameters = [p for module in modules for p in module.parameters()]
        if self.weighting == "uncertainty":
            parameters += [self.log_variances[label] for label in absent]
        trained = [p for p in parameters if p.requires_grad]
        zero = next(iter(features.values())).new_zeros((), dtype=torch.float32)
        return sum((0.0 * p.sum() for p in trained), zero)

    def _by_label(self, sample: Mapping[str, Any]) -> tuple[dict[str, Any], Mapping[str, Mapping]]:
        """A sample without its labels, and its labels."""
        labels = sample.get("labels")
        if not isinstance(labels, Mapping):
            if len(self.heads) > 1:
                raise ValueError(
                    f"A sample has {', '.join(sample)} and no 'labels', and there are heads for "
                    f"{', '.join(self.heads)}; use a mapper that says which label is whose, such "
                    "as MultiLabelMapper."
                )
            return dict(sample), {next(iter(self.heads)): {}}
        unknown = [name for name in labels if name not in self.heads]
        if unknown:
            raise ValueError(
                f"A sample has the label {unknown[0]!r}, for which there is no head; the heads are "
                f"{', '.join(self.heads)}: name both alike, or leave the label out of the mapper."
            )
        return {k: v for k, v in sample.items() if k != "labels"}, labels

    def _on_device(self, samples: Samples) -> list[dict[str, Any]]:
        """Images move once, not once for every label head."""
        device = self.heads[self._normaliser].pixel_mean.device
        return [
            {**sample, "image": sample["image"].to(device, non_blocking=True)} for sample in samples
        ]

    def _run_trunk(self, samples: Samples) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Features of all samples, and the padded size of their batch."""
        like = self.heads[self._normaliser]
        sides = [getattr(head, "size_divisibility", 1) for head in self.heads.values()]
        side = math.lcm(*(max(side, 1) for side in sides))
        batch = normalised_batch(samples, self.trunk, like.pixel_mean, like.pixel_std, side)
        return self.trunk(batch.tensor), tuple(batch.tensor.shape[-2:])


def _nests(key: str, value: Any) -> bool:
    """Whether a sample's entry is its labels by name ("labels" of a MixUp sample are numbers)."""
    return key == "labels" and isinstance(value, Mapping)


def _merged(outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Outputs of one image, label -> dict, in one dict; the first label keeps a name."""
    merged: dict[str, Any] = {}
    for label, output in outputs.items():
        for name, value in output.items():
            merged[f"{label}.{name}" if name in merged else name] = value
    return merged


def _check_names(labels: Iterable[str]) -> None:
    labels = list(labels)
    if not labels:
        raise ValueError("A MultiLabelHead needs at least one label head; `heads` is empty.")
    for name in labels:
        taken = any(hasattr(empty, name) for empty in (nn.ModuleDict(), LogVariances()))
        if not _NAME.fullmatch(name) or taken:
            raise ValueError(
                f"The label name {name!r} cannot be a key of checkpoints; use lower-case letters, "
                "digits and underscores, with a letter first, and no name of PyTorch's modules."
            )


def _built(label: str, config: Any) -> nn.Module:
    """A label head from its lazy config or a function."""
    head = None
    if isinstance(config, Mapping):
        head = instantiate(config)
    elif callable(config) and not isinstance(config, nn.Module):
        head = config()
    parts = list(head.modules()) if isinstance(head, nn.Module) else []
    around = any(isinstance(part, TrunkView) for part in parts)
    if not around or any(isinstance(part, SharedBackbone) for part in parts):
        raise ValueError(
            f"The head of label {label!r} must be a lazy config, or a function, that builds a "
            "module around L(TrunkView)(out_features=[...]) instead of a backbone of its own."
        )
    return head


def _normalises(head: nn.Module) -> bool:
    return all(isinstance(getattr(head, key, None), Tensor) for key in ("pixel_mean", "pixel_std"))


def _common(key: str, heads: Mapping[str, nn.Module]) -> Any:
    """What all heads that have an attribute say; None where none has it."""
    found = {name: getattr(head, key, None) for name, head in heads.items()}
    found = {name: value for name, value in found.items() if value is not None}
    if len(set(found.values())) > 1:
        raise ValueError(f"The label heads differ in {key}: {found}; one trunk has one input.")
    return next(iter(found.values()), None)
