"""What was measured: figures, their targets, and the three forms they are shown in.

A figure is a list of samples of one thing, taken from one software in one case. The same
thing taken from another software is its comparison. Written as JSON with the facts of the
machine; read again, it gives the same table, as text for a terminal or as Markdown.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

OURS = "opensvc_hb"
"""Every variant of ours begins with it."""


@dataclass(frozen=True)
class Target:
    """What is to hold: the median, or the largest sample, is at most `limit`.

    Args:
        of: "median" or "max".
    """

    limit: float
    of: str = "median"


@dataclass(frozen=True)
class Figure:
    """Samples of one thing.

    Args:
        benchmark: its name on the command line.
        case: how many services, which timeout, which condition.
        what: what was measured.
        unit: of the samples.
        software: whose figure it is.
        samples: at least one.
        target: None for what is shown only.
    """

    benchmark: str
    case: str
    what: str
    unit: str
    software: str
    samples: Tuple[float, ...]
    target: Optional[Target] = None

    @property
    def median(self) -> float:
        """Return the median of the samples."""
        return statistics.median(self.samples)

    @property
    def verdict(self) -> str:
        """Return `ok`, `MISSED`, or "" without a target."""
        if self.target is None:
            return ""
        value = self.median if self.target.of == "median" else max(self.samples)
        return "ok" if value <= self.target.limit else "MISSED"


@dataclass(frozen=True)
class Results:
    """All figures of a run, and where they were taken."""

    machine: Mapping[str, str]
    figures: Tuple[Figure, ...]

    @property
    def missed(self) -> List[Figure]:
        """Return the figures that miss their target."""
        return [figure for figure in self.figures if figure.verdict == "MISSED"]


def machine_facts(versions: Mapping[str, str]) -> Dict[str, str]:
    """Return what a reader must know of this machine.

    Args:
        versions: of the software compared, by name.
    """
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    with open("/proc/meminfo") as file:
        memory_kib = int(file.readline().split()[1])
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "cpus": f"{os.cpu_count()} x {models[0] if models else platform.machine()}",
        "memory": f"{memory_kib / (1 << 20):.0f} GiB",
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        **versions,
    }


def write(results: Results, path: Path) -> None:
    """Write a run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": dict(results.machine), "figures": [asdict(figure) for figure in results.figures]}
    path.write_text(json.dumps(document, indent=1) + "\n")


def read(path: Path) -> Results:
    """Read a run again."""
    document = json.loads(path.read_text())
    figures = tuple(
        Figure(
            **{
                **fields,
                "samples": tuple(fields["samples"]),
                "target": Target(**fields["target"]) if fields["target"] else None,
            }
        )
        for fields in document["figures"]
    )
    return Results(document["machine"], figures)


def number(value: float) -> str:
    """Return a number with three significant digits, and no exponent."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def range_text(figure: Figure) -> str:
    """Return the smallest and the largest sample, "" for a single one."""
    if len(figure.samples) == 1:
        return ""
    return f"{number(min(figure.samples))} .. {number(max(figure.samples))}"


def target_text(figure: Figure) -> str:
    """Return the target in words, "" for none."""
    if figure.target is None:
        return ""
    return f"{'max ' if figure.target.of == 'max' else ''}<= {number(figure.target.limit)}"


def ratio_text(figure: Figure, figures: Sequence[Figure]) -> str:
    """Return how often the others' medians go into ours: `0.4 keepalived`; "" for theirs."""
    if not figure.software.startswith(OURS):
        return ""
    same = (figure.benchmark, figure.case, figure.what)
    parts = [
        f"{number(figure.median / other.median)} x {other.software}"
        for other in figures
        if (other.benchmark, other.case, other.what) == same
        and not other.software.startswith(OURS)
        and other.median > 0
        and figure.median > 0
    ]
    return ", ".join(parts)


HEADINGS = ("benchmark", "case", "what", "software", "median", "unit", "range", "n", "target", "", "ratio")


def rows(figures: Sequence[Figure]) -> List[Tuple[str, ...]]:
    """Return the cells of the table, one row for each figure, the compared ones together."""
    order: Dict[Tuple[str, str, str], int] = {}
    for figure in figures:
        order.setdefault((figure.benchmark, figure.case, figure.what), len(order))
    arranged = sorted(figures, key=lambda f: order[(f.benchmark, f.case, f.what)])
    return [
        (
            figure.benchmark,
            figure.case,
            figure.what,
            figure.software,
            number(figure.median),
            figure.unit,
            range_text(figure),
            str(len(figure.samples)),
            target_text(figure),
            figure.verdict,
            ratio_text(figure, figures),
        )
        for figure in arranged
    ]


def text_table(results: Results) -> str:
    """Return the table for a terminal, the facts of the machine before it."""
    cells = [HEADINGS, *rows(results.figures)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADINGS))]
    lines = [f"{name}: {value}" for name, value in results.machine.items()]
    lines.append("")
    previous: Tuple[str, ...] = ("",) * 3
    for row in cells:
        # What is the same as above is not said again.
        same = 0
        while same < 3 and row[same] == previous[same]:
            same += 1
        shown = ("",) * same + row[same:]
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(shown, widths)).rstrip())
        previous = row[:3]
    return "\n".join(lines) + "\n"


def chosen_for_reading(figures: Sequence[Figure]) -> List[Figure]:
    """Return the figures that have a target, and what they are compared with."""
    aimed = {(f.benchmark, f.case, f.what) for f in figures if f.target is not None}
    return [f for f in figures if (f.benchmark, f.case, f.what) in aimed]


def markdown_table(results: Results) -> str:
    """Return the table for the documentation: what has a target; the JSON has the rest."""
    lines = ["; ".join(f"{name} {value}" for name, value in results.machine.items()) + ".", ""]
    lines += ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(chosen_for_reading(results.figures))]
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- results begin -->\n", "<!-- results end -->\n"


def with_table(document: str, table: str) -> str:
    """Return a document with the table between its two marks.

    Raises:
        ValueError: it has no marks.
    """
    before, begin, rest = document.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no marks: {BEGIN.strip()}, {END.strip()}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"
