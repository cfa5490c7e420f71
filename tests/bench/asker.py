"""Asks a daemon for its status, as fast as it answers. Run on a node: `asker.py SOCKET SECONDS`.

Prints one JSON object: how many answers, and how long each took, seconds.
"""

import json
import sys
import time

from opensvc_hb.client import request


def main():
    """Ask until the time is over."""
    socket_path, for_s = sys.argv[1], float(sys.argv[2])
    took = []
    now = time.monotonic()
    end = now + for_s
    while now < end:
        answer = request(socket_path, {"request": "status"}, timeout_s=60.0)
        assert answer["ok"], answer
        began, now = now, time.monotonic()
        took.append(round(now - began, 6))
    print(json.dumps({"took_s": took}))


if __name__ == "__main__":
    main()
