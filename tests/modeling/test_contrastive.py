"""Self-supervision: two views, NT-Xent, nearest neighbours, and the task in a run with others."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image
from torchvision.transforms import v2

from gppf_d2.data.image_transforms import contrastive_view
from gppf_d2.data.mappers import TwoViewsMapper
from gppf_d2.evaluation import NearestNeighbourEvaluator
from gppf_d2.modeling.heads import ContrastiveHead
from gppf_d2.modeling.multitask import MultiTaskModel
from gppf_d2.modeling.view import SharedBackbone
from tests.engine.runs import PROJECT, environment
from tests.modeling.lego_models import tiny

FORMAT = {"pixel_mean": [120.0, 110.0, 100.0], "pixel_std": [60.0, 60.0, 60.0]}


# the two views


@pytest.fixture
def record(tmp_path: Path) -> dict:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    path = str(tmp_path / "image.png")
    return {"file_name": path, "image_id": 7, "annotations": [{"bbox": [0, 0, 1, 1]}], "label": 3}


def test_two_views_are_drawn_from_the_global_generators(record: dict) -> None:
    before, mapper, seen = repr(record), TwoViewsMapper(image_size=32), []
    for seed in (1, 2, 1):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        sample = mapper(record)
        assert sample["views"].shape == (2, 3, 32, 32) and sample["views"].dtype == torch.uint8
        assert not torch.equal(*sample["views"])
        seen.append(sample["views"])
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
    assert repr(record) == before
    assert sample.keys() == {"file_name", "image_id", "height", "width", "views"}


def test_views_follow_the_pixel_format_and_a_transform_of_ones_own(record: dict) -> None:
    centre = v2.CenterCrop(16)
    rgb = TwoViewsMapper(transform=centre)(record)["views"]
    bgr = TwoViewsMapper(transform=centre, image_format="BGR")(record)["views"]
    assert rgb.shape == (2, 3, 16, 16) and torch.equal(rgb, bgr.flip(1))
    Path(record["file_name"]).write_bytes(b"text")
    with pytest.raises(OSError, match="image.png"):
        TwoViewsMapper()(record)


def test_strength_of_the_colours_and_blur_are_options() -> None:
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[:, :, 20:] = torch.tensor([200, 40, 40], dtype=torch.uint8)[:, None, None]
    still = contrastive_view(40, crop_scale=(1.0, 1.0), color_strength=0, blur_probability=0)
    blurred = contrastive_view(40, crop_scale=(1.0, 1.0), color_strength=0, blur_probability=1)
    plain = sharp = 0
    for seed in range(20):
        torch.manual_seed(seed)
        view = still(image)
        plain += bool(torch.equal(view, image) or torch.equal(view, image.flip(-1)))
        torch.manual_seed(seed)
        sharp += len(blurred(image).unique()) <= 3
    assert 5 <= plain < 20  # what is left is the fifth of grey ones and the crop's aspect
    assert sharp <= 2  # a blur of a tenth of a pixel changes nothing


# the loss


def nt_xent(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """The definition, one view at a time."""
    count, total = len(z), 0.0
    cosine = torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=-1) / temperature
    for i in range(count):
        partner = (i + count // 2) % count
        others = torch.stack([cosine[i, j].exp() for j in range(count) if j != i]).sum()
        total = total - (cosine[i, partner].exp() / others).log()
    return total / count


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    model = MultiTaskModel(tiny(18, 2).float(), ["simclr"])
    view = lambda: SharedBackbone(out_features=["res4", "res5"])  # noqa: E731
    model.add_head(
        "simclr",
        lambda: ContrastiveHead(backbone=view(), out_channels=6, temperature=0.2, **FORMAT),
    )
    return model


def views(count: int) -> list[dict]:
    torch.manual_seed(3)
    return [{"views": torch.randint(0, 256, (2, 3, 64, 64)).byte()} for _ in range(count)]


def test_loss_and_gradient_are_those_of_the_definition(model) -> None:
    torch.manual_seed(0)
    z = torch.randn(10, 6, requires_grad=True)
    loss, wanted = model.heads["simclr"].loss(z), nt_xent(z, 0.2)
    torch.testing.assert_close(loss, wanted)
    one, two = (torch.autograd.grad(x, z)[0] for x in (loss, wanted))
    torch.testing.assert_close(one, two)
    aligned = torch.eye(6)[:5].repeat(2, 1)
    perfect = -math.log(math.exp(5) / (math.exp(5) + 8))
    assert float(model.heads["simclr"].loss(aligned)) == pytest.approx(perfect, rel=1e-5)


def test_both_views_take_one_training_call_of_the_backbone(model) -> None:
    calls = []
    handle = model.backbone.register_forward_hook(
        lambda module, arguments, output: calls.append([x.shape[0] for x in arguments[0]])
    )
    model.zero_grad()
    model.begin_micro_step(0, 0, 0, 0)
    losses = model.losses("simclr", views(3))
    (sum(losses.values()) + model.finish_micro_step()).backward()
    handle.remove()
    assert calls == [[6]] and losses.keys() == {"loss_contrastive"}
    head = model.heads["simclr"]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert model.backbone.res2[0].units[0].conv1.weight.grad.any()
    assert model.controllers["simclr"].grad.any()


def test_partners_are_the_two_views_of_an_image(model) -> None:
    """Where both views of an image are equal, its two rows of what the loss gets are."""
    head, projected = model.heads["simclr"], []
    handle = head.project.register_forward_hook(lambda *args: projected.append(args[-1].detach()))
    model.begin_micro_step(0, 0, 0, 0)
    model.losses("simclr", [{"views": v["views"][:1].repeat(2, 1, 1, 1)} for v in views(4)])
    model.finish_micro_step()
    handle.remove()
    (rows,) = projected
    torch.testing.assert_close(rows[:4], rows[4:])
    assert all((rows[i] - rows[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))
    assert head.in_feature == "res5"


def test_one_image_has_nothing_to_tell_apart(model) -> None:
    model.zero_grad()
    model.begin_micro_step(0, 0, 0, 0)
    (loss,) = model.losses("simclr", views(1)).values()
    (loss + model.finish_micro_step()).backward()
    assert float(loss.detach()) == 0
    grads = [p.grad for p in model.heads["simclr"].parameters()]
    assert all(grad is not None and not grad.any() for grad in grads)


def test_evaluation_gives_the_pooled_feature(model) -> None:
    images = [{"image": one["views"][0]} for one in views(2)]
    outputs = model.inference("simclr", images)
    width = model.backbone.output_shape()["res5"].channels
    assert [output["features"].shape for output in outputs] == [(width,)] * 2
    alone = model.inference("simclr", images[:1])[0]["features"]
    torch.testing.assert_close(alone, outputs[0]["features"])


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        ContrastiveHead(backbone=tiny(18, 1), temperature=0, **FORMAT)
    with pytest.raises(ValueError, match="in_feature='res9'"):
        ContrastiveHead(backbone=tiny(18, 1), in_feature="res9", **FORMAT)


# nearest neighbours


@pytest.fixture
def evaluator():
    MetadataCatalog.get("gppf_test_neighbours").set(classes=["a", "b", "c"])
    yield lambda **options: NearestNeighbourEvaluator("gppf_test_neighbours", **options)
    MetadataCatalog.remove("gppf_test_neighbours")


def top1(evaluator: NearestNeighbourEvaluator, features: torch.Tensor, labels: list[int]) -> float:
    evaluator.reset()
    inputs = [{"label": label} for label in labels]
    evaluator.process(inputs, [{"features": feature} for feature in features])
    return evaluator.evaluate()["nearest_neighbour"]["top1"]


def test_accuracy_equals_a_slow_vote(evaluator, monkeypatch) -> None:
    monkeypatch.setattr("gppf_d2.evaluation.nearest_neighbour._CHUNK", 7)
    torch.manual_seed(0)
    labels = [i % 3 for i in range(30)]
    features = torch.randn(30, 8) + 2 * torch.eye(8)[labels]
    unit = torch.nn.functional.normalize(features, dim=1).half().float()
    right = 0
    for i, label in enumerate(labels):
        votes = dict.fromkeys(range(3), 0.0)
        ranked = sorted((float(unit[i] @ unit[j]), j) for j in range(30) if j != i)[::-1]
        for cosine, j in ranked[:5]:
            votes[labels[j]] += math.exp(cosine / 0.3)
        right += max(votes, key=votes.get) == label
    assert 0 < right < 30
    found = top1(evaluator(num_neighbours=5, temperature=0.3), features, labels)
    assert found == pytest.approx(100 * right / 30)


def test_an_image_does_not_vote_for_itself(evaluator) -> None:
    """Pairs of equal features with different labels: the nearest other image is always wrong."""
    features = torch.eye(4).repeat_interleave(2, 0)
    assert top1(evaluator(num_neighbours=1), features, [0, 1] * 4) == 0
    assert top1(evaluator(num_neighbours=1), features, [0, 0, 1, 1, 2, 2, 0, 0]) == 100
    assert math.isnan(top1(evaluator(), features[:1], [0]))


def test_what_cannot_be_evaluated_is_refused(evaluator) -> None:
    with pytest.raises(ValueError, match="label 3, expected 0 to 2"):
        top1(evaluator(), torch.eye(2), [0, 3])
    with pytest.raises(KeyError, match="no 'label'"):
        evaluator().process([{}], [{"features": torch.ones(2)}])
    with pytest.raises(ValueError, match="num_neighbours is 0"):
        evaluator(num_neighbours=0)


# the task in a run


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_it_trains_and_evaluates_beside_a_supervised_task(mini_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    done = subprocess.run(
        [
            sys.executable, str(PROJECT / "train_net.py"),
            "--config-file", str(PROJECT / "tests/modeling/contrastive_config.py"),
            "--num-processes", "2", "train.max_iter=2", "train.log_period=1",
            "train.replica_check_period=1", f"train.output_dir={output}",
        ],
        capture_output=True, text=True, timeout=240, check=False, cwd=PROJECT,
        env=environment(PYTHONPATH=str(PROJECT)),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((output / "results.json").read_text())
    assert 0 <= results["views"]["nearest_neighbour/top1"] <= 100
    assert 0 <= results["objects"]["classification/top1"] <= 100
    losses: dict[str, float] = {}
    for line in (output / "metrics.json").read_text().splitlines():
        losses.update(json.loads(line))
    assert losses["loss/views/loss_contrastive"] > 0 and losses["loss/objects/loss_cls"] > 0
