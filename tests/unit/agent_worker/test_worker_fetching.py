"""`fetch_url` on a real server: where it may lead, and how much of what it finds it takes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from agent_worker.providers.base import ToolCall
from agent_worker.settings import environment_of_tools
from agent_worker.tools.base import Tool, Toolbox
from agent_worker.tools.fetching import fetching
from agent_worker.tools.guard import Guard, Resolve, resolve
from agent_worker.tools.processes import Processes
from common.addresses import Network, may_reach
from tests.unit.agent_worker.web import Names, client_tls, moved, page, server_tls, serving

HERE: tuple[Network, ...] = (ip_network("127.0.0.1/32"),)
NOT_PUBLIC = "is not on the public web, and may not be reached"


class InThisProcess:
    """Where reading a page takes no time worth a process."""

    async def call(self, function: Callable[..., object], arguments: Mapping[str, Any], seconds: float) -> object:
        return function(**arguments)


@asynccontextmanager
async def fetch_tool(
    names: Resolve, allowed: Sequence[Network] = HERE, trust: ssl.SSLContext | None = None
) -> AsyncIterator[Tool]:
    async with fetching(Guard(names, allowed), InThisProcess(), trust) as tool:
        yield tool


async def fetched(tool: Tool, url: str) -> tuple[str, bool]:
    result = await Toolbox({"fetch_url": tool}).run(ToolCall("1", "fetch_url", {"url": url}))
    return result.content, result.is_error


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.8.8"),
        *("168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192"),
        *("192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8"),
        *("64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8"),
        *("100::1", "2001::1", "2001:0:808:808::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1"),
        *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1"),
    ],
)
def test_what_is_not_public_may_not_be_reached(address: str) -> None:
    assert not may_reach(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1", "168.63.129.17"),
        *("192.167.255.255", "198.17.255.255", "198.20.0.1", "223.255.255.255", "93.184.216.34"),
        *("2606:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "64:ff9b::8.8.8.8"),
    ],
)
def test_what_is_public_may_be_reached(address: str) -> None:
    assert may_reach(ip_address(address))


def test_an_operators_networks_may_be_reached_too() -> None:
    allowed = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/32"))
    assert [
        may_reach(ip_address(one), allowed) for one in ("10.1.2.3", "10.2.0.1", "fd00:1::5", "fd00:2::5", "8.8.8.8")
    ] == [True, False, True, False, True]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "[::1]", "[::]"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254"),
        *("127.0.0.1.", "①②⑦.⓪.⓪.①"),
    ],
)
async def test_however_an_address_is_written_it_is_the_one_that_is_reached(host: str) -> None:
    async with serving({"/": page("secret")}) as web, fetch_tool(resolve, allowed=()) as tool:
        for port in (web.port, 80):
            content, is_error = await fetched(tool, f"http://{host}:{port}/")
            assert is_error, content
            assert "secret" not in content
    assert web.asked == []


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://good.test/", "gopher://good.test/", "//good.test/", "good.test", "", "http://"),
        *("http:///x", "http://user:word@good.test/", "http://user@good.test/", "http://good.test:port/", "\x00"),
        *("http://good.test:99999/", "javascript:alert(1)", "http://[::1/", "http://a b/", "http://good.test/\r\nX: y"),
    ],
)
async def test_what_is_no_address_of_the_web_is_refused(url: str) -> None:
    names = Names(good_test=[["10.0.0.1"]])
    async with fetch_tool(names) as tool:
        content, is_error = await fetched(tool, url)
    assert is_error, content
    assert "failed: " not in content  # it was foreseen


async def test_a_name_is_resolved_once_and_what_was_checked_is_connected_to() -> None:
    # The second answer is that of a name whose owner waits until it was checked.
    names = Names(rebinding_test=[["127.0.0.1"], ["127.0.0.2"]])
    async with serving({"/": page("here")}) as web, fetch_tool(names) as tool:
        content, is_error = await fetched(tool, f"http://rebinding.test:{web.port}/")
        assert (content.rpartition("\n")[2], is_error) == ("here", False)
        assert names.asked == ["rebinding.test"]
        assert web.asked == [(f"rebinding.test:{web.port}", "/")]
        # Asked again it is checked again: no connection is kept.
        content, is_error = await fetched(tool, f"http://rebinding.test:{web.port}/")
        assert is_error
        assert NOT_PUBLIC in content
        assert len(web.asked) == 1


async def test_one_address_that_is_not_public_is_enough() -> None:
    names = Names(both_test=[["127.0.0.1", "10.0.0.1"]], none_test=[[]])
    async with serving({"/": page("here")}) as web, fetch_tool(names) as tool:
        assert NOT_PUBLIC in (await fetched(tool, f"http://both.test:{web.port}/"))[0]
        for unknown in ("none.test", "missing.test", "a" * 300, f"{'a' * 64}.test"):
            content, is_error = await fetched(tool, f"http://{unknown}:{web.port}/")
            assert is_error
            assert "failed: " not in content
    assert web.asked == []


async def test_public_hosts_are_reached_at_the_ports_of_the_web_alone() -> None:
    names = Names(mail_test=[["93.184.216.34"]])
    async with fetch_tool(names) as tool:
        for port in (22, 25, 8080):
            assert NOT_PUBLIC in (await fetched(tool, f"http://mail.test:{port}/"))[0]


async def test_every_redirect_is_checked() -> None:
    names = Names(good_test=[["127.0.0.1"]], turning_test=[["127.0.0.1"], ["192.168.0.1"]], inner_test=[["10.0.0.1"]])
    async with serving({"/end": page("the end")}) as web, fetch_tool(names) as tool:
        here = f"http://good.test:{web.port}"
        web.answers["/a"] = moved("/b", "301 Moved")
        web.answers["/b"] = moved(f"//good.test:{web.port}/c", "307 Temporary Redirect")
        web.answers["/c"] = moved(f"{here}/end#part", "308 Permanent Redirect")
        content, is_error = await fetched(tool, f"{here}/a")
        assert (content, is_error) == (f"{here}/end (text/plain)\n\nthe end", False)
        for onward in (
            "http://169.254.169.254/latest/meta-data/",
            f"http://inner.test:{web.port}/end",
            f"http://127.0.0.2:{web.port}/end",
            "http://[::ffff:10.0.0.1]/",
        ):
            names.names |= {"169.254.169.254": [["169.254.169.254"]], "127.0.0.2": [["127.0.0.2"]]}
            names.names["::ffff:10.0.0.1"] = [["::ffff:10.0.0.1"]]
            web.answers["/x"] = moved(onward)
            content, is_error = await fetched(tool, f"{here}/x")
            assert is_error
            assert NOT_PUBLIC in content
        for onward in ("file:///etc/passwd", "http://user:word@good.test/", "ftp://good.test/"):
            web.answers["/x"] = moved(onward)
            assert (await fetched(tool, f"{here}/x"))[1]
        web.answers["/"] = moved(f"http://turning.test:{web.port}/end")
        assert NOT_PUBLIC in (await fetched(tool, f"http://turning.test:{web.port}/"))[0]


async def test_redirects_have_an_end() -> None:
    async with serving({"/": moved("/")}) as web, fetch_tool(Names(good_test=[["127.0.0.1"]])) as tool:
        url = f"http://good.test:{web.port}/"
        assert await fetched(tool, url) == (f"{url} redirects more than 5 times", True)
        assert len(web.asked) == 6
        web.answers["/"] = page("nowhere", status="302 Found")
        assert await fetched(tool, url) == (f"{url} answered with the status 302", True)


async def test_the_certificate_is_the_names_and_not_the_addresses() -> None:
    names = Names(good_test=[["127.0.0.1"]], evil_test=[["127.0.0.1"]])
    async with (
        serving({"/": page("safe")}, server_tls()) as web,
        fetch_tool(names, trust=client_tls()) as tool,
        fetch_tool(names) as distrusting,
    ):
        assert await fetched(tool, f"https://good.test:{web.port}/") == (
            f"https://good.test:{web.port}/ (text/plain)\n\nsafe",
            False,
        )
        content, is_error = await fetched(tool, f"https://evil.test:{web.port}/")
        assert is_error
        assert "certificate is not valid: Hostname mismatch" in content
        content, is_error = await fetched(distrusting, f"https://good.test:{web.port}/")
        assert is_error
        assert "certificate is not valid" in content
    assert len(web.asked) == 1


async def test_a_page_that_is_too_large_is_cut_and_says_so() -> None:
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with serving({"/": flood}) as web, fetch_tool(Names(good_test=[["127.0.0.1"]])) as tool:
        everything = replace(tool, output_limit=10_000_000, timeout=60.0)
        content, is_error = await fetched(everything, f"http://good.test:{web.port}/")
        assert not is_error
        assert content.endswith("\n[the page is larger than 1048576 bytes: the rest was not read]")
        assert content.count("x") == 1_048_576 + 1  # and that of `text`
        content, _ = await fetched(replace(tool, timeout=60.0), f"http://good.test:{web.port}/")
        assert content.endswith("more characters were cut off]")
        assert len(content) < 32_100


async def test_a_page_that_takes_too_long_is_left() -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def silence(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    answers = {"/drip": drip, "/silence": silence}
    async with serving(answers) as web, fetch_tool(Names(good_test=[["127.0.0.1"]])) as tool:
        for path in answers:
            content, is_error = await fetched(replace(tool, timeout=0.3), f"http://good.test:{web.port}{path}")
            assert (content, is_error) == ("fetch_url did not finish within 0.3 s", True)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (page(b"\x89PNG", "image/png"), "is image/png, which cannot be read as text"),
        (page(b"PK", "application/zip"), "is application/zip, which cannot be read as text"),
        (page(b"\x1f\x8b", "text/html", Content_Encoding="gzip"), "is compressed, though it was asked not to be"),
        (page("no", status="404 Not Found"), "answered with the status 404"),
        (page("no", "image/png", status="500 Oops"), "answered with the status 500"),
        (b"nonsense\r\n\r\n", "could not be reached: RemoteProtocolError"),
        (b"", "could not be reached: RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "could not be reached: RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "could not be reached: RemoteProtocolError"),
    ],
)
async def test_what_is_no_text_is_told(answer: bytes, said: str) -> None:
    async with serving({"/": answer}) as web, fetch_tool(Names(good_test=[["127.0.0.1"]])) as tool:
        content, is_error = await fetched(tool, f"http://good.test:{web.port}/")
    assert is_error
    assert said in content


async def test_nobody_there_is_told() -> None:
    async with serving({}) as web:
        port = web.port
    async with fetch_tool(Names(good_test=[["127.0.0.1"]])) as tool:
        assert await fetched(tool, f"http://good.test:{port}/") == (
            "good.test could not be reached: ConnectError",
            True,
        )


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (page('{"a": 1}', "application/json"), '{"a": 1}'),
        (page("<a/>", "application/atom+xml"), "<a/>"),
        (page("plain", ""), "plain"),
        (page("für".encode("latin-1"), "text/plain; charset=ISO-8859-1"), "für"),
        (page("für".encode("latin-1"), 'text/plain; charset="windows-1252"; x=y'), "für"),
        (page("für", "text/plain; charset=punycode"), "für"),
        (page("für", "text/plain; charset=zlib"), "für"),
        (page("für", "text/plain; charset=no\x7fsuch"), "für"),
        (page(b"\xff\xfe", "text/plain"), "\ufffd\ufffd"),
    ],
)
async def test_text_is_read_as_what_it_is(answer: bytes, text: str) -> None:
    async with serving({"/": answer}) as web, fetch_tool(Names(good_test=[["127.0.0.1"]])) as tool:
        content, is_error = await fetched(tool, f"http://good.test:{web.port}/")
    assert not is_error, content
    assert content.partition("\n\n")[2] == text


async def test_a_page_is_read_in_a_process_of_its_own() -> None:
    html = """<!DOCTYPE html><html><head><title>The &amp; title</title><style>p {}</style></head><body>
      <h1>Head</h1><script>alert("no")</script><p>One <b>bold</b>
      line.</p><ul><li>first<li>second</ul><table><tr><td>a<td>b</table><svg><text>x</text></svg></body></html>"""
    async with (
        serving({"/": page(html, "text/html; charset=utf-8")}) as web,
        Processes(1, environment_of_tools()) as processes,
        fetching(Guard(Names(good_test=[["127.0.0.1"]]), HERE), processes) as tool,
    ):
        content, is_error = await fetched(replace(tool, timeout=60.0), f"http://good.test:{web.port}/")
    assert not is_error, content
    assert content.partition("\n\n")[2] == "The & title\n\nHead\n\nOne bold\nline.\n\nfirst\nsecond\n\n| a | b"
