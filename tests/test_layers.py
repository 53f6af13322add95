"""The architecture, held by a test: who may import whom, what pure files may not touch, how long things are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "gateway"
FILES = sorted(ROOT.rglob("*.py"))
STAGES = ("auth", "admit", "route", "race", "relay", "settle")
IMPURE = frozenset(
    {"trio", "quart", "quart_trio", "h11", "hypercorn", "sqlite3", "ssl", "socket", "time", "random", "secrets", "os"}
)
PURE = ("core", "dialects", "route", "auth", "admit", "settle", "providers")
PURE_FILES = ("edge/head.py", "edge/chunked.py", "upstream/http1.py", "errors.py", "config.py")
# What a pure file may have of the impure: ids need the kernel's randomness, settle's record type lives in the store.
ALLOWED = {("core/ids.py", "os")}
# Who may import a layer, besides itself: the composition root and the pipeline see everything.
FORBIDDEN = {
    "core": ("edge", "auth", "route", "race", "relay", "settle", "providers", "upstream", "store", "observe"),
    "dialects": ("edge", "auth", "route", "race", "relay", "settle", "upstream", "store", "observe"),
    "providers": ("edge", "auth", "route", "race", "relay", "settle", "upstream", "store", "observe"),
    "upstream": ("edge", "auth", "route", "race", "relay", "settle", "store", "observe"),
    "store": ("edge", "route", "race", "relay", "settle", "upstream", "observe", "providers", "dialects"),
    "observe": ("edge", "route", "race", "relay", "settle", "upstream", "store"),
    "sim": (
        "edge",
        "auth",
        "route",
        "race",
        "relay",
        "settle",
        "upstream",
        "store",
        "observe",
        "dialects",
        "providers",
    ),
}
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_stages_do_not_import_each_other(path: Path) -> None:
    layer = name_of(path).partition("/")[0]
    forbidden = [stage for stage in STAGES if stage != layer] if layer in STAGES else list(FORBIDDEN.get(layer, ()))
    found = [name for name in imports(path) for stage in forbidden if name.startswith(f"gateway.{stage}.")]
    assert not found, f"{name_of(path)} imports {found}: {layer} may not know of it"


@pytest.mark.parametrize(
    "path", [p for p in FILES if name_of(p).startswith(PURE) or name_of(p) in PURE_FILES], ids=name_of
)
def test_pure_files_do_no_io(path: Path) -> None:
    name = name_of(path)
    found = [module for module in imports(path) if module.partition(".")[0] in IMPURE and (name, module) not in ALLOWED]
    assert not found, f"{name} is pure and imports {found}; pass `now` or the bytes in"


def test_only_the_composition_root_names_the_store_and_the_server() -> None:
    for module in ("gateway.store.db", "gateway.edge.server", "gateway.edge.web"):
        users = [name_of(path) for path in FILES if module in set(imports(path))]
        assert users == ["app.py"], f"{module} is imported by {users}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_and_files_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES_MAX, f"{name_of(path)} has {text.count(chr(10))} lines; split it by idea"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{name_of(path)}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_task_without_a_visible_parent(path: Path) -> None:
    text = path.read_text()
    for banned in ("add_background_task", "spawn_system_task", "app.nursery"):
        assert banned not in text, f"{name_of(path)} uses {banned}: give the task a nursery somebody owns"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc, f"{name_of(path)} has no docstring"
