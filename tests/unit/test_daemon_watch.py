"""The daemon's watch over its configuration directory."""

import threading

from guardian_site import wait_for

from opensvc_hb.daemon.watch import Watch


def test_a_change_is_told_once_its_burst_is_over(tmp_path):
    told = threading.Event()
    watch = Watch((tmp_path,), told.set)
    watch.start()

    def is_told():
        (tmp_path / "svc1.env").write_text("[DEFAULT]")
        return told.wait(1.0)

    wait_for(is_told, "the change to be told")
    watch.close()


def test_a_watch_that_fails_says_what_reads_the_configuration_from_now_on(tmp_path, caplog):
    """The daemon goes on, and the operator need not wonder why a change does nothing."""

    def fail():
        raise RuntimeError("unforeseen")

    watch = Watch((tmp_path,), fail)
    watch.start()

    def has_failed():
        (tmp_path / "svc1.env").write_text("[DEFAULT]")
        watch._thread.join(1.0)
        return not watch._thread.is_alive()

    wait_for(has_failed, "the end of the thread")
    watch.close()
    assert "the configuration is read again by hbmgr reload only" in caplog.text
    assert "RuntimeError: unforeseen" in caplog.text
