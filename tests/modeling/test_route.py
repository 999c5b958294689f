"""The exported route is the routed backbone."""

from __future__ import annotations

import json

import pytest
import torch
from detectron2.modeling.backbone.resnet import ResNet

from gppf_d2.engine.hooks import routes_record
from gppf_d2.modeling.lego import draw_gates, extract_route, read_route_file, route_state_dict
from gppf_d2.modeling.multitask import MultiTaskModel
from tests.modeling.lego_models import FEATURES, controller, gates_of, outcome, tiny

ROUTE = [0, 1, 1, 0, 1, 0, 0, 1, 1]
X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("norm", ["CrossTaskSyncBN", "BN", "FrozenBN"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_i6_route_equals_export(norm, layout):
    backbone = tiny(18, 2, norm=norm)
    outcome(backbone, controller(backbone), [X.double()], "soft")  # running statistics move
    backbone.float().to(memory_format=layout).eval()
    plain = extract_route(backbone, ROUTE).to(memory_format=layout)
    x = X.contiguous(memory_format=layout)
    with torch.no_grad():
        found, _ = backbone([x], draw_gates(torch.zeros(9, 2), "fixed", route=ROUTE), FEATURES[1:])
        wanted = plain(x)
    assert type(plain) is ResNet and not plain.training
    for name, value in wanted.items():
        assert torch.equal(found[0][name], value), name


def test_i6_argmax_route_of_a_bottleneck_backbone_equals_export():
    backbone = tiny(50, 3).float().eval()
    logits = controller(backbone)
    plain = extract_route(backbone, logits.argmax(1).tolist(), out_features=["res3"])
    with torch.no_grad():
        found, _ = backbone([X], gates_of(logits, "argmax"), ["res3"])
        wanted = plain(X)
    assert torch.equal(found[0]["res3"], wanted["res3"]) and set(wanted) == {"res3"}


def test_keys_are_those_of_a_stock_resnet():
    backbone = tiny(18, 2)
    state = route_state_dict(backbone.state_dict(), ROUTE)
    stock = backbone.build_plain("BN").state_dict()
    assert set(state) == set(stock)
    assert {"stem.conv1.weight", "res2.0.conv1.weight", "res3.0.shortcut.norm.bias"} <= set(state)
    own = backbone.state_dict()
    assert torch.equal(state["stem.conv1.weight"], own["stem.units.0.conv1.weight"])
    assert torch.equal(state["res2.0.conv1.weight"], own["res2.0.units.1.conv1.weight"])
    assert torch.equal(state["res5.1.conv2.weight"], own["res5.1.units.1.conv2.weight"])


def test_the_order_of_the_state_does_not_matter():
    """Some files sort their keys, res4.10 before res4.2 and the stem last."""
    state = {
        f"{layer}.units.{k}.w": torch.tensor(100 * i + k)
        for i, layer in enumerate(["stem", *(f"res4.{j}" for j in range(12))])
        for k in range(2)
    }
    shuffled = {name: state[name] for name in sorted(state)}
    route = [0] * 3 + [1] + [0] * 9
    assert route_state_dict(shuffled, route) == route_state_dict(state, route)
    assert int(route_state_dict(shuffled, route)["res4.2.w"]) == 301


def test_routes_that_do_not_fit_are_refused():
    backbone = tiny(18, 2)
    with pytest.raises(ValueError, match="each of the 9 layers"):
        extract_route(backbone, [0, 1])
    with pytest.raises(ValueError, match="from 0 to 1"):
        extract_route(backbone, [2] * 9)
    with pytest.raises(ValueError, match="not that of a lego backbone"):
        route_state_dict(backbone.build_plain().state_dict(), ROUTE)


def engine_record() -> dict:
    """As the engine writes it."""
    model = MultiTaskModel(tiny(18, 2), ["parsing", "scenes"])
    model.controllers["parsing"].data[range(9), ROUTE] = 4.0
    return routes_record(model, 5)


def test_route_files_of_every_kind_give_the_route(tmp_path):
    path = tmp_path / "routes.json"
    record = engine_record()
    path.write_text(json.dumps(record))
    assert read_route_file(path, "parsing") == ROUTE
    assert read_route_file(str(path), "scenes") == [0] * 9
    del record["tasks"]["scenes"]
    path.write_text(json.dumps(record))
    assert read_route_file(path) == read_route_file(path, "parsing") == ROUTE
    path.write_text(json.dumps({"task": "parsing", "route": ROUTE, "layout": "timm"}))
    assert read_route_file(path) == read_route_file(path, "parsing") == ROUTE
    path.write_text(json.dumps(ROUTE))
    assert read_route_file(path) == ROUTE


def test_route_files_that_do_not_serve_are_refused_with_one_sentence(tmp_path):
    record = engine_record()
    one = {"task": "parsing", "num_units": 2, "layers": ["a", "b"]}
    cases = [
        (None, None, "There is no route file"),
        ("{", None, "cannot be read as JSON"),
        (json.dumps(record), None, "has the routes of parsing, scenes; choose one"),
        (
            json.dumps(record),
            "cooking",
            "Unknown task 'cooking'.*has the routes of parsing, scenes",
        ),
        (json.dumps({**record, "tasks": {}}), None, "has the routes of no task"),
        (json.dumps({**record, "tasks": {"a": 3}}), None, "is None; it must be a list"),
        (json.dumps({"iteration": 5}), None, "holds no route"),
        ("3", None, "holds no route"),
        (json.dumps({**one, "route": [0, 1]}), "scenes", "Unknown task 'scenes'.*of parsing"),
        (json.dumps({**one, "route": [0, 2]}), None, "names unit 2; units go from 0 to 1"),
        (json.dumps({**one, "route": [0]}), None, "has 1 units and the file names 2 layers"),
        ("[0, -1]", None, "names unit -1; units start at 0"),
        ("[0, true]", None, "is .0, True.; it must be a list"),
        ("[]", None, "must be a list"),
        ("[0, 1]", "parsing", "one route without a task's name; leave out 'parsing'"),
    ]
    for text, task, message in cases:
        path = tmp_path / "file.json"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            read_route_file(path, task)
        assert "\n" not in str(caught.value)
