"""The exported route is the routed backbone."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.backbone.resnet import ResNet

from gppf_d2.modeling.lego import draw_gates, extract_route, route_state_dict
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
