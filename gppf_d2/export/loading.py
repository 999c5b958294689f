"""Python that loads an exported backbone with the libraries alone, for people to copy.

Every piece runs as it stands in the folder of the weights file; the tests run them. gppf_d2 is not
needed by whoever uses an export, but for the wrapper that Detectron2 needs around a model of timm.
"""

from __future__ import annotations

from gppf_d2.export.facts import BackboneFacts

_LAZY = """
import json

from detectron2.config import LazyConfig
from detectron2.model_zoo import get_config
from omegaconf import OmegaConf

cfg = get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")  # or another one with FPN
with open("{name}.json") as file:
    recipe = json.load(file)["overrides"]
for key in recipe["lazy_remove"]:
    parent, _, leaf = key.rpartition(".")
    OmegaConf.select(cfg, parent).pop(leaf, None)
cfg = LazyConfig.apply_overrides(cfg, recipe["lazy"])
cfg.train.init_checkpoint = "{name}"

# as a config file of Detectron2's tools/lazyconfig_train_net.py
model, optimizer, lr_multiplier = cfg.model, cfg.optimizer, cfg.lr_multiplier
dataloader, train = cfg.dataloader, cfg.train
"""

_YACS = """
import json

from detectron2.model_zoo import get_config

cfg = get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
with open("{name}.json") as file:
    cfg.merge_from_list(json.load(file)["overrides"]["yacs"])
cfg.MODEL.WEIGHTS = "{name}"  # then DefaultTrainer(cfg), or tools/train_net.py
"""

_BARE = """
from detectron2.config import instantiate
from safetensors.torch import load_file

{config}
model = instantiate(cfg.model)
model.backbone.bottom_up.load_state_dict(load_file("{name}"))
"""

_STOCK = """
import torch
{read_import}from torchvision.transforms.v2 import Normalize
{build}
{load}
normalize = Normalize({mean}, {std})  # of {pixel_format} images in [0, 1]
"""


def snippets(facts: BackboneFacts, layout: str, name: str) -> dict[str, str]:
    """Pieces of Python by what they are for; empty where no library builds such a backbone.

    Args:
        facts: of the backbone.
        layout: of the weights file.
        name: of the weights file.
    """
    if layout != "detectron2":
        code = _stock(facts, layout, name)
        return {f"{layout}": code} if code else {}
    recipe = facts.detectron2_recipe()
    lazy, yacs = _LAZY.strip().format(name=name), _YACS.strip().format(name=name)
    if name.endswith(".safetensors"):  # which Detectron2's checkpointer does not read
        if recipe["lazy"] is None:
            return {}
        lines = lazy.partition("cfg.train.init_checkpoint")[0].strip()
        return {"Detectron2": _BARE.strip().format(name=name, config=lines)}
    found = {}
    if recipe["lazy"] is not None:
        found["Detectron2, a LazyConfig"] = lazy
    if recipe["yacs"] is not None:
        found["Detectron2, a YAML config"] = yacs
    return found


def _stock(facts: BackboneFacts, library: str, name: str) -> str | None:
    build = facts.stock_model(library)
    if build is None:
        return None
    recipe = facts.recipe(library)
    safe = name.endswith(".safetensors")
    read = f'load_file("{name}")' if safe else f'torch.load("{name}", weights_only=True)'
    return _STOCK.strip().format(
        read_import="from safetensors.torch import load_file\n" if safe else "",
        build=build,
        load=facts.load_into_stock(library, read),
        mean=recipe["mean"],
        std=recipe["std"],
        pixel_format=facts.pixel_format,
    )
