"""The messages and the stub of gRPC's interop tests (grpc.testing.*), made from descriptors at run time."""

from typing import Any, Protocol

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "grpc.testing"
_TYPES = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _TYPES.TYPE_BOOL,
    "int32": _TYPES.TYPE_INT32,
    "bytes": _TYPES.TYPE_BYTES,
    "string": _TYPES.TYPE_STRING,
    "double": _TYPES.TYPE_DOUBLE,
}

# message -> field -> (number, type); a leading * = repeated.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Empty": {},
    "Payload": {"type": (1, "int32"), "body": (2, "bytes")},
    "EchoStatus": {"code": (1, "int32"), "message": (2, "string")},
    "TestOrcaReport": {"cpu_utilization": (1, "double"), "memory_utilization": (2, "double")},
    "SimpleRequest": {
        "response_type": (1, "int32"),
        "response_size": (2, "int32"),
        "payload": (3, "Payload"),
        "response_status": (7, "EchoStatus"),
        "fill_server_id": (9, "bool"),
        "orca_per_query_report": (11, "TestOrcaReport"),
    },
    "SimpleResponse": {"payload": (1, "Payload"), "server_id": (4, "string")},
    "StreamingInputCallRequest": {"payload": (1, "Payload")},
    "StreamingInputCallResponse": {"aggregated_payload_size": (1, "int32")},
    "ResponseParameters": {"size": (1, "int32"), "interval_us": (2, "int32")},
    "StreamingOutputCallRequest": {
        "response_type": (1, "int32"),
        "response_parameters": (2, "*ResponseParameters"),
        "payload": (3, "Payload"),
        "response_status": (7, "EchoStatus"),
    },
    "StreamingOutputCallResponse": {"payload": (1, "Payload")},
}


def _field(name: str, number: int, kind: str) -> descriptor_pb2.FieldDescriptorProto:
    bare = kind.lstrip("*")
    field = _TYPES(name=name, number=number, label=_TYPES.LABEL_REPEATED if kind != bare else _TYPES.LABEL_OPTIONAL)
    if bare in _SCALARS:
        field.type = _SCALARS[bare]
    else:
        field.type = _TYPES.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{bare}"
    return field


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="tests/interop.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        message.field.extend(_field(field, number, kind) for field, (number, kind) in fields.items())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _classes()
Empty: Any = _CLASSES["Empty"]
EchoStatus: Any = _CLASSES["EchoStatus"]
Payload: Any = _CLASSES["Payload"]
TestOrcaReport: Any = _CLASSES["TestOrcaReport"]
SimpleRequest: Any = _CLASSES["SimpleRequest"]
SimpleResponse: Any = _CLASSES["SimpleResponse"]
StreamingInputCallRequest: Any = _CLASSES["StreamingInputCallRequest"]
StreamingInputCallResponse: Any = _CLASSES["StreamingInputCallResponse"]
ResponseParameters: Any = _CLASSES["ResponseParameters"]
StreamingOutputCallRequest: Any = _CLASSES["StreamingOutputCallRequest"]
StreamingOutputCallResponse: Any = _CLASSES["StreamingOutputCallResponse"]


class AnyChannel(Protocol):
    """grpc.Channel and grpc.aio.Channel alike."""

    def unary_unary(self, method: str, serializer: Any, deserializer: Any, _registered_method: bool) -> Any: ...
    def unary_stream(self, method: str, serializer: Any, deserializer: Any, _registered_method: bool) -> Any: ...
    def stream_unary(self, method: str, serializer: Any, deserializer: Any, _registered_method: bool) -> Any: ...
    def stream_stream(self, method: str, serializer: Any, deserializer: Any, _registered_method: bool) -> Any: ...


def payload(size: int) -> Any:
    return Payload(body=bytes(size))


class TestStub:
    """What generated code for grpc.testing.TestService and UnimplementedService would be, for any channel."""

    __test__ = False

    def __init__(self, channel: AnyChannel) -> None:
        def method(kind: str, name: str, request: Any, response: Any, service: str = "TestService") -> Any:
            make = getattr(channel, kind)
            path = f"/{_PACKAGE}.{service}/{name}"
            return make(path, request.SerializeToString, response.FromString, _registered_method=True)

        out, answer = StreamingOutputCallRequest, StreamingOutputCallResponse
        self.EmptyCall = method("unary_unary", "EmptyCall", Empty, Empty)
        self.UnaryCall = method("unary_unary", "UnaryCall", SimpleRequest, SimpleResponse)
        self.StreamingInputCall = method(
            "stream_unary", "StreamingInputCall", StreamingInputCallRequest, StreamingInputCallResponse
        )
        self.StreamingOutputCall = method("unary_stream", "StreamingOutputCall", out, answer)
        self.FullDuplexCall = method("stream_stream", "FullDuplexCall", out, answer)
        self.UnimplementedCall = method("unary_unary", "UnimplementedCall", Empty, Empty)
        self.UnimplementedService = method("unary_unary", "UnimplementedCall", Empty, Empty, "UnimplementedService")
