"""Tables, verdicts and plots of the benchmarks: what is measured is shown as it is."""

from __future__ import annotations

from xml.etree import ElementTree

import figures
import plots
import pytest
from figures import Figure, Results, Target

OURS = Figure(
    "takeover", "1 service, 1 s", "first start, last beat + timeout", "ms", "opensvc_hb", (9.0, 3.0, 6.0)
)
THEIRS = Figure("takeover", "1 service, 1 s", "first start, last beat + timeout", "ms", "keepalived", (4.0,))


def aimed(limit, of="median"):
    return Figure("b", "c", "w", "ms", "opensvc_hb", (1.0, 2.0, 9.0), Target(limit, of))


def test_a_target_holds_by_the_median_or_by_the_largest_sample():
    """A median of 2 meets 2; a largest sample of 9 misses 8; no target, no verdict."""
    assert aimed(2.0).verdict == "ok"
    assert aimed(1.9).verdict == "MISSED"
    assert aimed(9.0, "max").verdict == "ok"
    assert aimed(8.0, "max").verdict == "MISSED"
    assert OURS.verdict == ""


def test_ours_is_compared_with_the_same_thing_of_others():
    """6 ms against 4 ms is 1.5 times keepalived; theirs is compared with nobody, another case neither."""
    other_case = Figure("takeover", "100 services, 1 s", OURS.what, "ms", "keepalived", (1.0,))
    everything = [OURS, THEIRS, other_case]
    assert figures.ratio_text(OURS, everything) == "1.50 x keepalived"
    assert figures.ratio_text(THEIRS, everything) == ""


def test_a_figure_below_zero_has_no_ratio():
    """A start before the timeout's end counted from the power cut is shown, and not divided."""
    early = Figure(OURS.benchmark, OURS.case, OURS.what, "ms", "opensvc_hb", (-5.0,))
    assert figures.ratio_text(early, [early, THEIRS]) == ""


def test_a_run_is_read_as_it_was_written(tmp_path):
    """Written as JSON and read again, a run gives the same table."""
    results = Results({"kernel": "6"}, (OURS, THEIRS, aimed(1.0)))
    figures.write(results, tmp_path / "deep" / "run.json")
    assert figures.read(tmp_path / "deep" / "run.json") == results
    assert [figure.what for figure in results.missed] == ["w"]


def test_the_table_has_one_row_for_each_figure_and_repeats_nothing():
    """What a row has in common with the one above it is left out; ours and theirs stand together."""
    lines = figures.text_table(Results({"kernel": "6"}, (OURS, aimed(1.0), THEIRS))).splitlines()
    assert lines[0] == "kernel: 6"
    assert lines[3].startswith("takeover")
    assert lines[4].split() == ["keepalived", "4", "ms", "1"]
    assert lines[5].split()[:3] == ["b", "c", "w"]
    assert "MISSED" in lines[5]


def test_the_documents_table_replaces_the_old_one_only():
    """What stands around the marks stays; a document without marks is refused."""
    page = f"above\n{figures.BEGIN}old\n{figures.END}below\n"
    table = figures.markdown_table(Results({"kernel": "6"}, (OURS, aimed(1.0))))
    filled = figures.with_table(page, table)
    assert filled.startswith("above\n")
    assert filled.endswith("below\n")
    assert "old" not in filled
    assert "| b | c | w |" in filled
    assert "takeover" not in filled  # no target: left to the JSON
    assert figures.with_table(filled, table) == filled
    with pytest.raises(ValueError, match="results begin"):
        figures.with_table("no marks", table)


def test_plots_are_drawn_from_what_there_is(tmp_path):
    """Two plots from two kinds of figures, each well-formed; none without figures."""
    slower = [
        Figure("commands", f"{count} services", "svcmon, warm", "ms", "opensvc_hb", (count / 2,))
        for count in (50, 200)
    ]
    assert plots.draw(Results({}, ()), tmp_path) == []
    drawn = plots.draw(Results({}, (OURS, THEIRS, *slower)), tmp_path)
    assert [path.name for path in drawn] == ["takeover.svg", "commands.svg"]
    for path in drawn:
        svg = ElementTree.fromstring(path.read_text())
        circles = svg.findall("{http://www.w3.org/2000/svg}circle")
        assert len(circles) >= 3


def test_a_sample_that_a_logarithmic_axis_cannot_hold_is_left_out(tmp_path):
    """Zero and below are not drawn, and break nothing."""
    early = Figure(OURS.benchmark, OURS.case, OURS.what, "ms", "opensvc_hb", (-5.0, 0.0, 7.0))
    svg = plots.takeover_plot(Results({}, (early,)))
    assert svg.count("<circle") == 1
