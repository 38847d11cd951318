"""The rules of the house that a reader relies on, checked against every module's imports and text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.catalogue import load_catalogue
from common.messaging import topology
from tests.units_of_work import FRAGILE

ROOT = Path(__file__).resolve().parents[1]
SERVICES = {
    "gateway": ROOT / "services/gateway/src/gateway",
    "agent_worker": ROOT / "services/agent-worker/src/agent_worker",
    "persister": ROOT / "services/persister/src/persister",
    "billing": ROOT / "services/billing/src/billing",
}
LIBRARIES = {"common": ROOT / "libs/common/src/common", "simulator": ROOT / "libs/simulator/src/simulator"}
PACKAGES = SERVICES | LIBRARIES
SDKS = {
    "anthropic": {"agent_worker/providers/anthropic.py", "agent_worker/providers/connections.py"},
    "openai": {
        "agent_worker/providers/openai.py",
        "agent_worker/providers/openai_chat.py",
        "agent_worker/providers/openai_responses.py",
    },
    "mcp": {
        "agent_worker/mcp/listing.py",
        "agent_worker/mcp/servers.py",
        "agent_worker/mcp/transport.py",
    },
    "genai_prices": {"billing/pricebook.py"},
}
COMMON_FILES = ("__main__", "settings", "bootstrap")


def _modules(package: str) -> Iterator[Path]:
    yield from sorted(PACKAGES[package].rglob("*.py"))


def _imports(module: Path) -> set[str]:
    """The top-level packages that a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_services_never_import_services(service: str) -> None:
    others = (SERVICES.keys() | {"simulator", "tests", "deploy"}) - {service}
    for module in _modules(service):
        assert not _imports(module) & others, module


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_import_no_service(library: str) -> None:
    for module in _modules(library):
        assert not _imports(module) & (SERVICES.keys() | (LIBRARIES.keys() - {library})), module


@pytest.mark.parametrize("sdk", SDKS)
def test_an_sdk_is_imported_where_it_is_wrapped_and_nowhere_else(sdk: str) -> None:
    importers = {
        str(module.relative_to(PACKAGES[package].parent))
        for package in PACKAGES
        for module in _modules(package)
        if sdk in _imports(module)
    }
    assert importers == SDKS[sdk]


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_files(service: str) -> None:
    for name in COMMON_FILES:
        assert (SERVICES[service] / f"{name}.py").is_file(), f"{service} has no {name}.py"


def test_queue_names_are_written_in_the_topology_and_nowhere_else() -> None:
    plan = topology.topology(load_catalogue(ROOT / "deploy/catalogue").tier_names)
    names = "|".join(re.escape(queue.name) for queue in plan.queues)
    pattern = re.compile(rf"""["']({names})["']""")
    for package in PACKAGES:
        for module in _modules(package):
            if module.name != "topology.py":
                assert not pattern.search(_code(module)), module


def _code(module: Path) -> str:
    """The module without its docstrings and comments, which may give examples."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_reads_the_environment_but_settings(package: str) -> None:
    allowed = {"settings.py", "__main__.py"}
    for module in _modules(package):
        if module.name not in allowed:
            assert "os.environ" not in _code(module), module


@pytest.mark.parametrize("service", SERVICES)
def test_sql_is_in_repositories(service: str) -> None:
    allowed = re.compile(
        r"repository|database|principals|records|usage|identities|tasks|views|dead_letters|partitions|sweeper"
    )
    statement = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE \w+\.\w+ SET|DELETE FROM)\b")
    for module in _modules(service):
        if not allowed.search(module.stem):
            assert not statement.search(_code(module)), module


def test_a_file_says_one_thing() -> None:
    long = {
        str(module.relative_to(ROOT)): lines
        for package in PACKAGES
        for module in _modules(package)
        if (lines := len(module.read_text(encoding="utf-8").splitlines())) > 300
    }
    assert not long


def test_all_files_that_share_the_fragile_stack_are_run_by_one_process() -> None:
    files = (ROOT / "tests/acceptance").glob("test_*.py")
    assert {file.stem.removeprefix("test_") for file in files if "fragile_stack" in file.read_text()} == set(FRAGILE)
