"""Trials of the simulator: the same for the same seed, sound in every profile, short when they fail."""

from __future__ import annotations

import pytest
from conversation import Play

from opensvc_hb.sim.campaign import campaign, run
from opensvc_hb.sim.clocks import RATE_RATIO_MAX
from opensvc_hb.sim.conversation import conversation
from opensvc_hb.sim.deeds import Deed
from opensvc_hb.sim.disks import Disk
from opensvc_hb.sim.faults import Profile
from opensvc_hb.sim.invariants import ALONE, Violation, Watch
from opensvc_hb.sim.plots import MACHINE_PAUSE_SHARE
from opensvc_hb.sim.scenes import NODES, Scene, parsed
from opensvc_hb.sim.shrink import Shrinker
from opensvc_hb.sim.trial import Trial, drawn, perform, try_one

STEPS = 12_000
SEEDS = (1, 2)

OPENING = (
    Deed(0.0, "boot deb1"),
    Deed(0.0, "boot deb2"),
    Deed(1.0, "unfreeze svc1 on deb1"),
    Deed(1.5, "unfreeze svc1 on deb2"),
)
"""After it svc1 runs on deb1."""

ISOLATED = (Deed(6.0, "cut net deb1<>deb2"), Deed(6.0, "disk deb1 fails"))
"""The owner reaches neither its peer nor the disk."""

LEASED = Scene(links="net:2,dio:2", seed=7)


@pytest.mark.parametrize(
    "profile",
    [Profile.QUIET, *(pytest.param(p, marks=pytest.mark.slow) for p in Profile if p is not Profile.QUIET)],
    ids=lambda profile: profile.value,
)
def test_the_same_trial_twice_has_the_same_trace(profile):
    """One seed, one trace; another seed, another one."""
    first, again, other = try_one(profile, 5, 0), try_one(profile, 5, 0), try_one(profile, 6, 0)
    assert first.trace == again.trace
    assert first.tally == again.tally
    assert first.trace != other.trace


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("profile", list(Profile), ids=lambda profile: profile.value)
def test_every_invariant_holds_in_every_profile(profile, seed):
    """Fixed seeds, so that a failure is the doing of a change."""
    done = run(profile, seed, STEPS)
    assert done.failure is None, str(done.failure.violation)
    assert done.tally.steps >= STEPS


@pytest.mark.slow
@pytest.mark.parametrize("profile", list(Profile), ids=lambda profile: profile.value)
@pytest.mark.parametrize("seed", [2026, 4028925356])
def test_every_invariant_holds_in_a_longer_run(profile, seed):
    """Always these seeds, that a failure is a change's; `make sim` goes through new ones."""
    done = run(profile, seed, STEPS)
    assert done.failure is None, f"seed {seed}, trial {done.number}: {done.failure.violation}"


def test_runs_in_other_processes_are_the_same():
    """A campaign's parts have the traces of the same runs here."""
    parts = {part.seed: part for part in campaign([Profile.QUIET], [3, 4], 1, 2)}
    assert {seed: part.trace for seed, part in parts.items()} == {
        seed: run(Profile.QUIET, seed, 1).trace for seed in (3, 4)
    }


@pytest.mark.parametrize("profile", list(Profile), ids=lambda profile: profile.value)
def test_profiles_stay_within_what_the_lease_assumes(profile):
    """Clock rates and pauses of whole machines: what the schedules say of them."""
    for number in range(150):
        scene, deeds = drawn(profile, 11, number)
        rates = [float(rate) for rate in scene.rates.split(",")]
        assert max(rates) / min(rates) < RATE_RATIO_MAX
        assert scene.resets
        assert parsed(scene.line().split()[1:]) == scene
        slept = {}
        for deed in deeds:
            word, _, node = deed.line.partition(" ")
            if word == "pause":
                slept[node] = deed.at
            elif word == "resume" and scene.judged:
                t = scene.timeout_s * min(1.0, scene.uneven)
                assert deed.at - slept[node] <= MACHINE_PAUSE_SHARE * t + 0.001
        stuck = any(deed.line.startswith("processes") for deed in deeds)
        assert not (scene.judged and stuck and slept), "a reset may come late once, not twice"


def test_scenes_differ_in_all_that_matters():
    """Links, timeouts, services, leases, roles: none is always the same."""
    scenes = [drawn(profile, 1, number)[0] for profile in Profile for number in range(60)]
    for name in ("links", "uneven", "services", "wait_for_peer_s", "takeover", "heal", "lease", "holds_more"):
        assert len({getattr(scene, name) for scene in scenes}) > 1, name
    assert {scene.is_leased for scene in scenes} == {True, False}
    assert any("@deb2+deb1" in scene.services for scene in scenes)
    assert any(scene.links.startswith("dio:") for scene in scenes)


# -- what the lease assumes is needed ---------------------------------------------------------


