"""Loads a machine: every processor busy, memory short, pages written and read. Run by path.

`load.py busy`: one loop that never waits. `load.py memory LEAVE_MIB`: holds all memory but so
much. `load.py pages FILE MIB`: writes and reads a file larger than what is left, for ever, so that the
kernel must find pages all the time. `load.py standstill`: harms nothing; it wants the processor before
everybody else, 200 times a second and with all its memory locked, and says how long it once did not
get it: so long the machine itself stood still, whoever is measured. Each ends on any signal, or when
its standard input ends.
"""

import ctypes
import mmap
import os
import select
import sys
import threading
import time

CHUNK_BYTES = 16 << 20
LOOK_S = 0.005
MCL_CURRENT, MCL_FUTURE = 1, 2


def available_mib():
    """Return the memory that programs can still get."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) >> 10
    raise SystemExit("this kernel does not say how much memory is available")


def busy():
    """Count."""
    count = 0
    while True:
        count += 1


def hold_memory(leave_mib):
    """Take memory until little is left, touch every page, and give some back when it gets too little."""
    held = []
    page = b"x" * mmap.PAGESIZE
    while True:
        spare_mib = available_mib() - leave_mib
        if spare_mib > CHUNK_BYTES >> 20:
            held.append(mmap.mmap(-1, CHUNK_BYTES))
            for at in range(0, CHUNK_BYTES, mmap.PAGESIZE):
                held[-1][at : at + len(page)] = page
        else:
            while held and available_mib() < leave_mib:
                held.pop().close()
            select.select([], [], [], 0.2)


def turn_pages(path, mib):
    """Write a file, have it written back, read it, again and again."""
    chunk = os.urandom(1 << 20)
    while True:
        with open(path, "wb") as file:
            for _ in range(mib):
                file.write(chunk)
            file.flush()
            os.fdatasync(file.fileno())
        with open(path, "rb") as file:
            while file.read(1 << 20):
                pass


def watch_standstill():
    """Sleep, and print the longest time in ms that a sleep took too long; at the end of standard input."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(os.sched_get_priority_max(os.SCHED_FIFO)))
    assert ctypes.CDLL(None).mlockall(MCL_CURRENT | MCL_FUTURE) == 0, "memory cannot be locked"
    longest_s = 0.0
    before = time.monotonic()
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        now = time.monotonic()
        longest_s = max(longest_s, now - before - LOOK_S)
        before = now
    print(f"{longest_s * 1000:.1f}")


def main():
    """Do one kind of harm until standard input ends."""
    if sys.argv[1] == "standstill":
        watch_standstill()
        return
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    if sys.argv[1] == "busy":
        busy()
    elif sys.argv[1] == "memory":
        hold_memory(int(sys.argv[2]))
    else:
        turn_pages(sys.argv[2], int(sys.argv[3]))


if __name__ == "__main__":
    main()
