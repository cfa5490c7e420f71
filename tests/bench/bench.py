"""`make bench`: how fast, how cheap, how steady, compared with what else there is.

    bench.py                      all benchmarks; with --quick, fewer repetitions
    bench.py takeover --services 1 --timeout 0.3 --repeat 5 --software opensvc_hb,keepalived
    bench.py --table FILE         print the table of an earlier run
    bench.py --document FILE      put an earlier run's table and plots into docs/performance.md

Prints a table, writes JSON (build/bench/) and plots beside it. Ours and the others run in
turn, in the same kind of nodes (`tests/lab`), by the same code. Needs root. Exits 0 when all was
measured, whether or not the targets were met; 1 when something could not be measured.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Type

TREE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TREE), str(TREE / "tests/lab")]

import figures  # noqa: E402  # needs the path
import plots  # noqa: E402
from clusters import READY_LIMIT_S, Cluster, Opensvc, OpensvcWithDisk  # noqa: E402
from commands import START_UP, install_product, kept_results, time_command, time_first  # noqa: E402
from control_socket import ask  # noqa: E402
from false_takeovers import watch_under_load  # noqa: E402
from figures import Figure, Results, Target  # noqa: E402
from idle import measure  # noqa: E402
from keepalived import Keepalived  # noqa: E402
from machine import LabError  # noqa: E402
from pacemaker import Pacemaker  # noqa: E402
from takeover import PowerCut, cut_power, halt, planned_switch  # noqa: E402

RESULTS = TREE / "build/bench"
SOFTWARE: Tuple[Type[Cluster], ...] = (Opensvc, OpensvcWithDisk, Keepalived, Pacemaker)
MS = 1000.0


@dataclass
class Plan:
    """What to run, and what has come of it.

    Args:
        services, timeouts_s: () for what each benchmark takes by itself.
        repeat: how often; 0 for what each benchmark takes by itself.
        software: who takes part.
    """

    quick: bool
    services: Tuple[int, ...]
    timeouts_s: Tuple[float, ...]
    repeat: int
    software: Tuple[Type[Cluster], ...]
    figures: List[Figure] = field(default_factory=list)
    failures: List[str] = field(default_factory=list)

    def counts(self, *usual: int) -> Tuple[int, ...]:
        """Return the numbers of services to take."""
        return self.services or usual

    def timeouts(self, *usual: float) -> Tuple[float, ...]:
        """Return the timeouts to take."""
        return self.timeouts_s or usual

    def times(self, usual: int, quick: int) -> int:
        """Return how often to repeat."""
        return self.repeat or (quick if self.quick else usual)

    def ours(self) -> Tuple[Type[Cluster], ...]:
        """Return ours of those that take part."""
        return tuple(kind for kind in self.software if issubclass(kind, Opensvc))

    def add(
        self,
        benchmark: str,
        case: str,
        what: str,
        unit: str,
        software: str,
        samples: Sequence[float],
        target: Optional[Target] = None,
    ) -> None:
        """Keep a figure."""
        if samples:
            self.figures.append(Figure(benchmark, case, what, unit, software, tuple(samples), target))

    def attempt(self, what: str, work: Callable[[], None]) -> bool:
        """Do one thing; if it cannot be done, say so and go on. Tells whether it was done."""
        say(what)
        try:
            work()
        except LabError as error:
            self.failures.append(f"{what}: {str(error).splitlines()[0]}")
            say(f"FAILED: {self.failures[-1]}")
            return False
        return True


def say(text: str) -> None:
    """Tell the one who waits what goes on."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


def services_text(count: int) -> str:
    """Return `1 service`, `100 services`."""
    return f"{count} service{'' if count == 1 else 's'}"


def only_ours(kind: Type[Cluster], target: Optional[Target]) -> Optional[Target]:
    """Return the target for ours, None for the others."""
    return target if issubclass(kind, Opensvc) else None


def bench_takeover(plan: Plan) -> None:
    """Power cuts: every number of services with every timeout, all software in turn."""
    for count in plan.counts(1, 100, 1000):
        for timeout_s in plan.timeouts(10.0, 1.0, 0.3):
            _takeovers(plan, count, timeout_s)


