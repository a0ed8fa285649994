"""Run a command with the network cut off: python tools/offline.py COMMAND …

The command runs in its own network namespace (Linux) with only a loopback interface; without root
this needs a user namespace. Where the system allows neither, the command is not run and this fails.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

NEWUSER, NEWNET = 0x10000000, 0x40000000  # of unshare(2)
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # of netdevice(7)
OUTSIDE = ("192.0.2.1", 443)  # an unassigned address, RFC 5737


def cut_off() -> None:
    """Move this process into a new network namespace and start its loopback interface."""
    uid, gid = os.getuid(), os.getgid()
    flags = NEWNET if uid == 0 else NEWUSER | NEWNET
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        (up,) = struct.unpack("16xh14x", fcntl.ioctl(control, GET_FLAGS, request))
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", up | UP))


def is_cut_off() -> bool:
    """Tell whether the system has no route to an address outside."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(OUTSIDE)  # sends nothing: only looks for a route
        except OSError:
            return True
    return False


def main(command: list[str]) -> None:
    if not command:
        sys.exit("Usage: python tools/offline.py COMMAND …")
    try:
        cut_off()
    except (OSError, AttributeError) as error:
        sys.exit(
            f"The network can't be cut off here ({error}); it takes Linux, and root or user "
            "namespaces."
        )
    if not is_cut_off():
        sys.exit("The network should be cut off now, but there is still a route to the outside.")
    print(f"The network is cut off for: {' '.join(command)}", flush=True)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
