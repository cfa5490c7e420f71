"""The reservation beside a resource on disks: who gets one, under which name, in which order."""

from __future__ import annotations

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent.actions import Options, run_action
from opensvc_hb.agent.concerns import concerns_here
from opensvc_hb.agent.resource import CommandResult
from opensvc_hb.errors import ConfigurationError

VG = "[vg#1]\nvgname = web\n"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def rids(site, text):
    """The resources of a service with this text, but for the implicit sync, in display order."""
    site.service("svc", BASE + text)
    return [member.rid for member in site.loader.service("svc").members if member.group != "sync"]


def complaints(site, text):
    site.service("svc", BASE + text)
    return [str(error).rpartition("/")[2] for error in site.loader.validate("svc")[0]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VG, ["vg#1"]),
        (VG + "scsireserv = true\n", ["vg#1pr", "vg#1"]),
        (VG + "scsi_reserve = true\n", ["vg#1pr", "vg#1"]),
        (VG + "scsireserv = false\n", ["vg#1"]),
        ("scsireserv = true\n" + VG, ["vg#1pr", "vg#1"]),
        ("scsi_reserve = true\n" + VG + "scsireserv = false\n", ["vg#1"]),
        ("scsireserv = false\n" + VG + "scsi_reserve = yes\n", ["vg#1pr", "vg#1"]),
        (VG + "scsireserv@n1 = true\n", ["vg#1pr", "vg#1"]),
        (VG + "scsireserv@n2 = true\n", ["vg#1"]),
        ("[disk#4]\ntype = lvm\nname = web\nscsireserv = true\n", ["disk#4pr", "disk#4"]),
        ("[fs#1]\ntype = xfs\ndev = /dev/x\nmnt = /m\nscsireserv = true\n", ["fs#1pr", "fs#1"]),
        ("scsireserv = true\n[fs#1]\ntype = tmpfs\ndev = none\nmnt = /m\n", ["fs#1"]),
    ],
)
def test_who_gets_a_reservation(site, text, expected):
    """Both spellings, in the section or for all; the section's own word holds, and scopes do."""
    assert rids(site, text) == expected


def test_what_cannot_be_meant_is_refused(site):
    """Both spellings at once, no boolean, a name that is taken, a keyword where there are no disks."""
    assert complaints(site, VG + "scsireserv = false\nscsi_reserve = true\n") == [
        "svc.env:7: vg#1.scsi_reserve: is the same as scsireserv, which stands there too: keep one"
    ]
    assert complaints(site, VG + "scsi_reserve = maybe\n")[0].startswith(
        "svc.env:6: vg#1.scsi_reserve: 'maybe'"
    )
    assert complaints(site, VG + "scsireserv = true\n[vg#1pr]\nvgname = other\n") == [
        "svc.env:7: vg#1pr: the reservation of vg#1 has this name: choose another number"
    ]
    assert complaints(site, "[fs#1]\ntype = tmpfs\ndev = none\nmnt = /m\nscsireserv = true\n") == [
        "svc.env:8: fs#1.scsireserv: unknown keyword"
    ]
    assert complaints(site, "[vg#1]\n") == ["svc.env:4: vg#1.vgname: vgname must be set in section vg#1"]
    assert complaints(site, "[vg#1]\nvgname = a\nname = b\n") == [
        "svc.env:6: vg#1.name: is the same as vgname, which stands there too: keep one"
    ]


def test_it_shares_what_the_agent_makes_of_the_section(site):
    """Disabled, optional, monitored and standby as the resource it protects; without its triggers."""
    text = (
        "optional = true\nmonitor = true\nalways_on = nodes\npre_start = /bin/true\nrestart = 2\nsubset = a\n"
    )
    site.service("svc", BASE + VG + "scsireserv = true\n" + text)
    reservation, group = (m for m in site.loader.service("svc").members if m.group == "disk")
    assert (reservation.set_name, group.set_name) == ("disk.scsireserv", "disk.vg:a")
    assert (reservation.optional, reservation.monitor, reservation.standby) == (True, True, True)
    assert (dict(reservation.triggers), reservation.restart_count_max) == ({}, 0)
    site.service("svc", BASE + VG + "scsireserv = true\ndisable = true\n")
    assert all(member.disable for member in site.loader.service("svc").of_group("disk"))


@pytest.mark.parametrize(
    ("action", "options", "expected"),
    [
        ("start", Options(), ["start preserv", "start web"]),
        ("startvg", Options(), ["start preserv", "start web"]),
        ("stop", Options(), ["stop web", "stop preserv"]),
        ("stopvg", Options(), ["stop web", "stop preserv"]),
        ("prstart", Options(), ["start preserv"]),
        ("prstop", Options(), ["stop preserv"]),
        ("startloop", Options(), []),
        ("start", Options(rids=("vg#1pr",)), ["start preserv"]),
        ("start", Options(rids=("vg#1",)), ["start web"]),
        ("start", Options(rids=("vg",)), ["start preserv", "start web"]),
    ],
)
def test_order_around_the_group(site, action, options, expected):
    """Reserved before it is activated, given back behind its deactivation, whichever action asks."""
    site.service("svc", BASE + VG + "scsireserv = true\n")
    chosen = Options(dry_run=True, rids=options.rids)
    assert run_action(site.loader, site.loader.service("svc"), action, chosen) == 0
    said = [line for line in site.log if "VG#1" in line]
    assert [
        line.partition("VG#1")[2].partition(" ")[2].replace("disks of vg#1", "preserv") for line in said
    ] == expected


def test_key_and_force_reach_the_resources(site):
    """`prkey` of node.conf, --force and --cluster are what the drivers are told."""
    site.service("svc", BASE + VG)
    (site.root.etc / "node.conf").write_text("[node]\nprkey = 0xabc\n")
    lent = site.loader.service("svc", cluster=True, force=True).members[0].resource.context
    assert (lent.reservation_key, lent.cluster, lent.force) == (0xABC, True, True)


@pytest.mark.parametrize("text", ["0", "0x0", "key", "0x12345678901234567", ""])
def test_refused_keys(site, text):
    """A key is eight bytes at most and not zero."""
    (site.root.etc / "node.conf").write_text(f"[node]\nprkey = {text}\n")
    with pytest.raises(ConfigurationError, match="is no reservation key"):
        site.loader.node_configuration  # noqa: B018  # it is read when it is asked for


def test_concerns_of_this_machine(site):
    """One line for each, with service and resource; a file that is refused is left to others."""
    site.service("bad", "[DEFAULT]\n")
    site.service("svc", BASE + VG + "[vg#2]\nvgname = off\ndisable = true\n")
    assert concerns_here(site.loader) == ("svc: vg#1: vgs: command not found",)
    site.results["vgs"] = CommandResult((), 5, '{"report": [{"vg": []}]}', 'Volume group "web" not found')
    assert concerns_here(site.loader) == ("svc: vg#1: volume group web not found",)
