"""`hbmgr simulate`: try the rules of this release on made-up clusters in which things go wrong.

Needs no configuration, key or daemon, and touches nothing: nodes, networks, disks, clocks and
operators are all played in this process, around the very core that decides on real nodes.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from opensvc_hb.errors import HbError
from opensvc_hb.sim.campaign import Run, run
from opensvc_hb.sim.conversation import conversation
from opensvc_hb.sim.faults import Profile
from opensvc_hb.sim.shrink import Shrinker
from opensvc_hb.sim.trial import Outcome

SHRINK_ATTEMPTS_MAX = 200


class CannotSave(HbError):
    """The file for the failing schedule cannot be written."""


def simulate(
    profile: Profile,
    seed: int,
    steps: int,
    save: Optional[Path] = None,
    tell: Optional[Callable[[str], None]] = None,
    run_trials: Callable[[Profile, int, int], Run] = run,
) -> Dict[str, Any]:
    """Run trials until `steps` are done or something does not hold; return what to show.

    Args:
        profile: what may go wrong.
        seed: of every choice: the same one, the same trace.
        steps: events given to a node's core, at least.
        save: where a failing schedule goes, as a conversation.
        tell: told in a line that a failure is being made shorter, which takes its time.
        run_trials: performs them.
    """
    began = time.monotonic()
    done = run_trials(profile, seed, steps)
    took_s = time.monotonic() - began
    document: Dict[str, Any] = {
        "seed": seed,
        "faults": profile.value,
        "trace": done.trace,
        "ok": done.failure is None,
        "steps_per_second": round(done.tally.steps / took_s) if took_s > 0 else 0,
        **asdict(done.tally),
        "simulated_s": round(done.tally.simulated_s, 3),
    }
    if done.failure is not None:
        if tell is not None:
            tell(f"trial {done.number} failed; making its schedule shorter")
        document["violation"] = _violation(done, save)
    return document


def _violation(done: Run, save: Optional[Path]) -> Dict[str, Any]:
    assert done.failure is not None, "there is a failure to show"
    shortest: Outcome = Shrinker(done.failure, SHRINK_ATTEMPTS_MAX).shrunk()
    violation = shortest.violation
    assert violation is not None, "what is made shorter still fails"
    name = f"faults {done.profile.value}, seed {done.seed}, trial {done.number}"
    if save is not None:
        try:
            save.write_text(conversation(shortest, name), encoding="utf-8")
        except OSError as error:
            raise CannotSave(f"{save}: {error.strerror}") from error
    return {
        "trial": done.number,
        "invariant": violation.invariant,
        "sentence": violation.sentence,
        "at_s": round(violation.at, 6),
        "scene": shortest.scene.line(),
        "schedule": [{"at_s": round(deed.at, 6), "deed": deed.line} for deed in shortest.deeds],
        "log": list(violation.lines),
        "saved": str(save) if save is not None else "",
    }


def simulated_text(document: Dict[str, Any]) -> str:
    """Return what `simulate` found, for people."""
    d = document
    lines = [
        f"faults {d['faults']}, seed {d['seed']}: {d['trials']} clusters, {d['steps']} steps "
        f"({d['steps_per_second']} a second), {d['simulated_s']:.0f} s of their time",
        f"takeovers {d['takeovers']}, claims of a lease {d['claims']}, instances ended by lease "
        f"{d['lease_ends']}, deeds of guardians {d['guardian_deeds']}, resets {d['resets']}",
        f"trace {d['trace']}",
    ]
    if d["ok"]:
        return "\n".join([*lines, "every invariant held after every step", ""])
    found = d["violation"]
    lines += ["", *(f"  {line}" for line in found["log"]), "", "the schedule, as short as it could be made:"]
    lines += [f"  {found['scene']}", *_schedule(found["schedule"])]
    lines += ["", f"VIOLATION: {found['invariant']}: {found['sentence']} (trial {found['trial']})"]
    if found["saved"]:
        lines.append(f"saved as a conversation: {found['saved']}")
    lines.append(
        f"the same again: hbmgr simulate --faults {d['faults']} --seed {d['seed']} --steps {d['steps']}"
    )
    return "\n".join([*lines, ""])


def _schedule(deeds: List[Dict[str, Any]]) -> List[str]:
    return [f"  {deed['at_s']:10.4f}  {deed['deed']}" for deed in deeds]
