"""What a plan allows of the catalogue: its agents, and the models that may answer. Pure.

Checked at submission, for a clear answer. Before each model call `billing.reserve` asks the plan of that moment, so
that no fallback and no schedule of long ago gets round it.
"""

from __future__ import annotations

from collections.abc import Iterable

from common.catalogue import AUTO, Catalogue
from gateway import problems
from gateway.principals import Principal
from gateway.problems import Problem
from gateway.schemas import TaskRequest


def check_plan(request: TaskRequest, principal: Principal, catalogue: Catalogue) -> None:
    """Refuse what the tenant's plan does not have. Raises `Problem` with what it has."""
    agents, models = principal.allowed_agents, principal.allowed_models
    if agents is not None and request.agent not in agents:
        raise _refused("agent", request.agent, agents)
    if models is None:
        return
    agent = catalogue.agent(request.agent)
    name = request.model or (agent.model if agent is not None else AUTO)
    if name == AUTO and any(catalogue.model(one) is not None for one in models):
        return
    if name not in models:
        raise _refused("model", name, models)


def _refused(field: str, name: str, allowed: Iterable[str]) -> Problem:
    names = sorted(allowed)
    reason = f"the plan does not allow the {field} {name!r}; it allows {', '.join(names) or 'none'}"
    return problems.FORBIDDEN.problem(
        f"{field}: {reason}",
        errors=[{"field": field, "pointer": f"#/{field}", "reason": reason}],
        members={"allowed": names},
    )
