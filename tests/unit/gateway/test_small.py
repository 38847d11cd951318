"""Settings, tickets, frames, cursors: small things that others rely on."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts import TaskSubmitted
from common.contracts.events import EventId, StreamEvent
from common.settings import load
from gateway.keys import ApiKey
from gateway.schemas import TASK_REQUEST
from gateway.sequence import Gap
from gateway.settings import Settings
from gateway.sse import frame, frame_gap
from gateway.tickets import request_hash, ticket_for
from gateway.views import parse_cursor, plain

_ENVIRONMENT = {
    "LANEWAY_RABBIT_URL": "amqp://u:p@h/v",
    "LANEWAY_POSTGRES_DSN": "postgresql://u:p@h/d",
    "LANEWAY_REDIS_STATE_URL": "redis://h/0",
    "LANEWAY_CATALOGUE_DIR": "deploy/catalogue",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("LANEWAY_")]:
        monkeypatch.delenv(name)
    for name, value in _ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_flat_settings_live_beside_the_groups(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LANEWAY_ADMIN_KEY", "k" * 20)
    environment.setenv("LANEWAY_SIMULATED", "true")
    environment.setenv("LANEWAY_HTTP_PORT", "8123")
    environment.setenv("LANEWAY_HTTP_DRAIN_SECONDS", "0.5")
    settings = Settings()
    assert settings.admin_key is not None
    assert settings.admin_key.get_secret_value() == "k" * 20
    assert (settings.simulated, settings.http.port, settings.http.drain_seconds) == (True, 8123, 0.5)


def test_a_short_admin_key_is_refused(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment.setenv("LANEWAY_ADMIN_KEY", "k" * 19)
    with pytest.raises(SystemExit) as caught:
        load(Settings)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "LANEWAY_ADMIN_KEY is not usable: it has fewer than 20 characters.\n"


def test_without_settings_the_service_says_which_and_ends(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("LANEWAY_RABBIT_URL")
    ended = subprocess.run([sys.executable, "-m", "gateway"], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "LANEWAY_RABBIT" in ended.stderr


def test_the_same_request_has_the_same_hash_however_it_is_written() -> None:
    bodies = (
        b'{"input":"x","metadata":{"a":"1","b":"2"}}',
        b'{"metadata":{"b":"2","a":"1"},"priority":5,"agent":"default","model":null,"input":"x"}',
    )
    assert len({request_hash(TASK_REQUEST.validate_json(body)) for body in bodies}) == 1
    assert request_hash(TASK_REQUEST.validate_json(b'{"input":"y"}')) != request_hash(
        TASK_REQUEST.validate_json(b'{"input":"x"}')
    )


def test_a_key_makes_the_same_task_and_no_key_a_new_one() -> None:
    request, tenant = TASK_REQUEST.validate_json(b'{"input":"x"}'), uuid4()
    keyed = {ticket_for(tenant, request, "pro", "k").task_id for _ in range(2)}
    unkeyed = {ticket_for(tenant, request, "pro", None).task_id for _ in range(2)}
    assert (len(keyed), len(unkeyed)) == (1, 2)
    assert ticket_for(uuid4(), request, "pro", "k").task_id not in keyed


def test_the_message_is_one_that_a_worker_reads() -> None:
    body = b'{"input":[{"role":"user","content":"x"}],"max_cost_usd":"0.5","deadline_seconds":60,"metadata":{"a":"b"}}'
    ticket = ticket_for(uuid4(), TASK_REQUEST.validate_json(body), "pro", "k")
    message = ticket.message(7)
    assert TaskSubmitted.decode(message.encode()).model_dump() == message.model_dump()
    assert message.deadline_at == ticket.at + timedelta(seconds=60)
    assert message.max_cost_usd == Decimal("0.5")
    assert orjson.loads(ticket.candidate.answer)["lane"] == "tasks.pro"


def test_a_frame_has_the_id_the_type_and_one_line_of_data() -> None:
    event = StreamEvent(fence=1, seq=5, type="token", at=datetime(2026, 1, 1, tzinfo=UTC), data={"text": "a\nb\r"})
    name, kind, data, *rest = frame(event).decode().split("\n")
    assert (name, kind, rest) == ("id: 1-5", "event: token", ["", ""])
    assert orjson.loads(data.removeprefix("data: ")) == {
        "type": "token",
        "at": "2026-01-01T00:00:00+00:00",
        "text": "a\nb\r",
    }


def test_a_gap_is_no_place_to_resume_from() -> None:
    assert frame_gap(Gap(EventId(1, 3), EventId(1, 6))) == (
        b'event: gap\ndata: {"type":"gap","after":"1-3","before":"1-6"}\n\n'
    )


@given(st.decimals(min_value=0, max_value=10**9, places=10))
def test_money_is_written_plainly_and_exactly(amount: Decimal) -> None:
    text = plain(amount)
    assert Decimal(text) == amount
    assert "E" not in text.upper()


@pytest.mark.parametrize("cursor", ["", "x", "2026-01-01T00:00:00_x", f"2026-01-01T00:00:00_{UUID(int=4)}"])
def test_a_cursor_that_no_page_ended_with_is_refused(cursor: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_cursor(cursor)


@given(st.text(max_size=80))
def test_only_keys_of_the_form_are_keys(text: str) -> None:
    assert ApiKey.parse(text) is None


def test_a_key_is_shown_as_it_is_read() -> None:
    key = ApiKey.mint()
    parsed = ApiKey.parse(key.token)
    assert parsed == key
    assert parsed.matches(key.secret_hash)
    assert key.secret not in repr(key)
