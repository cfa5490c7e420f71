"""Runs a command again and again, and prints how long each run took. Run by path on a node.

`command_timer.py REPETITIONS COMMAND...`: one line of seconds for each run, then the last exit
status. What the command prints goes to /dev/null.
"""

import os
import sys
import time


def main():
    """Time the command."""
    argv = sys.argv[2:]
    nothing = os.open(os.devnull, os.O_RDWR)
    quiet = [(os.POSIX_SPAWN_DUP2, nothing, descriptor) for descriptor in (0, 1, 2)]
    status = 0
    for _ in range(int(sys.argv[1])):
        began = time.perf_counter()
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=quiet)
        status = os.waitpid(pid, 0)[1]
        print(f"{time.perf_counter() - began:.6f}")
    print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status))


if __name__ == "__main__":
    main()
