"""A daemon reads its configuration, at its start and again while it runs, as the daemon's shell does it.

Services alone reach the core at once. Where the monitor file changed, the old links are closed first,
then new ones are opened, and only then the core is told: no beat leaves meanwhile. New listeners
begin as those of a new daemon do: with a baseline, and above the incarnations that are known.

An agent that does not say which services there are leaves a daemon that begins without any; one that
runs keeps those that it has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Callable

from opensvc_hb.core.config import Config
from opensvc_hb.core.events import ConfigurationChanged

if TYPE_CHECKING:
    from opensvc_hb.sim.hosts import Host
    from opensvc_hb.sim.world import World

CLOSE_S = 0.005
"""Until the threads of links that work have ended, true seconds."""
CLOSE_MAX_S, CLOSE_SHARE = 2.0, 0.2
"""One whose disk is stuck is waited for so long, or for this share of the shortest timeout."""


class Reloads:
    """What the nodes of a world read.

    Args:
        connect: opens the disk links of a host.
        when_running: calls something in a host's present life, now or when its daemon goes on.
    """

    def __init__(
        self,
        world: World,
        connect: Callable[[Host], None],
        when_running: Callable[[Host, Callable[[], None]], None],
    ) -> None:
        self._world = world
        self._connect = connect
        self._when_running = when_running

    @staticmethod
    def as_read(host: Host) -> Config:
        """Return the configuration as the daemon of a host reads it now."""
        if not host.is_undeclared:
            return host.config
        return replace(host.config, services={} if host.core is None else host.core.config.services)

    def changed(self, node: str, config: Config) -> None:
        """Give a node another configuration; its daemon, if it runs, reads it at once."""
        host = self._world.hosts[node]
        before, host.config = host.config, config
        if host.core is None:
            return
        if config.links == before.links:
            self._world.inboxes.give(node, ConfigurationChanged(self.as_read(host)))
        else:
            self._when_running(host, lambda: self._close(host, before))

    def declared(self, node: str) -> None:
        """The agent says again which services there are."""
        host = self._world.hosts[node]
        if not host.is_undeclared:
            return
        host.is_undeclared = False
        if host.core is not None and not host.relinks:
            self._world.inboxes.give(node, ConfigurationChanged(host.config))

    def _close(self, host: Host, before: Config) -> None:
        """Close the links of old; what was to be read on them is lost, and what is said meanwhile."""
        host.relinks += 1
        host.links_opened += 1
        host.writers.clear()
        host.readers.clear()
        host.unread.clear()
        shortest_s = min(link.timeout_s for link in before.links)
        is_stuck = host.path.hangs or host.path.slow_s > 0
        wait_s = min(CLOSE_MAX_S, CLOSE_SHARE * shortest_s) if is_stuck else CLOSE_S
        self._world.timeline.after(wait_s, self._when_running, host, self._opener(host))

    def _opener(self, host: Host) -> Callable[[], None]:
        life = host.life

        def opens() -> None:
            if host.life != life:
                return
            host.relinks -= 1
            if host.relinks:
                return  # it was changed once more meanwhile
            host.newest.clear()
            self._connect(host)
            self._world.inboxes.give(host.config.node, ConfigurationChanged(self.as_read(host)))
            for reader in list(host.readers.values()):
                reader.begin()

        return opens
