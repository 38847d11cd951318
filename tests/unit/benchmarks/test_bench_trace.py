"""A trace is read whole, or it is said what is wrong with it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from benchmarks.replay.trace import BadRow, Request, UnusableTrace, parse, read_trace

GOOD = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.6805900,396,109
2023-11-16 18:15:48.1805900,879,55
"""


def test_requests_are_told_in_seconds_from_the_first_in_the_order_of_their_times(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(GOOD, encoding="utf-8")

    trace = read_trace(file)

    assert trace.requests == (Request(0.0, 374, 44), Request(1.5, 879, 55), Request(4.0, 396, 109))
    assert trace.bad == ()
    assert trace.seconds == 4.0


def test_a_compressed_trace_is_the_same_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv.gz"
    file.write_bytes(gzip.compress(GOOD.encode()))

    assert read_trace(file) == parse(GOOD.splitlines())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("yesterday,1,1", "TIMESTAMP is not a time: 'yesterday'"),
        ("2023-11-16 18:15:46,-1,1", "ContextTokens is not a number of tokens: '-1'"),
        ("2023-11-16 18:15:46,many,1", "ContextTokens is not a number of tokens: 'many'"),
        ("2023-11-16 18:15:46,1,0", "GeneratedTokens is 0, not between 1 and 4096"),
        ("2023-11-16 18:15:46,90000,1", "ContextTokens is 90000, not between 1 and 20000"),
        ("2023-11-16 18:15:46,1", "GeneratedTokens is not a number of tokens: None"),
        (",1,1", "TIMESTAMP is not a time: ''"),
    ],
)
def test_a_bad_row_is_left_out_and_named(row: str, reason: str) -> None:
    trace = parse([*GOOD.splitlines(), row])

    assert len(trace.requests) == 3
    assert trace.bad == (BadRow(5, reason),)


def test_times_with_and_without_a_zone_can_be_compared() -> None:
    lines = [*GOOD.splitlines(), "2023-11-16T19:15:49.68059+01:00,5,6"]

    assert parse(lines).requests[2] == Request(3.0, 5, 6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column TIMESTAMP"),
        ("TIMESTAMP,ContextTokens\n", "no column GeneratedTokens: the first line must name TIMESTAMP, ContextTokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nx,1,1\n", "0 usable rows and 1 others"),
    ],
)
def test_what_is_no_trace_is_refused_with_what_one_looks_like(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(UnusableTrace, match=says) as refused:
        read_trace(file)

    assert str(file) in str(refused.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"no gzip"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / ("trace.csv.gz" if content == b"no gzip" else "trace.csv")
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(UnusableTrace, match=r"trace\.csv.* cannot be read"):
        read_trace(file)
