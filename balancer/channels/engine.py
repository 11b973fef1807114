"""What the engines of both kinds of channel share: the picker, the state, the service config, and the channel's rest
before its first call and after its last."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from itertools import count, islice
from typing import TYPE_CHECKING, Protocol

from balancer.calls.plan import Plan, plan_for
from balancer.channels.connection import Way
from balancer.channels.driver import Driver
from balancer.channels.health import streams_of
from balancer.channels.kinds import Kind
from balancer.channels.options import info_maker, key_of_header
from balancer.channels.process import INHERITED
from balancer.numbers import FAIL, WAIT, Counts, Numbers, Totals
from balancer.policies.base import ConnectivityState, Node
from balancer.pool.picker import Fail, Open, Wait
from balancer.pool.pool import Pool
from balancer.pool.statistics import PoolNumbers
from balancer.pool.verdicts import Why
from balancer.pulse import Pulse
from balancer.service_config import ServiceConfig, config_of

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from random import Random

    from balancer.channels.driver import Connections
    from balancer.channels.kinds import Signature
    from balancer.channels.options import ChannelOptions, Settings
    from balancer.channels.traces import Tracing
    from balancer.endpoints import Resolved
    from balancer.policies.base import PickInfo
    from balancer.pool.picker import Pick
    from balancer.pool.statistics import PoolStatistics

log = logging.getLogger(__name__)


class Picks(Protocol):
    """Anything that answers picks."""

    def pick(self, info: PickInfo, now: float) -> Pick: ...


class Dormant:
    """The picker of a channel nobody has used yet: the first pick starts it."""

    def __init__(self, start: Callable[[], None]) -> None:
        self._start = start

    def pick(self, info: PickInfo, now: float) -> Pick:
        self._start()
        return Wait()


class Closed:
    """The picker of a closed channel."""

    def __init__(self, refusal: Callable[[], Exception]) -> None:
        self._refusal = refusal

    def pick(self, info: PickInfo, now: float) -> Pick:
        raise self._refusal()


class Engine:
    """What a channel's methods and calls share."""

    def __init__(self, settings: Settings, rng: Random, tracing: Tracing) -> None:
        self.settings = settings
        self.tracing = tracing
        self.rng = rng
        self.config: ServiceConfig = settings.service_config
        self.options: ChannelOptions = settings.options_under(settings.service_config)
        self.info_of = info_maker(settings, self.options.hash_header)
        self.revision = 0
        """Which service config it is: methods plan anew when it grew."""
        self.state = ConnectivityState.IDLE
        self.closed = False
        self.refusal = ""
        """What a call is told that comes too late, once the channel is closed."""
        self.picker: Picks = Dormant(self.start)
        self.driver: Driver | None = None
        self.counts: Counts | None = None
        """None until somebody wants to know."""
        self.pulse = Pulse(asleep_s())
        """By which a standstill of this process is found out."""
        self.resting = True
        """No call is under way for all that is known, so nobody beats: whoever calls begins it."""
        self._numbers = count()

    def start(self) -> None:
        """Begins to resolve and to connect, once."""
        raise NotImplementedError

    def refuse(self, refusal: str) -> None:
        """It is closed: whoever calls is told why."""
        self.closed, self.refusal = True, refusal
        self.picker = Closed(self.too_late)

    def too_late(self) -> Exception:
        """What a call raises that comes too late, as grpcio has it."""
        raise NotImplementedError

    def inherit(self) -> None:
        """See `balancer.channels.process.Begun`."""
        if not self.closed:
            self.refuse(INHERITED)
            self.state = ConnectivityState.SHUTDOWN

    def plan(self, signature: Signature) -> Plan:
        """What the service config asks for the calls of a method."""
        streams = signature.kind is not Kind.UNARY_UNARY
        return plan_for(self.config, signature.path, tries_again=self.settings.tries_again, streams=streams)

    def keyed(self, info: PickInfo, metadata: Iterable[tuple[str, str | bytes]]) -> PickInfo:
        """What the pick of a call may know that began when nobody knew yet what calls are hashed by."""
        header = self.options.hash_header
        if header is None or info.key is not None:
            return info
        return replace(info, key=key_of_header(header, metadata))

    def statistics(self) -> PoolStatistics | None:
        """The pool as it is now; None before the first call."""
        return None if self.driver is None else self.driver.pool.statistics(time.monotonic())

    def why(self) -> Why:
        """Why each endpoint gets calls or none, those included that the resolver keeps from the channel. From any
        thread."""
        if self.closed:
            inherited = self.refusal == INHERITED
            return Why(usable=False, verdict=INHERITED if inherited else "the channel is closed")
        driver, now = self.driver, time.monotonic()
        if driver is None:
            return Why(usable=False, verdict="nothing was called yet: the first call finds out whom there is")
        told = driver.pool.why(now)
        left_out = tuple(getattr(self.settings.resolver, "left_out", tuple)())
        doubt = ""
        if age_s := driver.age_s(now):
            doubt = f"; for {age_s:.1f} s nobody has confirmed that these are all"
            trouble = driver.trouble or getattr(self.settings.resolver, "trouble", "")
            doubt += f": {trouble}" if trouble and trouble not in told.verdict else ""
        return replace(told, verdict=told.verdict + doubt, endpoints=(*told.endpoints, *left_out))

    def numbers(self) -> Numbers:
        """What there is to count, and what was counted, since that was asked for. From any thread."""
        driver = self.driver
        counted = Totals() if self.counts is None else self.counts.read()
        if driver is None:
            return Numbers(counted, PoolNumbers())
        return Numbers(counted, driver.pool.numbers(), driver.age_s(time.monotonic()))

    @property
    def name(self) -> str:
        """What the channel is called in metrics where nobody says otherwise."""
        return getattr(self.settings.resolver, "name", "")

    def count(self) -> None:
        """Count what becomes of calls from now on."""
        self.counts = self.counts or Counts()

    def note(self, pick: Pick) -> Pick:
        """The pick, which is counted."""
        if self.counts is not None and not isinstance(pick, Node):
            self.counts.picked(FAIL if isinstance(pick, Fail) else WAIT)
        return pick

    def new_driver(self, connections: Connections, loop: asyncio.AbstractEventLoop) -> Driver:
        settings = self.settings
        pool = Pool(settings.policy, options=settings.options.pool, rng=self.rng, now=time.monotonic())
        return Driver(settings.resolver, pool, connections, loop, self.pulse)

    def excuses(self, began: float, now: float) -> bool:
        """The failure, which is seen now, of an attempt that began then may be the fault of this process, which stood
        still. From any thread."""
        return self.pulse.excuses(began, now, asleep_s())

    def way_to(self, node: Node) -> Way:
        """How the node is connected to, as the service config has it by now. The connection shares gRPC's own with no
        other."""
        driver, config, options = self.driver, self.config, self.options
        assert driver is not None  # noqa: S101 - it is what asks
        number = next(self._numbers)
        return Way(
            node.endpoint.address,
            self.settings.dial_options(config, number=number),
            self.settings.dial_options(config, retries=False, number=number),
            streams_of(driver, node, options),
            options.health_service is not None,
        )

    def one_idle(self) -> Iterable[Node]:
        """An endpoint that nobody has tried: for a channel that is wanted connected though no call waits."""
        members = () if self.driver is None else self.driver.pool.members
        return islice((node for node in members if node.state is ConnectivityState.IDLE), 1)

    def configured(self, resolution: Resolved) -> None:
        """A set of endpoints came; its service config may be another one (balancer.channels.driver.Connections)."""
        given = resolution.service_config
        if given is None or (self.settings.config_given and not isinstance(given, ServiceConfig)):
            return
        try:
            config = config_of(given)
        except ValueError as error:
            log.warning("service config refused, the one before stays: %s", error)
            return
        self._configure(self.settings.config_under(config))

    def _configure(self, config: ServiceConfig) -> None:
        before, settings = self.config, self.settings
        if config == before:
            return
        chosen = config.parts != before.parts or (config.policy != before.policy and not settings.policy_given)
        if self.driver is not None and chosen:
            self.driver.choose_by(settings.policy_under(config))
        if self.driver is not None:
            self.driver.go_by(settings.outlier_under(config), config.most_calls)
        self.config, self.options = config, settings.options_under(config)
        self.info_of = info_maker(settings, self.options.hash_header)
        self.revision += 1


def asleep_s() -> float:
    """For how many seconds the machine was suspended up to now, which the clock that deadlines go by leaves out."""
    clock: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return 0.0 if clock is None else time.clock_gettime(clock) - time.monotonic()


def ready(pick: Pick) -> Pick:
    """The pick, or `Wait` when its node's connection is closed already and the next picker is on its way."""
    return Wait() if isinstance(pick, Node) and pick.connection is None else pick


def wanted(pick: Pick) -> tuple[Node, ...]:
    """The nodes a pick wants connected."""
    return pick.nodes if isinstance(pick, Open) else ()