def violation_of(scene, deeds, prepare=lambda world: None):
    """What a schedule violates in a scene, None for nothing; `prepare` alters its world first."""
    world, network = scene.world()
    prepare(world)
    trial = Trial(scene, world, network, Watch(world, one_instance=True))
    try:
        trial.safety(deeds)
        world.run(3 * scene.timeout_s)
    except Violation as violation:
        return violation.invariant
    return None


def test_an_isolated_owner_ends_before_its_peer_starts():
    """The lease holds: slow stops are killed, what a kill does not end is reset."""
    assert violation_of(LEASED, (*OPENING, *ISOLATED)) is None
    hangs = Deed(5.0, "action svc1 stop on deb1 hangs")
    assert violation_of(LEASED, (*OPENING, hangs, *ISOLATED)) is None
    stuck = Deed(5.0, "processes svc1 on deb1 stuck")
    assert violation_of(LEASED, (*OPENING, hangs, stuck, *ISOLATED)) is None


def test_clocks_past_the_bound_break_it():
    """The owner's clock counts too slowly: its deadline comes after its peer's."""
    slow = parsed([*LEASED.line().split()[1:], "rates=0.6,1.0"])
    hangs = Deed(5.0, "action svc1 stop on deb1 hangs")
    assert violation_of(slow, (*OPENING, hangs, *ISOLATED)) == ALONE


def test_a_kill_that_does_not_end_breaks_it():
    """Neither a kill nor a reset ends the instance."""
    endless = parsed([*LEASED.line().split()[1:], "resets=False"])
    deeds = [Deed(5.0, "action svc1 stop on deb1 hangs"), Deed(5.0, "processes svc1 on deb1 stuck")]
    assert violation_of(endless, (*OPENING, *deeds, *ISOLATED)) == ALONE


def test_two_different_disks_break_it():
    """Each node writes a disk of its own, and reads it: the other's slot never changes there."""

    def two_disks(world):
        for node in NODES:
            world.share_disk(node, "/dev/shared", Disk())

    cut = Deed(6.0, "cut net deb1<>deb2")
    assert violation_of(LEASED, (*OPENING, cut)) is None
    # What a node cannot read of the other is no leave; a copy that stands still is.
    copied = Deed(5.0, "cut net deb1>deb2")

    def stale_copy(world):
        shared, copy = Disk(), Disk()
        world.share_disk("deb1", "/dev/shared", shared)
        world.share_disk("deb2", "/dev/shared", copy)
        world.timeline.after(4.0, lambda: copy.slots.update(shared.slots))

    assert violation_of(LEASED, (*OPENING, cut), two_disks) is None
    assert violation_of(LEASED, (*OPENING, copied, cut), stale_copy) == ALONE


def test_a_long_pause_of_the_whole_machine_breaks_it():
    """Its guardian sleeps, too: that needs a watchdog device."""
    deeds = (*OPENING, Deed(6.0, "pause deb1"), Deed(11.0, "resume deb1"))
    assert violation_of(LEASED, deeds) == ALONE


# -- a failure is made short, and kept ---------------------------------------------------------


@pytest.fixture(scope="module")
def failure():
    """A trial that fails, among deeds that have nothing to do with it."""
    endless = parsed([*LEASED.line().split()[1:], "resets=False", "services=svc1,svc2"])
    noise = [
        Deed(3.0 + 0.1 * n, f"action svc1 start on deb2 takes 0.{n + 1}s" if n % 2 else "heal")
        for n in range(20)
    ]
    cause = [Deed(5.5, "action svc1 stop on deb1 hangs"), Deed(5.5, "processes svc1 on deb1 stuck")]
    outcome = perform(endless, [*OPENING, *noise, *cause, *ISOLATED])
    assert outcome.violation is not None
    return outcome


@pytest.fixture(scope="module")
def shortest(failure):
    """It, made short."""
    return Shrinker(failure).shrunk()


def test_a_failing_schedule_is_made_short(failure, shortest):
    """Only what the failure needs is left, and the same invariant fails."""
    assert shortest.violation.invariant == failure.violation.invariant == ALONE
    lines = [deed.line for deed in shortest.deeds]
    assert "heal" not in lines
    assert not any("start on deb2" in line for line in lines)
    assert len(lines) < len(failure.deeds) / 2
    assert shortest.scene.services == "svc1"


def test_a_failing_schedule_can_be_kept_as_a_conversation(shortest):
    """The text alone leads to the same two instances."""
    text = conversation(shortest, "a test")
    play = Play()
    assert play.perform(text).startswith("# Found by the simulator (a test): two instances")
    assert play.world.where("svc1") == ["deb1", "deb2"]
    said = [f"{line.node} {line.text}" for line in play.world.log if line.node != "-"]
    seen = [line.split(maxsplit=1)[1] for line in shortest.violation.lines if line.split()[1] != "-"]
    assert seen
    assert [line for line in seen if line not in said] == []
