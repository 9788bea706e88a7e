"""What must hold of every source file, checked by reading them: no unsafe deserialisation, no `unsafe` outside the
foreign function interface, no forgotten notes, bounded files and functions, stubs that tell the truth (promise H7).

Each check is a function from text to complaints, and is shown to complain.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "smartbft"
CRATE = ROOT / "src" / "_fastpath"
FOREIGN = CRATE / "src" / "ffi"

PYTHON = sorted(PACKAGE.rglob("*.py"))
STUBS = sorted((PACKAGE / "_fastpath").glob("*.pyi"))
CYTHON = sorted([*CRATE.glob("*.pyx"), *CRATE.glob("*.pxi"), *PACKAGE.rglob("*.pxd")])
RUST = sorted((CRATE / "src").rglob("*.rs"))
SOURCES = [*PYTHON, *STUBS, *CYTHON, *RUST]

MOST_LINES = 600
MOST_FUNCTION_LINES = 70
# Turn bytes into objects, or into code; and what must not run on the wire before anybody is authenticated.
FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "yaml", "zlib", "gzip", "bz2", "lzma", "xmlrpc"}
ALLOWED_FROM = {("zlib", "crc32")}  # a checksum is no decompression
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}

Complaints = Iterator[str]


# --- the checks ---


def unsafe_deserialisation(text: str) -> Complaints:
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            allowed = all((node.module, alias.name) in ALLOWED_FROM for alias in node.names)
            names = [] if allowed else [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
            yield f"line {node.lineno}: calls {node.func.id}"
        for name in names:
            if name.split(".")[0] in FORBIDDEN_MODULES:
                yield f"line {node.lineno}: imports {name}"


def assert_statements(text: str) -> Complaints:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assert):
            yield f"line {node.lineno}: assert is gone under -O; use errors.invariant"


def long_python_functions(text: str) -> Complaints:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MOST_FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines"


def long_rust_functions(text: str) -> Complaints:
    """By the formatter's layout: a function ends with a brace at its own indentation."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        start = re.match(r"( *)(?:pub(?:\([a-z]+\))? )?(?:unsafe )?(?:extern \"C\" )?fn (\w+)", line)
        if start is None:
            continue
        length = next((n for n, later in enumerate(lines[number:]) if later == start[1] + "}"), 0) + 1
        if length > MOST_FUNCTION_LINES:
            yield f"line {number + 1}: {start[2]} has {length} lines"


def long_cython_functions(text: str) -> Complaints:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        start = re.match(r"( *)(?:cp?)?def [^=]*\b(\w+)\(", line)
        if start is None:
            continue
        body = (n for n, later in enumerate(lines[number + 1 :]) if _leaves(later, len(start[1])))
        length = next(body, len(lines) - number - 1) + 1
        if length > MOST_FUNCTION_LINES:
            yield f"line {number + 1}: {start[2]} has {length} lines"


def _leaves(line: str, indentation: int) -> bool:
    """Whether the line cannot belong to a function that starts at this indentation."""
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith((")", "#")) and len(line) - len(line.lstrip()) <= indentation


def unsafe_rust(text: str) -> Complaints:
    for number, line in enumerate(text.splitlines(), 1):
        code = line.split("//")[0]
        if re.search(r"\bunsafe\b(?!_)", code) and "deny(unsafe_code)" not in code:
            yield f"line {number}: unsafe outside the foreign function interface"
        if "allow(unsafe_code)" in code:
            yield f"line {number}: allows unsafe code"


def unsafe_cython(text: str) -> Complaints:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*(c?import|from)\s+({'|'.join(FORBIDDEN_MODULES)})\b", line):
            yield f"line {number}: {line.strip()}"
        if re.search(rf"(?<![\w.])({'|'.join(FORBIDDEN_CALLS)})\(", line):
            yield f"line {number}: {line.strip()}"


def forgotten_notes(text: str) -> Complaints:
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            yield f"line {number}: {line.strip()}"


def too_many_lines(text: str) -> Complaints:
    lines = text.count("\n")
    if lines >= MOST_LINES:
        yield f"{lines} lines"


def no_first_line(text: str) -> Complaints:
    """The map of the source is made of these lines (ARCHITECTURE.md)."""
    if not re.match(r'"""\S|//! \S', text):
        yield "the first line does not say what this file is"


CHECKS: list[tuple[Callable[[str], Complaints], list[Path], str]] = [
    (unsafe_deserialisation, PYTHON, "from pickle import loads"),
    (assert_statements, PYTHON, "def f(x):\n    assert x\n"),
    (long_python_functions, PYTHON, "def f():\n" + "    pass\n" * 70),
    (long_rust_functions, RUST, "    pub fn f() {\n" + "        g();\n" * 70 + "    }\n"),
    (long_cython_functions, CYTHON, "cdef int f(\n    int a,\n) except -1:\n" + "    pass\n" * 70),
    (unsafe_rust, [path for path in RUST if FOREIGN not in path.parents], "    unsafe { *pointer }"),
    (unsafe_cython, CYTHON, "    x = eval(y)"),
    (forgotten_notes, SOURCES, "pass  # TODO: later"),
    (too_many_lines, SOURCES, "\n" * 600),
    (no_first_line, [path for path in [*PYTHON, *RUST] if path.stat().st_size], "import os"),
]


