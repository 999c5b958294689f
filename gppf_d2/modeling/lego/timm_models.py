"""Lego around a model of the timm library, and the same model plain: EfficientNet, ConvNeXt, ...

Teachers and student may so start from any checkpoint (MuST section 4.3, the ALIGN experiment: an
EfficientNet). Layers are timm's own stem and blocks (`timm_cut`), features res2 to res5 with the
strides 4 to 32, without any norm of their own, as timm gives them. A unit keeps timm's names under
``timm``; a route's names are what is left without layer and unit::

    res3.0.units.1.timm.stages.1.blocks.0.conv_dw.weight     of a LegoTimm
                   timm.stages.1.blocks.0.conv_dw.weight     of its TimmBackbone, in Detectron2
                        stages.1.blocks.0.conv_dw.weight     in timm

With the norm CrossTaskSyncBN every BatchNorm2d, timm's with an activation included, takes its
statistics from all ranks that run the unit, under the same names; other norms stay as they are.
Units run in the plain form of the lego layer, which synchronises no multi-view batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN
from gppf_d2.modeling.lego import timm_cut
from gppf_d2.modeling.lego.backbone import LegoBackbone
from gppf_d2.modeling.lego.layer import LegoLayer
from gppf_d2.modeling.lego.stochastic_depth import stochastic_depth

NORMS = ("CrossTaskSyncBN", "BN")
STAGES = tuple(timm_cut.STRIDES)


class LegoTimm(LegoBackbone):
    """A model of timm with N candidate units in every layer.

    Args:
        model: timm's name, such as "efficientnet_b7" or "convnext_tiny"; its features must have the
            strides 4, 8, 16 and 32. Nothing is downloaded: weights come through
            ``train.init_checkpoint``.
        num_units: N; 1 is the plain model.
        norm: "CrossTaskSyncBN", or "BN" for statistics of this rank alone; of models without batch
            norm no matter.
        weighting: of CrossTaskSyncBN: "equal", "n" or "nhw".
        drop_path_rate: stochastic depth of the last block, growing from 0 as timm has it.
        freeze_at: number of parts at the beginning that do not train: 1 the stem, 2 also res2, ...;
            their norms keep their running statistics.
        checkpoint: recompute each layer in backward (activation checkpointing).
        model_args: further arguments of ``timm.create_model``.

    Attributes:
        model, model_args: as given.
        title: the model's name, for reports.
        input_defaults: the "pixel_mean" and "pixel_std" that timm's weights of the model expect.

    Raises:
        ValueError: timm is missing or does not know the model, the model is no chain of blocks with
            these features, an unknown norm or weighting, num_units < 1.
    """

    def __init__(
        self,
        model: str,
        num_units: int = 2,
        norm: str = "CrossTaskSyncBN",
        *,
        weighting: str = "equal",
        drop_path_rate: float = 0.0,
        freeze_at: int = 0,
        checkpoint: bool = False,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(num_units, checkpointing=checkpoint)
        if norm not in NORMS:
            raise ValueError(
                f"Norm {norm!r} of a LegoTimm is unknown; choose {' or '.join(NORMS)}."
            )
        self.model = self.title = model
        self.model_args = timm_cut.plain_args(model_args)
        self.drop_path_rate = drop_path_rate
        sources = [
            timm_cut.create(model, drop_path_rate, self.model_args) for _ in range(num_units)
        ]
        self.input_defaults = timm_cut.input_of(sources[0])
        cut = timm_cut.cut(model, sources[0])
        for source in sources:
            _replace(source, weighting if norm == "CrossTaskSyncBN" else None)

        stages: dict[str, list[LegoLayer]] = {}
        for name, paths in cut.layers.items():
            units = [TimmUnit(source, paths, cut.norms[name]) for source in sources]
            stages.setdefault(name.partition(".")[0], []).append(LegoLayer(units, "plain"))
        for stage, layers in stages.items():
            self.add_module(stage, layers[0] if stage == "stem" else nn.ModuleList(layers))
        self.set_layers(list(cut.layers), cut.features)
        self.freeze(freeze_at)

    def build_route(
        self, route: Sequence[int], out_features: Sequence[str] | None = None
    ) -> TimmBackbone:
        """The plain backbone of any route: all units are of one architecture."""
        return TimmBackbone(
            self.model,
            out_features or STAGES,
            drop_path_rate=self.drop_path_rate,
            model_args=self.model_args,
        )


class TimmBackbone(Backbone):
    """A model of timm as a backbone of stock Detectron2, as of FPN's ``bottom_up``.

    Args:
        model: timm's name; see `LegoTimm`.
        out_features: some of res2 to res5; layers after the last of them are left out.
        drop_path_rate: stochastic depth of the last block, growing from 0 as timm has it.
        model_args: further arguments of ``timm.create_model``.

    Raises:
        ValueError: as for `LegoTimm`, or an unknown feature.
    """

    def __init__(
        self,
        model: str,
        out_features: Sequence[str] = STAGES,
        *,
        drop_path_rate: float = 0.0,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        unknown = [name for name in out_features if name not in STAGES]
        if unknown or not out_features:
            raise ValueError(
                f"out_features={list(out_features)}: choose one or more of {', '.join(STAGES)}."
            )
        source = timm_cut.create(model, drop_path_rate, model_args)
        cut = timm_cut.cut(model, source)
        _replace(source, None)
        self._shapes = {n: shape for n, (_, shape) in cut.features.items() if n in out_features}
        names = list(cut.layers)
        last = 1 + max(names.index(cut.features[name][0]) for name in self._shapes)
        self._layers = tuple((name, cut.layers[name]) for name in names[:last])
        self._ends = {cut.features[name][0]: name for name in self._shapes}
        self.timm = _part(source, [path for _, paths in self._layers for path in paths])

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature."""
        return dict(self._shapes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features by name [B, C, H / stride, W / stride] of images [B, 3, H, W]."""
        features = {}
        for layer, paths in self._layers:
            x = _run(self.timm, paths, x)
            if layer in self._ends:
                features[self._ends[layer]] = x
        return features


class TimmUnit(nn.Module):
    """Parts of a timm model, called one after another.

    Args:
        source: the model; its parts are taken, not copied.
        paths: of the parts.
        norms: paths of the batch norms in them, in the order of their calls.
    """

    def __init__(self, source: nn.Module, paths: Sequence[str], norms: Sequence[str]) -> None:
        super().__init__()
        self.timm = _part(source, paths)
        self.paths, self.norms = tuple(paths), tuple(norms)
        self.frozen = False

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W']."""
        return _run(self.timm, self.paths, x)

    def norm_order(self) -> list[nn.Module]:
        """The batch norms as `forward` calls them."""
        return [self.timm.get_submodule(path) for path in self.norms]

    def freeze(self) -> None:
        """Stay in evaluation mode from now on: norms keep their running statistics."""
        self.frozen = True
        self.eval()

    def train(self, mode: bool = True) -> TimmUnit:
        """Change the mode, unless the unit is frozen."""
        return super().train(mode and not self.frozen)


class CrossTaskSyncBNAct(CrossTaskSyncBN):
    """A CrossTaskSyncBN that ends in dropout and an activation, as timm's BatchNormAct2d does."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        """[B, c, H, W]. Collective in training with a group: all ranks must call."""
        return self.act(self.drop(super().forward(input)))


def _part(source: nn.Module, paths: Sequence[str]) -> nn.Module:
    """A module without a forward that holds some of a model's modules under their paths."""
    root = nn.Module()
    for path in paths:
        node, (*parents, leaf) = root, path.split(".")
        for name in parents:
            if name not in dict(node.named_children()):
                node.add_module(name, nn.Module())
            node = node.get_submodule(name)
        node.add_module(leaf, source.get_submodule(path))
    return root


def _run(root: nn.Module, paths: Sequence[str], x: Tensor) -> Tensor:
    for path in paths:
        x = root.get_submodule(path)(x)
    return x


def _replace(module: nn.Module, weighting: str | None) -> None:
    """Put in the package's stochastic depth, and with a weighting its batch norm, in place."""
    for name, child in module.named_children():
        if type(child).__name__ == "DropPath":
            setattr(module, name, stochastic_depth(child.drop_prob))
        elif weighting is not None and isinstance(child, nn.BatchNorm2d):
            setattr(module, name, _synchronised(child, weighting))
        else:
            _replace(child, weighting)


def _synchronised(norm: nn.BatchNorm2d, weighting: str) -> CrossTaskSyncBN:
    """The same batch norm, statistics over ranks; names, values, eps and momentum stay."""
    kind = {"BatchNorm2d": CrossTaskSyncBN, "BatchNormAct2d": CrossTaskSyncBNAct}.get(
        type(norm).__name__
    )
    if kind is None or not norm.affine or not norm.track_running_stats:
        raise ValueError(
            f"The norm {norm} has no synchronised form; set backbone.norm=BN, or choose another "
            "model."
        )
    made = kind(norm.num_features, eps=norm.eps, momentum=norm.momentum, weighting=weighting)
    if kind is CrossTaskSyncBNAct:
        made.drop, made.act = norm.drop, norm.act
    made.load_state_dict(norm.state_dict())
    return made
