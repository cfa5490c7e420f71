"""The pure core: decisions as functions of (state, event, now).

Nothing in this room reads a clock, a file, a socket or a random number, and nothing
here starts a thread: what goes wrong at 3 a.m. can be replayed from a list of events.
"""
