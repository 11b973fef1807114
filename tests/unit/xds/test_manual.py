"""docs/xds.md says the numbers that the server goes by."""

import pytest

from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server.rpc import xds as answers
from registry_server.transport.limits import Limits
from registry_server.xds import admission, endpoints, hosts, load, resources, service, session
from registry_server.xds.kinds import ResourceType
from tests.support.source import ROOT

MANUAL = " ".join((ROOT / "docs/xds.md").read_text().split())
PROTO = " ".join((ROOT / "protos/registry/v1/xds.proto").read_text().replace("//", "").split())


@pytest.mark.parametrize(
    "says",
    [
        f"may ask for {session.MAX_UNKNOWN:,} such services, all streams together for {resources.MAX_STRANGERS:,}",
        f"beyond {endpoints.MAX_CLASSES} weights in one place",
        f"again every {hosts.REFRESH_S:g} s",
        f"waits for that, {hosts.PATIENCE_S:g} s at the most",
        f"at most {endpoints.MAX_SPOTS:,} endpoints",
        f"what they have for {service.WARM_UP_S:g} s",
        f"{admission.BURST:,} of them begin at once and {admission.RATE_PER_S:,} in each second",
        f"wait for more than {admission.LONGEST_S:g} s",
        f"{Limits().max_streams} by default: calls to the {Limits().max_streams // 2 + 1}th target would wait",
        f"every {load.MIN_INTERVAL_S:g} s, and less often where there are more than 1,000",
    ],
)
def test_the_manual_says_it(says: str) -> None:
    assert says in MANUAL


@pytest.mark.parametrize(("services", "fits"), [(10_000, True), (20_000, False)])
def test_an_envoy_that_comes_back_is_understood(services: int, fits: bool) -> None:
    names = [f"shop/payments-{number:05}" for number in range(services)]
    request = ads.DeltaDiscoveryRequest(
        type_url=ResourceType.ENDPOINTS.url,
        resource_names_subscribe=names,
        initial_resource_versions=dict.fromkeys(names, "0123456789abcdef"),
    )
    assert (request.ByteSize() < Limits().max_message_bytes) == fits
    assert "10,000 services and more, set `max_message_bytes`" in MANUAL


def test_the_proto_says_it() -> None:
    assert f"The oldest, {answers.MAX_STREAMS} at the most" in PROTO
    assert f"the first {answers.MAX_NAMES} of them" in PROTO
    assert f"{answers.MAX_LOADS:,} at the most" in PROTO
    assert f"{session.MAX_REASON:,} characters at the most" in PROTO
    assert load.MIN_INTERVAL_S * load.REPORTS_PER_S == 1_000
