"""Metrics of clients, channels and balancers, for a Prometheus registry of the program's own.

    import registry_client.metrics

    registry_client.metrics.expose(registry)                          # in prometheus_client.REGISTRY
    registry_client.metrics.expose(channel, registry=my_registry)

docs/metrics.md says what there is.
"""

try:
    from registry_client.bridge.metrics import expose
except ModuleNotFoundError as error:
    if error.name != "prometheus_client":
        raise
    raise ImportError(f"metrics need the package prometheus-client: {error}", name=error.name) from None

__all__ = ["expose"]
