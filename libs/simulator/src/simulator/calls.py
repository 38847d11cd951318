"""One call to a model, from its request to its line in the audit."""

import asyncio
import logging
import time
from typing import Any, NamedTuple

import orjson
from starlette.types import Receive, Scope, Send

from simulator.answer import Answer, compose
from simulator.audit import Outcome, Record
from simulator.delivery import Delivery, Pace
from simulator.dialects.base import Dialect, Headers
from simulator.directives import parse
from simulator.errors import CallRefused, DirectiveInvalid
from simulator.faults import MALFORMED_BODY, broken_off, refuse
from simulator.limits import Standing
from simulator.script import Script
from simulator.state import State
from simulator.wire import Wire

logger = logging.getLogger(__name__)

LONGEST_STALL = 600.0
_SIMULATED = (b"x-laneway-simulated", b"true")
_JSON = [(b"content-type", b"application/json"), _SIMULATED]
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"), _SIMULATED]


class Admitted(NamedTuple):
    """A call that is answered, in whatever broken way its script says."""

    answer: Answer
    script: Script
    standing: Standing


class ModelCall:
    """Serves one request in the dialect of its provider."""

    def __init__(self, state: State, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
        self._state = state
        self._dialect = dialect
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._wire = Wire(receive, send)
        self._uid = state.next_uid()
        client_id = self._headers.get(b"x-client-request-id")
        self._record = Record(
            request_id=f"req_{self._uid}",
            client_request_id=client_id.decode("latin-1") if client_id is not None else None,
            provider=dialect.provider,
            api=dialect.api,
        )

    async def serve(self) -> None:
        """Answer the call and note its end in the audit."""
        audit = self._state.audit
        audit.in_flight += 1
        try:
            self._record.outcome = await self._outcome()
        except asyncio.CancelledError:
            self._record.outcome = "cut"  # the server is stopping
            raise
        finally:
            self._wire.close()
            self._record.status = self._wire.status
            audit.in_flight -= 1
            audit.finish(self._record)

    async def _outcome(self) -> Outcome:
        body = await self._wire.body()
        if self._wire.gone:
            return "client_gone"
        try:
            admitted = self._admit(body)
        except CallRefused as refused:
            return await self._refuse(refused)
        except Exception:
            logger.exception("call %s could not be answered", self._record.request_id)
            return await self._refuse(CallRefused("server", "The simulator has an error: see its log"))
        if self._record.streaming:
            return await self._stream(admitted)
        return await self._whole(admitted)

    def _admit(self, body: bytes) -> Admitted:
        self._authenticate()
        request = _object(body)
        self._record.streaming = request.get("stream") is True
        try:
            conversation = self._dialect.read(request)
        except (AttributeError, KeyError, TypeError) as error:
            raise CallRefused("bad_request", f"The request has a wrong shape: {error!r}") from None
        self._record.model = conversation.model
        try:
            prompt = parse(conversation.prompt)
        except DirectiveInvalid as error:
            raise CallRefused("bad_request", str(error)) from None
        rule = self._state.rules.reply_for(conversation.model, conversation.prompt)
        below = self._state.default_script
        script = prompt.script.over(below if rule is None else rule.over(below))
        standing = self._state.limiter.admit(conversation.model, conversation.input_tokens)
        if self._state.rules.fails(script, conversation.prompt):
            refuse(script)
        elif script.fault != "none":
            script = script.model_copy(update={"fault": "none"})
        answer = compose(conversation, script, prompt.text, self._uid, int(time.time()))
        self._state.limiter.spend(conversation.model, answer.usage.output)
        return Admitted(answer, script, standing)

    def _authenticate(self) -> None:
        key = self._dialect.api_key(self._headers)
        if not key:
            raise CallRefused("unauthorized", "No API key was provided.")
        if key == b"invalid":
            raise CallRefused("invalid_key", "Incorrect API key provided: invalid.")

    async def _refuse(self, refused: CallRefused) -> Outcome:
        status, body = self._dialect.refusal(refused, self._record.request_id)
        wait = refused.retry_after
        standing = None if wait is None else self._state.limiter.exhausted(self._record.model, wait)
        headers = self._dialect.headers(self._record.request_id, standing)
        if wait is not None:
            headers.append((b"retry-after", b"%g" % wait))
        await self._wire.start(status, [*headers, *_sized(body)])
        await self._wire.write(body, last=True)
        return "failed"

    async def _whole(self, admitted: Admitted) -> Outcome:
        """Answer in one body when all its tokens are due; a fault falls on the body as a whole."""
        answer, script, _ = admitted
        if script.fault == "stall":
            return await self._stall()
        if script.fault == "error_event":
            return await self._refuse(CallRefused("server", "Internal server error (simulated fault)"))
        pace = Pace.of(script.ttft, script.tps)
        wait = pace.first + pace.step * answer.usage.output
        if wait and not await self._wire.until(asyncio.get_running_loop().time() + wait):
            return "client_gone"
        body = MALFORMED_BODY if script.fault == "malformed" else self._dialect.whole(answer)
        await self._wire.start(200, [*self._limit_headers(admitted), *_sized(body)])
        if script.fault == "cut":
            await self._wire.write(body[: len(body) // 2])
            return "cut"
        await self._wire.write(body, last=True)
        if script.fault == "malformed":
            return "failed"
        self._count_prompt(answer)
        self._count_output(answer, answer.usage.output, time.time())
        return "completed"

    async def _stream(self, admitted: Admitted) -> Outcome:
        answer, script, _ = admitted
        frames = self._dialect.frames(answer)
        breaks = script.fault != "none"
        if breaks:
            frames = broken_off(self._dialect, frames, script, answer.usage.output)
        await self._wire.start(200, [*self._limit_headers(admitted), *_EVENTS])
        self._count_prompt(answer)
        delivery = Delivery(self._wire, Pace.of(script.ttft, script.tps))
        try:
            there = await delivery.run(frames, complete=script.fault not in {"cut", "stall"})
        finally:
            self._count_output(answer, delivery.sent, delivery.last_sent_at)
        if not there:
            return "client_gone"
        if script.fault == "stall":
            return await self._stall()
        if script.fault == "cut":
            return "cut"
        return "failed" if breaks else "completed"

    async def _stall(self) -> Outcome:
        """Send nothing more until the client has had enough, within bounds."""
        await self._wire.until(asyncio.get_running_loop().time() + LONGEST_STALL)
        return "client_gone" if self._wire.gone else "cut"

    def _limit_headers(self, admitted: Admitted) -> Headers:
        return self._dialect.headers(self._record.request_id, admitted.standing)

    def _count_prompt(self, answer: Answer) -> None:
        self._record.input_tokens = answer.usage.input
        self._record.cache_read_tokens = answer.usage.cache_read
        self._record.cache_write_tokens = answer.usage.cache_write

    def _count_output(self, answer: Answer, sent: int, last_at: float) -> None:
        self._record.output_tokens = sent
        self._record.last_token_at = last_at if sent else 0.0
        self._record.reasoning_tokens = min(sent, answer.reasoning)


def _object(body: bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise CallRefused("bad_request", f"The request body is not valid JSON: {error}") from None
    if not isinstance(request, dict):
        raise CallRefused("bad_request", "The request body is not a JSON object")
    return request


def _sized(body: bytes) -> Headers:
    return [*_JSON, (b"content-length", b"%d" % len(body))]
