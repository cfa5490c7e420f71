"""Which options of `docker run` may stand in `run_args`, and which of them does `docker create` get?

The options' meaning is docker's own: what is written here goes to its client word by word when
a container is made, for a second implementation of a hundred options would be another docker
with other faults. This module only takes the words apart, so that a mistake is an error of the
service's file, with its line, and not of the first start; and it keeps out what belongs to the
agent: the name, the detaching, the restart.

Pure. Source: docker-run(1), docker-create(1), clients 20.10 to 28.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import List, Mapping, Tuple

_SWITCH_WORDS = """
    --disable-content-trust --help --init --interactive --no-healthcheck --oom-kill-disable --privileged
    --publish-all --quiet --read-only --rm --tty --use-api-socket --detach --sig-proxy
"""
_SWITCHES = frozenset(_SWITCH_WORDS.split())
"""Options without a value; one may still be written, as `--tty=false`."""

_VALUED_WORDS = """
    --add-host --annotation --attach --blkio-weight --blkio-weight-device --cap-add --cap-drop
    --cgroup-parent --cgroupns --cidfile --cpu-count --cpu-percent --cpu-period --cpu-quota
    --cpu-rt-period --cpu-rt-runtime --cpu-shares --cpus --cpuset-cpus --cpuset-mems --detach-keys
    --device --device-cgroup-rule --device-read-bps --device-read-iops --device-write-bps
    --device-write-iops --dns --dns-opt --dns-option --dns-search --domainname --entrypoint --env
    --env-file --expose --gpus --group-add --health-cmd --health-interval --health-retries
    --health-start-interval --health-start-period --health-timeout --hostname --io-maxbandwidth
    --io-maxiops --ip --ip6 --ipc --isolation --kernel-memory --label --label-file --link --link-local-ip
    --log-driver --log-opt --mac-address --memory --memory-reservation --memory-swap --memory-swappiness
    --mount --name --net --net-alias --network --network-alias --oom-score-adj --pid --pids-limit
    --platform --publish --pull --restart --runtime --security-opt --shm-size --stop-signal --stop-timeout
    --storage-opt --sysctl --tmpfs --ulimit --user --userns --uts --volume --volume-driver --volumes-from
    --workdir
"""
_VALUED = frozenset(_VALUED_WORDS.split())

_SHORT: Mapping[str, str] = {
    "a": "--attach",
    "c": "--cpu-shares",
    "d": "--detach",
    "e": "--env",
    "h": "--hostname",
    "i": "--interactive",
    "l": "--label",
    "m": "--memory",
    "P": "--publish-all",
    "p": "--publish",
    "q": "--quiet",
    "t": "--tty",
    "u": "--user",
    "v": "--volume",
    "w": "--workdir",
}

_REFUSED: Mapping[str, str] = {
    "--name": "the agent names the container",
    "--cidfile": "the agent finds the container by its name",
    "--help": "it makes no container",
}

_OF_RUN_ALONE = frozenset(["--detach", "--detach-keys", "--sig-proxy", "--attach"])
"""What says where run's own terminal goes: a container that is made has none yet."""


@dataclass(frozen=True)
class RunOptions:
    """The options of one container.

    Args:
        words: for `docker create`, one option a word, in the order given.
        restart_policy: that was asked for and is left out, "" for none: when a container starts is
            the cluster's decision.
    """

    words: Tuple[str, ...] = ()
    restart_policy: str = ""


def run_options(text: str) -> RunOptions:
    """Convert `run_args`: options of docker run as words of a shell.

    Raises:
        ValueError: an option that there is not, or that is not the operator's; a word that is none.
    """
    try:
        waiting = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"'{text}' cannot be split into words: {str(error).lower()}") from None
    words: List[str] = []
    policy = ""
    while waiting:
        for option, value in _next_options(waiting):
            if option in _REFUSED:
                raise ValueError(f"option {option}: {_REFUSED[option]}")
            if option == "--restart":
                policy = "" if value == "no" else value
            elif option not in _OF_RUN_ALONE:
                words.append(option if option in _SWITCHES and not value else f"{option}={value}")
    return RunOptions(tuple(words), policy)


def _next_options(waiting: List[str]) -> List[Tuple[str, str]]:
    """Take one option, or several short ones written together, off the front: (long name, value)."""
    word = waiting.pop(0)
    if word.startswith("--"):
        return [_long_option(word, waiting)]
    if not word.startswith("-") or word == "-":
        raise ValueError(f"'{word}' is no option of docker run (image and command: run_image, run_command)")
    found: List[Tuple[str, str]] = []
    letters = word[1:]
    while letters:
        option = _SHORT.get(letters[0])
        if option is None:
            raise ValueError(f"docker run has no option -{letters[0]} (in '{word}')")
        rest = letters[1:]
        if option in _SWITCHES and not rest.startswith("="):
            found.append((option, ""))
            letters = rest
            continue
        value = rest[1:] if rest.startswith("=") else rest
        found.append((option, value if rest else _value_of(f"-{letters[0]}", waiting)))
        letters = ""
    return found


def _long_option(word: str, waiting: List[str]) -> Tuple[str, str]:
    option, equals, value = word.partition("=")
    if option in _SWITCHES:
        return option, value
    if option not in _VALUED:
        raise ValueError(f"docker run has no option {option}")
    return option, value if equals else _value_of(option, waiting)


def _value_of(option: str, waiting: List[str]) -> str:
    if not waiting:
        raise ValueError(f"option {option} of docker run needs a value")
    return waiting.pop(0)
