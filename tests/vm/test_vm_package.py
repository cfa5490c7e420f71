"""Our package on a stock Debian 12: its unit, its promises to systemd, what a reboot and a stop mean."""

from __future__ import annotations

from machine_uml import wait
from services import APP_ONLY, LAUNCHER, LAUNCHER_PLACE

WEB = "web.opensvc.com"


def shown(node, *properties):
    """Properties of our unit, by name."""
    words = " ".join(f"--property {name}" for name in properties)
    lines = node.run(f"systemctl show opensvc-hb {words}").check().out.splitlines()
    return dict(line.split("=", 1) for line in lines)


def app_pid(node):
    """The process of the service's application; "" when there is none."""
    return node.run(f"pid=$(cat /run/{WEB}.pid) && kill -0 $pid && echo $pid").out.strip()


def test_the_unit_of_a_node_that_is_not_configured_is_not_started(bed):
    """The package is there with its commands; its unit waits for a configuration, which is no failure.

    Its configuration, once there, is checked before anything runs: a wrong one is told with file and line.
    """
    node = bed.deb1
    assert node.run("systemctl start opensvc-hb").status == 0
    assert shown(node, "ActiveState", "ConditionResult") == {
        "ActiveState": "inactive",
        "ConditionResult": "no",
    }
    assert node.run("systemctl --failed --no-legend").out == ""
    for words in ("hbmgr --version", "svcmgr --version", "svcmon --version"):
        node.run(words).check()
    assert node.run("dpkg --verify opensvc-hb").check().out == ""
    node.write("/etc/opensvc/hb/nodes", "deb1.opensvc.com\ndeb2.opensvc.com\n")
    node.write("/etc/opensvc/hb/monitor", "deb1.opensvc.com net eth9 239.131.50.10 5010 10\n")
    refused = node.run("hbmgr check")
    assert refused.status == 6
    assert "/etc/opensvc/hb/monitor:1" in refused.out + refused.err


def test_the_daemon_as_systemd_sees_it(cluster):
    """A restart of the daemon leaves its service alone, and so does a stop; a reboot hands the service over.

    The daemon tells systemd when it is ready and that it lives, and is replaced when it stands still.
    """
    cluster.add_service(WEB, APP_ONLY, [(LAUNCHER_PLACE, LAUNCHER)])
    cluster.start_daemons()
    deb1, deb2 = cluster.deb1, cluster.deb2
    seen = shown(deb1, "Type", "ActiveState", "SubState", "NotifyAccess", "WatchdogUSec", "UnitFileState")
    assert (seen["ActiveState"], seen["SubState"], seen["Type"]) == ("active", "running", "notify"), seen
    assert seen["WatchdogUSec"] == "10s"
    assert seen["UnitFileState"] == "enabled"
    cluster.hand_over(WEB)
    pid = app_pid(deb1)
    assert pid

    deb1.run("systemctl restart opensvc-hb", 120).check()
    cluster.wait_state(deb1, WEB, "STARTED")
    assert app_pid(deb1) == pid, "the restart of the daemon touched the service"

    deb1.run("systemctl stop opensvc-hb", 120).check()
    assert app_pid(deb1) == pid
    assert deb1.run("systemctl is-active opensvc-hb").out == "inactive\n"
    deb1.run("systemctl start opensvc-hb", 120).check()
    cluster.wait_state(deb1, WEB, "STARTED")
    assert app_pid(deb1) == pid, "the stop of the daemon touched the service"
    assert app_pid(deb2) == ""

    daemon = shown(deb2, "MainPID")["MainPID"]
    deb2.run(f"kill -STOP {daemon}").check()
    wait(
        lambda: shown(deb2, "MainPID")["MainPID"] not in (daemon, "0"),
        90,
        "systemd replaces a daemon that stands still",
    )
    cluster.wait_state(deb2, WEB, "STOPPED")

    boots = deb1.boots
    deb1.run("systemctl reboot")
    cluster.wait_state(deb2, WEB, "STARTED")
    assert app_pid(deb2)
    told = deb2.run(f"hbmgr events {WEB}").check().out
    assert "U12" not in told, "an orderly leave needs no claim"
    deb1.wait_rebooted(boots + 1)
    cluster.wait_state(deb1, WEB, "STOPPED")
    assert cluster.states(deb1, WEB)[deb2.name] == "STARTED"
    assert app_pid(deb1) == ""
