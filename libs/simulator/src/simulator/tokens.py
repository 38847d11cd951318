"""Deterministic token counting: four characters are one token.

The same rule counts input and cuts output, so an answer of N tokens is streamed in exactly N chunks:
``len(pieces(text)) == count(text)`` for every text that is not empty. Real tokenizers count differently; nothing
here pretends otherwise, it only has to add up.
"""

WIDTH = 4
"""Characters per token."""

# Each is one token wide, so a filler text counts as many tokens as it has words.
_FILLER = ("the ", "sun ", "has ", "set ", "and ", "now ", "all ", "can ", "see ", "our ", "new ", "day ")


def count(text: str) -> int:
    """Tokens of a text that was sent to the model: at least one, even when it is empty."""
    return (len(text) + WIDTH - 1) // WIDTH or 1


def pieces(text: str) -> list[str]:
    """The text cut in its tokens; none for an empty text."""
    return [text[start : start + WIDTH] for start in range(0, len(text), WIDTH)]


def filler(tokens: int) -> list[str]:
    """So many tokens of meaningless words."""
    rounds, rest = divmod(tokens, len(_FILLER))
    return [*_FILLER * rounds, *_FILLER[:rest]]
