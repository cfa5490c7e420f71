"""hb.conf: defaults, every keyword, and every error at once."""

from pathlib import Path

import pytest

from opensvc_hb.core.config import HealPolicy, LeasePolicy, Protocol, TakeoverPolicy
from opensvc_hb.daemon.guardian_reset import ResetKind
from opensvc_hb.daemon.settings import OPTIONS, Settings, read_settings, waiting_for_restart
from opensvc_hb.errors import ConfigurationErrors, ExitCode


def test_without_any_file_the_defaults_hold(tmp_path):
    settings = read_settings(tmp_path)
    assert settings == Settings()
    assert settings.policies.wait_for_peer_s == 90
    assert settings.policies.takeover is TakeoverPolicy.AUTOMATIC


def test_what_a_running_daemon_does_not_take_up_is_named():
    """Everything else is in force after a reload."""
    now = Settings(status_interval_s=5.0, max_parallel=2, openha_tree=Path("/usr/local/cluster"))
    assert waiting_for_restart(now, Settings()) == ("status_interval", "max_parallel")
    assert waiting_for_restart(now, now) == ()


def test_every_keyword_is_read(tmp_path):
    text = (
        "[hb]\nprotocol = both\nwait_for_peer = 0\ntakeover = ask\ntakeover_frozen = yes\nheal = stop\n"
        "restart_within = 30\nleave_within = 20\nstatus_interval = 5\nstatus_max_age = 9.5\n"
        "monitor_interval = 3\n"
        "max_parallel = 4\ncontrol_group = adm\nlease = no\nreset = watchdog\nwatchdog = /dev/watchdog1\n"
        "openha_tree = /usr/local/cluster\n"
    )
    (tmp_path / "hb.conf").write_text(text)
    settings = read_settings(tmp_path)
    assert settings.protocol is Protocol.BOTH
    assert settings.policies.wait_for_peer_s == 0
    assert settings.policies.takeover is TakeoverPolicy.ASK
    assert settings.policies.takeover_frozen is True
    assert settings.policies.heal is HealPolicy.STOP
    assert (settings.policies.restart_within_s, settings.policies.leave_within_s) == (30, 20)
    assert (settings.status_interval_s, settings.status_max_age_s) == (5, 9.5)
    assert settings.monitor_interval_s == 3
    assert (settings.max_parallel, settings.control_group) == (4, "adm")
    assert settings.policies.lease is LeasePolicy.NO
    assert (settings.reset, settings.watchdog) == (ResetKind.WATCHDOG, "/dev/watchdog1")
    assert settings.openha_tree == Path("/usr/local/cluster")
    assert {o.name for o in OPTIONS} == {line.split(" =")[0] for line in text.splitlines()[1:]}


def test_a_file_of_conf_d_overrides_hb_conf(tmp_path):
    (tmp_path / "hb.conf").write_text("[hb]\nwait_for_peer = 10\nheal = stop\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10-site.conf").write_text("[hb]\nwait_for_peer = 20\n")
    policies = read_settings(tmp_path).policies
    assert (policies.wait_for_peer_s, policies.heal) == (20, HealPolicy.STOP)


@pytest.mark.parametrize(
    ("line", "under_root", "words"),
    [
        ("reset = sysrq", True, "sysrq is not possible with OSVC_ROOT"),
        ("reset = watchdog", True, "watchdog is not possible with OSVC_ROOT"),
        ("watchdog = /dev/watchdog", True, "not with OSVC_ROOT"),
        ("reset = process1", False, "process1 is for nodes with a root directory of their own (OSVC_ROOT)"),
        ("watchdog = softdog", False, "'softdog' is not a device (such as /dev/watchdog)"),
        ("openha_tree = cluster", False, "'cluster' is not an absolute path"),
        ("control_group = no-such", False, "there is no group 'no-such': see getent group"),
    ],
)
def test_a_reset_that_would_hit_more_or_less_than_the_node_is_refused(tmp_path, line, under_root, words):
    """A node under OSVC_ROOT shares its machine; one without has no process 1 of its own to end."""
    (tmp_path / "hb.conf").write_text(f"[hb]\n{line}\n")
    with pytest.raises(ConfigurationErrors) as refused:
        read_settings(tmp_path, under_root)
    assert str(refused.value).startswith(f"{tmp_path}/hb.conf:2: hb.{line.split(' =')[0]}: ")
    assert words in str(refused.value)


@pytest.mark.parametrize("line", ["reset = process1", "reset = none", "reset = auto", "watchdog ="])
def test_a_node_under_a_root_of_its_own_may_name_what_hits_only_itself(tmp_path, line):
    """Such as its own process 1."""
    (tmp_path / "hb.conf").write_text(f"[hb]\n{line}\n")
    read_settings(tmp_path, under_root=True)


def test_all_errors_are_told_at_once_with_file_line_and_keyword(tmp_path):
    (tmp_path / "hb.conf").write_text(
        "[hb]\nwait_for_pear = 3\nheal = maybe\nrestart_within = 0\n[other]\nx = 1\n"
    )
    with pytest.raises(ConfigurationErrors) as refused:
        read_settings(tmp_path)
    lines = str(refused.value).splitlines()
    name = str(tmp_path / "hb.conf")
    assert refused.value.exit_code is ExitCode.CONFIGURATION
    assert lines[0].startswith(f"{name}:2: hb.wait_for_pear: unknown keyword (have ")
    assert lines[1] == f"{name}:3: hb.heal: 'maybe' is not one of freeze, stop"
    assert lines[2] == f"{name}:4: hb.restart_within: 0 is out of range (1 to 3600 seconds)"
    assert lines[3] == f"{name}:6: other.x: unknown section [other]; only [hb] is read here"
    assert len(lines) == 4


def test_a_file_that_is_not_ini_names_the_line(tmp_path):
    (tmp_path / "hb.conf").write_text("[hb]\nthis is nothing\n")
    with pytest.raises(ConfigurationErrors, match=r"hb\.conf:2: 'this is nothing' is neither"):
        read_settings(tmp_path)


def test_a_file_that_is_not_ini_hides_no_error_of_another(tmp_path):
    (tmp_path / "hb.conf").write_text("[hb]\nthis is nothing\nnor this\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "site.conf").write_text("[hb]\nheal = maybe\n")
    with pytest.raises(ConfigurationErrors) as refused:
        read_settings(tmp_path)
    assert [(error.path, error.line) for error in refused.value.errors] == [
        (str(tmp_path / "hb.conf"), 2),
        (str(tmp_path / "hb.conf"), 3),
        (str(tmp_path / "conf.d" / "site.conf"), 2),
    ]
