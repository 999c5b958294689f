"""Made outputs of every kind of head, and a stub for the model that gives them."""

from __future__ import annotations

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from PIL import Image

H, W = 40, 60
THINGS = Metadata(thing_classes=["cat", "dog"])
STUFF = Metadata(stuff_classes=["sky", "road"], ignore_label=255)
CLASSES = Metadata(classes=[f"kind {index}" for index in range(6)])


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (H, W, 3), dtype=np.uint8)


def instances() -> Instances:
    masks = torch.zeros(2, H, W, dtype=torch.bool)
    masks[0, 5:20, 5:25] = True
    masks[1, 22:38, 30:58] = True
    return Instances(
        (H, W),
        pred_boxes=Boxes(torch.tensor([[5.0, 5, 25, 20], [30, 22, 58, 38]])),
        scores=torch.tensor([0.9, 0.1]),
        pred_classes=torch.tensor([1, 0]),
        pred_masks=masks,
    )


def normals() -> torch.Tensor:
    """A ball that fills the picture, nothing around it."""
    y, x = torch.meshgrid(torch.linspace(1, -1, H), torch.linspace(-1, 1, W), indexing="ij")
    inside = x**2 + y**2 < 1
    return torch.stack([x, y, (1 - x**2 - y**2).clamp(min=0).sqrt()]) * inside


def outputs() -> dict[str, tuple[dict, Metadata]]:
    scores = torch.zeros(2, H, W)
    scores[1, 10:] = 1
    depth = torch.linspace(1, 5, H)[:, None].expand(H, W)
    probabilities = torch.tensor([0.05, 0.1, 0.4, 0.3, 0.1, 0.05])
    return {
        "instances": ({"instances": instances()}, THINGS),
        "sem_seg": ({"sem_seg": scores}, STUFF),
        "classes": ({"classes": probabilities}, CLASSES),
        "depth": ({"depth": depth}, Metadata()),
        "normals": ({"normals": normals()}, Metadata()),
    }


class StubModel(torch.nn.Module):
    """Answers every sample with the same output and remembers what it was asked."""

    def __init__(self, output: dict) -> None:
        super().__init__()
        self.output = output
        self.asked: list[tuple[str, dict]] = []

    def inference(self, task: str, samples: list[dict]) -> list[dict]:
        assert not self.training and not torch.is_grad_enabled()
        self.asked += [(task, sample) for sample in samples]
        return [self.output for _ in samples]


def mapper(record: dict) -> dict:
    pixels = np.asarray(Image.open(record["file_name"]).convert("RGB"))
    return {**record, "image": torch.from_numpy(pixels.copy()).permute(2, 0, 1)}


def inverse_depth() -> torch.Tensor:
    """Any real values: negative ones too, one unknown."""
    values = torch.linspace(-3, 2, H)[:, None].repeat(1, W)
    values[0, 0] = torch.nan
    return values


def several() -> tuple[dict, Metadata]:
    """What a student says: every kind at once."""
    kinds: dict = {}
    for output, _ in outputs().values():
        kinds |= output
    names = Metadata(
        classes=CLASSES.classes,
        thing_classes=THINGS.thing_classes,
        stuff_classes=STUFF.stuff_classes,
    )
    return {**kinds, "inverse_depth": inverse_depth()}, names
