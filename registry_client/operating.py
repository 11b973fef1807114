"""SHELL: what an operator's calls have in common: the way to the registry, a namespace, and how long to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry_client import checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry_client.link import Link


class Operating:
    """`link` gives the way as of now; `namespace` and `timeout_s` are for calls that say none."""

    def __init__(self, link: Callable[[], Link], namespace: str, timeout_s: float) -> None:
        self._link = link
        self._namespace = namespace
        self._timeout_s = timeout_s

    def _space(self, namespace: str) -> str:
        return checks.name("namespace", namespace, empty=True) or self._namespace

    def _asked_space(self, namespace: str, all_namespaces: bool) -> str:
        return checks.space(namespace, all_namespaces, self._namespace)

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout_s if timeout is None else checks.timeout(timeout)
