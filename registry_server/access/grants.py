"""CORE: rights over patterns of namespace and service: `register default/player`, `read */*`, `operate prod-*/*`."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from registry_api.limits import MAX_NAME
from registry_server.access.patterns import Pattern
from registry_server.rights import EVERY, RIGHTS, Right

# Names of which it is remembered what may be done with them, of one set of grants. Filters ask of each instance.
MAX_REMEMBERED = 5_000

_PART = r"[A-Za-z0-9_.:@~+*-]{1,256}"
_GRANT = re.compile(rf"(?P<right>[a-z]+) +(?P<namespace>{_PART})/(?P<service>{_PART})")
_RULE = f"must be RIGHT NAMESPACE/SERVICE with * for any, such as 'read */*', where RIGHT is one of {', '.join(RIGHTS)}"


class BadGrant(ValueError):
    """What is written is no grant. The text says what one is."""


class Grant(NamedTuple):
    """A right over all services that fit a pattern: names in which `*` stands for any characters."""

    right: Right
    namespace: str
    service: str

    @classmethod
    def parse(cls, text: str) -> "Grant":
        """The grant that is written so. Raises BadGrant."""
        match = _GRANT.fullmatch(text.strip())
        right = next((it for it in RIGHTS if match and it == match["right"]), None)
        if match is None or right is None:
            raise BadGrant(_RULE)
        return cls(right, match["namespace"], match["service"])

    def __str__(self) -> str:
        return f"{self.right} {self.namespace}/{self.service}"


class Grants:
    """Rights that come from grants: see rights.Rights."""

    def __init__(self, grants: Iterable[Grant] = ()) -> None:
        self._grants = frozenset(grants)
        # By right: the patterns of namespace and service for which it is granted, by itself or within a larger one.
        self._scopes: dict[str, list[tuple[Pattern, Pattern]]] = {
            right: [_scope(it) for it in self._grants if RIGHTS.index(it.right) >= rank]
            for rank, right in enumerate(RIGHTS)
        }
        # The same where nothing stands for others, which takes no search: there may be as many grants as services.
        self._exact: dict[str, frozenset[tuple[str, str]]] = {
            right: frozenset((names.head, its.head) for names, its in scopes if names.tail is its.tail is None)
            for right, scopes in self._scopes.items()
        }
        self._wide = {
            right: [it for it in scopes if not (it[0].tail is it[1].tail is None)]
            for right, scopes in self._scopes.items()
        }
        self._remembered: dict[tuple[str, str, str], bool] = {}

    @property
    def grants(self) -> Sequence[str]:
        """See rights.Rights; in order."""
        return sorted(map(str, self._grants))

    def may(self, right: Right, namespace: str, service: str, /) -> bool:
        """See rights.Rights. Of patterns, that of EVERY alone fits EVERY."""
        asked = (right, namespace, service)
        answer = self._remembered.get(asked)
        return self._find_out(asked) if answer is None else answer

    def may_some(self, right: Right, namespace: str, service: str, /) -> bool:
        """See rights.Rights."""
        return any(
            (namespace == EVERY or namespaces.fits(namespace)) and (service == EVERY or services.fits(service))
            for namespaces, services in self._scopes[right]
        )

    def _find_out(self, asked: tuple[str, str, str]) -> bool:
        right, namespace, service = asked
        if len(namespace) > MAX_NAME or len(service) > MAX_NAME:
            return False  # no name, and none to be kept
        answer = (namespace, service) in self._exact[right] or any(
            namespaces.fits(namespace) and services.fits(service) for namespaces, services in self._wide[right]
        )
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[asked] = answer
        return answer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grants) and other._grants == self._grants

    def __hash__(self) -> int:
        return hash(self._grants)

    def __repr__(self) -> str:
        return f"Grants({', '.join(self.grants)})"


def _scope(grant: Grant) -> tuple[Pattern, Pattern]:
    return Pattern.of(grant.namespace), Pattern.of(grant.service)
