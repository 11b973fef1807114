"""Rules of the house that no other tool checks. Each rule is a function from a file to what it finds wrong there."""

import ast
import re
import statistics
from collections.abc import Callable, Iterator

import pytest

from tests.support.source import PACKAGES, ROOT, Source, sources, tracked_files

Rule = Callable[[Source], Iterator[str]]

# Printing is for people who asked at a command line; what a test prints is shown when it fails.
MAY_PRINT = re.compile(r"^(examples/|tests/|protos/generate\.py|.*/(cli/show|__main__)\.py$)")
# The places that poll with a deadline, play a slow peer, or measure.
# The people of tests/faults rest between what they do, as people do; the test of it does not.
MAY_SLEEP = re.compile(r"^tests/(support|bench|faults/(cast|nemesis|stage))\b")
# Written so that this file does not name them itself.
MACHINE_PATHS = re.compile(
    r"(?<![\w.~}])/(?:" + "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers")) + r")/\w"
)
TASK_MAKERS = ("create_task", "ensure_future")
MUTABLE_CALLS = ("list", "dict", "set", "deque", "defaultdict", "Counter", "OrderedDict")
QUEUES = ("Queue", "LifoQueue", "PriorityQueue", "SimpleQueue")
LONGEST_FUNCTION, P90_FUNCTION, MEDIAN_FUNCTION = 60, 25, 8


def dropped_tasks(source: Source) -> Iterator[str]:
    """A task that nobody holds may be collected in mid-flight, and its exception is lost. A TaskGroup holds its own."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _makes_loose_task(node.value):
            yield f"{source.path}:{node.lineno} drops a task"


def _makes_loose_task(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in TASK_MAKERS:
        return isinstance(call.func, ast.Name) and call.func.id in TASK_MAKERS
    owner = call.func.value
    if isinstance(owner, ast.Call):
        owner = owner.func
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return name == "asyncio" or name.endswith("loop")


def unbounded_queues(source: Source) -> Iterator[str]:
    """A queue without a bound turns a slow reader into an ever larger process."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and _name(node.func) in QUEUES and not node.args and not node.keywords:
            yield f"{source.path}:{node.lineno} makes a queue without a bound"


def prints(source: Source) -> Iterator[str]:
    if MAY_PRINT.match(source.path):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{source.path}:{node.lineno} prints"


