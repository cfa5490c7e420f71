"""Who gets which copies now, and what if one fails? The actions syncnodes, syncdrp and syncall.

Only the node on which the service is up sends. Every node is first asked who it is; then each
resource is sent to all of them at the same time, one resource after another; at last the stamps
that tell both sides, and `postsync` on the other node, which judges what has arrived. A node that
fails holds no other one back.

An hour's copy must not hold a stop back: the service's lock is given up when asked for
(`lock.YIELDING`), and what runs meanwhile is killed.

Runs in: the main thread of a command. What talks to other nodes runs in children of it.

Source: A.1 (stamps), C.3, C.5, C.10. Unlike the agents, a copy that failed is exit 1.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from opensvc_hb.agent import remote
from opensvc_hb.agent.actions import START, Options, is_refused, reason_of
from opensvc_hb.agent.evaluate import evaluate
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.lock import LockHeldError, service_lock
from opensvc_hb.agent.log import ServiceLog
from opensvc_hb.agent.marking import marked
from opensvc_hb.agent.parallel import Answer, answer_all
from opensvc_hb.agent.progress import Progress
from opensvc_hb.agent.resource import ActionError, CommandResult, Peer, Status, SyncResource
from opensvc_hb.agent.sections import INTERNAL_SYNCS
from opensvc_hb.agent.service import Member, Service
from opensvc_hb.agent.synchronize import last_sent_name, stamp_name
from opensvc_hb.agent.triggers import run_triggers
from opensvc_hb.errors import HbError
from opensvc_hb.files import replace_file

KINDS_OF_ACTION: Mapping[str, Tuple[str, ...]] = {
    "syncnodes": ("nodes",),
    "syncdrp": ("drpnodes",),
    "syncall": ("nodes", "drpnodes"),
}
"""Each action: the kinds of nodes that get copies, in this order."""

TRIGGERED: Mapping[str, str] = {"nodes": "syncnodes", "drpnodes": "syncdrp"}
"""The triggers (`pre_syncnodes` ...) around the copies to each kind."""

VAR = "var/lib/opensvc"
"""Below the root of every node."""

GRACE_S = 5.0
"""How much longer a child may take than what it runs."""


@dataclass(frozen=True)
class _Value:
    """What a child has answered; a child that could not gives a reason, as text."""

    value: Any


class _EndedError(BaseException):
    """Another action wants the service: nothing below is to catch this."""


def run_sync(
    loader: Loader,
    service: Service,
    action: str,
    options: Options,
    quiet: bool = False,
    progress: Optional[Progress] = None,
) -> int:
    """Send copies of a service.

    Args:
        loader: loads the services of this node.
        service: the service.
        action: one of `KINDS_OF_ACTION`.
        options: as on the command line; `force` passes the schedule over, and nothing else.
        quiet: say nothing of copies that are not sent now: a scheduler asks.
        progress: shows what is worked on; None where nobody looks.

    Returns:
        0 when all were sent, or none is to be sent now; 1 when one failed, or all were refused.
    """
    log = loader.log(service.name)
    if is_refused(loader, service, action, options, log):
        return 1
    shown = Progress() if progress is None else progress
    try:
        with (
            service_lock(loader.root, service.name, options.wait_lock_s, action) as lock,
            marked(loader.root, service.name, START),
            _ended_by_signal(),
            shown.shown(),
        ):
            return _Copies(loader, service, log, options, quiet, lock, shown).do(action)
    except LockHeldError as error:
        log.info(f"{action} action is already running")
        if error.holder.action not in ("", action):
            log.info(f"the service's lock is held by {error.holder}")
        return 0
    except _EndedError:
        log.warning(f"'{action}' ended, another action needs the service: not every copy was sent")
        return 1
    except OSError as error:
        log.error(f"'{action}' not done: {reason_of(error)}")
        return 1


def judge_arrived(loader: Loader, svcname: str) -> int:
    """Judge the service's file as it is on this node: `presync` before it is sent, `postsync` after.

    Returns:
        0 when it is right, 1 when it is not; a line for each thing that is wrong.
    """
    errors, _ = loader.validate(svcname)
    for error in errors:
        loader.log(svcname).error(str(error))
    return 1 if errors else 0


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that what runs is killed and the lock given back."""

    def end(_number: int, _frame: Optional[FrameType]) -> None:
        raise _EndedError

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Copies:
    """The copies of one action, under the service's lock."""

    def __init__(
        self,
        loader: Loader,
        service: Service,
        log: ServiceLog,
        options: Options,
        quiet: bool,
        lock: int,
        progress: Progress,
    ) -> None:
        self.loader = loader
        self.service = service
        self.log = log
        self.options = options
        self.quiet = quiet
        self.lock = lock
        self.progress = progress
        self.failed = False

    def do(self, action: str) -> int:
        kinds = KINDS_OF_ACTION[action]
        evaluate(self.loader, self.service)  # each sync is told whether the service is up here
        wanted = [
            member
            for member in self._selected()
            if any(_sync(member).targets(kind) for kind in kinds) and self._may_send(member)
        ]
        for kind in kinds:
            self._to_kind(kind, [member for member in wanted if _sync(member).targets(kind)])
        return 1 if self.failed else 0

    def _selected(self) -> List[Member]:
        rids, tags = self.options.rids, self.options.tags
        return [
            member
            for member in self.service.of_group("sync")
            if isinstance(member.resource, SyncResource)
            and not member.disable
            and (not rids or any(member.is_named(rid) for rid in rids))
            and (not tags or any(tag in member.tags for tag in tags))
            and "noaction" not in member.tags
        ]

    def _may_send(self, member: Member) -> bool:
        """Tell whether a resource is to be sent now, and say why not (the texts are C.5's)."""
        resource = _sync(member)
        reasons: List[str] = []
        if not self.options.force:
            reasons = [resource.held_back()]
        if not any(reasons):
            if resource.rest is Status.WARN:
                reasons.append("won't sync this resource service in warn status")
            if resource.rest is not Status.UP:
                reasons.append("won't sync this resource for a service not up")
            elif self.service.node in self.service.drpnodes:
                reasons.append("service up on drp node, sync disabled")
        said = [reason for reason in reasons if reason]
        for reason in said if not self.quiet else ():
            resource.context.info(reason)
        return not said

    def _to_kind(self, kind: str, members: Sequence[Member]) -> None:
        """Send resources to all nodes of a kind, then tell both sides."""
        nodes = sorted({node for member in members for node in _sync(member).targets(kind)})
        if self.options.dry_run:
            for member in members:
                self._triggers("pre", kind, member)
                for node in _sync(member).targets(kind):
                    member.resource.context.info(f"send {member.resource.label} to {node}")
                self._triggers("post", kind, member)
            return
        peers = self._introduced(nodes)
        sent: Dict[str, Dict[str, str]] = {peer.node: {} for peer in peers}
        for member in members:
            for node, stamp in self._send(kind, member, peers).items():
                sent[node][member.rid] = stamp
        self._tell([(peer, sent[peer.node]) for peer in peers if sent[peer.node]])
        for member in members:
            targets = _sync(member).targets(kind)
            if all(member.rid in sent.get(node, ()) for node in targets):
                name = last_sent_name(self.service.name, member.rid)
                self._write(self.loader.root.var / name, sent[targets[0]][member.rid])

    # -- the three conversations with other nodes -------------------------------------------

    def _introduced(self, nodes: Sequence[str]) -> List[Peer]:
        """Ask each node who it is; those that cannot get a copy are said."""

        def question(node: str) -> Callable[[], Any]:
            return lambda: self._on(node, remote.WHO_ARE_YOU).stdout

        peers: List[Peer] = []
        answers = self._together([question(node) for node in nodes], remote.ANSWER_LIMIT_S)
        for node, answer in zip(nodes, answers):
            peer = self._peer_of(node, answer)
            if isinstance(peer, Peer):
                peers.append(peer)
            else:
                self._fail(peer)
        return peers

    def _peer_of(self, node: str, answer: Union[_Value, str]) -> Union[Peer, str]:
        """Judge a node's answer; returns what to send to, or the line that says why nothing is sent."""
        facts = remote.read_facts(str(answer.value)) if isinstance(answer, _Value) else answer
        if isinstance(facts, str):
            return _failure(node, facts)
        if facts.node != node:
            reason = f"it says that it is '{facts.node}': compare its name with `nodes`, and its address"
            return _failure(node, reason)
        kind = self.service.service_type
        if facts.environment not in ("", kind):
            return (
                f"incompatible remote node '{node}' host mode: '{facts.environment}' (expected in ['{kind}'])"
            )
        return Peer(node, facts.top)

    def _send(self, kind: str, member: Member, peers: Sequence[Peer]) -> Dict[str, str]:
        """Send one resource to its nodes at the same time; returns the stamp of each node that has it."""
        resource = _sync(member)
        mine = [peer for peer in peers if peer.node in resource.targets(kind)]
        if not mine or not self._triggers("pre", kind, member):
            return {}
        stamp = resource.stamp()  # what changes from now on may not be in the copy

        def task(peer: Peer) -> Callable[[], Any]:
            return lambda: resource.send(peer)

        limit_s = 2 * resource.transfer_limit_s + remote.ANSWER_LIMIT_S
        arrived: Dict[str, str] = {}
        with self.progress.working(f"{member.rid} to {', '.join(peer.node for peer in mine)}"):
            answers = self._together([task(peer) for peer in mine], limit_s)
        for peer, answer in zip(mine, answers):
            if isinstance(answer, _Value):
                arrived[peer.node] = stamp
                if answer.value:
                    resource.context.info(str(answer.value))
                continue
            resource.context.error(_failure(peer.node, answer, resource.route))
            self.failed = self.failed or not member.optional
        if len(arrived) == len(mine):
            self._triggers("post", kind, member)
        return arrived

    def _tell(self, reached: Sequence[Tuple[Peer, Mapping[str, str]]]) -> None:
        """Leave the stamps on both sides, and have the other one judge what has arrived."""
        command = ("svcmgr", "-s", self.service.name, "--waitlock", "3600", "postsync")

        def task(peer: Peer, stamps: Mapping[str, str]) -> Callable[[], Any]:
            def tell() -> str:
                self._push_stamps(peer, stamps)
                try:
                    self._on(peer.node, command)
                except ActionError as error:
                    return str(error)  # all the same, it has what was sent
                return ""

            return tell

        for peer, _ in reached:
            self.log.info(f"exec '{' '.join(command)}' on node {peer.node}")
        answers = self._together(
            [task(peer, stamps) for peer, stamps in reached], 3 * remote.ANSWER_LIMIT_S + GRACE_S
        )
        for (peer, stamps), answer in zip(reached, answers):
            if not isinstance(answer, _Value):
                self._fail(_failure(peer.node, answer))
                continue
            if answer.value:
                self._fail(f"postsync on node {peer.node} failed: {answer.value}")
            for rid, stamp in stamps.items():
                for node in (peer.node, self.service.node):
                    self._write(self.loader.root.var / self._stamp_place(node, rid), stamp)

    def _push_stamps(self, peer: Peer, stamps: Mapping[str, str]) -> None:
        with tempfile.TemporaryDirectory(prefix=".sync-", dir=self.loader.root.var) as folder:
            for rid, stamp in stamps.items():
                for node in (peer.node, self.service.node):
                    place = Path(folder) / VAR / self._stamp_place(node, rid)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_text(stamp, encoding="ascii")
            destination = f"{peer.node}:{peer.top.rstrip('/')}/"
            flags = ["-rR", "--no-implied-dirs", "--protect-args", "-e", " ".join(remote.SSH)]
            argv = ["rsync", *flags, "--", f"{folder}/./{VAR}/sync", destination]
            self._must(self.loader.run(argv, remote.ANSWER_LIMIT_S))

    def _stamp_place(self, node: str, rid: str) -> str:
        return f"sync/{node}/{stamp_name(self.service.name, rid)}"

    def _on(self, node: str, words: Sequence[str]) -> CommandResult:
        return self._must(self.loader.run(remote.ssh_argv(node, words), remote.ANSWER_LIMIT_S))

    def _must(self, result: CommandResult) -> CommandResult:
        if result.status != 0:
            raise ActionError(remote.reason_of(result.stderr, result.stdout, result.status))
        return result

    # -- helpers ----------------------------------------------------------------------------

    def _together(self, tasks: Sequence[Callable[[], Any]], limit_s: float) -> List[Union[_Value, str]]:
        """Run tasks at the same time, in children that end with us; returns values, or reasons."""

        def guarded(task: Callable[[], Any]) -> Callable[[], Any]:
            def run() -> Any:
                os.close(self.lock)  # whatever becomes of us, a child holds no lock
                try:
                    return {"value": task()}
                except ActionError as error:
                    return {"reason": str(error)}

            return run

        answers = answer_all([guarded(task) for task in tasks], limit_s + GRACE_S) if tasks else []
        return [self._value_of(answer) for answer in answers]

    def _value_of(self, answer: Answer) -> Union[_Value, str]:
        if answer.problem:
            if answer.trace:
                self.log.trace(answer.trace)
            return answer.problem
        if "reason" in answer.value:
            return str(answer.value["reason"])
        return _Value(answer.value["value"])

    def _triggers(self, moment: str, kind: str, member: Member) -> bool:
        """Run the triggers of a resource; the internal syncs have none (A.6)."""
        if member.rid in INTERNAL_SYNCS:
            return True
        if run_triggers(member, moment, TRIGGERED[kind], self.options.dry_run):
            return True
        self.failed = self.failed or not member.optional
        return False

    def _write(self, path: Path, text: str) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode("ascii"), mode=0o644)
        except HbError as error:
            self._fail(str(error))

    def _fail(self, text: str) -> None:
        self.log.error(text)
        self.failed = True


def _sync(member: Member) -> SyncResource:
    assert isinstance(member.resource, SyncResource), "only these are selected"
    return member.resource


def _failure(node: str, reason: str, what: str = "") -> str:
    """Source: C.5, except for the reason."""
    return f"node {node} synchronization failed{f' ({what})' if what else ''}: {reason}"
