"""Owns all children of an instance: starts them in the order of their dependencies, stops them in reverse."""

import asyncio
from collections.abc import Iterable
from graphlib import TopologicalSorter

from deploy.local.child import Child
from deploy.local.errors import BadRequest, StartFailed
from deploy.local.instance import Instance
from deploy.local.spec import Spec


class Supervisor:
    """The children of one instance, by name."""

    def __init__(self, instance: Instance, specs: Iterable[Spec], inherited: tuple[int, ...] = ()) -> None:
        self._instance = instance
        self._inherited = inherited
        self.children: dict[str, Child] = {}
        for spec in specs:
            self._add(spec)

    def __getitem__(self, name: str) -> Child:
        if name not in self.children:
            raise BadRequest(f"there is no {name!r} here; there is: {', '.join(self.children)}")
        return self.children[name]

    def named(self, name: str) -> list[Child]:
        """The child of this name, or all processes of the service of this name (`worker`: `worker-1`, `worker-2` …)."""
        if name in self.children:
            return [self.children[name]]
        return [
            child for key, child in self.children.items() if key.rpartition("-")[0] == name and key[-1].isdigit()
        ] or [self[name]]

    async def start(self) -> None:
        """Start everything, each child as soon as what it comes after is ready.

        Raises the first `StartFailed`; whatever was started is then still to be stopped.
        """
        ready = {name: asyncio.Event() for name in self.children}

        async def start(child: Child) -> None:
            for name in child.spec.after:
                await ready[name].wait()
            await child.start()
            ready[child.spec.name].set()

        first: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for child in self.children.values():
                    group.create_task(start(child))
        except* StartFailed as failures:
            first = failures.exceptions[0]
        if first:
            raise first

    async def stop(self) -> None:
        """Stop everything, what depends on others first."""
        for names in reversed(self._levels()):
            await asyncio.gather(*(self.children[name].stop() for name in names))

    async def add(self, spec: Spec) -> None:
        """Start one child more. One that fails is forgotten."""
        try:
            await self._add(spec).start()
        except StartFailed:
            del self.children[spec.name]
            raise

    async def remove(self, name: str) -> None:
        """Stop a child and forget it."""
        await self[name].stop()
        del self.children[name]

    async def run_once(self, spec: Spec) -> str:
        """Run a job that is not one of the children; returns the end of what it wrote."""
        (self._instance.logs / f"{spec.name}.log").unlink(missing_ok=True)
        job = Child(spec, self._instance, self._inherited)
        await job.start()
        return job.log_tail(1000)

    def _add(self, spec: Spec) -> Child:
        child = self.children[spec.name] = Child(spec, self._instance, self._inherited)
        return child

    def _levels(self) -> list[tuple[str, ...]]:
        order = TopologicalSorter({name: child.spec.after for name, child in self.children.items()})
        order.prepare()
        levels = []
        while order.is_active():
            levels.append(order.get_ready())
            order.done(*levels[-1])
        return levels
