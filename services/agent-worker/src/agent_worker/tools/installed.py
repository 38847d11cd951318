"""Tools of other packages, which they name as entry points of the group `laneway.tools`.

An entry point's name is the tool's; what it leads to is a function as `Tool.of` takes it, or a `Tool`. One that cannot
be used stops the worker at its start: else its agents would be found to lack it when they need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from agent_worker.tools.base import Tool
from common.errors import ConfigurationError

GROUP = "laneway.tools"


def with_installed(own: Mapping[str, Tool], found: Iterable[EntryPoint] | None = None) -> dict[str, Tool]:
    """All tools by name. Raises `ConfigurationError` for one that cannot be used, or whose name is taken."""
    tools, packages = dict(own), dict.fromkeys(own, "Laneway")
    for entry in entry_points(group=GROUP) if found is None else found:
        package = entry.dist.name if entry.dist is not None else entry.module
        if entry.name in tools:
            raise ConfigurationError(
                f"The package {package!r} brings a tool {entry.name!r}, and so does {packages[entry.name]}:"
                " uninstall one of them."
            )
        tools[entry.name], packages[entry.name] = _loaded(entry, package), package
    return tools


def _loaded(entry: EntryPoint, package: str) -> Tool:
    try:
        loaded = entry.load()
        return loaded.named(entry.name) if isinstance(loaded, Tool) else Tool.of(loaded, name=entry.name)
    except Exception as error:  # whatever a foreign module does when it is imported
        raise ConfigurationError(
            f"The tool {entry.name!r} of the package {package!r} ({entry.value}) cannot be used: {error!r}."
            " Mend or uninstall the package."
        ) from error
