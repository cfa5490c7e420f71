"""The NFS share driver, by transcript."""

from __future__ import annotations

import pytest
from driver_loader import Recorder, context, converted, driver, module
from hypothesis import given
from hypothesis import strategies as st

from opensvc_hb.agent.resource import ActionError, Status

EXPORTS = (
    "/srv/web      \t10.77.1.0/24(sync,wdelay,hide,no_subtree_check,sec=sys,rw,root_squash,no_all_squash)\n"
    "/srv/web      \t<world>(sync,wdelay,hide,no_subtree_check,sec=sys,ro,root_squash,no_all_squash)\n"
    "/a/path/that/is/longer\n\t\tn3(sync,rw)\n"
    "/srv/other    \tfe80::1(ro)\n"
)
"""As exportfs of nfs-utils 2.6 prints it."""

OPTS = "10.77.1.0/24(rw,no_subtree_check) *(ro)"


class Fs:
    """A file system of the service, as the share sees it."""

    group = "fs"

    def __init__(self, mnt):
        self.rid = "fs#1"
        self.options = {"mnt": mnt}


def share(tmp_path, transcript, opts=OPTS, path="/srv/web", mounted=("/srv/web",), around=()):
    recorder = Recorder(transcript)
    kind = driver("share.nfs")
    lent = context(tmp_path, recorder, service_resources=lambda: tuple(Fs(mnt) for mnt in around))
    made = kind("share#1", converted(kind, type="nfs", path=path, opts=opts), lent)
    made.proc_path = tmp_path / "proc"
    (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
    lines = (f"4{at} 22 253:{at} / {point} rw - ext4 /dev/x rw\n" for at, point in enumerate(mounted))
    (tmp_path / "proc/self/mountinfo").write_text("".join(lines))
    return made, recorder


def listing(text=EXPORTS):
    return ("exportfs -v", (0, text, ""))


def test_long_paths_and_everybody_are_read():
    """A path too long for its column stands before its client; options come as a set."""
    found = module("share.nfs").parse_exports(EXPORTS)
    assert [(each.path, each.client) for each in found] == [
        ("/srv/web", "10.77.1.0/24"),
        ("/srv/web", "<world>"),
        ("/a/path/that/is/longer", "n3"),
        ("/srv/other", "fe80::1"),
    ]
    assert found[2].options == frozenset({"sync", "rw"})


@given(st.text())
def test_any_text_is_a_list_of_exports(text):
    """What is no export is left out."""
    for export in module("share.nfs").parse_exports(text):
        assert export.path
        assert export.client


@pytest.mark.parametrize(
    ("opts", "text", "status", "messages"),
    [
        (OPTS, EXPORTS, Status.UP, []),
        (OPTS, "", Status.DOWN, []),
        ("n9(rw)", EXPORTS, Status.DOWN, []),
        (f"{OPTS} n9(rw)", EXPORTS, Status.WARN, ["/srv/web not exported to client n9"]),
        (
            "*(rw)",
            EXPORTS,
            Status.WARN,
            [
                "/srv/web is exported to client * with missing options: current "
                "'hide,no_all_squash,no_subtree_check,ro,root_squash,sec=sys,sync,wdelay', "
                "minimum required 'rw'"
            ],
        ),
    ],
)
def test_status_compares_clients_and_options(tmp_path, opts, text, status, messages):
    """Up when each client has the options asked for; down when none of them has the directory."""
    made, _ = share(tmp_path, [listing(text)], opts)
    assert (made.status(), made.messages) == (status, messages)


def test_failing_exportfs_is_a_warning(tmp_path):
    """The reason is the message, whether the tool fails or is not there."""
    made, _ = share(tmp_path, [("exportfs -v", (1, "", "exportfs: can't open etab\n"))])
    assert made.status() is Status.WARN
    assert made.messages == ["exportfs -v failed: exportfs: can't open etab"]
    made, _ = share(tmp_path, [("exportfs -v", ActionError("exportfs: command not found"))] * 2)
    assert made.status() is Status.WARN
    assert made.messages == ["exportfs is not installed"]
    assert made.concerns() == ("exportfs is not installed",)


def test_export_left_from_before_a_power_cut_is_not_up(tmp_path):
    """The list of exports outlives the node; without its file system mounted the share is down."""
    made, _ = share(tmp_path, [listing()], around=["/srv/web", "/srv", "/srv/website"])
    assert made.status() is Status.DOWN
    mounted = ("/srv/web", "/srv")
    made, _ = share(tmp_path, [listing()], mounted=mounted, around=["/srv/web", "/srv", "/srv/website"])
    assert made.status() is Status.UP


def test_start_and_stop(tmp_path):
    """Each client in turn; a second time says so."""
    made, recorder = share(
        tmp_path,
        [
            listing(""),
            ("exportfs -o rw,no_subtree_check 10.77.1.0/24:/srv/web", (0, "", "")),
            ("exportfs -o ro *:/srv/web", (0, "", "")),
            listing(),
            listing(),
            ("exportfs -u 10.77.1.0/24:/srv/web", (0, "", "")),
            ("exportfs -u *:/srv/web", (0, "", "")),
            listing(""),
        ],
    )
    made.start()
    assert made.activated is True
    made.start()
    assert made.activated is False
    made.stop()
    made.stop()
    assert recorder.texts() == [
        "exportfs -o rw,no_subtree_check 10.77.1.0/24:/srv/web",
        "exportfs -o ro *:/srv/web",
        "/srv/web is already up",
        "exportfs -u 10.77.1.0/24:/srv/web",
        "exportfs -u *:/srv/web",
        "/srv/web is already down",
    ]
    assert recorder.transcript == []


def test_only_what_lacks_is_exported(tmp_path):
    """A client that has other options gets those asked for; what was up is no start of ours."""
    made, recorder = share(
        tmp_path,
        [listing(), ("exportfs -o rw *:/srv/web", (0, "", ""))],
        "10.77.1.0/24(rw) *(rw)",
    )
    made.start()
    assert made.activated is False
    assert recorder.texts() == ["exportfs -o rw *:/srv/web"]


def test_failed_start_takes_back_what_it_exported(tmp_path):
    """A client that exportfs refuses fails the start; the others do not keep the directory."""
    made, recorder = share(
        tmp_path,
        [
            listing(""),
            ("exportfs -o rw n3:/srv/web", (0, "", "")),
            ("exportfs -o bad n4:/srv/web", (1, "", "exportfs: n4:/srv/web: unknown keyword bad\n")),
            listing("/srv/web n3(rw)\n"),
            ("exportfs -u n3:/srv/web", (0, "", "")),
        ],
        "n3(rw) n4(bad)",
    )
    with pytest.raises(ActionError, match="unknown keyword bad"):
        made.start()
    assert recorder.transcript == []


def test_address_of_ipv6_is_bracketed(tmp_path):
    """exportfs could not tell the address from the path otherwise."""
    made, _ = share(tmp_path, [listing(), ("exportfs -o rw [fe80::1]:/srv/web", (0, "", ""))], "fe80::1(rw)")
    made.start()


@pytest.mark.parametrize("opts", ["", "n3", "n3(rw", "n3(rw) n3(ro)", "(rw)", "n3(a b)"])
def test_malformed_opts(opts):
    """Refused with the agents' sentence."""
    expected = f"malformed share opts: '{opts}'. must be in client(opts) client(opts) format"
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the whole sentence is compared
        converted(driver("share.nfs"), opts=opts)
    assert str(refused.value) == expected


@pytest.mark.parametrize("path", ["srv", "/a b", ""])
def test_refused_paths(path):
    """A path is absolute and one word."""
    with pytest.raises(ValueError, match="is not an absolute path"):
        converted(driver("share.nfs"), path=path)
