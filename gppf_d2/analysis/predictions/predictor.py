"""Run one task of a model on images: outputs, JSON, drawings, and a contact sheet beside the truth.

``Predictor`` needs a model with ``inference(task, samples) -> list of dicts`` (``MultiTaskModel``),
the task's evaluation mapper and the metadata of its classes; it knows nothing of configs and
checkpoints (``gppf_d2.tools.predict`` does). A head with several label heads has a ``Predictor``
for each of them, and a ``JointPredictor`` for all.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.data import Metadata
from matplotlib.figure import Figure
from PIL import Image

from gppf_d2.analysis.predictions.drawing import (
    KINDS,
    OVER_THE_IMAGE,
    draw_kinds,
    joined,
    split_key,
    title_of,
)
from gppf_d2.analysis.predictions.output_files import to_json
from gppf_d2.analysis.predictions.pictures import Drawn, fit, panels
from gppf_d2.analysis.predictions.prediction_sheets import draw_sheet
from gppf_d2.data.mappers.reading import already_decoded, load_image
from gppf_d2.modeling.tta import augmented

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
CLASS_KEYS = {"classes": (), "thing_classes": ("thing_colors",),
    "stuff_classes": ("stuff_colors", "ignore_label")}  # fmt: skip
Source = str | Path | Image.Image | np.ndarray


class UnreadableImageError(ValueError):
    """A file that is no image, or a damaged one."""


class Prediction(NamedTuple):
    """One image and what the head says about it: name, RGB uint8 [H, W, 3], output dict."""

    name: str
    image: np.ndarray
    output: dict[str, Any]


class Predictor:
    """One task of a model, applied to images.

    Args:
        model: has ``inference(task, samples)``; it is put into evaluation mode.
        task: the task's name.
        mapper: the task's evaluation mapper; it gets {"file_name", "height", "width", "image_id"}.
        metadata: class names of the dataset that the head was trained on.
        min_score: boxes and masks below it are not drawn (they are in the outputs and in the JSON).
        tta: test-time augmentation (``gppf_d2.modeling.tta``), or None.
        label: the label head that is run alone, of a task that has several; "" runs the whole head.
    """

    def __init__(
        self,
        model: Any,
        task: str,
        mapper: Callable[[dict], dict],
        metadata: Metadata | None = None,
        *,
        min_score: float = 0.3,
        tta: Callable | None = None,
        label: str = "",
    ) -> None:
        self.model = model.eval() if isinstance(model, torch.nn.Module) else model
        self.task = task
        self.mapper = mapper
        self.metadata = metadata or Metadata()
        self.min_score = min_score
        self.tta = tta
        self.label = label

    def __call__(self, sources: Source | Sequence[Source]) -> list[dict[str, Any]]:
        """Outputs for images, files and folders, one dict an image, in order (folders by name).

        Raises:
            UnreadableImageError: a file that is no image.
            ValueError: a path that does not exist, a folder without an image.
        """
        if isinstance(sources, (str, Path, Image.Image, np.ndarray)):
            sources = [sources]
        flat: list[Source] = []
        for source in sources:
            flat += find_images([source]) if isinstance(source, (str, Path)) else [source]
        return [self.predict(source).output for source in flat]

    def predict(self, source: Source) -> Prediction:
        """Run one image: a file, a PIL image, or an RGB uint8 array [H, W, 3] (or [H, W], grey).

        Raises:
            UnreadableImageError: a file that is no image.
        """
        if isinstance(source, (str, Path)):
            return self._predict_file(Path(source), Path(source).stem)
        picture = source if isinstance(source, Image.Image) else Image.fromarray(source)
        # Mappers read files; a lossless one for the moment spares them a second kind of input.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "image.png"
            picture.convert("RGB").save(file)
            return self._predict_file(file, "image")

    def predict_record(self, record: dict[str, Any]) -> Prediction:
        """Run the image of a dataset record, which may lie in a tar.

        Args:
            record: "height" and "width" are filled in where they are missing; its annotations are
                not looked at.

        Raises:
            OSError: the image cannot be read.
        """
        return self._run(record, load_image(record), os.path.basename(record["file_name"]))

    def _predict_file(self, file: Path, name: str) -> Prediction:
        record: dict[str, Any] = {"file_name": str(file)}
        try:
            image = load_image(record)
        except OSError as error:
            raise UnreadableImageError(str(error)) from error
        return self._run(record, image, name)

    def _run(self, record: Mapping[str, Any], image: Image.Image, name: str) -> Prediction:
        seen = {key: record[key] for key in ("file_name", "height", "width")}
        with already_decoded(record["file_name"], image):
            return Prediction(name, np.array(image), self._infer({**seen, "image_id": 0}))

    def _infer(self, record: Mapping[str, Any]) -> dict[str, Any]:
        options = {"label": self.label} if self.label else {}
        plain = functools.partial(self.model.inference, self.task, **options)
        with torch.no_grad():
            outputs = augmented(plain, self.tta)([self.mapper(dict(record))])
        assert len(outputs) == 1, f"task {self.task}: {len(outputs)} outputs for one sample"
        return dict(outputs[0])

    def to_json(self, output: Mapping[str, Any], **files: str) -> dict[str, Any]:
        """``to_json`` with the predictor's metadata."""
        return to_json(output, self.metadata, **files)

    def draw(self, image: np.ndarray, output: Mapping[str, Any]) -> np.ndarray:
        """A picture of one prediction that stands alone: what does not show the image itself is put
        beside it, several kinds side by side, each under its title."""
        drawn = draw_kinds(image, output, self.metadata, min_score=self.min_score)
        if [split_key(key)[1] in OVER_THE_IMAGE for key in drawn] == [True]:
            return joined(drawn)
        titled = {title_of(key): one for key, one in drawn.items()}
        return panels({"image": Drawn(fit(image)), **titled})

    def sheet(self, records: Sequence[Mapping[str, Any]], count: int = 6, **options: Any) -> Figure:
        """A contact sheet of ``count`` records of an evaluation dataset, with annotations.

        Args:
            records: as of ``draw_sheet``, like ``count`` and the options "order", "among",
                "errors", "progress".
        """
        return draw_sheet(self, records, count, **options)