def _takeovers(plan: Plan, count: int, timeout_s: float) -> None:
    if plan.quick and count > 1 and timeout_s != 1.0 and not plan.timeouts_s:
        return
    usual = {1: 20 if timeout_s < 5 else 8, 100: 6}.get(count, 4)
    quick = {1: 4 if timeout_s < 5 else 2, 100: 2}.get(count, 1)
    repeat = plan.times(usual, quick)
    turns = 1 if plan.quick or repeat < 4 else 2
    cuts: Dict[Type[Cluster], List[PowerCut]] = {kind: [] for kind in plan.software}
    case = f"{services_text(count)}, {timeout_s:g} s"
    chance = random.Random(count)
    for turn in range(turns):
        for kind in plan.software:
            if kind is Pacemaker and count > 100:
                continue  # a thousand resources take it many minutes to begin with
            part = repeat // turns

            def work(kind: Type[Cluster] = kind, part: int = part) -> None:
                with kind(count, timeout_s) as cluster:
                    cluster.begin()
                    for number in range(part):
                        cuts[kind].append(cut_power(cluster, ("n1", "n2")[number % 2], chance))

            plan.attempt(f"takeover, {case}, {kind.name}, turn {turn + 1} of {turns}, {part} times", work)
    for kind, found in cuts.items():
        _add_cuts(plan, case, count, kind, found)


def _add_cuts(plan: Plan, case: str, count: int, kind: Type[Cluster], cuts: Sequence[PowerCut]) -> None:
    def add(what: str, samples: Sequence[float], target: Optional[Target] = None) -> None:
        in_ms = [MS * sample for sample in samples]
        plan.add("takeover", case, what, "ms", kind.name, in_ms, only_ours(kind, target))

    beyond = Target(20.0) if count == 1 else None
    add("first start, last beat + timeout", [cut.from_beat_s for cut in cuts], beyond)
    add("first start, power cut + timeout", [cut.from_kill_s for cut in cuts])
    if count > 1:
        spread = Target(350.0) if count == 100 else None
        add("first to last start", [cut.spread_s for cut in cuts], spread)
        launched = Target(3000.0) if count == 1000 else None
        decisions = [cut.decision_s for cut in cuts if cut.decision_s is not None]
        add("decision to last start", decisions, launched)


def _repeated(
    plan: Plan, benchmark: str, measure_once: Callable[[Cluster, str], float], what: str, target: Target
) -> None:
    """Measure one thing between two nodes again and again, back and forth."""
    for timeout_s in plan.timeouts(1.0):
        case = f"1 service, {timeout_s:g} s"
        repeat = plan.times(20, 4)
        turns = 1 if plan.quick or repeat < 4 else 2
        samples: Dict[Type[Cluster], List[float]] = {kind: [] for kind in plan.software}

        def work(
            kind: Type[Cluster],
            timeout_s: float = timeout_s,
            part: int = repeat // turns,
            samples: Dict[Type[Cluster], List[float]] = samples,
        ) -> None:
            with kind(1, timeout_s) as cluster:
                cluster.begin()
                for number in range(part):
                    samples[kind].append(MS * measure_once(cluster, ("n1", "n2")[number % 2]))

        for turn in range(turns):
            for kind in plan.software:
                what_runs = f"{benchmark}, {case}, {kind.name}, turn {turn + 1} of {turns}"
                plan.attempt(what_runs, functools.partial(work, kind))
        for kind, found in samples.items():
            plan.add(benchmark, case, what, "ms", kind.name, found, only_ours(kind, target))


def bench_halt(plan: Plan) -> None:
    """A node leaves in order."""
    _repeated(plan, "halt", halt, "stop there to start here", Target(50.0))


def bench_switch(plan: Plan) -> None:
    """A service moves in order."""
    _repeated(plan, "switch", planned_switch, "down on both", Target(100.0))


def bench_false(plan: Plan) -> None:
    """Nothing fails, but the machine is overloaded."""
    for_s = 60.0 * (plan.repeat or (1 if plan.quick else 10))
    for timeout_s in plan.timeouts(1.0, 0.3):
        for kind in plan.software:

            def work(kind: Type[Cluster] = kind, timeout_s: float = timeout_s) -> None:
                with kind(1, timeout_s) as cluster:
                    cluster.begin()
                    moves = watch_under_load(cluster, for_s)
                case = f"{timeout_s:g} s, {for_s / 60:g} min"
                none = only_ours(kind, Target(0.0, "max"))
                plan.add("false", case, "false starts", "", kind.name, [moves.starts], none)
                plan.add("false", case, "stops", "", kind.name, [moves.stops], none)
                if kind in plan.ours():
                    plan.add("false", case, "changes of state", "", kind.name, [moves.state_changes], none)
                    plan.add("false", case, "links called down", "", kind.name, [moves.links_down])
                gap_ms = MS * moves.longest_gap_s
                plan.add("false", case, "longest gap of beats", "ms", kind.name, [gap_ms])
                still_ms = moves.standstill_ms
                plan.add("false", case, "longest standstill of the machine", "ms", kind.name, [still_ms])

            plan.attempt(f"false takeovers, {timeout_s:g} s, {kind.name}, {for_s:g} s of load", work)


