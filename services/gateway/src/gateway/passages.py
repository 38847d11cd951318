"""A document in passages: the parts that a search answers with. One after the other they are the document."""

from __future__ import annotations

from collections.abc import Iterator

_LONGEST = 1_500
_SHORTEST = 500
# Where a reader would part a text, the best first.
_ENDS = ("\n\n", "\n", ". ", " ")


def passages(text: str) -> Iterator[str]:
    """Parts of at most 1,500 characters, that end with a paragraph, a line, a sentence or a word where there is one."""
    begin = 0
    while begin < len(text):
        end = _end(text, begin)
        yield text[begin:end]
        begin = end


def _end(text: str, begin: int) -> int:
    latest = begin + _LONGEST
    if latest >= len(text):
        return len(text)
    for mark in _ENDS:
        found = text.rfind(mark, begin + _SHORTEST, latest)
        if found >= 0:
            return found + len(mark)
    return latest
