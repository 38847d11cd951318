"""A step that was proposed: which of its calls wait for a person, and what is done of them once they are decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from agent_worker.accounts import RunLostError
from agent_worker.checkpoint import Checkpoint
from agent_worker.happenings import Answered, Decided, Proposed, Step, StepEnded, ToolEnded, ToolStarted
from agent_worker.loop import AgentLoop
from agent_worker.obstacles import Obstacle
from agent_worker.proposals import Proposal, document_of, proposal_from, to_approve
from agent_worker.providers.base import TextDelta, ToolCall, Turn
from agent_worker.providers.scripted import Scripted
from agent_worker.resilience.retry import Retry
from agent_worker.tools.base import Tool, Toolbox
from agent_worker.tools.builtin import builtin_tools, toolboxes
from agent_worker.undertaking import ApprovalExpiredError, Undertaking
from common.catalogue import Agent, Approvals, Catalogue, Tier
from common.contracts.base import now
from common.contracts.events import EventId
from common.contracts.usage import Usage
from common.errors import ConfigurationError
from tests.unit.agent_worker.serving import model, plan, served
from tests.unit.agent_worker.test_worker_loop import ASKED, Books

CALLS = (ToolCall("c1", "send", {"to": "ann"}), ToolCall("c2", "look", {}))
STEP = Step(1, (Turn("assistant", ({"type": "text", "text": "I write."},)),), Usage(output_tokens=7))


class Post:
    """What was sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, to: str) -> str:
        """Send."""
        self.sent.append(to)
        return f"sent to {to}"


async def look() -> str:
    """Look."""
    return "seen"


def toolbox(post: Post, approvals: Approvals | None = None, *, ask: bool = False) -> Toolbox:
    tools = (Tool.of(post.send, side_effect=True, ask=ask), Tool.of(look))
    return Toolbox({tool.spec.name: tool for tool in tools}, approvals)


class Notes:
    """`Intents` in memory."""

    def __init__(self, begun: dict[int, dict[str, Any] | None] | None = None) -> None:
        self.begun = begun or {}
        self.noted: dict[int, dict[str, Any]] = {}
        self.lost = False
        self.asked: list[tuple[Proposal, tuple[int, ...]]] = []

    async def begin(self, proposal: Proposal, indexes: Sequence[int]) -> dict[int, dict[str, Any] | None]:
        self.asked.append((proposal, tuple(indexes)))
        return self.begun

    async def confirm(self) -> None:
        if self.lost:
            raise RunLostError

    async def note(self, step: int, index: int, result: dict[str, Any]) -> None:
        self.noted[index] = result


def proposal(**decided: Any) -> Proposal:
    box = toolbox(Post(), Approvals(tools=("send",)))
    waiting = tuple(replace(call, **decided) for call in to_approve(CALLS, box))
    return Proposal(STEP, CALLS, waiting, now() + timedelta(hours=1), "deny")


@pytest.mark.parametrize(
    ("approvals", "ask", "asks"),
    [
        (None, False, False),
        (None, True, True),
        (Approvals(tools=("send",)), False, True),
        (Approvals(tools=("look",)), False, False),
        (Approvals(tools="side_effects"), False, True),
    ],
)
def test_a_call_waits_where_its_tool_or_its_agent_says_so(approvals: Approvals | None, ask: bool, asks: bool) -> None:
    assert toolbox(Post(), approvals, ask=ask).asks(CALLS[0]) is asks


def test_what_fails_by_itself_does_not_wait() -> None:
    box = toolbox(Post(), Approvals(tools="side_effects"))
    for call in (
        ToolCall("c", "nothing", {}),
        ToolCall("c", "send", {}),
        ToolCall("c", "send", {}, malformed="no JSON"),
    ):
        assert not box.asks(call)


async def test_the_loop_ends_with_what_is_proposed_and_goes_on_with_it() -> None:
    post, books = Post(), Books()
    answers = iter([(TextDelta("I write."), *CALLS), (TextDelta("Done."),)])
    models = served(Scripted(lambda _: next(answers)))
    loop = AgentLoop(plan(models), toolbox(post, Approvals(tools=("send",))), books, Retry(base=0.001))
    *_, last = [happening async for happening in loop.run(ASKED)]
    assert isinstance(last, Proposed)
    assert (last.calls, post.sent, len(books.begun)) == (CALLS, [], 1)

    decided = replace(proposal(decision="approve", decided_by="key:k"), step=last.step)
    happenings = [happening async for happening in loop.run(ASKED, proposal=decided, intents=Notes())]
    kinds = [type(happening) for happening in happenings if isinstance(happening, Decided | ToolStarted | ToolEnded)]
    assert kinds == [Decided, ToolStarted, ToolStarted, ToolEnded, ToolEnded]
    (ended,) = [happening.step for happening in happenings if isinstance(happening, StepEnded)]
    assert ended.usage == last.step.usage
    assert [block["content"] for block in ended.turns[-1].content] == ["sent to ann", "seen"]
    assert isinstance(happenings[-1], Answered)
    assert (happenings[-1].step.number, post.sent, len(books.begun)) == (2, ["ann"], 2)


