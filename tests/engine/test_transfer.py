"""From a pre-trained lego checkpoint to a downstream model: weights, errors, whole runs."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig

from gppf_d2.engine import setup, transfer
from gppf_d2.engine.config import load_config, share_total_batch
from gppf_d2.engine.errors import UserError
from gppf_d2.engine.pretrained_run import PretrainedRun
from gppf_d2.engine.transfer import extracted, fit_backbone
from gppf_d2.modeling.multitask import MultiTaskModel
from tests.engine.pretrained import pretrained
from tests.engine.runs import QUICK, checkpoint, losses, train_config

STAGES = ["res2", "res3", "res4", "res5"]
CONFIG = QUICK / "mini_r18_finetune.py"


@pytest.fixture(scope="module")
def source(
    mini_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, MultiTaskModel]:
    """A checkpoint of the demo's config, N = 2, and its model."""
    path = tmp_path_factory.mktemp("pretrained") / "model_final.pth"
    return path, pretrained(QUICK / "mini_r18.py", path)


def config(path: Path, *overrides: str) -> DictConfig:
    return load_config(
        str(CONFIG), [f"train.init_checkpoint={path}", "train.device=cpu", *overrides]
    )


def built(cfg: DictConfig) -> MultiTaskModel:
    """The downstream model as a run builds it."""
    cfg = fit_backbone(cfg)
    tasks = setup.build_tasks(cfg)
    model = setup.build_model(cfg, tasks)
    setup.load_initial_weights(cfg, model, tasks)
    return model.eval()


def features(model: MultiTaskModel, task: str) -> list[torch.Tensor]:
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    (found,) = model.features(task, [image], STAGES, training=False)
    return [found[name] for name in STAGES]


def saved(path: Path, **changes: Any) -> dict[str, Any]:
    state = torch.load(path, weights_only=True)
    return {**state, **changes}


def test_a_fixed_path_computes_what_the_routed_lego_computes(source) -> None:
    path, lego = source
    model = built(config(path, "train.init_route=parsing"))
    assert model.backbone.num_units == 1
    for ours, theirs in zip(features(model, "boxes"), features(lego, "parsing")):
        assert torch.equal(ours, theirs)


def test_a_route_file_is_a_fixed_path_too(source, tmp_path: Path) -> None:
    path, lego = source
    record = {
        "num_units": 2,
        "layers": list(lego.backbone.layer_names),
        "tasks": lego.routes(),
    }
    file = tmp_path / "routes.json"
    file.write_text(json.dumps(record))
    model = built(config(path, f"train.init_route={file}:depth", "train.init_head="))
    for ours, theirs in zip(features(model, "boxes"), features(lego, "depth")):
        assert torch.equal(ours, theirs)


def test_dynamic_takes_all_units_and_an_undecided_controller(source) -> None:
    path, lego = source
    model = built(config(path, "train.init_route=dynamic"))
    assert model.backbone.num_units == 2
    ours, theirs = model.backbone.state_dict(), lego.backbone.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not model.controllers["boxes"].any()


def test_a_head_comes_along_without_the_layers_that_predict_classes(source) -> None:
    path, lego = source
    model = built(config(path))
    theirs = lego.heads["scenes"].state_dict()
    ours = model.heads["boxes"].state_dict()
    fresh = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    prediction = {name for name in ours if "box_predictor" in name and name.endswith("weight")}
    assert prediction and fresh == prediction  # biases start at 0 in both
    assert any(name.startswith("roi_heads.mask_head") for name in theirs), "left behind"


def test_predictions_come_along_where_the_classes_are_the_same(source, tmp_path: Path) -> None:
    path, lego = source
    model = built(config(path, "train.init_predictions=true"))
    name = "roi_heads.box_predictor.cls_score.weight"
    theirs = lego.heads["scenes"].state_dict()[name]
    assert torch.equal(model.heads["boxes"].state_dict()[name], theirs)
    classes = saved(path)["classes"]
    names = classes["scenes"]["thing_classes"]
    classes["scenes"]["thing_classes"] = [*names[:2], "teapot", *names[3:]]
    other = tmp_path / "other.pth"
    torch.save(saved(path, classes=classes), other)
    with pytest.raises(UserError, match="differ from number 2 on .'teapot' against"):
        built(config(other, "train.init_predictions=true"))


def test_a_head_whose_prediction_layers_are_not_known_comes_along_with_a_warning(
    source, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = "No layer that predicts classes is known in the head of boxes"
    built(config(source[0]))
    assert warning not in caplog.text
    monkeypatch.setattr(transfer, "prediction_layers", lambda head: ())
    built(config(source[0]))
    assert warning in caplog.text


def test_the_report_says_what_is_loaded_fresh_and_ignored(source, caplog) -> None:
    path, lego = source
    caplog.set_level("INFO", logger="gppf_d2")
    built(config(path))
    (text,) = [r.getMessage() for r in caplog.records if "re-initialised" in r.getMessage()]
    route = " ".join(map(str, lego.controllers["scenes"].argmax(1).tolist()))
    assert f"route {route} (scenes), head of scenes" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line[:1] in "bch"}
    units = len(PretrainedRun.read(str(path)).backbone([0] * len(lego.backbone.layer_names)))
    assert rows["backbone"] == [str(units), "0"]
    assert "controllers" not in rows, "one unit a layer: nothing to choose"
    assert rows["heads.boxes"][1] == "4"
    assert "roi_heads.box_predictor.cls_score" in text and "ignored: " in text


