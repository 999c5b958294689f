"""Test-time augmentation of semantic segmentation, against explicit averages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import LazyCall as L
from torch import nn

from gppf_d2.analysis.predictions.predictor import Predictor
from gppf_d2.data.mappers import SemanticMapper
from gppf_d2.engine.evaluate import _infer
from gppf_d2.modeling.tta import SemanticTTA, augmented
from gppf_d2.tasks.spec import Task

CLASSES = 4


class Segmentor:
    """A small convolution that is not symmetrical; outputs at the wanted size, as heads do."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, CLASSES, 3, padding=1)
        self.seen: list[tuple[int, ...]] = []

    @torch.no_grad()
    def __call__(self, samples: list[dict]) -> list[dict]:
        outputs = []
        for sample in samples:
            assert not {"sem_seg", "file_name"} & sample.keys()
            image = sample["image"].float()[None]
            self.seen.append(tuple(image.shape[-2:]))
            size = sample["height"], sample["width"]
            logits = F.interpolate(self.conv(image / 60 - 2), size, mode="bilinear")
            outputs.append({"sem_seg": logits[0]})
        return outputs


def samples() -> list[dict]:
    torch.manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, *size)).byte(),
            "height": 2 * size[0],
            "width": 2 * size[1],
            "sem_seg": torch.zeros(1),
            "file_name": "a.jpg",
        }
        for size in ((20, 28), (17, 25))
    ]


def test_output_is_the_mean_probability_of_all_scales_and_flips() -> None:
    segmentor, scales = Segmentor(), (0.5, 1.0, 1.75)
    for sample, output in zip(samples(), SemanticTTA(scales)(segmentor, samples())):
        probabilities = []
        for scale in scales:
            image = sample["image"].float()[None]
            size = [round(side * scale) for side in image.shape[-2:]]
            image = F.interpolate(image, size, mode="bilinear", antialias=True)[0]
            for flip in (False, True):
                given = {**{k: sample[k] for k in ("height", "width")}, "image": image}
                if flip:
                    given["image"] = torch.stack([row.flip(-1) for row in image])
                logits = segmentor([given])[0]["sem_seg"]
                probabilities.append((logits.flip(-1) if flip else logits).softmax(0))
        torch.testing.assert_close(output["sem_seg"], sum(probabilities) / 6)
        assert output.keys() == {"sem_seg"}


def test_each_image_is_seen_at_every_scale_and_comes_back_at_its_own_size() -> None:
    segmentor = Segmentor()
    outputs = SemanticTTA()(segmentor, samples())
    assert [o["sem_seg"].shape for o in outputs] == [(CLASSES, 40, 56), (CLASSES, 34, 50)]
    heights = [size[0] for size in segmentor.seen]
    assert heights[::4] == [10, 15, 20, 25, 30, 35] and len(heights) == 2 * 2 * 6
    assert heights[1::4] == [8, 13, 17, 21, 26, 30]


def test_scale_one_without_flip_is_the_plain_output() -> None:
    plain = Segmentor()(({k: s[k] for k in ("image", "height", "width")}) for s in samples())
    same = SemanticTTA((1.0,), flip=False)(Segmentor(), samples())
    flipped = SemanticTTA((1.0,))(Segmentor(), samples())
    for one, two, three in zip(plain, same, flipped):
        torch.testing.assert_close(two["sem_seg"], one["sem_seg"].softmax(0))
        assert (three["sem_seg"] - two["sem_seg"]).abs().max() > 1e-3


def test_a_symmetrical_image_and_network_do_not_change_with_a_flip() -> None:
    segmentor = Segmentor()
    with torch.no_grad():
        segmentor.conv.weight.add_(segmentor.conv.weight.flip(-1))
    (sample, _) = samples()
    sample["image"][..., 14:] = sample["image"][..., :14].flip(-1)
    plain = SemanticTTA((1.0,), flip=False)(segmentor, [sample])[0]["sem_seg"]
    both = SemanticTTA((1.0,))(segmentor, [sample])[0]["sem_seg"]
    torch.testing.assert_close(both, plain)


def test_the_size_of_the_image_is_taken_where_none_is_wanted() -> None:
    bare = [{"image": sample["image"]} for sample in samples()]
    shapes = [output["sem_seg"].shape for output in SemanticTTA()(Segmentor(), bare)]
    assert shapes == [(CLASSES, 20, 28), (CLASSES, 17, 25)]


def test_none_is_the_inference_itself_and_others_wrap_it() -> None:
    segmentor = Segmentor()
    assert augmented(segmentor, None) is segmentor
    wrapped = augmented(segmentor, SemanticTTA((1.0, 0.5)))(samples())
    wanted = SemanticTTA((1.0, 0.5))(segmentor, samples())
    assert all(torch.equal(a["sem_seg"], b["sem_seg"]) for a, b in zip(wrapped, wanted))


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(ValueError, match=r"this head gives \['classes'\]"):
        SemanticTTA()(lambda samples: [{"classes": torch.zeros(3)} for _ in samples], samples())
    for scales in ((), (0.0, 1.0)):
        with pytest.raises(ValueError, match="one or more positive"):
            SemanticTTA(scales)


# where it is used


class Model(nn.Module):
    """Stands for a MultiTaskModel with one task."""

    def __init__(self) -> None:
        super().__init__()
        self.segmentor = Segmentor()

    def inference(self, task: str, samples: list[dict], label: str = "") -> list[dict]:
        assert task == "parsing"
        return self.segmentor([{k: s[k] for k in ("image", "height", "width")} for s in samples])


class Keep:
    """An evaluator that keeps what it is shown."""

    def __init__(self) -> None:
        self.outputs: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        assert all("sem_seg" in sample for sample in inputs)
        self.outputs += outputs


@pytest.mark.parametrize("tta", [None, L(SemanticTTA)(scales=[1.0, 0.5])])
def test_an_evaluation_runs_the_head_as_it_says(tta: object) -> None:
    (entry,) = Task(
        train="a", mapper={}, batch_size=1, head={},
        evaluators=[{"dataset": "b", "evaluator": {}, "mapper": {}, "tta": tta}],
    ).evaluators  # fmt: skip
    model, evaluator = Model(), Keep()
    _infer(model, "parsing", entry, [samples()], evaluator)
    plain = model.inference("parsing", samples())
    averaged = SemanticTTA((1.0, 0.5))(model.segmentor, samples())
    for found, one in zip(evaluator.outputs, averaged if tta else plain, strict=True):
        assert torch.equal(found["sem_seg"], one["sem_seg"])


def test_a_predictor_augments_too() -> None:
    image = samples()[0]["image"].permute(1, 2, 0).numpy()
    mapper = SemanticMapper(False, augmentations=[])
    tta = SemanticTTA((1.0, 0.5))
    found = Predictor(Model(), "parsing", mapper, tta=tta).predict(image).output["sem_seg"]
    sample = {"image": samples()[0]["image"], "height": 20, "width": 28}
    torch.testing.assert_close(found, tta(Segmentor(), [sample])[0]["sem_seg"])
