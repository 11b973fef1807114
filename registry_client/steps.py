"""CORE: the responses of a watch gathered into whole steps, and what no answer may be.

What a registry answers is not trusted: it may be broken, another program, or made to harm. An answer that is too large,
names no order of changes or is for another question is refused before anything of it is taken in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from registry_api.limits import DEFAULT_NAMESPACE
from registry_client import checks
from registry_client.instance import Cause, Instance, Key

if TYPE_CHECKING:
    from registry_api.registry.v1 import registry_pb2 as pb

# Ours are a tenth of that at most; both are opaque, and kept.
MAX_TOKEN = 16 * 1024
MAX_EPOCH = 1024


class Refused(ValueError):
    """An answer that is not to be used. The text says why."""


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """The most that one watch takes from a registry; what is larger is refused.

    `size`: of one step and of the whole set, in bytes as encoded. `instances`: in one step and in the whole set.
    `parts`: messages that make up one step. Raises InvalidArgument for what is no number above 0.
    """

    size: int = 64 * 1024 * 1024
    instances: int = 200_000
    parts: int = 10_000

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("instances", self.instances), ("parts", self.parts)):
            checks.whole(name, value, 1, checks.MAX_INT64)


class Asked(NamedTuple):
    """Which instances a watch asks for; no namespace and no services mean any."""

    namespace: str = ""
    services: frozenset[str] = frozenset()

    def means(self, key: Key) -> bool:
        """Whether an instance of that name may be in the answer."""
        is_there = not self.namespace or key.namespace == self.namespace
        return is_there and (not self.services or key.service in self.services)


class Member(NamedTuple):
    """One instance of a set, with its size in bytes as encoded and its share of the checksum."""

    key: Key
    instance: Instance
    size: int
    share: int


@dataclass(slots=True)
class Step:
    """One step of a watch, or as much of it as has come."""

    epoch: str
    reset: bool
    upserts: list[Member] = field(default_factory=list)
    removed: dict[Key, Cause] = field(default_factory=dict)
    parts: int = 0
    size: int = 0


class Steps:
    """Gathers the parts of a step until it is whole."""

    def __init__(self, asked: Asked, limits: WatchLimits) -> None:
        self._asked = asked
        self._limits = limits
        self._step: Step | None = None

    @property
    def is_open(self) -> bool:
        """True while a step has begun and is not whole."""
        return self._step is not None

    def clear(self) -> None:
        """Forget what has come of a step."""
        self._step = None

    def add(self, response: pb.WatchResponse) -> Step | None:
        """The whole step, once this is its last part. Raises Refused, and forgets what has come of it then."""
        step, self._step = self._step, None
        self._check_header(response)
        if step is None:
            step = Step(response.header.epoch, response.reset)
        elif response.reset or response.header.epoch != step.epoch:
            raise Refused("its answer begins anew in the middle")
        self._count(step, response)
        self._take(step, response)
        if not response.more:
            return step
        self._step = step
        return None

    def _check_header(self, response: pb.WatchResponse) -> None:
        epoch, revision = response.header.epoch, response.header.revision
        if not epoch or len(epoch) > MAX_EPOCH:
            raise Refused(f"its answer has an epoch of {len(epoch)} characters")
        if revision < 0:
            raise Refused(f"its answer has the revision {revision}")
        if len(response.resume_token) > MAX_TOKEN:
            raise Refused(f"its answer has a resume_token of {len(response.resume_token):,} characters")

    def _count(self, step: Step, response: pb.WatchResponse) -> None:
        step.parts += 1
        step.size += response.ByteSize()
        named = len(step.upserts) + len(step.removed) + len(response.upserts) + len(response.removed)
        check_bounds(self._limits, step.size, named)
        if step.parts > self._limits.parts:
            raise Refused(f"its answer has more than {self._limits.parts:,} parts")

    def _take(self, step: Step, response: pb.WatchResponse) -> None:
        for message in response.upserts:
            instance = Instance.from_proto(message)
            if not self._asked.means(key := instance.key):
                raise Refused(f"it answers another question: {_short(key)} was not asked for")
            step.upserts.append(Member(key, instance, message.ByteSize(), checksum_of(instance)))
        for it in response.removed:
            key = Key(it.namespace or DEFAULT_NAMESPACE, it.service, it.id)
            step.removed[key] = Cause.from_proto(it.cause)


def checksum_of(instance: Instance) -> int:
    """The share of one instance in a checksum; see WatchResponse.checksum in the .proto."""
    text = f"{instance.namespace}/{instance.service}/{instance.id}@{instance.revision}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def check_bounds(limits: WatchLimits, size: int, instances: int) -> None:
    """Raises Refused for what is larger than the limits: bytes, and instances."""
    if size > limits.size:
        raise Refused(f"its answer has more than {limits.size:,} bytes")
    if instances > limits.instances:
        raise Refused(f"its answer has more than {limits.instances:,} instances")


def _short(key: Key) -> str:
    """What may stand in a line of a log, whatever the name."""
    return ascii(str(key)[:200])