def bench_idle(plan: Plan) -> None:
    """Nothing happens."""
    for_s = float(plan.repeat) or (15.0 if plan.quick else 120.0)
    for count in plan.counts(1, 100, 1000):
        for kind in plan.software:
            if kind is Pacemaker and count > 100:
                continue

            def work(kind: Type[Cluster] = kind, count: int = count) -> None:
                with kind(count, plan.timeouts(10.0)[0]) as cluster:
                    cluster.begin()
                    for node in cluster.lab.nodes:
                        _add_idle(plan, count, cluster, node.name, for_s)

            plan.attempt(f"idle, {services_text(count)}, {kind.name}, {for_s:g} s", work)


def _add_idle(plan: Plan, count: int, cluster: Cluster, node: str, for_s: float) -> None:
    cost = measure(cluster, cluster.lab.node(node), for_s)
    kind = type(cluster)
    case = f"{services_text(count)}, {'owner' if node == 'n1' else 'standby'}"

    def add(what: str, unit: str, value: float, limit: Optional[float] = None) -> None:
        target = None if limit is None else only_ours(kind, Target(limit))
        plan.add("idle", case, what, unit, kind.name, [value], target)

    at_100 = count <= 100
    add("processor", "% of one", cost.cpu_percent, 1.0 if at_100 else None)
    add("memory (PSS)", "MiB", cost.pss_mib, 60.0 if at_100 else None)
    add("memory (RSS)", "MiB", cost.rss_mib)
    add("network", "B/s", cost.bytes_per_s)
    add("packets", "1/s", cost.packets_per_s)
    add("beat", "B", cost.beat_bytes, 300.0)
    if cluster.with_disk:
        add("writes to the shared disk", "1/s", cost.disk_writes_per_s)
    add("written to disks", "B/s", cost.stored_bytes_per_s)


def bench_commands(plan: Plan) -> None:
    """A person types a command."""
    if not plan.ours() or not plan.attempt("the product is installed", install_product):
        return
    for count in plan.counts(1, 50, 200, 1000):
        for kind in plan.ours()[:1]:

            def work(kind: Type[Cluster] = kind, count: int = count) -> None:
                with kind(count, 10.0) as cluster:
                    cluster.begin()
                    _time_commands(plan, cluster, count)

            plan.attempt(f"commands, {services_text(count)}", work)


def _time_commands(plan: Plan, cluster: Cluster, count: int) -> None:
    node = cluster.lab.node("n1")
    few, many = plan.times(5, 2), plan.times(20, 5)

    def add(what: str, seconds: Sequence[float], limit_s: Optional[float] = None) -> None:
        target = None if limit_s is None else Target(MS * limit_s)
        in_ms = [MS * second for second in seconds]
        plan.add("commands", services_text(count), what, "ms", cluster.name, in_ms, target)

    within_s = 0.3 if count == 200 else None
    one = ("svcmgr", "-s", cluster.services[0], "print", "status")
    cluster.lab.wait(
        lambda: kept_results(node) == count, READY_LIMIT_S, "the daemon has evaluated every service"
    )
    time_command(node, ("svcmon",), 1)
    add("svcmon, warm", time_command(node, ("svcmon",), many), within_s)
    add("svcmon, cold", time_command(node, ("svcmon", "--refresh"), few), within_s)
    add("print status of one", time_command(node, one, many), 0.15)
    add("print status of all", time_command(node, ("svcmgr", "print", "status"), min(few, 3)))
    if count in (1, 200):
        add("svcmon, first", time_first(node, ("svcmon", "--refresh"), few))
        add("print status of one, first", time_first(node, one, few))
        for argv in START_UP:
            add(" ".join(argv), time_command(node, argv, many))


