"""SHELL: makes what a server needs to run checks, as it is configured."""

import secrets
import time
from collections.abc import Callable
from random import Random

from registry_checks.looks import Looks
from registry_checks.probes import Probes, Reach, installed
from registry_server.config import Config
from registry_server.config.values import is_near
from registry_server.health.book import Book
from registry_server.health.door import Door
from registry_server.health.doubt import Cutoff
from registry_server.health.prober import Findings, Prober
from registry_server.health.replicas import TTL_S, Replica
from registry_server.homes import Connecting, Homes
from registry_server.settings import Settings
from registry_server.stores.base import Store

BY_HAND_S = 0.02  # how soon it is seen that a clock was moved on by hand
ALONE_S = 10 * 366 * 24 * 3600.0  # the lease of a server whose clock is, which has no other beside it


def make_door(config: Config) -> Door:
    """What the server takes of checks."""
    return Door(config.checks == "on", _reach(config).refuses, installed(), Book(config.rules()))


def make_prober(
    config: Config,
    store: Store,
    settings: Settings,
    findings: Findings,
    rng: Random,
    is_blind: Callable[[], bool],
    clock: Callable[[], float] | None = None,
) -> Prober:
    """Who runs them. Every server has a name of its own, from its start to its end. `clock`: as of `serve`, `is_blind`:
    as of Prober."""
    most, reach = config.check_concurrency, _reach(config)
    by_hand_s, ttl_s = (None, TTL_S) if clock is None else (BY_HAND_S, ALONE_S)
    looks = Looks(clock or time.monotonic, rng, most, by_hand_s)
    return Prober(
        findings,
        Replica(store, settings, secrets.token_hex(8), ttl_s),
        Probes(reach, installed()),
        Cutoff(config.cut_off_share, config.cut_off_least),
        looks,
        time.monotonic if clock is None else looks.now,
        time.time,
        is_blind,
    )


def make_homes(config: Config) -> Homes:
    """Who finds out whether owners are where they say; of others only what checks may look at."""
    return Connecting(_reach(config) if config.checks == "on" else None)


def _reach(config: Config) -> Reach:
    """A server that others reach too must not tell them what it finds on its own machine."""
    allowed, is_auto = config.check_local == "yes", config.check_local == "auto"
    return Reach(
        loopback=allowed or (is_auto and config.is_local),
        link_local=allowed or (is_auto and all(is_near(it, "is_link_local") for it in config.addresses)),
        ca=config.check_ca,
    )