@pytest.mark.parametrize(("check", "paths", "planted"), CHECKS, ids=lambda item: getattr(item, "__name__", ""))
def test_sources(check: Callable[[str], Complaints], paths: list[Path], planted: str) -> None:
    assert list(check(planted)), "the check does not see what it is for"
    complaints = {
        str(path.relative_to(ROOT)): found for path in paths if (found := list(check(path.read_text(encoding="utf-8"))))
    }
    assert not complaints
    assert paths


def test_the_foreign_function_interface_is_where_it_should_be() -> None:
    library = (CRATE / "src" / "lib.rs").read_text()
    assert "#![deny(unsafe_code)]" in library
    allowing = [
        path.relative_to(CRATE) for path in RUST if "allow(unsafe_code)" in path.read_text() and path.name != "lib.rs"
    ]
    assert all(FOREIGN in (CRATE / path).parents for path in allowing)


# --- stubs ---


# Classes that the compiled modules share among themselves; Python code has no use for them.
INTERNAL = {"native": {"View", "Slices", "Integers64"}, "pool": {"View"}}


def declared(stub: str) -> set[str]:
    """Public names of a stub: functions, constants, classes and the methods and attributes of these."""
    names: set[str] = set()
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
            if not any(isinstance(base, ast.Name) and base.id in ("TypedDict", "Protocol") for base in node.bases):
                names |= {f"{node.name}.{inner}" for inner in _names_of(node.body)}
        else:
            names |= set(_names_of([node]))
    return names


def _names_of(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_"):
                yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def compiled(module: object) -> set[str]:
    """Public names of a compiled module that are its own."""
    names: set[str] = set()
    for name, value in vars(module).items():
        if name.startswith("_") or inspect.ismodule(value):
            continue
        if inspect.isclass(value):
            if value.__module__ == module.__name__:  # type: ignore[attr-defined]
                names.add(name)
                names |= {f"{name}.{inner}" for inner in vars(value) if not inner.startswith("_")}
        elif callable(value):
            if getattr(value, "__module__", None) == module.__name__:  # type: ignore[attr-defined]
                names.add(name)
        elif name.isupper():
            names.add(name)
    return names


def typed_dictionaries(stub: str) -> set[str]:
    """They exist for type checkers alone."""
    return {
        node.name
        for node in ast.parse(stub).body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in ("TypedDict", "Protocol") for base in node.bases)
    }


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.stem)
def test_stubs_say_what_is_there(stub: Path) -> None:
    text = stub.read_text()
    found = compiled(importlib.import_module(f"smartbft._fastpath.{stub.stem}"))
    inner = {name for name in found if name.split(".")[0] in INTERNAL.get(stub.stem, ())}
    assert declared(text) - typed_dictionaries(text) == found - inner
    assert not declared("def missing() -> None: ...") <= found


def test_every_compiled_module_has_a_stub() -> None:
    built = {path.name.split(".")[0] for path in (PACKAGE / "_fastpath").glob("*.so")}
    assert built
    assert {stub.stem for stub in STUBS} == {path.stem for path in CRATE.glob("*.pyx")}
    assert built >= {stub.stem for stub in STUBS}


# --- limits ---


def test_every_limit_is_kept_somewhere() -> None:
    limits = ast.parse((PACKAGE / "limits.py").read_text())
    names = [node.targets[0].id for node in limits.body if isinstance(node, ast.Assign)]  # type: ignore[attr-defined]
    assert len(names) > 40
    readers = "\n".join(path.read_text() for path in PYTHON if path.name != "limits.py")
    own = (PACKAGE / "limits.py").read_text()
    unused = [
        name for name in names if not re.search(rf"\b{name}\b", readers) and len(re.findall(rf"\b{name}\b", own)) == 1
    ]
    assert not unused, "bounds that nothing keeps"


def test_the_native_layouts_have_the_sizes_of_the_limits() -> None:
    """Numbers that both languages know are the same."""
    from smartbft import limits

    wire = (CRATE / "src" / "wire.rs").read_text()
    for name in ("DIGEST_BYTES", "KEY_BYTES", "SIGNATURE_BYTES", "FRAME_HEADER_BYTES"):
        stated = re.search(rf"pub const {name}: usize = (\d+);", wire)
        assert stated is not None, name
        assert int(stated[1]) == getattr(limits, name), name