class JointPredictor(Predictor):
    """All label heads of one task: each gets images as its own evaluation reads them, and an image
    has one output with all kinds.

    Args:
        parts: a predictor for every label head that is evaluated; at least one. Where two give the
            same kind, the second one's is called "<label>.<kind>".
        rest: label heads without an evaluation; they read as a part does that sees whole images (a
            classifier may see the middle only).
    """

    def __init__(self, parts: Sequence[Predictor], rest: Sequence[str] = ()) -> None:
        first = parts[0]
        metadata = joined_metadata({part.label: part.metadata for part in parts})
        super().__init__(first.model, first.task, first.mapper, metadata, min_score=first.min_score)
        self.parts, self.rest = tuple(parts), tuple(rest)

    def _infer(self, record: Mapping[str, Any]) -> dict[str, Any]:
        outputs = {part.label: part._infer(record) for part in self.parts}
        seen = zip(self.parts, outputs.values())
        whole = next((part for part, found in seen if set(found) - {"classes"}), self.parts[0])
        for label in self.rest:
            part = Predictor(self.model, self.task, whole.mapper, label=label)
            outputs[label] = part._infer(record)
        joined: dict[str, Any] = {}
        for label, output in outputs.items():
            for kind, value in output.items():
                joined[f"{label}.{kind}" if kind in joined else kind] = value
        return joined


def joined_metadata(by_label: Mapping[str, Metadata]) -> Metadata:
    """The class names and colours of several datasets in one.

    Args:
        by_label: label head -> metadata of its dataset. Of two lists of a kind, the one of the
            dataset with fewer kinds of classes is taken, then the first.

    Returns:
        With an entry "<label>.<kind>", all of a label's metadata, for every label and kind.
    """
    joined: dict[str, Any] = {}
    for metadata in sorted(
        by_label.values(), key=lambda one: sum(bool(one.get(key)) for key in CLASS_KEYS)
    ):
        for key, others in CLASS_KEYS.items():
            if metadata.get(key) and key not in joined:
                joined[key] = metadata.get(key)
                joined |= {name: metadata.get(name) for name in others if metadata.get(name)}
    of_labels = {f"{label}.{kind}": one for label, one in by_label.items() for kind in KINDS}
    return Metadata(**joined, **of_labels)


def find_images(inputs: Sequence[str | Path], made: Path | None = None) -> list[Path]:
    """Files as they are, folders replaced by the images in them and in their folders, by name.

    Folders inside a folder are left out where their name begins with a dot, and where predictions
    were written to (they hold a ``predictions.json``).

    Args:
        inputs: files and folders.
        made: a folder that is about to be written to; left out like those.

    Raises:
        ValueError: a path that does not exist, a folder without an image.
    """
    found: list[Path] = []
    for entry in map(Path, inputs):
        if entry.is_dir():
            inside = _images_in(entry, made)
            if not inside:
                endings = ", ".join(IMAGE_SUFFIXES)
                raise ValueError(f"The folder '{entry}' has no image; known endings are {endings}.")
            found += inside
        elif entry.is_file():
            found.append(entry)
        else:
            raise ValueError(f"There is no file or folder '{entry}'.")
    return found


def _images_in(folder: Path, made: Path | None) -> list[Path]:
    def wanted(inside: Path) -> bool:
        results = inside == made or (inside / "predictions.json").exists()
        return not inside.name.startswith(".") and not results

    made = made.resolve() if made else None
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if wanted(Path(root, name).resolve())]
        found += [Path(root, name) for name in files if name[:1] != "."]
    return sorted(file for file in found if file.suffix.lower() in IMAGE_SUFFIXES)
