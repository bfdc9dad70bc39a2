"""Rows of plain values as tables: aligned text for a terminal, HTML for Jupyter.

Knows no part of a machine: walks, traces and levels hand their rows in, so that all of them look alike.
"""
from __future__ import annotations

from collections.abc import Sequence
from html import escape

NUMBER = "0123456789-"


def text_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows under a head, columns two spaces apart; decimal numbers stand to the right.

    >>> print(text_table(("cause", "count"), [("ecall from VS", 3), ("virtual instruction", 12)]))
    cause                count
    ecall from VS            3
    virtual instruction     12
    """
    cells = [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    right = [bool(column) and all(_number(value) for value in column)
             for column in zip(*cells, strict=True)] or [False] * len(head)
    lines = []
    for row in [list(head), *cells]:
        parts = [value.rjust(width) if numeric else value.ljust(width)
                 for value, width, numeric in zip(row, widths, right, strict=True)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _number(value: str) -> bool:
    return value == "" or (value[0] in NUMBER and not value.startswith("0x") and value.replace(".", "").isdigit())


def html_table(head: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "",
               styles: Sequence[str] | None = None) -> str:
    """Return rows as an HTML table; `styles` gives each row's CSS, for a row that failed or one that is nested."""
    shown = [f"<caption style='text-align:left'>{escape(caption)}</caption>"] if caption else []
    shown.append("<tr>" + "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in head) + "</tr>")
    for number, row in enumerate(rows):
        style = styles[number] if styles else ""
        opened = f"<tr style='{escape(style)}'>" if style else "<tr>"
        cells = "".join(f"<td style='text-align:{'right' if _number(str(v)) else 'left'}'>{escape(str(v))}</td>"
                        for v in row)
        shown.append(f"{opened}{cells}</tr>")
    return f"<table>{''.join(shown)}</table>"
