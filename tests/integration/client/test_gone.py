"""What a thread that is gone leaves behind: locks. Daemon threads are killed as the interpreter ends, wherever they
are, and what `__del__` asks for after that must wait neither for them nor for what they held."""

import subprocess
import sys

from tests.support.servers import ROOT, RegistryServer

# A thread that ends takes every lock of ours along. Then the program ends, and its last object asks for everything.
GONE = """
import faulthandler, gc, queue, sys, threading
from concurrent.futures import Future

import registry_client.sync
from balancer import LoadBalancer, blocking_channel
from registry_client import Instance, testing

faulthandler.dump_traceback_later(60, exit=True)
LOCKS = (type(threading.Lock()), type(threading.RLock()))
WITH_LOCKS = (threading.Event, threading.Condition, queue.Queue, Future)
taken = {}

def take(thing):
    for it in (*gc.get_referents(thing), *getattr(thing, "__dict__", {}).values()):
        if isinstance(it, LOCKS) and id(it) not in taken and it.acquire(timeout=1):
            taken[id(it)] = type(thing).__name__
        elif isinstance(it, WITH_LOCKS):
            take(it)

def take_all():
    for thing in gc.get_objects():
        if str(type(thing).__module__).startswith(("balancer", "registry_")):
            take(thing)

class Last:
    def __init__(self, asked):
        self.asked = asked
    def __del__(self):
        print(sys.is_finalizing(), *sorted(set(taken.values())))
        for name, ask in self.asked.items():
            try:
                print(name, type(ask()).__name__, flush=True)
            except Exception as error:
                print(name, type(error).__name__, str(error).partition(",")[0], flush=True)

def under_way(what):
    with what as it:
        yield it

here = under_way(testing.registry())
next(here)
registry = registry_client.sync.connect(sys.argv[1], cache_dir=None)
registry.__enter__()
registration = registry.register(Instance("s", "127.0.0.1", 1), drain=0).start()
watch = registry.watch("s")
next(watch)
events = registry.watch_events()
subscription = registry.on_change("s", added=[].append)
discovery = registry.discover("s")
balanced = registry.balancer("s")
request = under_way(balanced.request())
next(request)
of_registry = registry.channel("s")
channel = blocking_channel("static://127.0.0.1:1")
heard = [].append
channel.subscribe(heard)
method = channel.unary_unary("/x.Y/Z")
call = method.future(b"", wait_for_ready=True)
balancer = LoadBalancer()
balancer.select(["a", "b"])
asked = {
    "server": here.close, "another server": testing.registry().__enter__,
    "call": call.cancel, "again": call.cancel, "callback": lambda: call.add_done_callback(print),
    "result": call.result, "method": lambda: method(b""), "unsubscribe": lambda: channel.unsubscribe(heard),
    "subscribe": lambda: channel.subscribe(print), "stats": channel.stats, "why": channel.why,
    "channel": channel.close, "its channel": of_registry.close,
    "select": lambda: balancer.select(["a"]), "counted": balancer.stats,
    "subscription": subscription.cancel, "watch": watch.close, "next": watch.next, "events": events.close,
    "discovery": discovery.instances, "balanced": balanced.get, "of balanced": balanced.stats, "request": request.close,
    "its end": balanced.close, "registration": registration.close, "list": lambda: registry.list("s"),
    "registry": registry.close, "anew": registry.__enter__,
}
takes = threading.Thread(target=take_all)
takes.start()
takes.join()
sys.modules["last"] = Last(asked)  # goes last, when no thread runs any more
"""
ENDING = "the interpreter is ending"
TOLD = f"""server NoneType
another server RuntimeError {ENDING}
call bool
again bool
callback RuntimeError {ENDING}
result RuntimeError {ENDING}
method RuntimeError {ENDING}
unsubscribe NoneType
subscribe RuntimeError {ENDING}
stats PoolStatistics
why Why
channel NoneType
its channel NoneType
select str
counted PoolStatistics
subscription NoneType
watch NoneType
next Misuse {ENDING}
events NoneType
discovery Misuse {ENDING}
balanced Misuse {ENDING}
of balanced Misuse {ENDING}
request NoneType
its end NoneType
registration NoneType
list Misuse {ENDING}
registry NoneType
anew Misuse {ENDING}"""


def test_nobody_waits_for_the_locks_of_threads_that_are_gone(registry_server: RegistryServer) -> None:
    late = [sys.executable, "-c", GONE, registry_server.address]
    done = subprocess.run(late, cwd=ROOT, capture_output=True, text=True, timeout=90)
    first, *told = done.stdout.splitlines()
    assert told == TOLD.splitlines(), done.stderr
    assert first.startswith("True "), first
    assert {"Call", "Connectivity", "Home", "LoadBalancer", "LoopThread", "ThreadsEngine"} <= set(first.split()), first
