"""Draws two plots from the JSON of a run, as SVG text: nothing but this file is needed.

`plots.py RESULTS.json DIRECTORY`. Called by `make bench`; the plots in the documentation are
copies of a run that is told there.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Dict, List, Sequence, Tuple
from xml.sax.saxutils import escape

import figures
from figures import Figure, Results

WIDTH, HEIGHT = 760, 360
LEFT, RIGHT, TOP, BOTTOM = 190, 30, 50, 50
COLOURS = ("#1b6ca8", "#12a4a0", "#d17b0f", "#a83254")
TICK_STEPS = (1, 2, 5)
DRAWN_COMMANDS = ("svcmon, warm", "svcmon, cold", "print status of one", "print status of all")


class LogScale:
    """Maps numbers to places on an axis, by their logarithm."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        self.low = min(values) / 1.3
        self.high = max(values) * 1.3
        self._begin = begin
        self._length = end - begin

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self._begin + self._length * share

    def ticks(self) -> List[float]:
        """Return round numbers within the scale; fewer when there are many decades."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = TICK_STEPS if len(decades) <= 4 else (1,)
        found = [step * 10.0**decade for decade in decades for step in steps]
        return [tick for tick in found if self.low <= tick <= self.high]


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    """Return a text element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "#ccc", more: str = "") -> str:
    """Return a line element."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def dot(x: float, y: float, colour: str, radius: float = 3.5, opacity: float = 1.0) -> str:
    """Return a dot."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" fill-opacity="{opacity}"/>'


def picture(title: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    """Return a whole SVG document, on white so that it can be read on any page."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            'font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
            text(12, 24, title, more='font-size="15" font-weight="bold"'),
            *parts,
            "</svg>\n",
        ]
    )


def strips(title: str, unit: str, rows: Sequence[Tuple[str, Figure]], limit: float = 0.0) -> str:
    """Return one strip of dots for each figure, one dot for each sample, a bar for the median.

    Args:
        rows: label and figure; samples that are not positive have no place here and are left out.
        limit: a target, drawn as a line; 0 for none.
    """
    height = TOP + BOTTOM + 24 * len(rows)
    values = [s for _, figure in rows for s in figure.samples if s > 0] + ([limit] if limit else [])
    scale = LogScale(values, LEFT, WIDTH - RIGHT)
    bottom = height - BOTTOM
    parts = []
    for tick in scale.ticks():
        parts.append(line(scale(tick), TOP - 8, scale(tick), bottom))
        parts.append(text(scale(tick), bottom + 16, f"{tick:g}", "middle"))
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, unit, "middle"))
    if limit:
        parts.append(line(scale(limit), TOP - 8, scale(limit), bottom, "#a00", 'stroke-dasharray="4 3"'))
        parts.append(text(scale(limit) + 4, TOP - 10, f"target {limit:g}", more='fill="#a00" font-size="10"'))
    names = list(dict.fromkeys(figure.software for _, figure in rows))
    for place, (label, figure) in enumerate(rows):
        y = TOP + 12 + 24 * place
        colour = COLOURS[names.index(figure.software) % len(COLOURS)]
        parts.append(text(LEFT - 8, y + 4, label, "end"))
        parts += [dot(scale(sample), y, colour, opacity=0.5) for sample in figure.samples if sample > 0]
        if figure.median > 0:
            at = scale(figure.median)
            parts.append(line(at, y - 8, at, y + 8, colour, 'stroke-width="2.5"'))
    return picture(title, parts, height)


def curves(title: str, x_name: str, y_name: str, lines: Dict[str, List[Tuple[float, float]]]) -> str:
    """Return lines over logarithmic axes.

    Args:
        lines: name and points, x growing.
    """
    points = [point for found in lines.values() for point in found]
    left = 70
    x_scale = LogScale([x for x, _ in points], left, WIDTH - 170)
    y_scale = LogScale([y for _, y in points], HEIGHT - BOTTOM, TOP)
    parts = []
    for x in sorted({x for x, _ in points}):
        parts.append(line(x_scale(x), TOP, x_scale(x), HEIGHT - BOTTOM))
        parts.append(text(x_scale(x), HEIGHT - BOTTOM + 16, f"{x:g}", "middle"))
    for tick in y_scale.ticks():
        parts.append(line(left, y_scale(tick), WIDTH - 170, y_scale(tick)))
        parts.append(text(left - 6, y_scale(tick) + 4, f"{tick:g}", "end"))
    parts.append(text((left + WIDTH - 170) / 2, HEIGHT - BOTTOM + 36, x_name, "middle"))
    parts.append(text(12, TOP - 8, y_name))
    for place, (name, found) in enumerate(lines.items()):
        colour = COLOURS[place % len(COLOURS)]
        path = " ".join(f"{x_scale(x):.1f},{y_scale(y):.1f}" for x, y in found)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [dot(x_scale(x), y_scale(y), colour) for x, y in found]
        parts.append(dot(WIDTH - 150, TOP + 10 + 20 * place, colour))
        parts.append(text(WIDTH - 140, TOP + 14 + 20 * place, name))
    return picture(title, parts)


def takeover_plot(results: Results) -> str:
    """Return how long after the timeout the start action began, one service; "" without figures."""
    chosen = [
        figure
        for figure in results.figures
        if figure.benchmark == "takeover"
        and figure.case.startswith("1 service,")
        and "last beat" in figure.what
    ]
    if not chosen:
        return ""
    rows = [(f"{figure.software}, {figure.case.split(', ')[1]}", figure) for figure in chosen]
    limit = next((figure.target.limit for figure in chosen if figure.target), 0.0)
    return strips(
        "From the timeout to the start action, one service", "milliseconds, beyond the timeout", rows, limit
    )


def commands_plot(results: Results) -> str:
    """Return how long commands take by the number of services; "" without figures."""
    lines: Dict[str, List[Tuple[float, float]]] = {}
    for figure in results.figures:
        count = figure.case.split(" ")[0]
        if figure.benchmark == "commands" and figure.what in DRAWN_COMMANDS:
            lines.setdefault(figure.what, []).append((float(count), figure.median))
    if not lines:
        return ""
    ordered = {name: sorted(points) for name, points in lines.items()}
    return curves("How long a command takes", "services on the node", "milliseconds", ordered)


def draw(results: Results, directory: Path) -> List[Path]:
    """Write the plots for which there are figures; return where."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, svg in (("takeover.svg", takeover_plot(results)), ("commands.svg", commands_plot(results))):
        if svg:
            (directory / name).write_text(svg)
            drawn.append(directory / name)
    return drawn


if __name__ == "__main__":
    for path in draw(figures.read(Path(sys.argv[1])), Path(sys.argv[2])):
        print(path)
