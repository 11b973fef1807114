"""CORE: the services of xDS as reflection describes them: by the messages of this package."""

from collections.abc import Iterator, Mapping

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from registry_api.registry.xds.v1 import ads_pb2 as ads

ADS_NAME = "envoy.service.discovery.v3.AggregatedDiscoveryService"
LOADS_NAME = "envoy.service.load_stats.v3.LoadReportingService"

# By service and method: the messages of a request and of an answer. All of them are streams both ways.
_METHODS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    ADS_NAME: {
        "StreamAggregatedResources": ("DiscoveryRequest", "DiscoveryResponse"),
        "DeltaAggregatedResources": ("DeltaDiscoveryRequest", "DeltaDiscoveryResponse"),
    },
    LOADS_NAME: {"StreamLoadStats": ("LoadStatsRequest", "LoadStatsResponse")},
}


def files() -> Iterator[FileDescriptorProto]:
    """The files, those that others need before these."""
    yield from _with_dependencies(ads.DESCRIPTOR, set())
    for name, methods in _METHODS.items():
        package, _, service = name.rpartition(".")
        file = FileDescriptorProto(name=f"{name.replace('.', '/')}.proto", package=package, syntax="proto3")
        file.dependency.append(ads.DESCRIPTOR.name)
        described = file.service.add(name=service)
        for method, (asked, told) in methods.items():
            described.method.add(
                name=method,
                input_type=f".{ads.DESCRIPTOR.package}.{asked}",
                output_type=f".{ads.DESCRIPTOR.package}.{told}",
                client_streaming=True,
                server_streaming=True,
            )
        yield file


def _with_dependencies(file: FileDescriptor, seen: set[str]) -> Iterator[FileDescriptorProto]:
    if file.name in seen:
        return
    seen.add(file.name)
    for dependency in file.dependencies:
        yield from _with_dependencies(dependency, seen)
    found = FileDescriptorProto()
    file.CopyToProto(found)
    yield found
