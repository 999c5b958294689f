"""Gates: distribution, gradients, limits of the temperature, source of their randomness."""

from __future__ import annotations

import pytest
import torch

from gppf_d2.modeling.lego.controller import (
    Gate,
    LinearTemperature,
    draw_gates,
    gate_generator,
    gumbel_noise,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hard_gates_are_sampled_with_the_controllers_probabilities():
    p = torch.tensor([0.6, 0.3, 0.1])
    layers = 20000
    gates = draw_gates(p.log().expand(layers, 3), "hard", 0.3, generator())
    counts = torch.bincount(torch.tensor([gate.only for gate in gates]), minlength=3) / layers
    # four standard deviations of a binomial share are below 0.014
    assert (counts - p).abs().max() < 0.014


def test_soft_gates_follow_equation_1():
    logits = torch.randn(4, 3, generator=generator()).double()
    gates = draw_gates(logits, "soft", 0.7, generator(1))
    noise = gumbel_noise((4, 3), generator(1)).double()
    p = logits.softmax(1)
    powers = ((p.log() + noise) / 0.7).exp()
    wanted = powers / powers.sum(1, keepdim=True)
    torch.testing.assert_close(torch.stack([torch.stack(g.weights) for g in gates]), wanted)
    assert all(gate.active == (0, 1, 2) and gate.straight_through is None for gate in gates)


def test_hard_gates_pass_the_gradient_of_the_unit_that_ran_only():
    """d(gate)/d(logits) is the softmax's row of the sampled unit, the others contribute nothing."""
    logits = torch.randn(5, 3, generator=generator()).double().requires_grad_()
    gates = draw_gates(logits, "hard", 0.7, generator(1))
    factors = torch.arange(1.0, 6.0).double()
    sum(f * gate.straight_through for f, gate in zip(factors, gates)).backward()
    noise = gumbel_noise((5, 3), generator(1)).double()
    u = ((logits.detach().log_softmax(1) + noise) / 0.7).softmax(1)
    for row, (gate, factor) in enumerate(zip(gates, factors)):
        one = torch.zeros(3).double()
        one[gate.only] = 1
        wanted = factor * u[row, gate.only] * (one - u[row]) / 0.7
        torch.testing.assert_close(logits.grad[row], wanted)
        assert gate.weights == (None,)


def test_a_low_temperature_is_safe_and_a_high_one_is_uniform():
    logits = (100 * torch.randn(50, 4, generator=generator())).requires_grad_()
    cold = draw_gates(logits, "soft", 0.01, generator(1))
    values = torch.stack([torch.stack(gate.weights) for gate in cold])
    assert torch.isfinite(values).all() and torch.allclose(values.sum(1), torch.ones(50))
    assert (values.max(1).values > 0.999).float().mean() > 0.9
    values.square().sum().backward()
    assert torch.isfinite(logits.grad).all()
    hard = draw_gates(logits, "hard", 0.01, generator(1))
    assert [g.only for g in hard] == values.argmax(1).tolist()
    hot = draw_gates(logits, "soft", 1e6, generator(1))
    torch.testing.assert_close(
        torch.stack([torch.stack(gate.weights) for gate in hot]), torch.full((50, 4), 0.25),
        atol=1e-3, rtol=0,
    )  # fmt: skip


def test_noise_is_finite_and_has_the_gumbel_mean():
    noise = gumbel_noise((200000,), generator())
    assert noise.dtype == torch.float32 and torch.isfinite(noise).all()
    assert abs(float(noise.mean()) - 0.5772) < 0.02


def test_evaluation_gates():
    logits = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    assert [g.only for g in draw_gates(logits, "argmax")] == [1, 0]
    assert [g.only for g in draw_gates(logits, "fixed", route=[0, 0])] == [0, 0]
    mean = draw_gates(logits, "mean")
    torch.testing.assert_close(torch.stack(mean[0].weights), logits[0].softmax(0))


@pytest.mark.parametrize("mode", ["soft", "hard", "mean", "argmax"])
def test_one_unit_has_the_gate_one_and_leaves_the_controller_alone(mode):
    logits = torch.zeros(3, 1, requires_grad=True)
    assert draw_gates(logits, mode) == [Gate.single(0)] * 3


def test_gates_are_fp32_for_half_precision_controllers():
    gates = draw_gates(torch.zeros(2, 2, dtype=torch.bfloat16), "soft", 1.0, generator())
    assert gates[0].weights[0].dtype == torch.float32


def test_randomness_depends_on_every_key_and_on_nothing_else():
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    torch.manual_seed(3)
    draws = [torch.rand(3, generator=gate_generator(*key)) for key in keys]
    torch.manual_seed(4)
    again = [torch.rand(3, generator=gate_generator(*key)) for key in keys]
    assert all(torch.equal(a, b) for a, b in zip(draws, again))
    assert len({tuple(draw.tolist()) for draw in draws}) == len(keys)


def test_bad_modes_temperatures_and_routes_are_refused():
    logits = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="soft, hard, argmax, mean, fixed"):
        draw_gates(logits, "gumbel")
    with pytest.raises(ValueError, match="must be positive"):
        draw_gates(logits, "soft", 0.0)
    for route in ([0], [0, 2], None):
        with pytest.raises(ValueError, match="one unit from 0 to 1 for each of the 2 layers"):
            draw_gates(logits, "fixed", route=route)


def test_temperature_is_linear_then_constant():
    temperature = LinearTemperature()
    assert temperature.at(0, 1000) == 5.0
    assert temperature.at(450, 1000) == pytest.approx(2.505)
    assert temperature.at(900, 1000) == temperature.at(999, 1000) == pytest.approx(0.01)
    assert LinearTemperature(2.0, 1.0, 0.0).at(0, 10) == 1.0
    with pytest.raises(ValueError, match="positive temperatures"):
        LinearTemperature(end=0.0)
