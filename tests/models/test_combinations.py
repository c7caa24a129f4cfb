"""Combinations of a network's parts: the served graph gives the network's forecasts, with native operators only."""

import os

import numpy as np
import pytest

from forecaster.registry.bundle import largest_difference
from tests.models.combinations import Combination, every_combination, pairwise_cover, trained_network

# `make conformance` tests every combination
IS_COMPLETE = bool(os.environ.get("FORECASTER_CONFORMANCE"))
TOLERANCE = 1e-5


@pytest.mark.parametrize("combination", every_combination() if IS_COMPLETE else pairwise_cover(), ids=str)
def test_served_graph_gives_the_networks_forecasts(combination: Combination) -> None:
    trained, inputs = trained_network(combination, np.random.default_rng(5))
    operators = {node.op_type for node in trained.trace().graph.node}
    assert not operators & {"Loop", "If", "Scan"}
    served = trained.run(inputs.feeds)
    assert served.mean.shape == (len(inputs), combination.shape.horizon)
    assert largest_difference(inputs, served, trained.predict(inputs)) < TOLERANCE