async def test_a_result_that_is_known_is_used_and_one_that_is_lost_is_not_sought() -> None:
    known = {"id": "c1", "name": "send", "content": "sent before", "is_error": False}
    for begun, content, is_error in ((known, "sent before", False), (None, "is not known", True)):
        post, notes = Post(), Notes({0: begun})
        approved = Undertaking(proposal(decision="approve", decided_by="key:k"), notes, toolbox(post))
        await approved.begin()
        result = await approved.run(0, approved.calls[0])
        assert content in result.content
        assert (result.is_error, post.sent, notes.noted) == (is_error, [], {})


async def test_what_a_call_comes_to_is_noted() -> None:
    post, notes = Post(), Notes()
    decided = proposal(decision="edit", changed_arguments={"to": "bob"}, decided_by="key:k")
    approved = Undertaking(decided, notes, toolbox(post))
    await approved.begin()
    result = await approved.run(0, approved.calls[0])
    assert (post.sent, notes.noted[0]["content"]) == (["bob"], result.content)
    assert "changed the arguments" in result.content


async def test_what_has_expired_is_not_begun() -> None:
    with pytest.raises(ApprovalExpiredError):
        await Undertaking(proposal(decision="expire", decided_by="policy"), Notes(), toolbox(Post())).begin()


async def test_of_calls_that_nobody_approves_those_with_side_effects_are_noted_before_any_is_made() -> None:
    post, notes = Post(), Notes()
    wrong = (*CALLS, ToolCall("c3", "send", {"to": 4711}), ToolCall("c4", "send", {}, malformed="no JSON"))
    made = Proposal(STEP, (*wrong, ToolCall("c5", "send", {"to": "bob"})))
    happenings = [happening async for happening in Undertaking(made, notes, toolbox(post)).happenings()]
    assert notes.asked == [(made, (0, 4))]
    assert (sorted(notes.noted), sorted(post.sent)) == ([0, 4], ["ann", "bob"])
    kinds = [type(happening) for happening in happenings]
    assert kinds == [*[ToolStarted] * 5, *[ToolEnded] * 5, StepEnded], "nobody has decided anything"


async def test_a_call_whose_run_is_lost_meanwhile_is_not_made() -> None:
    post, notes = Post(), Notes()
    notes.lost = True
    with pytest.raises(RunLostError):
        _ = [happening async for happening in Undertaking(Proposal(STEP, CALLS), notes, toolbox(post)).happenings()]
    assert (post.sent, notes.noted) == ([], {})


async def test_of_a_step_without_side_effects_nothing_is_noted() -> None:
    notes = Notes()
    made = Proposal(STEP, (CALLS[1], ToolCall("c3", "nothing", {})))
    assert [happening async for happening in Undertaking(made, notes, toolbox(Post())).happenings()]
    assert (notes.asked, notes.noted) == ([], {})


async def test_what_is_begun_is_not_made_again_though_the_tool_is_gone() -> None:
    notes = Notes({0: None})
    stored = Proposal(STEP, CALLS, stands_until=EventId(1, 4))
    box = Toolbox({"look": Tool.of(look)})
    happenings = [happening async for happening in Undertaking(stored, notes, box).happenings()]
    results = [happening.result.content for happening in happenings if isinstance(happening, ToolEnded)]
    assert "not known" in results[0]
    assert (results[1], notes.asked) == ("seen", [(stored, ())])


def test_a_proposal_is_the_same_when_it_is_read_again() -> None:
    made = proposal()
    document = document_of(made, EventId(3, 14))
    document["expires_at"] = document["expires_at"].isoformat()
    document["state"]["turns"] = [{**turn, "content": list(turn["content"])} for turn in document["state"]["turns"]]
    assert proposal_from(document) == replace(made, stands_until=EventId(3, 14))


def test_so_is_one_that_nobody_is_asked_about() -> None:
    made = Proposal(STEP, CALLS)
    assert (made.decided, made.stored) == (True, False)
    document = orjson.loads(orjson.dumps(document_of(made, EventId(3, 14))))
    assert proposal_from(document) == replace(made, stands_until=EventId(3, 14))


def test_a_checkpoint_counts_what_waits_once() -> None:
    checkpoint = Checkpoint((), replace(proposal(), stands_until=EventId(1, 9)))
    assert (checkpoint.usage, checkpoint.used, checkpoint.next_step) == (Usage(), STEP.usage, 1)
    assert checkpoint.stands_until == EventId(1, 9)
    checkpoint.add(STEP, EventId(2, 4))
    assert (checkpoint.usage, checkpoint.used, checkpoint.next_step) == (STEP.usage, STEP.usage, 2)


def test_a_stream_says_what_is_to_be_decided() -> None:
    waits = proposal()
    told = Obstacle("approval", wake_at=waits.expires_at, proposal=waits).told()
    assert told["calls"] == [{"call_id": "c1", "tool": "send", "arguments": {"to": "ann"}}]
    assert "calls" not in Obstacle("not_before").told()


def test_an_agent_that_asks_for_what_it_does_not_have_is_refused() -> None:
    agent = Agent(name="a", version=1, system="", model="m", approvals=Approvals(tools=("calculator",)))
    catalogue = Catalogue(tiers=(Tier(name="free", weight=1),), models=(model(),), agents=(agent,))
    with pytest.raises(ConfigurationError, match="'calculator', which is none of its tools"):
        toolboxes(catalogue, builtin_tools())