def module_state(source: Source) -> Iterator[str]:
    """What changes belongs to an object that somebody makes. Tables in capitals are constants."""
    for node in source.tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not _is_mutable(node.value):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name) and not target.id.isupper() and not target.id.startswith("__"):
                yield f"{source.path}:{node.lineno} keeps module-level state: {target.id}"


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        return _name(value.func) in MUTABLE_CALLS
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def global_statements(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield f"{source.path}:{node.lineno} declares global {', '.join(node.names)}"


def long_functions(source: Source) -> Iterator[str]:
    for name, line, length in _functions(source):
        if length > LONGEST_FUNCTION:
            yield f"{source.path}:{line} {name} has {length} lines; at most {LONGEST_FUNCTION}"


def sleeping_tests(source: Source) -> Iterator[str]:
    """A test waits for a condition (tests/support/waiting.py), it does not sleep and hope. gRPC handlers, which play a
    slow back end, are told by their argument `context`."""
    if source.package != "tests" or MAY_SLEEP.match(source.path):
        return
    yield from (f"{source.path}:{line} sleeps" for line in _sleeps(source.tree))


def _sleeps(node: ast.AST) -> Iterator[int]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and _is_handler(child):
            continue
        if isinstance(child, ast.Call) and _is_sleep(child):
            yield child.lineno
        yield from _sleeps(child)


def _is_handler(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(argument.arg.lstrip("_") in ("context", "ctx") for argument in function.args.args)


def _is_sleep(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "sleep" or _name(call.func.value) == "trio":
        return False
    yields_only = call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0
    return _name(call.func.value) in ("time", "asyncio") and not yields_only


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _functions(source: Source) -> Iterator[tuple[str, int, int]]:
    """Name, line and length, without the docstring, of every function."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            yield node.name, node.lineno, node.end_lineno - node.lineno + 1 - _docstring_lines(node)


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is None or first.end_lineno is None:
        return 0
    return first.end_lineno - first.lineno + 1


EVERYWHERE: tuple[Rule, ...] = (dropped_tasks, prints, sleeping_tests)
IN_THE_PRODUCT: tuple[Rule, ...] = (unbounded_queues, module_state, global_statements, long_functions)


@pytest.mark.parametrize("rule", EVERYWHERE, ids=lambda rule: rule.__name__)
def test_rule_holds_everywhere(rule: Rule) -> None:
    assert [wrong for source in sources() for wrong in rule(source)] == []


@pytest.mark.parametrize("rule", IN_THE_PRODUCT, ids=lambda rule: rule.__name__)
def test_rule_holds_in_the_product(rule: Rule) -> None:
    assert [wrong for source in sources(*PACKAGES) for wrong in rule(source)] == []


def test_functions_are_short() -> None:
    lengths = sorted(length for source in sources(*PACKAGES) for _, _, length in _functions(source))
    assert statistics.median(lengths) <= MEDIAN_FUNCTION
    assert lengths[len(lengths) * 9 // 10] <= P90_FUNCTION


def test_no_path_of_a_machine() -> None:
    assert [where for path in tracked_files() for where in _machine_paths(path)] == []


def _machine_paths(path: str) -> Iterator[str]:
    try:
        lines = (ROOT / path).read_text().splitlines()
    except UnicodeDecodeError:  # a picture
        return
    for number, line in enumerate(lines, 1):
        if MACHINE_PATHS.search(line):
            yield f"{path}:{number} {line.strip()[:80]}"


def test_every_folder_of_the_product_is_typed() -> None:
    typed = {path.parent.name for path in (*ROOT.glob("*/py.typed"), *ROOT.glob("protos/*/py.typed"))}
    assert set(PACKAGES) <= typed


def test_makefile_lists_its_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    described = re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)
    assert sorted(phony[1].split()) == sorted(described)


BROKEN = {
    dropped_tasks: [
        "asyncio.create_task(f())",
        "asyncio.get_running_loop().create_task(f())",
        "self._loop.create_task(f())",
        "ensure_future(f())",
    ],
    unbounded_queues: ["q = asyncio.Queue()", "q = queue.SimpleQueue()"],
    prints: ["print(1)"],
    module_state: ["cache = {}", "seen: set[str] = set()", "table = defaultdict(list)"],
    global_statements: ["def f():\n    global x\n    x = 1"],
    long_functions: ["def f():\n" + "    x = 1\n" * 60],
    sleeping_tests: [
        "async def test_it():\n    await asyncio.sleep(0.1)",
        "def test_it():\n    while True:\n        time.sleep(1)",
        "def test_it():\n    def helper():\n        time.sleep(1)",
    ],
}
SOUND = {
    dropped_tasks: ["task = asyncio.create_task(f())", "group.create_task(f())", "self._tasks.create_task(f())"],
    unbounded_queues: ["q = asyncio.Queue(maxsize=10)", "q = asyncio.Queue(10)"],
    prints: ["log.info(1)", "console.print(1)"],
    module_state: ["TABLE = {}", "__all__ = ['x']", "def f():\n    x = []", "pair = (1, 2)"],
    global_statements: ["def f():\n    nonlocal x"],
    long_functions: ["def f():\n    '''" + "\n" * 70 + "'''\n    return 1", "def f():\n" + "    x = 1\n" * 59],
    sleeping_tests: ["await asyncio.sleep(0)", "async def Slow(self, request, context):\n    await asyncio.sleep(9)"],
}


def sample(rule: Rule, text: str) -> Source:
    return Source("tests/unit/sample.py" if rule is sleeping_tests else "balancer/sample.py", text)


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in BROKEN.items() for text in texts])
def test_broken_rule_is_seen(rule: Rule, text: str) -> None:
    assert list(rule(sample(rule, text)))


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in SOUND.items() for text in texts])
def test_sound_code_is_let_be(rule: Rule, text: str) -> None:
    assert not list(rule(sample(rule, text)))


@pytest.mark.parametrize("folder", ["wo" + "rk", "ro" + "ot"])
def test_machine_path_is_seen(folder: str) -> None:
    assert MACHINE_PATHS.search(f"open('/{folder}/x')")
    assert not MACHINE_PATHS.search(f"see docs/{folder}/x")


def test_rules_are_all_tried() -> None:
    assert {*EVERYWHERE, *IN_THE_PRODUCT} == set(BROKEN) == set(SOUND)
