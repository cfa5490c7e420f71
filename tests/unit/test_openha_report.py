"""What the daemon tells OpenHA's commands: processes of senders, and states as everyone is shown them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_builders import NOW, make_config, make_entry, make_instance, make_node, make_peer

from opensvc_hb.core.events import LegacyBeat
from opensvc_hb.core.node_state import Liveness
from opensvc_hb.core.states import State
from opensvc_hb.core.step import step
from opensvc_hb.daemon.report import Notices, shown_state, status_document


def node(liveness=Liveness.ALIVE):
    config = make_config(nodes=("deb1", "deb2"))
    peer = make_peer(config, [make_entry(State.STOPPED)], liveness)
    return make_node(config, [make_instance(State.STARTED)], peer)


def links_of(state):
    document = status_document(state, {}, Notices(pid=77), NOW)
    return {link["node"]: link["pid"] for link in document["links"]}


def test_the_pid_of_a_link_of_ours_is_the_daemons_and_a_native_peers_is_not_told():
    """A native beat does not say which process sends it."""
    assert links_of(node()) == {"deb1": 77, "deb2": None}


def test_the_pid_of_a_node_of_the_c_program_is_the_one_in_its_structure():
    """OpenHA shows it for a listener."""
    state = node(Liveness.UNKNOWN)
    [link] = state.config.links_from("deb2")
    silent = replace(
        state,
        peers={
            "deb2": replace(
                state.peers["deb2"],
                links={
                    name: replace(one, up=False, heard_at=None)
                    for name, one in state.peers["deb2"].links.items()
                },
            )
        },
    )
    beat = LegacyBeat(link.id, "deb2", (("svc1", State.STARTED),), 1_795_347_855, 4242)
    heard, _ = step(silent, beat, NOW)
    assert heard.peers["deb2"].is_legacy
    assert links_of(heard) == {"deb1": 77, "deb2": 4242}


@pytest.mark.parametrize(
    ("liveness", "expected"),
    [(Liveness.ALIVE, State.STOPPED), (Liveness.LEFT, State.STOPPED), (Liveness.UNKNOWN, State.UNKNOWN)],
)
def test_a_state_file_says_what_the_status_says(liveness, expected):
    """One function for both, so that they cannot differ."""
    state = node(liveness)
    instance = state.instances["svc1"]
    assert shown_state(state, instance, "deb1") is State.STARTED
    assert shown_state(state, instance, "deb2") is expected
    document = status_document(state, {}, Notices(), NOW)["services"]["svc1"]["instances"]
    assert document["deb2"]["state"] == expected.name


def test_state_files_that_cannot_be_written_are_an_alarm():
    """One line, with the reason."""
    document = status_document(node(), {}, Notices(state_files="/tree: No space left on device"), NOW)
    assert any("/tree: No space left on device" in alarm["text"] for alarm in document["alarms"])
