"""`make sim`: every profile, many seeds, all processors; exit status 1 when anything did not hold.

python -m opensvc_hb.sim [--steps 2000000] [--seed 1] [--processes 2] [--run-steps 50000]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Dict, List

from opensvc_hb.sim.campaign import Part, campaign
from opensvc_hb.sim.faults import Profile
from opensvc_hb.sim.trial import Tally


def main() -> int:
    """Run the campaign of the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m opensvc_hb.sim", description="Many simulated clusters.")
    parser.add_argument("--steps", type=int, default=2_000_000, help="of all runs together, at least")
    parser.add_argument("--run-steps", type=int, default=25_000, help="of one run: one profile, one seed")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    profiles = list(Profile)
    count = -(-options.steps // (options.run_steps * len(profiles)))
    seeds = list(range(options.seed, options.seed + count))
    print(f"seeds {seeds[0]} to {seeds[-1]}, {len(profiles)} profiles, {options.run_steps} steps each")
    began = time.monotonic()
    tallies: Dict[Profile, Tally] = {profile: Tally() for profile in profiles}
    failed: List[Part] = []
    for part in campaign(profiles, seeds, options.run_steps, options.processes):
        tallies[part.profile].add(part.tally)
        if part.failed >= 0:
            failed.append(part)
            print(f"\nFAILED: {_again(part)}\n{part.words}", flush=True)
    _print_table(tallies, time.monotonic() - began)
    for part in failed:
        print(f"FAILED: {_again(part)}: {part.words.splitlines()[0]}")
    if not failed:
        print(f"every invariant held after every step: seeds {seeds[0]} to {seeds[-1]}")
    return 1 if failed else 0


def _again(part: Part) -> str:
    again = f"hbmgr simulate --faults {part.profile.value} --seed {part.seed} --steps {part.tally.steps}"
    return f"trial {part.failed} of {again}"


def _print_table(tallies: Dict[Profile, Tally], took_s: float) -> None:
    print(
        f"{'profile':<10}{'clusters':>9}{'steps':>10}{'simulated s':>13}{'takeovers':>11}{'claims':>8}"
        f"{'lease ends':>12}{'guardian':>10}{'resets':>8}"
    )
    total = Tally()
    for profile, tally in tallies.items():
        total.add(tally)
        print(_row(profile.value, tally))
    print(_row("all", total))
    print(f"{total.steps / took_s:.0f} steps a second, {took_s:.0f} s")


def _row(name: str, t: Tally) -> str:
    return (
        f"{name:<10}{t.trials:>9}{t.steps:>10}{t.simulated_s:>13.0f}{t.takeovers:>11}{t.claims:>8}"
        f"{t.lease_ends:>12}{t.guardian_deeds:>10}{t.resets:>8}"
    )


if __name__ == "__main__":
    sys.exit(main())
