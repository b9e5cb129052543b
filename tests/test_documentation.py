"""What docs/architecture.md draws is there, and what it forbids is not."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 520
MAX_FUNCTION_LINES = 80


# Who may know whom ----------------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """`proxy.relay.stream` -> its file."""
    found = {}
    for path in sorted((ROOT / "proxy").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


@cache
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


@cache
def imports(name: str) -> set[str]:
    """Modules that a module imports, anywhere in it, by their full names."""
    found = set()
    for node in ast.walk(trees()[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            source = node.module or ""
            full_names = [f"{source}.{alias.name}" for alias in node.names]
            found |= {each if each in MODULES else source for each in full_names}
    return found


def ours(name: str) -> set[str]:
    return {found for found in imports(name) if found in MODULES} - {"proxy"}


def inside(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


_BASE = (
    "proxy.errors",
    "proxy.installation",
    "proxy.settings",
    "proxy.tasks",
    "proxy.terminal",
)
MAY_KNOW: dict[str, tuple[str, ...]] = {
    "proxy.errors": (),
    "proxy.tasks": (),
    "proxy.json_scan": (),
    "proxy.init": (),
    "proxy.check_base": (),
    "proxy.installation": (),
    "proxy.interpreter": ("proxy.installation",),
    "proxy.terminal": (),
    "proxy.png": (),
    "proxy.idle": ("proxy.errors", "proxy.settings"),
    "proxy.settings": ("proxy.errors", "proxy.settings"),
    "proxy.machine": ("proxy.errors", "proxy.installation", "proxy.machine"),
    "proxy.preflight.finding": ("proxy.errors",),
    "proxy.engine": (*_BASE, "proxy.engine"),
    "proxy.vllm": (
        *_BASE,
        "proxy.vllm",
        "proxy.png",
        "proxy.machine",
        "proxy.preflight.finding",
        "proxy.engine.phase",
        "proxy.engine.server",
        "proxy.engine.state",
    ),
    "proxy.models": (
        *_BASE,
        "proxy.models",
        "proxy.vllm",
        "proxy.engine.process",
    ),
    "proxy.preflight": (
        *_BASE,
        "proxy.preflight",
        "proxy.machine",
        "proxy.vllm",
        "proxy.models",
        "proxy.engine",
    ),
    "proxy.telemetry.record": ("proxy.errors",),
    "proxy.telemetry.span_attributes": (
        "proxy.access.routes",
        "proxy.telemetry.request_log",
        "proxy.telemetry.record",
    ),
    "proxy.telemetry": (
        *_BASE,
        "proxy.telemetry",
        "proxy.engine.phase",
        "proxy.machine.reading",
        "proxy.vllm.reading",
    ),
    "proxy.access": (*_BASE, "proxy.access", "proxy.server.request"),
    "proxy.media": (
        *_BASE,
        "proxy.media",
        "proxy.access.routes",
        "proxy.json_scan",
        "proxy.telemetry.record",
    ),
    "proxy.protocols": (
        "proxy.errors",
        "proxy.settings",
        "proxy.protocols",
        "proxy.access.routes",
        "proxy.json_scan",
    ),
    "proxy.relay": (
        "proxy.errors",
        "proxy.tasks",
        "proxy.json_scan",
        "proxy.relay",
        "proxy.access.admission",
        "proxy.access.poison",
        "proxy.access.routes",
        "proxy.telemetry.record",
        "proxy.protocols.body",
        "proxy.protocols.openai",
        "proxy.protocols.protocol",
        "proxy.server.exchange",
        "proxy.server.request",
    ),
    "proxy.pool": (
        *_BASE,
        "proxy.pool",
        "proxy.access",
        "proxy.engine",
        "proxy.machine",
        "proxy.models",
        "proxy.preflight",
        "proxy.relay",
        "proxy.telemetry",
        "proxy.vllm",
    ),
    "proxy.api": (
        *_BASE,
        "proxy.api",
        "proxy.pool",
        "proxy.relay.headers",
        "proxy.relay.refusal",
        "proxy.access.routes",
        "proxy.engine",
        "proxy.machine.hardware",
        "proxy.telemetry",
        "proxy.vllm",
    ),
    "proxy.server": ("proxy.errors", "proxy.tasks", "proxy.server"),
    "proxy.server.dispatch": (
        *_BASE,
        "proxy.access",
        "proxy.api.built_in",
        "proxy.relay",
        "proxy.server",
    ),
    "proxy.bench": (
        *_BASE,
        "proxy.bench",
        "proxy.png",
        "proxy.access.routes",
        "proxy.relay.event",
        "proxy.relay.stream",
        "proxy.telemetry.record",
    ),
    "proxy.commands": (
        *_BASE,
        "proxy.commands",
        "proxy.access.keys",
        "proxy.bench",
        "proxy.machine",
        "proxy.models",
        "proxy.preflight",
        "proxy.protocols.named",
        "proxy.server",
        "proxy.telemetry.log_file",
        "proxy.telemetry.tracing",
        "proxy.vllm.command",
        "proxy.vllm.flags",
    ),
    "proxy.lifecycle": (
        *_BASE,
        "proxy.app",
        "proxy.engine.progress_bar",
        "proxy.models.preset_choice",
        "proxy.server.listener",
        "proxy.telemetry.logs",
        "proxy.vllm.command",
    ),
    "proxy.__main__": (
        "proxy.check_base",
        "proxy.commands",
        "proxy.errors",
        "proxy.installation",
        "proxy.settings.keys",
    ),
    "proxy.commands.serve": (
        *_BASE,
        "proxy.commands",
        "proxy.access.keys",
        "proxy.app",
        "proxy.init",
        "proxy.lifecycle",
        "proxy.machine.hardware",
        "proxy.preflight.checkup",
        "proxy.preflight.together",
        "proxy.models.preset_choice",
        "proxy.protocols.named",
        "proxy.server.listener",
        "proxy.telemetry",
    ),
}


def rule_of(name: str) -> tuple[str, ...]:
    """The rule of a module is that of the smallest room it is in."""
    rooms = [room for room in MAY_KNOW if inside(name, (room,))]
    assert rooms, f"no rule says whom {name} may know"
    return MAY_KNOW[max(rooms, key=len)]


def test_a_module_knows_only_whom_it_may_know() -> None:
    known = {each for rule in MAY_KNOW.values() for each in (*rule, *MAY_KNOW)}
    assert known <= MODULES.keys(), "a rule names a module that is gone"
    strangers = {
        name: found
        for name in MODULES.keys() - {"proxy", "proxy.app"}
        if (found := {each for each in ours(name) if not inside(each, rule_of(name))})
    }
    assert strangers == {}, "what they import is not in the rule of their room above"


def test_imports_go_in_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in done:
            for found in ours(name):
                visit(found, (*way, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def rooms() -> dict[str, str]:
    """The tree of docs/architecture.md: path below the repository -> the line's own name."""
    text = (
        (ROOT / "docs/architecture.md").read_text().split("## Rooms\n\n```\n")[1].split("\n```")[0]
    )
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in text.splitlines():
        if row := re.match(r"( {0,4})([a-z_]+(?:/|\.\w+))(?: |$)", line):
            depth = len(row[1]) // 2
            del folders[depth:]
            found["".join([*folders, row[2]])] = row[2]
            if row[2].endswith("/"):
                folders.append(row[2])
    return found


