"""A trial as a conversation: a text that says what is done when, and that a test can perform.

The format is that of the golden conversations: a comment for people, then commands, `----`, and
what the world said. `scene` begins a world as the simulator does, `at S` lets the time pass up to
a true time, every other line is a deed.
"""

from __future__ import annotations

import textwrap
from typing import Tuple

from opensvc_hb.sim.trial import Outcome

SEPARATOR = "----"
WIDTH = 98


def conversation(outcome: Outcome, name: str) -> str:
    """Return a failure as a conversation; `name` says which trial it came from."""
    violation = outcome.violation
    assert violation is not None, "a failure is what is worth keeping"
    words = f"Found by the simulator ({name}): {violation.invariant}: {violation.sentence}."
    lines = [f"# {line}" for line in textwrap.wrap(words, WIDTH)]
    lines += ["", outcome.scene.line()]
    at = 0.0
    for deed in outcome.deeds:
        if deed.at > at:
            at = deed.at
            lines.append(f"at {at!r}")
        lines.append(deed.line)
    lines += [f"at {violation.at!r}", SEPARATOR]
    return "\n".join([*lines, *_said(outcome)]) + "\n"


def _said(outcome: Outcome) -> Tuple[str, ...]:
    assert outcome.violation is not None, "checked above"
    return outcome.violation.lines
