"""What registry.v1.Xds shows of clients, however much they ask for and whatever they call themselves."""

from registry_api.registry.v1 import xds_pb2 as pb
from registry_api.registry.v1.registry_pb2 import ResponseHeader
from registry_api.registry.xds.v1 import ads_pb2 as ads
from registry_server.rpc.table import Caller
from registry_server.rpc.xds import MAX_CLIENT_BYTES, OpenStream, XdsAnswers
from registry_server.xds.kinds import ResourceType
from registry_server.xds.load import LoadBook
from registry_server.xds.session import AdsSession
from tests.support.ads_session import World

CALLER = Caller("ipv4:127.0.0.1:50123")


def asking(world: World, node: str, *names: str) -> AdsSession:
    """A stream of a node that asks for resources of every type by those names."""
    session = world.session()
    for kind in ResourceType:
        session.asked(ads.DiscoveryRequest(node=ads.Node(id=node), type_url=kind.url, resource_names=names), 0.0)
    return session


async def listed(world: World, *sessions: AdsSession, size: int = 0, token: str = "") -> pb.ListClientsResponse:
    streams = [OpenStream(session, CALLER, 0.0) for session in sessions]
    answers = XdsAnswers(lambda: streams, LoadBook(world.resources), ResponseHeader)
    request = pb.ListClientsRequest(page_size=size, page_token=token)
    return pb.ListClientsResponse.FromString(await answers.list_clients(request, CALLER))


async def test_a_client_that_asks_for_very_much_fits_into_a_message() -> None:
    world = World()
    much = asking(world, "much", *(f"{'n' * 128}/{number:0128}" for number in range(100)))
    answer = await listed(world, *[much] * 100)
    [client] = answer.clients
    assert client.ByteSize() <= MAX_CLIENT_BYTES
    assert (client.stream_count, 0 < len(client.streams) < 100) == (100, True)


async def test_pages_go_on_after_clients_of_any_name() -> None:
    world = World()
    sessions = [asking(world, node, "player") for node in ("a\0b\0c\0d", "\U0001f600" * 1_000, "c/d", "", " ")]
    found, token = [], ""
    while answer := await listed(world, *sessions, size=1, token=token):
        found += [client.node_id for client in answer.clients]
        token = answer.next_page_token
        assert len(token) <= 1_024, "which is what clients take"
        if not token:
            break
    assert found == sorted(found)
    assert len(found) == len(sessions)