def test_an_undecided_route_is_said_to_be_one(source, tmp_path: Path, caplog) -> None:
    path, _ = source
    state = saved(path)
    assert not PretrainedRun.of("", state).doubt("scenes")
    state["model"]["controllers.scenes"][:2] = 1.0
    torch.save(state, tmp_path / "doubtful.pth")
    built(config(tmp_path / "doubtful.pth"))
    assert "scenes is UNDECIDED in 2 of 9 layers (stem, res2.0)" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.init_noise=0.01"], "train.init_noise is 0.01, which is for plain weights"),
        (["train.init_route=gone/routes.json"], "there is no route file 'gone/routes.json'"),
        (
            ["train.init_route=cars"],
            "neither a task .*it has boxes, depth, objects, .* nor .dynamic.",
        ),
        (["train.init_head=cars"], "train.init_head is 'cars'; .* has the tasks boxes, depth"),
        (["train.init_head=depth"], "The head of 'depth' .* does not fit 'boxes'"),
        (["train.init_route="], "train.init_head needs train.init_route"),
        (["backbone.depth=34"], "is not the config's: it lacks backbone.*depth=18"),
        (["backbone.stem_out_channels=32"], "is not the config's: .* against .*"),
        (["input.pixel_format=BGR"], "trained with input.pixel_format=RGB and the config has BGR"),
        (["backbone.stride_in_1x1=true"], "stride_in_1x1=False and the config has True"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(source, overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        built(config(source[0], *overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layers": ["stem", "res2.0"], "tasks": {"a": {"route": [0, 1]}}}, "passes 2 layers"),
        ({"num_units": 3}, "chooses among 3 units a layer and the backbone has 2"),
        ({"tasks": {"a": {"route": [0] * 8 + [2]}}}, "names unit 2"),
    ],
)
def test_a_route_of_another_depth_or_n_is_refused(
    source, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path, lego = source
    record = {"num_units": 2, "layers": list(lego.backbone.layer_names)}
    record["tasks"] = {"a": {"route": [0] * 9}}
    file = tmp_path / "routes.json"
    file.write_text(json.dumps({**record, **change}))
    with pytest.raises(UserError, match=sentence):
        built(config(path, f"train.init_route={file}"))


def test_a_file_that_is_no_run_has_no_routes(source, tmp_path: Path) -> None:
    plain = tmp_path / "plain.pth"
    torch.save({"model": {"stem.conv1.weight": torch.zeros(1)}}, plain)
    with pytest.raises(UserError, match="not a gppf_d2 .*; train.init_route=scenes takes a run's"):
        built(config(plain))
    zoo = tmp_path / "R-50.pkl"
    zoo.write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(
        UserError, match="cannot be read .*plain weights go with train.init_route= "
    ):
        built(config(zoo))
    with pytest.raises(ValueError, match="say with train.init_route which route to take"):
        built(config(source[0], "train.init_route=", "train.init_head="))


def test_plain_weights_need_no_route_and_no_head() -> None:
    plain = ["train.init_checkpoint=R-50.pkl", "train.init_route=", "train.init_head="]
    cfg = load_config(str(CONFIG), [*plain, "train.init_predictions=true"])
    assert fit_backbone(cfg) is cfg


def test_a_run_goes_on_with_the_kinds_of_units_that_its_checkpoint_has(
    mini_root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.pth"
    pretrained(QUICK / "mini_r18_mixed_units.py", path)
    state = saved(path)
    state["model"]["controllers.objects"][:, 2] = 99.0
    torch.save(state, path)
    mixed = ["basic", "deformable", "depthwise"]
    for choice, left, kinds in (
        ("objects", extracted(state, "objects"), ["depthwise"]),
        ("dynamic", state, mixed),
    ):
        cfg = config(path, f"train.init_route={choice}", "train.init_head=")
        path_is_gone = config(tmp_path / "gone.pth", f"train.init_route={choice}")
        again = fit_backbone(path_is_gone, PretrainedRun.of("", left))
        for fitted in (fit_backbone(cfg), again):
            assert list(fitted.backbone.units) == kinds
            assert fitted.backbone.num_units == len(kinds)


def test_an_extracted_network_is_the_argmax_route_alone(source) -> None:
    path, lego = source
    state = saved(path)
    small = extracted(state, "depth")
    assert small["route"] == lego.controllers["depth"].argmax(1).tolist()
    assert {name.split(".")[0] for name in small["model"]} == {"backbone", "heads", "controllers"}
    assert not any(".units.1." in name for name in small["model"])
    assert yaml.safe_load(small["config"])["backbone"]["num_units"] == 1
    shares = [sum(t.numel() for t in s["model"].values()) for s in (small, state)]
    assert shares[0] < 0.5 * shares[1]


def test_an_extracted_network_follows_the_averaged_controllers(source) -> None:
    state = saved(source[0])
    average = {n: t for n, t in state["model"].items() if n.endswith((".weight", ".bias"))}
    average["controllers.depth"] = -state["model"]["controllers.depth"]
    small = extracted({**state, "ema": {"average": average}}, "depth")
    assert small["route"] == (-state["model"]["controllers.depth"]).argmax(1).tolist()
    first = small["route"][0]
    name = "backbone.stem.units.0.conv1.weight"
    assert torch.equal(small["ema"]["average"][name], average[name.replace("0", str(first), 1)])


@pytest.mark.timeout(280)
def test_dynamic_then_retrain_from_the_command_line(source, tmp_path: Path) -> None:
    path, _ = source
    start = (f"train.init_checkpoint={path}", "train.eval_batch_size=4", "train.init_head=")
    short = (*start, "train.total_batch_size=4", "train.max_iter=2")
    dynamic, retrained = tmp_path / "dynamic", tmp_path / "retrained"
    train_config(CONFIG, dynamic, *short, "train.init_route=dynamic")
    routes = json.loads((dynamic / "routes.json").read_text())
    assert routes["num_units"] == 2 and list(routes["tasks"]) == ["boxes"]
    learned = checkpoint(dynamic, "model_extracted")
    assert learned["route"] == routes["tasks"]["boxes"]["route"]
    of_argmax = json.loads((dynamic / "results.json").read_text())
    (dynamic / "results.json").unlink()
    # samples of a step need not be shared out equally where there is none
    options = ("--eval-only", "--checkpoint", str(dynamic / "model_extracted.pth"))
    options += ("train.accumulation=3",)
    train_config(CONFIG, dynamic, *options, *start, "train.init_route=dynamic", processes=1)
    again = json.loads((dynamic / "results.json").read_text())
    assert again["boxes"] == pytest.approx(of_argmax["boxes"], nan_ok=True)

    file = dynamic / "routes.json"
    train_config(CONFIG, retrained, *short, f"train.init_route={file}", processes=1)
    final = checkpoint(retrained, "model_final")
    assert ".units.1." not in "".join(final["model"])
    assert yaml.safe_load(final["config"])["backbone"]["num_units"] == 1
    assert not (retrained / "model_extracted.pth").exists()
    told = json.loads((retrained / "run.json").read_text())["initial_weights"]
    assert told.startswith(f"From {path}: route") and "re-initialised" in told


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_wrong_route_ends_every_rank_with_the_sentence(source, tmp_path: Path) -> None:
    options = (f"train.init_checkpoint={source[0]}", "train.init_route=cars")
    done = train_config(CONFIG, tmp_path / "run", *options, status=1)
    assert "train.init_route is 'cars', which is neither a task" in done.stderr


@pytest.mark.timeout(280)
def test_one_task_on_two_ranks_is_data_parallel_training(mini_root: Path, tmp_path: Path) -> None:
    """With frozen statistics two ranks of two samples do what one rank of four does."""
    found = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        train_config(
            QUICK / "mini_r18.py", output, "--tasks", "objects", "train.total_batch_size=4",
            "backbone.num_units=1", "backbone.norm=FrozenBN", "train.max_iter=3",
            "tasks.objects.evaluators=[]", "optimizer._target_=torch.optim.SGD",
            "optimizer.lr=0.01", "train.log_period=1", processes=processes,
        )  # fmt: skip
        found.append((losses(output), checkpoint(output, "model_final")["model"]))
    (one, first), (two, second) = found
    assert one.keys() == two.keys() and len(one) == 3
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-6), name
    for iteration in one:
        assert one[iteration] == pytest.approx(two[iteration], rel=1e-4)


def test_a_total_batch_is_shared_out_or_refused() -> None:
    cfg = load_config(str(CONFIG), ["train.total_batch_size=12", "train.accumulation=2"])
    assert share_total_batch(cfg, 3).tasks.boxes.batch_size == 2
    assert cfg.tasks.boxes.batch_size == 4, "the config itself stays"
    given = share_total_batch(cfg, 3, ["tasks.boxes.batch_size=4"])
    assert given.tasks.boxes.batch_size == 4
    assert given.train.total_batch_size == 3 * 2 * 4, "a student's loss weights follow from it"
    with pytest.raises(UserError, match="12 and cannot be shared out equally to 8 batches"):
        share_total_batch(cfg, 4)
    joint = load_config(str(QUICK / "mini_r18.py"), ["train.total_batch_size=8"])
    with pytest.raises(UserError, match="for runs of one task"):
        share_total_batch(joint, 2)
