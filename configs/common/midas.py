"""MiDaS, the depth teacher of MuST (section 3.1, [41]), as a function for ``CallableTeacher``.

It is fetched by torch.hub into its cache, once, with a network; ``repository`` may also be a folder
that holds a copy (then with ``source="local"``). Predictions are relative inverse depth.
"""

from collections.abc import Callable

import numpy as np
import torch


def build(
    model: str = "MiDaS",
    repository: str = "intel-isl/MiDaS",
    source: str = "github",
    device: str = "auto",
) -> Callable[[list[np.ndarray]], list[dict[str, torch.Tensor]]]:
    """Load the network.

    Args:
        model: "MiDaS" (v2.1, the paper's time), "DPT_Large", "DPT_Hybrid" or "MiDaS_small".
        repository: on GitHub, or a folder.
        source: "github" or "local".
        device: "auto" takes the GPU where there is one.

    Returns:
        RGB uint8 images [H, W, 3] -> [{"inverse_depth": [H', W']}].
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network = torch.hub.load(repository, model, source=source).to(device).eval()
    transforms = torch.hub.load(repository, "transforms", source=source)
    name = {"MiDaS": "default_transform", "MiDaS_small": "small_transform"}
    transform = getattr(transforms, name.get(model, "dpt_transform"))

    @torch.inference_mode()
    def label(images: list[np.ndarray]) -> list[dict[str, torch.Tensor]]:
        predictions = [network(transform(image).to(device))[0] for image in images]
        return [{"inverse_depth": prediction.float()} for prediction in predictions]

    return label
