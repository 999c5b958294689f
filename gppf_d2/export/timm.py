"""A model of timm leaves: for timm itself as it is, for Detectron2 below the wrapper.

Its layers after the last feature (an EfficientNet's last convolution) were never part of the lego:
timm's own model keeps those as it builds them. torchvision has none of these models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gppf_d2.export.facts import BackboneFacts, as_overrides
from gppf_d2.modeling.lego import TimmBackbone
from gppf_d2.modeling.lego.timm_cut import create


@dataclass(frozen=True, kw_only=True)
class TimmFacts(BackboneFacts):
    """What a model of timm computes, beyond its weights.

    Args:
        model: timm's name of it.
        model_args: further arguments of ``timm.create_model``.
        norms: classes of its norm layers.
        not_exported: modules of timm's model without a classifier that follow the last feature.
    """

    model: str
    model_args: Mapping[str, Any]
    norms: tuple[str, ...]
    not_exported: tuple[str, ...]

    @classmethod
    def read(
        cls, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], pixels: Mapping[str, Any]
    ) -> TimmFacts:
        """See `BackboneFacts.read`."""
        model, arguments = settings.get("model"), dict(settings.get("model_args") or {})
        if not model:
            raise ValueError(
                "The checkpoint's backbone is a LegoTimm and the config's backbone has no model; "
                "give the config of the same run."
            )
        plain = TimmBackbone(model, model_args=arguments)
        wanted = {name: tensor.shape for name, tensor in plain.state_dict().items()}
        if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
            raise ValueError(
                f"The config's backbone is timm's {model} and the checkpoint's another one; give "
                "the config of the same run."
            )
        whole = {
            name.partition(".")[0] for name in create(model, model_args=arguments).state_dict()
        }
        kinds = {type(part).__name__ for part in plain.modules()}
        return cls(
            model=model,
            model_args=arguments,
            norms=tuple(sorted(kind for kind in kinds if "Norm" in kind)),
            not_exported=tuple(sorted(whole - {name.split(".")[1] for name in wanted})),
            **pixels,
        )

    @property
    def title(self) -> str:
        return self.model

    @property
    def norm(self) -> str:
        return ", ".join(self.norms) or "none"

    @property
    def wrapper(self) -> str:
        return f"{TimmBackbone.__module__.rpartition('.')[0]}.{TimmBackbone.__name__}"

    def fit(self, tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
        """The tensors as they are.

        Raises:
            ValueError: torchvision, which has no such model.
        """
        if layout == "torchvision":
            raise ValueError(
                f"The backbone is timm's {self.model}, which torchvision does not have; export "
                "with --format timm or detectron2."
            )
        return dict(tensors)

    def detectron2_recipe(self) -> dict[str, Any]:
        """For the zoo's LazyConfigs with FPN, whose ResNet the wrapper replaces."""
        bottom_up = "model.backbone.bottom_up"
        values = {f"{bottom_up}._target_": self.wrapper, f"{bottom_up}.model": self.model}
        values |= {f"{bottom_up}.model_args.{k}": value for k, value in self.model_args.items()}
        return {
            "yacs": None,
            "lazy": as_overrides(values | self.lazy_input()),
            "lazy_remove": [f"{bottom_up}.{key}" for key in ("stem", "stages", "freeze_at")],
        }

    def stock_model(self, library: str) -> str:
        """See `BackboneFacts.stock_model`; in timm alone."""
        arguments = "".join(f", {key}={value!r}" for key, value in self.model_args.items())
        return f'import timm\n\nmodel = timm.create_model("{self.model}", num_classes=0{arguments})'

    def load_into_stock(self, library: str, read: str) -> str:
        """See `BackboneFacts.load_into_stock`; what follows the last feature is not in the file."""
        if not self.not_exported:
            return super().load_into_stock(library, read)
        return (
            f"found = model.load_state_dict({read}, strict=False)\n"
            f'left = {{name.split(".")[0] for name in found.missing_keys}}\n'
            f"assert not found.unexpected_keys and left <= set({list(self.not_exported)})\n"
            "# features: model.forward_intermediates(images, intermediates_only=True)"
        )
