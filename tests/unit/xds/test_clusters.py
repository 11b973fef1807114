"""Clusters as they are written: a policy that does not concern them changes no byte, and so no version."""

import pytest

from registry_server.xds import clusters
from registry_server.xds.listeners import encoded


@pytest.mark.parametrize("name", ["player", "prod/player", "player#version=1", "x" * 300])
def test_plain_cluster_has_the_bytes_of_one_that_a_policy_leaves_alone(name: str) -> None:
    assert clusters.plain(name) == encoded(clusters.cluster(name))
