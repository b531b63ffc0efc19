"""A bar chart as SVG: each bar a median, the line over it from the lowest to the highest round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, LABEL, NUMBER, ROW, TOP = 840, 250, 90, 30, 44
OWN, OTHER, LINE = "#2e7d32", "#90a4ae", "#263238"


class Bar(NamedTuple):
    label: str
    value: float
    low: float
    high: float
    own: bool


def bars(title: str, rows: Sequence[Bar]) -> str:
    """The picture, with its own light background, so that it can be read on any page."""
    room, most = WIDTH - LABEL - NUMBER, max(row.high for row in rows) or 1.0
    height = TOP + ROW * len(rows) + 10
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
             f'font-family="sans-serif" font-size="13"><title>{escape(title)}</title>',
             f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
             f'<text x="14" y="26" font-size="15" font-weight="bold" fill="{LINE}">{escape(title)}</text>']
    for number, row in enumerate(rows):
        top = TOP + ROW * number
        middle, end = top + 11, LABEL + room * row.value / most
        low, high = LABEL + room * row.low / most, LABEL + room * row.high / most
        parts += [
            f'<text x="{LABEL - 10}" y="{top + 15}" text-anchor="end" fill="{LINE}">{escape(row.label)}</text>',
            f'<rect x="{LABEL}" y="{top}" width="{end - LABEL:.1f}" height="22" fill="{OWN if row.own else OTHER}"/>',
            f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8" stroke="{LINE}"/>',
            f'<text x="{max(end, high) + 8:.1f}" y="{top + 15}" fill="{LINE}">{row.value:,.0f}</text>']
    return "\n".join([*parts, "</svg>", ""])
