"""Throws what is not a beat at a listener's port: run by path on a lab node.

First it listens on its interface for a while and keeps the beats that pass; then it throws
COUNT datagrams, in equal parts: random bytes, truncated beats, beats with one bit flipped,
replayed beats, and well-made beats of another cluster. Prints one JSON object with what it
threw of each kind.
"""

from __future__ import annotations

import argparse
import json
import random
import select
import socket
import sys
import time

ETH_P_ALL = 3
UDP_HEADER_BYTES = 8


def captured_beats(interface, port, wanted, within_s):
    """Return datagrams to a port, as they pass the interface."""
    found = []
    deadline = time.monotonic() + within_s
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as tap:
        tap.bind((interface, ETH_P_ALL))
        while len(found) < wanted:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not select.select([tap], [], [], left_s)[0]:
                break
            packet = tap.recv(65536)
            header_bytes = (packet[0] & 15) * 4
            udp = packet[header_bytes:]
            is_udp = packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_UDP and len(udp) > UDP_HEADER_BYTES
            if is_udp and int.from_bytes(udp[2:4], "big") == port:
                found.append(udp[UDP_HEADER_BYTES : int.from_bytes(udp[4:6], "big")])
    return found


def foreign_beats(sender, link_id, count):
    """Return beats as the same sender would make them on the same link, with another cluster's key."""
    from opensvc_hb.core.messages import Beat, table_digest
    from opensvc_hb.links import codec_native, keyring

    sealer = codec_native.Sealer(keyring.generate(), sender, link_id)
    beats = []
    for sequence in range(1, count + 1):
        beat = Beat(sender, 1 << 40, sequence, table_digest(()), None, left=True)
        beats += sealer.seal(beat, with_table=False)
    return beats


def main():
    """Capture, throw, tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--interface", required=True)
    parser.add_argument("--address", required=True, help="of the interface")
    parser.add_argument("--group", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sender", required=True, help="the node whose beats these are")
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    real = captured_beats(options.interface, options.port, wanted=20, within_s=30)
    if not real:
        sys.exit("no beat passed")
    foreign = foreign_beats(options.sender, f"net:{options.interface}:{options.group}:{options.port}", 200)

    def truncated():
        beat = chance.choice(real)
        return beat[: chance.randrange(len(beat))]

    def flipped():
        beat = bytearray(chance.choice(real))
        beat[chance.randrange(len(beat))] ^= 1 << chance.randrange(8)
        return bytes(beat)

    makers = {
        "garbage": lambda: chance.randbytes(chance.randrange(1200)),
        "truncated": truncated,
        "flipped": flipped,
        "replayed": lambda: chance.choice(real),
        "foreign": lambda: chance.choice(foreign),
    }
    thrown = dict.fromkeys(makers, 0)
    began = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(options.address))
        kinds = list(makers)
        for number in range(options.count):
            kind = kinds[number % len(kinds)]
            out.sendto(makers[kind](), (options.group, options.port))
            thrown[kind] += 1
    print(json.dumps({"captured": len(real), "seconds": time.monotonic() - began, "thrown": thrown}))


if __name__ == "__main__":
    main()
