"""Our package on a stock Debian 12: its unit, its promises to systemd, what a reboot and a stop mean."""

from __future__ import annotations

from cluster import Cluster
from machine_uml import File, wait
from services import APP_ONLY, WEB

WRONG_MONITOR = """\
deb1.opensvc.com net eth1 239.131.50.10 5010 ten
deb2.opensvc.com net eth1 239.131.50.11 5011 10
"""
WATCHDOG_LIMIT_S = 90.0


def shown(node, *properties):
    """Properties of our unit, by name."""
    words = " ".join(f"--property {name}" for name in properties)
    lines = node.run(f"systemctl show opensvc-hb {words}").check().out.splitlines()
    return dict(line.split("=", 1) for line in lines)


def app_pid(node):
    """The process of the service's application; "" when there is none."""
    return node.run(f"pid=$(cat /run/{WEB}.pid) && kill -0 $pid && echo $pid").out.strip()


def test_the_package_from_its_installation_to_a_reboot(bed, tell):
    """Installed, it waits for a configuration; configured, its daemon comes and goes without its service.

    The daemon tells systemd when it is ready and that it lives, and is replaced when it stands still; a
    reboot hands the service over, with no need to find out that this node is gone.
    """
    deb1, deb2 = bed.nodes
    waits_for_a_configuration(deb1)
    tell("the unit waits for a configuration, and a wrong one is told")

    cluster = Cluster(bed)
    cluster.configure(WEB, APP_ONLY)
    cluster.start_daemons()
    seen = shown(deb1, "Type", "SubState", "WatchdogUSec", "UnitFileState")
    assert seen == {
        "Type": "notify",
        "SubState": "running",
        "WatchdogUSec": "10s",
        "UnitFileState": "enabled",
    }
    cluster.hand_over(WEB)
    tell("the service runs on deb1")
    pid = app_pid(deb1)
    assert pid
    for verb in ("restart", "stop", "start"):
        deb1.run(f"systemctl {verb} opensvc-hb", 120).check()
        assert app_pid(deb1) == pid, f"systemctl {verb} touched the service"
    cluster.wait_state(deb1, WEB, "STARTED")
    assert (app_pid(deb1), app_pid(deb2)) == (pid, "")
    tell("the daemon was restarted, stopped and started; the service was not")

    daemon = shown(deb2, "MainPID")["MainPID"]
    deb2.run(f"kill -STOP {daemon}").check()
    wait(
        lambda: shown(deb2, "MainPID")["MainPID"] not in (daemon, "0"),
        WATCHDOG_LIMIT_S,
        "systemd replaces a daemon that stands still",
        bed.report,
    )
    cluster.wait_state(deb2, WEB, "STOPPED")
    cluster.wait_links(deb1)
    tell("systemd replaced a daemon that stood still")

    boots = deb1.boots
    deb1.run("systemctl reboot")
    cluster.wait_state(deb2, WEB, "STARTED")
    assert app_pid(deb2)
    assert "U12" not in deb2.run(f"hbmgr events {WEB}").check().out, "an orderly leave needs no claim"
    deb1.wait_rebooted(boots + 1)
    cluster.wait_state(deb1, WEB, "STOPPED")
    assert cluster.states(deb1, WEB)[deb2.name] == "STARTED"
    assert app_pid(deb1) == ""
    tell("a reboot handed the service over")


def waits_for_a_configuration(node):
    """Without one the unit is skipped, which is no failure; a wrong one is told with file and line."""
    assert node.run("systemctl start opensvc-hb").status == 0
    seen = shown(node, "ActiveState", "ConditionResult")
    assert seen == {"ActiveState": "inactive", "ConditionResult": "no"}
    assert node.run("systemctl --failed --no-legend").out == ""
    for words in ("hbmgr --version", "svcmgr --version", "svcmon --version"):
        node.run(words).check()
    assert node.run("dpkg --verify opensvc-hb").check().out == ""
    node.write(
        File.of("/etc/opensvc/hb/nodes", "deb1.opensvc.com\ndeb2.opensvc.com\n"),
        File.of("/etc/opensvc/hb/monitor", WRONG_MONITOR),
    )
    refused = node.run("hbmgr check")
    assert refused.status == 6, refused
    assert "/etc/opensvc/hb/monitor:1" in refused.out + refused.err, refused
