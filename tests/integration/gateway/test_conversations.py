"""Conversations as clients see them: begun by their first task, listed, read, named, cancelled, deleted."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import httpx2
import orjson
import pytest

from common import streams
from common.redis import Client
from tests.integration.gateway.batching import recording
from tests.integration.gateway.conftest import Running, Tenant
from tests.stage import Stage, eventually

_ACQUIRE = "SELECT decision FROM runtime.acquire($1, $2, 'pro', 'w', interval '1 minute', NULL, $3)"
_FINISH = "SELECT runtime.finish($1, 1, 'completed', $2, now(), $3, 100)"


class Talk:
    """A conversation of a tenant, and its client."""

    def __init__(self, gateway: Running, tenant: Tenant, user: str | None = None) -> None:
        self.gateway, self.tenant, self.user = gateway, tenant, user
        self.id = uuid4()
        self.tasks: list[UUID] = []

    async def say(self, text: str, **fields: Any) -> UUID:
        """Submit a message, and wait until it is recorded."""
        about = {"conversation_id": str(self.id), "user_id": self.user}
        response = await self.gateway.submit(self.tenant, input=text, **about | fields)
        assert response.status_code == 202, response.text
        task = UUID(response.json()["id"])
        self.tasks.append(task)

        async def recorded() -> bool:
            query = "SELECT count(*) FROM history.tasks WHERE task_id = $1"
            return bool(await self.gateway.database.fetchval(query, task))

        await eventually(recorded)
        return task

    async def begin(self, task: UUID) -> str:
        """As a worker does."""
        row = await self.gateway.database.fetchrow(
            "SELECT submitted_at, user_id FROM history.tasks WHERE task_id = $1", task
        )
        assert row is not None
        message = {
            "conversation_id": str(self.id),
            "submitted_at": row["submitted_at"].isoformat(),
            "user_id": row["user_id"],
            "priority": 5,
        }
        decision = await self.gateway.database.fetchval(_ACQUIRE, task, self.tenant.id, orjson.dumps(message))
        return str(decision)

    async def answer(self, task: UUID, question: str, answer: str) -> None:
        """As a worker and the persister do."""
        assert await self.begin(task) == "acquired"
        turn = [_says("user", question), _says("assistant", answer)]
        assert await self.gateway.database.fetchval(_FINISH, task, b"{}", orjson.dumps(turn).decode())
        await self.gateway.database.execute(
            "UPDATE history.tasks SET status = 'completed', output = $2, finished_at = now() WHERE task_id = $1",
            task,
            answer,
        )

    async def get(self, path: str = "", **parameters: Any) -> httpx2.Response:
        """Read of it."""
        own = f"/v1/conversations/{self.id}"
        return await self.gateway.client.get(own + path, headers=self.tenant.headers, params=parameters)

    async def delete(self) -> httpx2.Response:
        """Delete it."""
        return await self.gateway.client.delete(f"/v1/conversations/{self.id}", headers=self.tenant.headers)


def _says(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


async def _list(gateway: Running, tenant: Tenant, **parameters: Any) -> dict[str, Any]:
    response = await gateway.client.get("/v1/conversations", headers=tenant.headers, params=parameters)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def test_a_conversation_begins_with_its_first_task(gateway: Running, stage: Stage) -> None:
    talk = Talk(gateway, await gateway.tenant(), "anna")
    assert (await talk.get()).status_code == 404
    async with recording(stage):
        task = await talk.say("  Where in\nNorway is it warmest in the last days of September, and why is it so?")
    found = (await talk.get()).json()
    assert found["id"] == str(talk.id)
    assert found["title"] == "Where in Norway is it warmest in the last days of September,…"
    assert (found["user_id"], found["turns"], found["busy"]) == ("anna", 0, True)
    assert found["created_at"] == found["active_at"]
    read = await gateway.client.get(f"/v1/tasks/{task}", headers=talk.tenant.headers)
    assert read.json()["conversation_id"] == str(talk.id)
    await talk.answer(task, "Where?", "In Oslo.")
    found = (await talk.get()).json()
    assert (found["turns"], found["busy"]) == (1, False)


async def test_what_was_said_is_read_in_order_and_by_pages(gateway: Running, stage: Stage) -> None:
    talk = Talk(gateway, await gateway.tenant())
    async with recording(stage):
        for n in range(3):
            await talk.answer(await talk.say(f"q{n}"), f"q{n}", f"a{n}")
        await talk.say("not answered yet")
    seen: list[tuple[int, str, str]] = []
    cursor: str | None = None
    while True:
        page = (await talk.get("/messages", limit=2, **{"cursor": cursor} if cursor else {})).json()
        seen += [(one["turn"], one["role"], one["content"][0]["text"]) for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [
        (n + 1, role, f"{role[0].replace('u', 'q')}{n}") for n in range(3) for role in ("user", "assistant")
    ]


async def test_conversations_are_listed_by_their_last_message(gateway: Running, stage: Stage) -> None:
    tenant = await gateway.tenant()
    first, second, third = Talk(gateway, tenant, "anna"), Talk(gateway, tenant, "bob"), Talk(gateway, tenant, "anna")
    async with recording(stage):
        for talk in (first, second, third, first):
            await talk.say("hello")
    order = [str(first.id), str(third.id), str(second.id)]
    one = await _list(gateway, tenant, limit=2)
    two = await _list(gateway, tenant, limit=2, cursor=one["next_cursor"])
    assert [item["id"] for item in one["items"] + two["items"]] == order
    assert two["next_cursor"] is None
    assert [item["id"] for item in (await _list(gateway, tenant, user_id="bob"))["items"]] == [str(second.id)]
    assert (await _list(gateway, await gateway.tenant()))["items"] == []


async def test_another_tenants_conversation_reads_as_none(gateway: Running, stage: Stage) -> None:
    talk, stranger = Talk(gateway, await gateway.tenant()), await gateway.tenant()
    async with recording(stage):
        await talk.answer(await talk.say("secret"), "secret", "yes")
    own = f"/v1/conversations/{talk.id}"
    client, headers = gateway.client, stranger.headers
    answers = [
        await client.get(own, headers=headers),
        await client.get(f"{own}/messages", headers=headers),
        await client.patch(own, headers=headers, json={"title": "mine"}),
        await client.post(f"{own}/cancel", headers=headers),
        await client.delete(own, headers=headers),
        await client.get("/v1/conversations/none", headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [404] * 6
    assert (await talk.get()).json()["title"] == "secret"
    assert (await client.get(own)).status_code == 401
    # The same id begins a conversation of the stranger's own.
    theirs = Talk(gateway, stranger)
    theirs.id = talk.id
    async with recording(stage):
        await theirs.say("hello")
    assert (await theirs.get()).json()["title"] == "hello"
    assert (await theirs.get("/messages")).json()["items"] == []


async def test_a_title_that_was_given_stays(gateway: Running, stage: Stage) -> None:
    talk = Talk(gateway, await gateway.tenant())
    async with recording(stage):
        await talk.say("hello")
        own = f"/v1/conversations/{talk.id}"
        named = await gateway.client.patch(own, headers=talk.tenant.headers, json={"title": " Norway "})
        assert (named.status_code, named.json()["title"]) == (200, "Norway")
        await talk.say("again")
    assert (await talk.get()).json()["title"] == "Norway"
    for body, field in (({"title": " "}, "title"), ({}, "title"), ({"title": "x" * 201}, "title"), ({"a": 1}, "title")):
        refused = await gateway.client.patch(own, headers=talk.tenant.headers, json=body)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)


@pytest.mark.parametrize("path", ["?cursor=x", "?limit=0"])
@pytest.mark.parametrize("below", ["", "messages"])
async def test_what_is_no_page_is_refused(gateway: Running, stage: Stage, path: str, below: str) -> None:
    talk = Talk(gateway, await gateway.tenant())
    async with recording(stage):
        await talk.say("hello")
    address = f"/v1/conversations/{talk.id}/messages" if below else "/v1/conversations"
    response = await gateway.client.get(address + path, headers=talk.tenant.headers)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, path[1:].partition("=")[0])


async def test_a_cancel_ends_all_that_is_open_in_it_and_nothing_else(gateway: Running, stage: Stage) -> None:
    tenant = await gateway.tenant()
    talk, other = Talk(gateway, tenant), Talk(gateway, tenant)
    async with recording(stage):
        done, running, waiting = [await talk.say(text) for text in "abc"]
        elsewhere = await other.say("d")
        await talk.answer(done, "a", "A")
        assert await talk.begin(running) == "acquired"
        assert await talk.begin(waiting) == "parked"
        unrecorded = (await gateway.submit(tenant, conversation_id=str(talk.id))).json()
        answer = await gateway.client.post(f"/v1/conversations/{talk.id}/cancel", headers=tenant.headers)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["cancelling"], answer.json()["complete"]) == (1, True)

        async def all_cancelled() -> bool:
            rows = await gateway.database.fetch(
                "SELECT status FROM runtime.runs WHERE task_id = ANY ($1) AND cancel_requested_at IS NOT NULL",
                [running, waiting, UUID(unrecorded["id"])],
            )
            return sorted(row["status"] for row in rows) == ["cancelled", "cancelled", "running"]

        await eventually(all_cancelled)
    count = "SELECT count(*) FROM runtime.runs WHERE task_id = $1"
    assert await gateway.database.fetchval(count, elsewhere) == 0
    assert (await talk.get()).json()["turns"] == 1


async def test_a_deleted_conversation_is_gone_with_all_that_was_said(
    gateway: Running, stage: Stage, state: Client
) -> None:
    tenant = await gateway.tenant()
    talk, other = Talk(gateway, tenant, "anna"), Talk(gateway, tenant, "anna")
    async with recording(stage):
        # More than is deleted at a time.
        for n in range(55):
            await talk.answer(await talk.say(f"secret {n}", metadata={"of": "secret"}), f"secret {n}", "secret answer")
        running = await talk.say("secret last")
        assert await talk.begin(running) == "acquired"
        await other.answer(await other.say("kept"), "kept", "kept")
        await state.set(streams.key(tenant.id, talk.tasks[0]), "secret")
        reported = """UPDATE runtime.runs SET progress = '{"message": "secret"}' WHERE task_id = ANY ($1)"""
        await gateway.database.execute(reported, talk.tasks)
        answer = await talk.delete()
        assert (answer.status_code, answer.json()["complete"]) == (202, False)
        assert (await talk.get()).status_code == 404
        assert [item["id"] for item in (await _list(gateway, tenant))["items"]] == [str(other.id)]
        # What runs is cancelled first; its end, and what is said of it, comes after all else is gone.
        cancelled = "SELECT cancel_requested_at IS NOT NULL FROM runtime.runs WHERE task_id = $1"
        assert await gateway.database.fetchval(cancelled, running)
        await gateway.database.execute(
            "SELECT runtime.finish($1, 1, 'cancelled', convert_to('secret', 'UTF8'), now())", running
        )
        await gateway.database.execute(
            "UPDATE history.tasks SET status = 'cancelled', output = 'secret' WHERE task_id = $1", running
        )

        async def complete() -> bool:
            again = await talk.delete()
            return again.status_code == 202 and bool(again.json()["complete"])

        await eventually(complete)
        assert await _traces(gateway, talk.tasks) == {}
        assert await state.exists(streams.key(tenant.id, talk.tasks[0])) == 0
        kept = await gateway.client.get(f"/v1/tasks/{talk.tasks[0]}", headers=tenant.headers)
        assert (kept.json()["status"], kept.json()["output"], kept.json()["metadata"]) == ("completed", None, {})
        assert (await other.get("/messages")).json()["items"][0]["content"][0]["text"] == "kept"
        # Its id can be used again, and nothing comes back.
        assert await talk.begin(await talk.say("afresh")) == "acquired"
        assert ((await talk.get()).json()["title"], (await talk.get()).json()["turns"]) == ("afresh", 0)
        history = await gateway.database.fetch("SELECT * FROM runtime.history($1, 100000)", talk.tasks[-1])
        assert history == []
    log = await gateway.database.fetch("SELECT * FROM runtime.erasures WHERE conversation_id = $1", talk.id)
    assert [(row["tasks"], row["requested_by"][:4]) for row in log] == [(56, "key:")]


async def test_what_is_recorded_late_of_a_deleted_conversation_is_deleted_too(gateway: Running, stage: Stage) -> None:
    talk = Talk(gateway, await gateway.tenant())
    async with recording(stage):
        await talk.answer(await talk.say("first"), "first", "done")
    late = UUID((await gateway.submit(talk.tenant, input="secret", conversation_id=str(talk.id))).json()["id"])
    assert (await talk.delete()).status_code == 202
    async with recording(stage):

        async def cancelled() -> bool:
            query = "SELECT status FROM runtime.runs WHERE task_id = $1"
            return bool(await gateway.database.fetchval(query, late) == "cancelled")

        await eventually(cancelled)

        # Nobody has told the record of its end, as its lane may have refused it: it is emptied all the same.
        async def gone() -> bool:
            return await _traces(gateway, [*talk.tasks, late]) == {}

        await eventually(gone)
    assert (await talk.get()).status_code == 404
    assert (await _list(gateway, talk.tenant))["items"] == []


async def _traces(gateway: Running, tasks: list[UUID]) -> dict[str, int]:
    """Where anything that was said in these tasks is found, by table."""
    found = {}
    for table, what in (
        ("history.tasks", "(input IS NOT NULL OR output IS NOT NULL OR metadata IS NOT NULL OR user_id IS NOT NULL)"),
        ("history.messages", "true"),
        ("history.events", "true"),
        ("history.dead_letters", "true"),
        ("runtime.steps", "true"),
        ("runtime.turns", "true"),
        ("runtime.runs", "(outcome IS NOT NULL OR progress IS NOT NULL)"),
    ):
        statement = f"SELECT count(*) FROM {table} WHERE task_id = ANY ($1) AND {what}"
        if count := await gateway.database.fetchval(statement, tasks):
            found[table] = count
    return found


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"conversation_id": "c"}, "conversation_id"),
        ({"on_busy": "interrupt"}, "on_busy"),
        ({"on_busy": "wait", "conversation_id": str(uuid4())}, "on_busy"),
    ],
)
async def test_what_makes_no_sense_is_refused(gateway: Running, body: dict[str, str], field: str) -> None:
    response = await gateway.submit(await gateway.tenant(), **body)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)
