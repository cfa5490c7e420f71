"""Many trials: one after the other from one seed, or many seeds on several processors.

A run is named by profile and seed: its trials are numbered from 0 and performed until so many
steps are done. The same run gives the same trace hash, on any machine. The first failure ends a
run. Called by `hbmgr simulate` and by `python -m opensvc_hb.sim`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from dataclasses import dataclass
from typing import FrozenSet, Iterator, List, Optional, Sequence, Set, Tuple

from opensvc_hb.sim.faults import Profile
from opensvc_hb.sim.trial import Outcome, Tally, try_one


@dataclass(frozen=True)
class Run:
    """What a run gave.

    Args:
        trace: hash of all its trials' traces, hexadecimal.
        number: of the trial that failed; failure: how; None and -1 when none did.
        rules: ids of the rows that were journaled.
    """

    profile: Profile
    seed: int
    trace: str
    tally: Tally
    number: int = -1
    failure: Optional[Outcome] = None
    rules: FrozenSet[str] = frozenset()


def run(profile: Profile, seed: int, steps: int, only: Sequence[str] = ()) -> Run:
    """Perform trials of a profile from one seed until so many steps are done, or one fails.

    Args:
        profile: what may go wrong.
        seed: of every choice.
        steps: events given to a core, at least.
        only: names of plots; none: all of the profile's.
    """
    tally = Tally()
    trace = hashlib.blake2b(digest_size=8)
    number = 0
    rules: Set[str] = set()
    while tally.steps < steps:
        outcome = try_one(profile, seed, number, only)
        tally.add(outcome.tally)
        trace.update(outcome.trace.encode())
        rules.update(outcome.rules)
        if outcome.violation is not None:
            return Run(profile, seed, trace.hexdigest(), tally, number, outcome, frozenset(rules))
        number += 1
    return Run(profile, seed, trace.hexdigest(), tally, rules=frozenset(rules))


@dataclass(frozen=True)
class Part:
    """One run of a campaign, as another process tells of it.

    Args:
        failed: the number of the trial that failed; -1 for none. words: what it said.
    """

    profile: Profile
    seed: int
    tally: Tally
    trace: str
    failed: int = -1
    words: str = ""


def _part(task: Tuple[str, int, int]) -> Part:
    name, seed, steps = task
    done = run(Profile(name), seed, steps)
    words = str(done.failure.violation) if done.failure is not None else ""
    return Part(done.profile, seed, done.tally, done.trace, done.number, words)


def campaign(profiles: Sequence[Profile], seeds: Sequence[int], steps: int, processes: int) -> Iterator[Part]:
    """Perform one run of so many steps for every profile and seed, as they end.

    Args:
        profiles: one run for each of them, with each seed.
        seeds: see `profiles`.
        steps: of each run.
        processes: how many at once.
    """
    tasks: List[Tuple[str, int, int]] = [(p.value, seed, steps) for seed in seeds for p in profiles]
    if processes <= 1:
        yield from map(_part, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_part, tasks)
