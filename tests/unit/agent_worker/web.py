"""A web server of a test's own, whose every byte the test says, and a resolver that says where names are."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.stage import eventually

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]
_CERTIFICATE = Path(__file__).with_name("tls") / "good.test.pem"


def page(body: str | bytes, media: str = "text/plain", status: str = "200 OK", **headers: str) -> bytes:
    """A whole response."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}"]
    lines += [f"Content-Type: {media}"] * bool(media)
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + content


def moved(location: str, status: str = "302 Found") -> bytes:
    """A redirect."""
    return page("elsewhere", status=status, Location=location)


@dataclass
class Web:
    """One server."""

    port: int
    answers: dict[str, Answer]
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Host and target of each request."""


@asynccontextmanager
async def silence(target: str) -> AsyncIterator[Web]:
    """A server that says nothing to who asks for this, until the context ends."""
    over, waiting = asyncio.Event(), set[asyncio.StreamWriter]()

    async def say_nothing(writer: asyncio.StreamWriter) -> None:
        waiting.add(writer)
        await over.wait()
        waiting.discard(writer)

    async def nobody_waits() -> bool:
        return not waiting

    async with serving({target: say_nothing}) as web:
        try:
            yield web
        finally:
            over.set()
            await eventually(nobody_waits, 30)


@asynccontextmanager
async def serving(answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    """Serve these, by their targets, on a port of 127.0.0.1."""
    web = Web(0, dict(answers))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            host = next(line[6:] for line in lines if line.lower().startswith("host: "))
            target = lines[0].split(" ")[1]
            web.asked.append((host, target))
            said = web.answers[target]
            if isinstance(said, bytes):
                writer.write(said)
                await writer.drain()
            else:
                await said(writer)
        except (OSError, EOFError):
            pass  # the client has read enough, or would not go on
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    async with server:
        yield web


class Names:
    """A resolver: of each name the answers that it gives one after the other, the last again and again."""

    def __init__(self, **names: Sequence[Sequence[str]]) -> None:
        self.names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.names.get(host)
        if answers is None:
            raise OSError(f"{host} is not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def server_tls() -> ssl.SSLContext:
    """That of a server whose name is good.test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_CERTIFICATE)
    return context


def client_tls() -> ssl.SSLContext:
    """That of a client who trusts it."""
    return ssl.create_default_context(cafile=str(_CERTIFICATE))
