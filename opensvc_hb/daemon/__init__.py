"""The shell around the core: threads, timers, store, journal, action runner, control socket."""
