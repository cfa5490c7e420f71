"""What goes wrong, and when? Scenes and schedules of deeds, drawn from one seeded generator.

A schedule is complete before the run begins: bursts of deeds with calm between them, so that
faults meet in the middle of each other's consequences. Every profile stays within what the lease
assumes (`Limits`); clusters without a lease are judged only where nothing silences a node that
runs something for the timeout.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from random import Random
from typing import Callable, List, Mapping, Sequence, Tuple

from opensvc_hb.sim.deeds import Deed
from opensvc_hb.sim.reload_plots import LONGEST_SHARE, SHORTEST_SHARE, ReloadPlots
from opensvc_hb.sim.scenes import NODES, Scene

RATE_MIN, RATE_MAX = 0.977, 1.024
"""Clock rates: their ratio stays below the 5 % that the lease assumes."""

KILL_SHARE = 0.03
"""A kill ends an instance within this share of T."""

FOCUSED_SHARE = 0.5
"""Of the runs, so many know one or two kinds of trouble only, again and again."""

HORIZON_SHARES = (12.0, 45.0)
"""A schedule lasts so many T."""


class Profile(enum.Enum):
    """What may go wrong."""

    QUIET = "quiet"
    """Operators, orderly stops, halts, power cuts, daemons killed and paused: links always work."""
    LOSSY = "lossy"
    """Beats are lost, late, doubled and reordered; daemons and machines crash in mid-step."""
    PARTITION = "partition"
    """Links are cut one way and both ways; nodes pause, crash, and come back."""
    DISK = "disk"
    """The shared disk fails, hangs, is slow, loses and tears writes, while links are cut."""
    CHAOS = "chaos"
    """All of it."""
    RESOURCES = "resources"
    """Monitored resources die, or cannot be asked, while what QUIET and PARTITION know goes wrong."""
    RELOAD = "reload"
    """All of it, while operators change the timeouts of the monitor files."""


Draw = Callable[[str], List[str]]
"""A plot about a node: lines, `+S line` for one that is due so many seconds later."""


_UNLEASED_SHARES: Mapping[Profile, float] = {
    Profile.QUIET: 0.4,
    Profile.LOSSY: 0.3,
    Profile.PARTITION: 0.3,
    Profile.DISK: 0.0,
    Profile.CHAOS: 0.15,
    Profile.RESOURCES: 0.3,
    Profile.RELOAD: 0.05,
}
"""Of the clusters of a profile, so many have no lease."""


# -- scenes -----------------------------------------------------------------------------------


def draw_scene(profile: Profile, random: Random) -> Scene:
    """Return a cluster for one run."""
    timeout_s = random.choice([0.5, 1.0, 1.0, 2.0, 5.0])
    leased_kinds = [["net", "dio"], ["net", "net", "dio"], ["net", "unicast", "dio"], ["dio"]]
    kinds = random.choice(leased_kinds)
    unleased_share = _UNLEASED_SHARES[profile]
    lease = "auto"
    if random.random() < unleased_share:
        kinds = random.choice([["net"], ["net", "net"], ["net", "unicast"], ["net", "dio"]])
        lease = "no"
    equal = random.random() < 0.6
    links = ",".join(f"{k}:{timeout_s if equal else _other(timeout_s, random)!r}" for k in kinds)
    names = [f"svc{number + 1}" for number in range(random.choice([1, 1, 2, 3]))]
    services = ",".join(name + random.choice(["", "", "@deb2+deb1"]) for name in names)
    longest_s = max(float(word.partition(":")[2]) for word in links.split(","))
    leased = lease == "auto"
    judged = leased or profile in (Profile.QUIET, Profile.LOSSY)
    rates = [round(random.uniform(RATE_MIN, RATE_MAX), 4) for _ in NODES]
    scene = Scene(
        seed=random.getrandbits(32),
        links=links,
        uneven=random.choice([0.5, 1.5]) if leased and random.random() < 0.1 else 1.0,
        services=services,
        later=1 if len(names) > 1 and random.random() < 0.15 else 0,
        rates=",".join(str(rate) for rate in rates),
        judged=judged,
        silence_max_s=0.2 * timeout_s / 2 if judged and not leased else 0.0,
        start_s=round(longest_s * random.choice([0.02, 0.1, 0.3, 0.6]), 3),
        limit_s=round(longest_s * random.choice([3.0, 10.0]), 3),
        wait_for_peer_s=longest_s * random.choice([0.0, 0.0, 2.0, 6.0]),
        takeover="ask" if random.random() < 0.08 else "automatic",
        takeover_frozen=random.random() < 0.15,
        heal=random.choice(["freeze", "stop"]),
        lease=lease,
        restart_within_s=longest_s * random.choice([2.0, 4.0, 8.0]),
        leave_within_s=longest_s * 8.0,
        evaluate_every_s=longest_s * random.choice([1.0, 3.0]),
        reboot_s=round(longest_s * random.uniform(0.3, 4.0), 3),
        kill_s=round(longest_s * random.uniform(0.0, KILL_SHARE), 4),
        holds_more=random.random() < 0.5,
    )
    return _monitored(scene, random) if profile is Profile.RESOURCES else scene


def _monitored(scene: Scene, random: Random) -> Scene:
    """Return the scene with services that have a monitored resource."""
    longest_s = scene.longest_timeout_s
    actions = ["freezestop", "switch", "reboot", "crash"]
    return replace(
        scene,
        monitor=random.choice(actions) if random.random() < 0.9 else "none",
        restarts=random.choice([0, 0, 1, 2]),
        max_moves=random.choice([1, 2, 3]),
        move_window_s=round(longest_s * random.choice([5.0, 20.0, 60.0]), 3),
        evaluate_every_s=longest_s * random.choice([0.2, 1.0]),
    )


def _other(timeout_s: float, random: Random) -> float:
    return timeout_s * random.choice([0.5, 1.0, 1.0, 2.0])


# -- deeds ------------------------------------------------------------------------------------


def draw_deeds(profile: Profile, scene: Scene, random: Random, only: Sequence[str] = ()) -> List[Deed]:
    """Return the schedule of one run, by time; the first deeds boot the nodes and hand services over.

    Args:
        profile: what may go wrong.
        scene: the cluster.
        random: where all choices come from.
        only: names of plots; with any, there are no others, but for an operator now and then.
    """
    t = scene.longest_timeout_s
    deeds = _opening(scene, random)
    now = deeds[-1].at + random.uniform(0.2, 2.0) * t
    end = now + random.uniform(*HORIZON_SHARES) * t
    plots = ReloadPlots(random, scene)
    draws = _menu(profile, plots)
    if only:
        draws = [(plots.operator, 1.0), *((getattr(plots, name), 4.0 / len(only)) for name in only)]
    weights = [weight for _, weight in draws]
    while now < end:
        for _ in range(random.choice([1, 1, 1, 2, 3])):
            draw = random.choices(draws, weights)[0][0]
            plots.now = now
            for line in draw(random.choice(NODES)):
                delay_s = 0.0
                said = line
                if line.startswith("+"):
                    word, _, said = line.partition(" ")
                    delay_s = float(word)
                deeds.append(Deed(now + delay_s, said))
            now += random.choice([0.0, random.uniform(0.0, 0.02), random.uniform(0.0, 0.5) * t])
        now += random.uniform(0.1, 2.0) * t if random.random() < 0.8 else random.uniform(2.0, 5.0) * t
    deeds.sort(key=lambda deed: deed.at)
    return deeds


def _opening(scene: Scene, random: Random) -> List[Deed]:
    t = scene.longest_timeout_s
    both = random.random() < 0.85
    first = random.choice(NODES)
    deeds = []
    ready = 0.0
    for node in NODES:
        at = 0.0 if both else 0.0 if node == first else random.uniform(0.5, 3.0) * t
        deeds.append(Deed(at, f"boot {node}"))
        ready = max(ready, at)
    at = ready + 0.5 * t
    for name in scene.service_names:
        for node in random.sample(NODES, 2):
            deeds.append(Deed(at, f"unfreeze {name} on {node}"))
            at += random.choice([0.0, 0.3 * t])
    deeds.sort(key=lambda deed: deed.at)
    return deeds


def _menu(profile: Profile, plots: ReloadPlots) -> List[Tuple[Draw, float]]:
    """Return what may happen in a run, with weights. One run knows some kinds of trouble only."""
    scene, random = plots.scene, plots.random
    leased, judged = scene.is_leased, scene.judged
    free = leased or not judged
    kinds: List[Tuple[Draw, float]] = [
        (plots.operator, 3.0),
        (plots.restart, 1.0),
        (plots.halt, 0.7),
        (plots.action, 2.0),
    ]
    kinds.append((plots.power_cut, 1.5 if profile is not Profile.QUIET else 0.8))
    kinds.append((plots.service_dies, 0.3))
    if scene.later:
        kinds.append((plots.configured, 1.0))
    if free or profile is Profile.QUIET:
        kinds += [(plots.daemon_killed, 1.2), (plots.daemon_paused, 1.5), (plots.asleep_while_asking, 2.0)]
        kinds += [(plots.maintenance, 1.0), (plots.both_restart, 0.7), (plots.late_listeners, 1.0)]
        kinds += [(plots.slow_to_verify, 1.0)]
    if profile is Profile.QUIET:
        return kinds
    if profile is Profile.RESOURCES:
        kinds += [(plots.resource_dies, 5.0), (plots.resource_cannot_be_asked, 1.5)]
        kinds += [(plots.restart_does_not_help, 2.0), (plots.resource_dies_on_both, 2.0)]
        if free:
            kinds += [(plots.cut, 1.0), (plots.isolated, 1.0), (plots.daemon_killed, 0.7)]
            kinds += [(plots.daemon_paused, 1.0), (plots.crash, 1.0)]
        return kinds
    if free:
        kinds += [(plots.crash, 1.5), (plots.reinstalled, 0.2), (plots.last_word_in_a_queue, 1.0)]
        # What a pause of the whole machine and a service that does not die have in common is too
        # much for the lease: of the two, one run has one.
        if random.random() < 0.5:
            kinds.append((plots.machine_paused, 1.5))
        elif leased:
            kinds += [(plots.stuck, 1.0), (plots.stop_hangs, 1.0), (plots.leaves_with_a_failed_stop, 0.7)]
        kinds += [(plots.store, 0.7), (plots.slow_store, 1.0), (plots.guardian, 0.5)]
    if profile in (Profile.LOSSY, Profile.CHAOS, Profile.RELOAD):
        kinds.append((plots.weather if free else plots.mild_weather, 4.0))
        if free:
            kinds.append((plots.bare_return, 1.5))
    if profile in (Profile.PARTITION, Profile.DISK, Profile.CHAOS, Profile.RELOAD):
        kinds += [(plots.cut, 3.0), (plots.isolated, 3.0), (plots.both_boot_apart, 1.0), (plots.healed, 1.0)]
    if profile in (Profile.DISK, Profile.CHAOS, Profile.RELOAD) and "dio" in scene.links:
        kinds += [(plots.disk, 2.0), (plots.disk_everywhere, 1.0), (plots.lost_writes, 2.0)]
        kinds += [(plots.slow_answers, 2.0), (plots.slow_writes, 2.0), (plots.woken_late, 2.0)]
    if profile is Profile.RELOAD:
        plots.shortest_share, plots.longest_share = SHORTEST_SHARE, LONGEST_SHARE
        kinds += [(plots.undeclared, 1.5), (plots.cut_off, 2.0), (plots.unstored, 1.5)]
        kinds += [(plots.longer_while_unstored, 1.0), (plots.asleep_with_a_longer_timeout, 1.0)]
    # Not everything everywhere: a run with few kinds of trouble goes deeper into each.
    troubles = kinds[1:]
    always: List[Tuple[Draw, float]] = [(plots.timeouts, 5.0)] if profile is Profile.RELOAD else []
    if random.random() < FOCUSED_SHARE:
        return [(plots.operator, 1.0), *always, *random.sample(troubles, random.choice([1, 2]))]
    return [kinds[0], *always, *(kind for kind in troubles if random.random() < 0.6)]
