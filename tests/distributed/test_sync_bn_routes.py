"""Cross-task batch norm under random mixtures of routes, on 3 and 4 processes."""

from __future__ import annotations

import pytest

from tests.distributed.sync_bn_chain import EXACT, POSITIONS, many_chains
from tests.harness import run_distributed


@pytest.fixture(scope="module", params=[3, 4])
def chains(request) -> list[list[dict]]:
    return run_distributed(many_chains, request.param)


def test_i5_sync_bn_random_routes_equal_one_process(chains) -> None:
    for ranks in zip(*chains):
        for result in ranks:
            assert max(result["found"].values()) < EXACT, result["found"]


def test_i2_sync_bn_one_gather_and_one_reduction_per_position_whatever_the_route(chains) -> None:
    for ranks in zip(*chains):
        for result in ranks:
            assert result["counts"] == {"all_gather": POSITIONS, "all_reduce": POSITIONS}


def test_i1_running_statistics_are_bit_equal_also_on_ranks_that_sat_out(chains) -> None:
    for first, *others in zip(*chains):
        assert all(first["buffers"] == other["buffers"] for other in others)
