"""A month's documents as PDF: each begins on a page of its own, with its lines and its total."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from fpdf import FPDF, FontFace
from fpdf.enums import TableBordersLayout

from common.errors import Unavailable

MOST_LINES = 2000
"""What is drawn of a month at most: beyond it nobody reads pages, and drawing takes the processor from all others."""
_PATIENCE_SECONDS = 20.0

_HEADING = ("What", "Agent", "User", "Calls", "Input tokens", "Output tokens", "USD")
_WIDTHS = (40, 20, 42, 13, 22, 24, 27)
_ALIGN = ("LEFT", "LEFT", "LEFT", "RIGHT", "RIGHT", "RIGHT", "RIGHT")
_KINDS = {"allowance": "Free allowance", "fee": "Monthly fee"}
_NAMES = {"invoice": "Invoice", "credit_note": "Credit note"}
_GREY = (110, 110, 110)


class _Pages(FPDF):
    """Pages that say of which month and tenant they are."""

    def __init__(self, foot: str) -> None:
        super().__init__()
        self._foot = foot
        self.set_title(foot)
        self.set_margin(12)
        self.set_auto_page_break(auto=True, margin=18)

    def footer(self) -> None:
        """Below each page."""
        self.set_y(-14)
        self.set_font("helvetica", size=8)
        self.set_text_color(*_GREY)
        self.cell(0, 8, f"{self._foot}, page {self.page_no()} of {{nb}}", align="C")
        self.set_text_color(0)


class TooManyLinesError(Exception):
    """The month has more lines than are drawn."""


class Printer:
    """Draws one month at a time, beside the loop: a month of thousands of lines takes seconds of the processor."""

    def __init__(self) -> None:
        self._one_at_a_time = asyncio.Lock()

    async def drawn(self, month: Mapping[str, Any], tenant: str) -> bytes:
        """See `as_pdf`. Raises `TooManyLinesError`, or `Unavailable` where too many others are drawn before."""
        if sum(len(document["lines"]) for document in month["documents"]) > MOST_LINES:
            raise TooManyLinesError
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._one_at_a_time.acquire()
        except TimeoutError as error:
            raise Unavailable("too many invoices are being drawn") from error
        drawing = asyncio.ensure_future(asyncio.to_thread(as_pdf, month, tenant))
        # Not before it is over, though whoever asked for it may be gone: a thread cannot be cut.
        drawing.add_done_callback(lambda _: self._one_at_a_time.release())
        return await asyncio.shield(drawing)


def as_pdf(month: Mapping[str, Any], tenant: str) -> bytes:
    """All documents of a month of a tenant, as `Invoices.month` gives them."""
    pages = _Pages(f"Laneway, {month['month']}, tenant {tenant}")
    for document in month["documents"]:
        pages.add_page()
        _head(pages, document, tenant)
        _lines(pages, document)
    return bytes(pages.output())


def _head(pages: FPDF, document: Mapping[str, Any], tenant: str) -> None:
    draft = document["state"] == "draft"
    number = f" {document['number']}" if document["number"] else ""
    pages.set_font("helvetica", "B", 18)
    name = f"{_NAMES[document['kind']]}{number} for {document['month']}"
    pages.cell(0, 12, name + (" (draft)" if draft else ""), new_x="LMARGIN", new_y="NEXT")
    pages.set_font("helvetica", size=10)
    issued = "not issued: the month goes on" if draft else f"issued {document['issued_at']:%Y-%m-%d %H:%M} UTC"
    for text in (f"Tenant {tenant}", issued, "Amounts are US dollars, exact."):
        pages.cell(0, 5.5, text, new_x="LMARGIN", new_y="NEXT")
    pages.ln(4)


def _lines(pages: FPDF, document: Mapping[str, Any]) -> None:
    pages.set_font("helvetica", size=8)
    pages.set_line_width(0.1)
    pages.set_draw_color(*_GREY)
    with pages.table(
        col_widths=_WIDTHS,
        text_align=_ALIGN,
        headings_style=FontFace(emphasis="BOLD", fill_color=(235, 235, 235)),
        borders_layout=TableBordersLayout.HORIZONTAL_LINES,
        line_height=4,
        padding=1,
    ) as rows:
        for cells in (_HEADING, *(_cells(line) for line in document["lines"])):
            row = rows.row()
            for cell in cells:
                row.cell(_shown(cell))
    pages.ln(3)
    pages.set_font("helvetica", "B", 12)
    pages.cell(0, 8, f"Total: {document['total_usd']} USD", align="R", new_x="LMARGIN", new_y="NEXT")


def _cells(line: Mapping[str, Any]) -> Sequence[str]:
    if line["kind"] == "fee" and line["days"] is not None:
        days = f"{_KINDS['fee']} {line['plan']}, {line['days']} of {line['of_days']} days"
        return (days, "", "", "", "", "", line["amount_usd"])
    if line["kind"] != "usage":
        return (_KINDS[line["kind"]], "", "", "", "", "", line["amount_usd"])
    counts = [f"{line[name]:,}" for name in ("calls", "input_tokens", "output_tokens")]
    return (f"{line['provider']} {line['model']}", line["agent"], line["user_id"] or "", *counts, line["amount_usd"])


def _shown(text: str) -> str:
    """The fonts that every reader has are Latin; what a tenant writes in another script is shown as question marks."""
    return text.encode("latin-1", "replace").decode("latin-1")
