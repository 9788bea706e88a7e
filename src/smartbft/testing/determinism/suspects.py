"""Reads an application's source for what usually makes it depend on something other than its operations.

This proves nothing: it tells where to look first, once copies have been seen to differ.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLOCK = "a clock: use context.timestamp"
_RANDOM = "random numbers of this process: use random.Random(context.seed)"
_ENVIRONMENT = "something of this machine: use parameters of the genesis"
_CALLS = {
    "time.time": _CLOCK,
    "time.time_ns": _CLOCK,
    "time.monotonic": _CLOCK,
    "time.monotonic_ns": _CLOCK,
    "time.perf_counter": _CLOCK,
    "time.localtime": _CLOCK,
    "time.strftime": _CLOCK,
    "datetime.now": _CLOCK,
    "datetime.utcnow": _CLOCK,
    "datetime.today": _CLOCK,
    "date.today": _CLOCK,
    "uuid.uuid1": _RANDOM,
    "uuid.uuid4": _RANDOM,
    "os.urandom": _RANDOM,
    "os.getenv": _ENVIRONMENT,
    "os.getpid": _ENVIRONMENT,
    "os.listdir": _ENVIRONMENT,
    "socket.gethostname": _ENVIRONMENT,
    "platform.node": _ENVIRONMENT,
    "open": "a file: use parameters of the genesis",
    "hash": "hash(): differs from process to process for str and bytes; use blake3 or zlib.crc32",
    "id": "id(): an address in this process's memory",
}
_MODULES = {"random": _RANDOM, "secrets": _RANDOM}
_ORDER = "the order of a set: use sorted(...)"
_SHARED = "state shared by all instances of the class: make it in __init__"
_FLOAT = "floats: results of C libraries may differ between machines, and text may round them; use integers"
_ORDER_KEEPING = {"list", "tuple", "enumerate", "iter", "next", "map", "repr", "str", "join", "zip"}


@dataclass(frozen=True, slots=True)
class Suspect:
    """A place in a source file.

    Attributes:
        file: its name.
        line: from 1.
        text: the source line.
        why: what may be wrong with it.
    """

    file: str
    line: int
    text: str
    why: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}  <- {self.why}"


def suspects_of(target: object, most: int = 8) -> tuple[Suspect, ...]:
    """Places in the source of a class and of its parents that are nobody else's; empty if there is no source."""
    classes = target.__mro__ if isinstance(target, type) else (target,)
    found: list[Suspect] = []
    for one in classes:
        module = getattr(one, "__module__", "") or ""
        if module == "builtins" or module == "abc" or module.startswith("smartbft."):
            continue
        try:
            lines, first = inspect.getsourcelines(one)  # type: ignore[arg-type]
            name = Path(inspect.getsourcefile(one) or "").name  # type: ignore[arg-type]
            found += find_suspects(inspect.cleandoc("\n" + "".join(lines)), name, first)
        except (OSError, TypeError, SyntaxError):
            continue
    return tuple(found[:most])


def find_suspects(source: str, file: str, first_line: int = 1) -> list[Suspect]:
    """Places in a source text, in the order of its lines. Raises SyntaxError."""
    tree = ast.parse(source)
    lines = source.splitlines()
    reasons: dict[int, str] = {}
    for line, why in _findings(tree):
        reasons.setdefault(line, why)
    return [Suspect(file, first_line + line - 1, lines[line - 1].strip(), why) for line, why in sorted(reasons.items())]


def _findings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    sets = _names_of_sets(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _judge_call(node, sets)
        elif isinstance(node, ast.For | ast.comprehension):
            if _is_set(node.iter, sets):
                yield node.iter.lineno, _ORDER
        elif isinstance(node, ast.Starred):
            if _is_set(node.value, sets):
                yield node.lineno, _ORDER
        elif isinstance(node, ast.Attribute) and _dotted(node) == "os.environ":
            yield node.lineno, _ENVIRONMENT
        elif isinstance(node, ast.ClassDef):
            yield from _shared_state(node)
        elif (isinstance(node, ast.Constant) and isinstance(node.value, float)) or (
            isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        ):
            yield node.lineno, _FLOAT


def _judge_call(node: ast.Call, sets: set[str]) -> Iterator[tuple[int, str]]:
    name = _dotted(node.func)
    last_two = ".".join(name.split(".")[-2:])
    for known in (name, last_two):
        if known in _CALLS:
            yield node.lineno, _CALLS[known]
    module, _, function = name.partition(".")
    if module in _MODULES and function != "Random":
        yield node.lineno, _MODULES[module]
    if name == "float":
        yield node.lineno, _FLOAT
    if isinstance(node.func, ast.Attribute) and node.func.attr == "pop" and _is_set(node.func.value, sets):
        yield node.lineno, _ORDER
    called = node.func.attr if isinstance(node.func, ast.Attribute) else name
    if called in _ORDER_KEEPING and any(_is_set(argument, sets) for argument in node.args):
        yield node.lineno, _ORDER


def _shared_state(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    for statement in node.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(
            statement.value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp | ast.Call
        ):
            yield statement.lineno, _SHARED


def _names_of_sets(tree: ast.Module) -> set[str]:
    """Names and attributes that are assigned or declared as a set somewhere."""
    names = set()
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign) and _is_set(node.value, set()):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign) and (
            _dotted(node.annotation).startswith(("set", "frozenset"))
            or (node.value is not None and _is_set(node.value, set()))
        ):
            targets = [node.target]
        names |= {target.attr if isinstance(target, ast.Attribute) else _dotted(target) for target in targets}
    return names


def _is_set(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Call):
        return _dotted(node.func) in ("set", "frozenset")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return _is_set(node.left, names) or _is_set(node.right, names)
    if isinstance(node, ast.Attribute):
        return node.attr in names
    return isinstance(node, ast.Name) and node.id in names


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return f"{inner}.{node.attr}" if inner else node.attr
    if isinstance(node, ast.Subscript):
        return _dotted(node.value)
    return ""