def thinned(samples: Sequence[float], most: int = 200) -> List[float]:
    """Return that many of the samples, evenly over their order by size, smallest and largest included."""
    ordered = sorted(samples)
    if len(ordered) <= most:
        return ordered
    return [ordered[place * (len(ordered) - 1) // (most - 1)] for place in range(most)]


def bench_control(plan: Plan) -> None:
    """Everybody asks for the status."""
    for_s = 10.0 if plan.quick else 60.0
    for count in plan.counts(1, 100, 1000):
        for timeout_s in plan.timeouts(1.0, 0.3):

            def work(count: int = count, timeout_s: float = timeout_s) -> None:
                with Opensvc(count, timeout_s) as cluster:
                    cluster.begin()
                    for clients in (0, 1, 16):
                        _add_asked(plan, cluster, clients, for_s)

            plan.attempt(f"control socket, {services_text(count)}, {timeout_s:g} s", work)


def _add_asked(plan: Plan, cluster: Cluster, clients: int, for_s: float) -> None:
    asked = ask(cluster, cluster.lab.node("n1"), clients, for_s)
    case = f"{services_text(cluster.count)}, {cluster.timeout_s:g} s, {clients} clients"
    limit = Target(2 * MS * cluster.beat_interval_s, "max")
    plan.add("control", case, "longest gap of beats", "ms", cluster.name, [MS * asked.longest_gap_s], limit)
    if clients:
        plan.add("control", case, "answers", "1/s", cluster.name, [asked.answers_per_s])
        plan.add(
            "control", case, "an answer takes", "ms", cluster.name, thinned([MS * s for s in asked.took_s])
        )


BENCHMARKS: Dict[str, Callable[[Plan], None]] = {
    "takeover": bench_takeover,
    "halt": bench_halt,
    "switch": bench_switch,
    "false": bench_false,
    "idle": bench_idle,
    "commands": bench_commands,
    "control": bench_control,
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", help=f"{', '.join(BENCHMARKS)}; all")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, for a try")
    parser.add_argument("--services", type=_numbers(int), default=(), metavar="N[,N]")
    parser.add_argument("--timeout", type=_numbers(float), default=(), metavar="SECONDS[,SECONDS]")
    parser.add_argument(
        "--repeat", type=int, default=0, help="repetitions; minutes for false, seconds for idle"
    )
    parser.add_argument(
        "--software", type=lambda text: tuple(text.split(",")), default=(), help="who takes part; all"
    )
    parser.add_argument("--output", type=Path, help=f"JSON; default {RESULTS}/BENCHMARKS.json")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the table of an earlier run")
    parser.add_argument("--document", type=Path, metavar="FILE", help="put an earlier run into the docs")
    options = parser.parse_args(argv)
    for name in options.benchmarks:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name} (have {', '.join(BENCHMARKS)})")
    known = [kind.name for kind in SOFTWARE]
    for name in options.software:
        if name not in known:
            parser.error(f"no software {name} (have {', '.join(known)})")
    return options


def _numbers(kind: Callable[[str], float]) -> Callable[[str], Tuple[float, ...]]:
    return lambda text: tuple(kind(part) for part in text.split(","))


def main(argv: Sequence[str]) -> int:
    """Run benchmarks, or show those that were run."""
    options = parse(argv)
    if options.table:
        print(figures.text_table(figures.read(options.table)), end="")
        return 0
    if options.document:
        results = figures.read(options.document)
        page = TREE / "docs/performance.md"
        page.write_text(figures.with_table(page.read_text(), figures.markdown_table(results)))
        plots.draw(results, TREE / "docs/images")
        return 0
    if os.geteuid() != 0:
        print("bench: the nodes are namespaces of this machine, which only root can make", file=sys.stderr)
        return 1
    wanted = [kind for kind in SOFTWARE if not options.software or kind.name in options.software]
    versions = {kind.name: kind.version() for kind in wanted}
    for name in [name for name, version in versions.items() if not version]:
        say(f"{name} is not installed: not compared")
    software = tuple(kind for kind in wanted if versions[kind.name])
    plan = Plan(options.quick, options.services, options.timeout, options.repeat, software)
    machine = figures.machine_facts({name: version for name, version in versions.items() if version})
    chosen = options.benchmarks or list(BENCHMARKS)
    path = options.output or RESULTS / f"{'-'.join(options.benchmarks) or 'all'}.json"
    for name in chosen:
        BENCHMARKS[name](plan)
        figures.write(Results(machine, tuple(plan.figures)), path)
    results = figures.read(path)
    plots.draw(results, path.parent)
    print(figures.text_table(results))
    aimed_at = sum(figure.target is not None for figure in results.figures)
    print(f"{len(results.missed)} of {aimed_at} targets missed; {path}")
    for failure in plan.failures:
        print(f"not measured: {failure}")
    return 1 if plan.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