def test_the_tree_of_the_architecture_has_every_module_of_the_rooms_that_it_opens() -> None:
    named = rooms()
    assert all((ROOT / path).exists() for path in named)
    opened = {ROOT / path for path in named} & {path.parent for path in map(ROOT.joinpath, named)}
    for folder in opened - {ROOT / "proxy/api"}:  # of which it names what is not obvious
        modules = {path for path in folder.glob("*.py") if path.name != "__init__.py"}
        missing = {str(path.relative_to(ROOT)) for path in modules} - named.keys()
        assert missing == set(), "they have no line in docs/architecture.md, Rooms"


def importers(*packages: str) -> set[str]:
    """Modules that import one of these packages."""
    return {
        name
        for name in MODULES
        if {found.partition(".")[0] for found in imports(name)} & {*packages}
    }


def test_the_proxy_process_never_imports_the_engine() -> None:
    assert importers("vllm", "torch", "transformers") == set()


def test_no_other_server_reads_the_clients_requests() -> None:
    """vLLM brings uvicorn along; an import of it here would work, unnoticed."""
    assert importers("uvicorn") == set()


@pytest.mark.parametrize("name", ["requirements.txt", "proxy/check_base.py", "Dockerfile"])
def test_no_other_server_is_needed(name: str) -> None:
    assert "uvicorn" not in (ROOT / name).read_text()


def test_files_stay_short() -> None:
    lines = {name: path.read_text().count("\n") for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_functions_stay_short() -> None:
    lines = {
        f"{name}.{node.name}": node.end_lineno - node.lineno + 1
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert {name: count for name, count in lines.items() if count > MAX_FUNCTION_LINES} == {}


def test_background_tasks_are_made_in_one_place() -> None:
    makers = {
        name
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("create_task", "ensure_future")
    }
    # A connection holds the one task that answers its request, a group those that fetch media.
    assert makers == {"proxy.tasks", "proxy.server.connection", "proxy.media.resolver"}
