"""Writes down every frame that nodes send to the switch. Run by path, in the switch's network.

Says `ready` on standard error. Then one line for each frame on standard output: the kernel's
time of its arrival as CLOCK_BOOTTIME seconds, the switch's port, the kind (`udp`, `vrrp`,
`other`), and the bytes of the UDP payload or of the IP packet. The kernel stamps each frame, so
this program needs no priority and may lag. Ends when its standard input does, after all that had
arrived until then.
"""

import os
import select
import socket
import struct
import time

SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
ETH_P_ALL = 3
ETH_P_IP = 0x0800
TIMESPEC = struct.Struct("qq")
BUFFER_BYTES = 64 << 20
BEGINNING_BYTES = 64
ETHERNET_BYTES, UDP_BYTES = 14, 8
UDP, VRRP = 17, 112


def describe(frame):
    """Return (kind, bytes) of an Ethernet frame of which the beginning is given."""
    if len(frame) < 34 or struct.unpack_from("!H", frame, 12)[0] != ETH_P_IP:
        return "other", 0
    packet_bytes = struct.unpack_from("!H", frame, ETHERNET_BYTES + 2)[0]
    if frame[23] == UDP:
        return "udp", packet_bytes - (frame[ETHERNET_BYTES] & 15) * 4 - UDP_BYTES
    return ("vrrp" if frame[23] == VRRP else "other"), packet_bytes


def take_all(taps, out):
    """Write down what has arrived."""
    while True:
        try:
            frame, ancillary, _flags, address = taps.recvmsg(
                BEGINNING_BYTES, socket.CMSG_SPACE(TIMESPEC.size)
            )
        except BlockingIOError:
            return
        port, _protocol, packet_type = address[:3]
        if packet_type != socket.PACKET_OUTGOING and port.startswith("eth"):
            seconds, nanoseconds = TIMESPEC.unpack(ancillary[0][2])
            boot_minus_wall = time.clock_gettime(time.CLOCK_BOOTTIME) - time.time()
            kind, size_bytes = describe(frame)
            out.write(f"{seconds + nanoseconds / 1e9 + boot_minus_wall:.6f} {port} {kind} {size_bytes}\n")


def main():
    """Write frames down until told to end."""
    taps = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    taps.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    taps.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    taps.setblocking(False)
    waiting = select.poll()
    waiting.register(taps, select.POLLIN)
    waiting.register(0, select.POLLIN)
    os.write(2, b"ready\n")
    with os.fdopen(1, "w", buffering=1 << 16) as out:
        is_ending = False
        while not is_ending:
            is_ending = 0 in dict(waiting.poll())  # nobody writes there
            take_all(taps, out)


if __name__ == "__main__":
    main()
