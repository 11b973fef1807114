"""SHELL: grpc.channelz.v1: what gRPC's core counts of channels, servers and sockets in this process."""

from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz, channelz_pb2

from registry_server.errors import NotFound
from registry_server.rpc.table import Caller, Needs, Service, Unary

CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]


def service() -> Service:
    """Its methods, as grpcio answers them."""
    methods = {it.name: _entry(it.name, getattr(channelz_pb2, it.input_type.name)) for it in CHANNELZ.methods}
    return Service(CHANNELZ.full_name, methods)


def _entry(name: str, kind: type[Message]) -> Unary[Message]:
    ask = getattr(channelz.ChannelzServicer, name)

    async def call(request: Message, caller: Caller) -> bytes:
        said = _Said()
        answer = ask(request, said)
        if said.code is grpc.StatusCode.NOT_FOUND:
            raise NotFound("channelz entry", str(request).strip())
        if answer is None:
            raise RuntimeError(said.details)
        return bytes(answer.SerializeToString())

    return Unary(kind, call, Needs("admin"))


class _Said:
    """Takes the place of a call's context, of which these methods use only how to fail."""

    code: Any = None
    details = ""

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details
