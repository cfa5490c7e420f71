"""Writes down when each line arrived in a FIFO. Run by path, as `stamper.py FIFO`.

The services' scripts say what they do by one line into a FIFO, which costs them no process
and no clock; this program has real-time priority, so it reads the line the moment it is
there, whatever else runs. Each line goes to standard output with CLOCK_BOOTTIME before it.
It ends when its standard input does.
"""

import os
import select
import sys
import time

PRIORITY = 60
"""Above everything measured."""


def main():
    """Stamp lines until told to end."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    # Read and write: so there is always a reader, and never an end.
    fifo = os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK)
    waiting = select.poll()
    waiting.register(fifo, select.POLLIN)
    waiting.register(0, select.POLLIN)
    rest = b""
    while True:
        ready = dict(waiting.poll())
        if fifo in ready:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            *lines, rest = (rest + os.read(fifo, 65536)).split(b"\n")
            os.write(1, b"".join(b"%.6f %s\n" % (now, line) for line in lines))
        if 0 in ready and not os.read(0, 1):
            return


if __name__ == "__main__":
    main()
