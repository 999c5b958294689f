"""The two forms of a lego layer compute the same, and alone it is the stock ResNet."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.backbone.resnet import BottleneckBlock

from gppf_d2.distributed.sync_bn import CrossTaskSyncBN
from gppf_d2.modeling.lego import Gate, LegoLayer
from tests.modeling.lego_models import (
    FEATURES,
    assert_same,
    controller,
    copied,
    gates_of,
    loss_of,
    outcome,
    tiny,
)

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)).double()


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("depth, units", [(18, 1), (18, 2), (18, 3), (50, 2)])
def test_in_step_equals_plain_in_outputs_and_all_gradients(depth, units, mode):
    backbone = tiny(depth, units)
    plain = copied(backbone, mixing="plain")
    assert backbone.layers[0].mixing == "in_step" and plain.layers[0].mixing == "plain"
    logits = controller(backbone)
    assert_same(outcome(backbone, logits, [X], mode), outcome(plain, logits, [X], mode))


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "GN", ""])
def test_in_step_works_with_any_norm(norm):
    channels = {"stem_out_channels": 32, "res2_out_channels": 32} if norm == "GN" else {}
    backbone = tiny(18, 2, norm=norm, **channels)
    plain = copied(backbone, norm=norm, mixing="plain", **channels)
    assert backbone.layers[1].mixing == "in_step"
    for mode in ("soft", "hard"):
        logits = controller(backbone)
        assert_same(outcome(backbone, logits, [X], mode), outcome(plain, logits, [X], mode))


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_in_step_equals_plain_in_channels_last(mode):
    backbone = tiny(50, 2)
    plain = copied(backbone, mixing="plain")
    logits = controller(backbone)
    backbone.to(memory_format=torch.channels_last)
    x = X.contiguous(memory_format=torch.channels_last)
    assert_same(outcome(backbone, logits, [x], mode), outcome(plain, logits, [X], mode))


def test_mean_and_argmax_gates_agree_between_the_forms_in_evaluation():
    backbone = tiny(18, 3).eval()
    plain = copied(backbone, mixing="plain").eval()
    logits = controller(backbone)
    for mode in ("mean", "argmax"):
        with torch.no_grad():
            found, _ = backbone([X], gates_of(logits, mode), FEATURES)
            wanted, _ = plain([X], gates_of(logits, mode), FEATURES)
        assert_same(found[0], wanted[0])


def test_a_multi_view_batch_of_one_size_equals_the_joined_batch():
    backbone, logits = tiny(18, 2), controller(tiny(18, 2))
    buffers = copied(backbone)
    features, _ = backbone(list(X.split(1)), gates_of(logits, "soft"), FEATURES)
    joined, _ = buffers([X], gates_of(logits, "soft"), FEATURES)
    for name in FEATURES:
        split = torch.cat([one[name] for one in features])
        torch.testing.assert_close(split, joined[0][name], rtol=1e-10, atol=1e-12)
    for (name, found), wanted in zip(backbone.named_buffers(), buffers.buffers()):
        torch.testing.assert_close(found, wanted, msg=name)


@pytest.mark.parametrize("kind, depth", [("soft", 18), ("hard", 50)])
def test_a_multi_view_batch_of_several_sizes_shares_its_statistics(kind, depth):
    """The reference normalises with the pixels of all views, in plain tensor operations."""
    from tests.reference.lego_reference import lego_features

    views = [X[:, :, :48, :64], X[:1, :, :64, :32]]
    backbone = tiny(depth, 2)
    logits = controller(backbone)
    found = outcome(backbone, logits, views, kind)
    parameters = dict(backbone.named_parameters())
    backbone.zero_grad()
    logits.grad = None
    xs = [v.clone().requires_grad_() for v in views]
    gates = gates_of(logits, kind)
    features = lego_features(backbone, [gates, gates], xs, FEATURES)
    loss_of(features).backward()
    wanted = {
        f"feature {i} {k}": v.detach() for i, one in enumerate(features) for k, v in one.items()
    }
    wanted |= {f"input {i}": x.grad for i, x in enumerate(xs)}
    wanted |= {f"gradient {name}": p.grad for name, p in parameters.items()}
    wanted["gradient controller"] = logits.grad
    assert_same({name: found[name] for name in wanted}, wanted)


@pytest.mark.parametrize("norm", ["CrossTaskSyncBN", "BN"])
@pytest.mark.parametrize(
    "mixing, mode", [("in_step", "soft"), ("in_step", "hard"), ("plain", "soft")]
)
def test_checkpointing_changes_neither_gradients_nor_running_statistics(mixing, mode, norm):
    backbone = tiny(18, 2, mixing=mixing, norm=norm)
    logits = controller(backbone)
    other = copied(backbone, mixing=mixing, norm=norm, checkpoint=True)
    found = outcome(other, logits, [X], mode)
    assert_same(found, outcome(backbone, logits, [X], mode), 1e-12)
    used = {int(v) for name, v in found.items() if name.endswith("num_batches_tracked")}
    assert used == ({1} if mode == "soft" else {0, 1})


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("mixing", ["in_step", "plain"])
def test_i4_one_unit_alone_is_the_plain_resnet_bit_for_bit(depth, mixing):
    backbone = tiny(depth, 1, mixing=mixing).float()
    logits = controller(backbone)
    stock = backbone.build_plain("BN", FEATURES)
    state = {name.replace(".units.0", ""): value for name, value in backbone.state_dict().items()}
    stock.load_state_dict(state)
    found = outcome(backbone, logits, [X.float()], "soft")
    x = X.float().requires_grad_()
    features = stock(x)
    loss_of([features]).backward()
    wanted = {f"feature 0 {name}": features[name].detach() for name in FEATURES}
    wanted |= {"input 0": x.grad, "gradient controller": None}
    for prefix, entries, pick in (
        ("gradient", stock.named_parameters(), lambda p: p.grad),
        ("buffer", stock.named_buffers(), lambda b: b),
    ):
        for name, value in entries:
            where = name.split(".")
            at = 1 if where[0] == "stem" else 2
            wanted[f"{prefix} {'.'.join([*where[:at], 'units', '0', *where[at:]])}"] = pick(value)
    assert_same(found, wanted, 0)


def test_hard_mode_leaves_units_that_do_not_run_alone():
    backbone = tiny(18, 3)
    logits = controller(backbone)
    found = outcome(backbone, logits, [X], "hard")
    gates = gates_of(logits, "hard")
    for name, gate in zip(backbone.layer_names, gates):
        for k in range(3):
            gradient = found[f"gradient {name}.units.{k}.conv1.weight"]
            assert (gradient is None) == (k != gate.only)
            moved = found[f"buffer {name}.units.{k}.conv1.norm.num_batches_tracked"]
            assert int(moved) == (k == gate.only)


def test_layers_that_no_feature_needs_do_not_run():
    backbone = tiny(18, 2)
    found = outcome(backbone, controller(backbone), [X], "soft", out_features=["res3"])
    assert "feature 0 res5" not in found and found["gradient res4.0.units.0.conv1.weight"] is None
    assert found["gradient res3.1.units.0.conv1.weight"] is not None


def test_plain_takes_units_of_any_architecture():
    units = [torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), CrossTaskSyncBN(4)) for _ in range(2)]
    layer = LegoLayer(units)
    assert layer.mixing == "plain"
    gate = Gate((0, 1), (torch.tensor(0.25), torch.tensor(0.75)))
    x = torch.randn(2, 3, 5, 5)
    (y,), _ = layer([x], gate)
    torch.testing.assert_close(y, 0.25 * units[0](x) + 0.75 * units[1](x))


def test_plain_refuses_other_words():
    with pytest.raises(ValueError, match="in_step, plain"):
        LegoLayer([BottleneckBlock(4, 4, bottleneck_channels=2)], mixing="folded")
    with pytest.raises(ValueError, match="num_units"):
        tiny(18, 0)
    with pytest.raises(ValueError, match="18, 34, 50"):
        tiny(20)
    with pytest.raises(ValueError, match="choose CrossTaskSyncBN"):
        tiny(18, norm="SyncBN")


@pytest.mark.parametrize("mixing", ["in_step", "plain"])
def test_bf16_autocast_with_channels_last_runs(mixing):
    backbone = tiny(50, 2, mixing=mixing).float().to(memory_format=torch.channels_last)
    logits = controller(backbone)
    x = X.float().contiguous(memory_format=torch.channels_last)
    exact = outcome(backbone, logits, [x], "soft")
    with torch.autocast("cpu", torch.bfloat16):
        half = outcome(backbone, logits, [x], "soft")
    assert half["feature 0 res2"].dtype == torch.bfloat16
    assert all(torch.isfinite(value).all() for value in half.values() if value is not None)
    torch.testing.assert_close(
        half["feature 0 stem"].float(), exact["feature 0 stem"], rtol=0.1, atol=0.1
    )
