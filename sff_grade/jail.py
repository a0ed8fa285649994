"""A process that student code may have: bubblewrap, limits, and one channel.

bubblewrap makes it a file system of its own (Python, the package, the data, read-only), no network,
no other processes in sight. Inside, the process is an ordinary user without rights, and a seccomp
filter refuses the system calls that no answer needs: new namespaces, tracing, other processes'
memory, shared memory of the System V kind.
"""

from __future__ import annotations

import compileall
import errno
import json
import os
import platform
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import sff_teach
from sff_teach.data import data_home

from . import wire
from .source import Assignment, without_names

INSIDE = ("inside.py", "returned.py", "wire.py")
SCRATCH = 64 << 20  # bytes of each folder that may be written, all in memory
PROCESSES = 64  # threads count as well


@dataclass(frozen=True)
class Limits:
    """What a notebook may use."""

    seconds: float  # of computing, for each cell and each call
    memory: float  # GiB on top of what torch itself takes
    notebook: float  # seconds by the clock for the whole notebook


# Numbers by machine: (x86-64, AArch64).
REFUSED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "memfd_create": (319, 279), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40),
    "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "io_uring_setup": (425, 425),
    "kexec_load": (246, 104), "pidfd_getfd": (438, 438), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430),
}  # fmt: skip
MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}  # …, number of clone
CLONE3 = 435
NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW… flags


def seccomp_filter() -> bytes:
    """Return the filter as the kernel reads it (classic BPF); empty on a machine not in the table.

    See seccomp(2): a refused call fails with EPERM; clone3, whose flags cannot be looked at, with
    ENOSYS, so that the C library takes clone.
    """
    if platform.machine() not in MACHINES:
        return b""
    column, architecture, clone = MACHINES[platform.machine()]
    load, equal, larger, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    program = [
        (load, 0, 0, 4), (equal, 1, 0, architecture), (end, 0, 0, refuse),
        (load, 0, 0, 0),
        (larger, 0, 1, 0x40000000), (end, 0, 0, refuse),  # the x32 calls
        (equal, 0, 1, CLONE3), (end, 0, 0, 0x00050000 | errno.ENOSYS),
    ]  # fmt: skip
    for numbers in REFUSED.values():
        program += [(equal, 0, 1, numbers[column]), (end, 0, 0, refuse)]
    program += [
        (equal, 0, 3, clone), (load, 0, 0, 16),
        (any_bit, 0, 1, NEW_NAMESPACES), (end, 0, 0, refuse),
        (end, 0, 0, allow),
    ]  # fmt: skip
    return b"".join(struct.pack("<HBBI", *line) for line in program)  # code, yes, no, value


def make_room(folder: Path, assignment: Assignment) -> None:
    """Copy what the jail shows: our three files, and the package without what solves a task."""
    (folder / "grader").mkdir(parents=True)
    for name in INSIDE:
        shutil.copy(Path(__file__).parent / name, folder / "grader" / name)
    package = Path(sff_teach.__file__).parent
    target = folder / "package" / "sff_teach"
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
    sample = package.parent / "data" / "fashion-mnist-sample.npz"
    if sample.is_file():  # a checkout; a wheel has it inside
        (target / "_data").mkdir(exist_ok=True)
        shutil.copy(sample, target / "_data")
    for entry in assignment.absent:
        module, _, name = entry.partition(":")
        path = folder / "package" / Path(*module.split(".")).with_suffix(".py")
        path.write_text(without_names(path.read_text(encoding="utf-8"), [name]), encoding="utf-8")
    compileall.compile_dir(folder, quiet=2)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin", "HOME": "/box", "USER": "student", "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "MPLCONFIGDIR": "/tmp",
        "PYTHONPATH": "/grader:/package", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0",
        "TORCHDYNAMO_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "", "SFF_TEACH_DATA": str(data_home()),
    }  # fmt: skip


def _files(room: Path, secret: list[Path]) -> list[str]:
    """Arguments of bubblewrap that lay out the file system."""
    shown = [Path("/usr"), Path("/etc/ld.so.cache"), Path(sys.base_prefix), Path(sys.prefix)]
    shown += [Path(p) for p in ("/lib", "/lib64", "/bin") if not Path(p).is_symlink()]
    shown = [path for path in [*shown, data_home()] if path.exists()]
    # bubblewrap would make the folders above with the rights of the originals, such as root's own.
    above = {parent for path in shown for parent in path.parents if parent.parent != parent}
    scratch = ["--perms", "1777", "--size", str(SCRATCH), "--tmpfs"]
    args = [*scratch, "/tmp", *scratch, "/box"]  # first: the course itself may lie in /tmp
    args += [x for p in sorted(above) for x in ("--perms", "0755", "--dir", str(p))]
    args += [x for path in shown for x in ("--ro-bind", str(path), str(path))]
    for link in ("/lib", "/lib64", "/bin"):
        if Path(link).is_symlink():
            args += ["--symlink", os.readlink(link), link]
    # An installed copy of the package has all its functions; the teacher's folders hold the rest.
    hidden = {p.resolve() for p in [*secret, *(Path(p) / "sff_teach" for p in sys.path if p)]}
    for path in hidden:
        if path.is_dir() and any(path.is_relative_to(other.resolve()) for other in shown):
            args += ["--tmpfs", str(path)]
    for name in ("grader", "package"):
        args += ["--ro-bind", str(room / name), f"/{name}"]
    args += ["--proc", "/proc", "--dev", "/dev", *scratch, "/dev/shm"]
    return [*args, "--remount-ro", "/", "--chdir", "/box"]


def bubblewrap(room: Path, secret: list[Path]) -> list[str]:
    """Return the command that starts a jail, up to the program that runs in it."""
    if os.geteuid() == 0:  # the process inside takes a user of its own
        user = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        user = ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    return [
        "bwrap", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
        "--unshare-cgroup-try", *user, "--die-with-parent", "--new-session",
        *_files(room, secret), "--clearenv",
        *(x for pair in _environment().items() for x in ("--setenv", *pair)),
    ]  # fmt: skip


@lru_cache(maxsize=1)
def lacking() -> str:
    """Say in a sentence why this machine cannot isolate student code; empty if it can."""
    if sys.platform != "linux":
        return "student code is isolated on Linux only (also in WSL 2 or a container)"
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (on Debian and Ubuntu: apt install bubblewrap)"
    with tempfile.TemporaryDirectory() as folder:
        for name in ("grader", "package"):
            (Path(folder) / name).mkdir()
        command = [*bubblewrap(Path(folder), []), "/usr/bin/true"]
        done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"bubblewrap does not work here ({done.stderr.strip()})"


class Ended(BaseException):
    """The jailed process has ended or was ended; the text says why. No test catches this."""


class Jail:
    """One jailed process and the channel to it.

    The folders ``secret`` are not seen inside. Without isolation the same program runs with the
    teacher's own rights.
    """

    def __init__(self, room: Path, limits: Limits, secret: list[Path], isolated: bool) -> None:
        self.limits = limits
        settings = {
            "seconds": limits.seconds,
            "memory": int(limits.memory * 2**30),
            "cpu": int(2 * limits.notebook),
            "processes": PROCESSES if isolated else None,
            "user": 2**20 + os.getpid() % 2**20 if isolated and os.geteuid() == 0 else None,
        }
        read_end, write_end = os.pipe()
        os.write(write_end, seccomp_filter())
        os.close(write_end)
        if isolated:
            seccomp = ["--seccomp", str(read_end)] if seccomp_filter() else []
            start, environment = [*bubblewrap(room, secret), *seccomp, "--"], None
            inside = "/grader/inside.py"
        else:
            start, inside = [], str(room / "grader" / "inside.py")
            path = f"{room / 'grader'}{os.pathsep}{room / 'package'}"
            environment = _environment() | {"PYTHONPATH": path, "PATH": os.environ["PATH"]}
        self.process = subprocess.Popen(
            [*start, sys.executable, inside, json.dumps(settings)], env=environment, cwd=room,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=[read_end], start_new_session=True,
        )  # fmt: skip
        os.close(read_end)
        os.set_blocking(self.process.stdin.fileno(), False)

    def ask(self, request: bytes, seconds: float) -> tuple[Any, list]:
        """Send a message and return the answer's JSON and arrays.

        Raises:
            Ended: No answer came in time, it was no message, or the process took too much memory.
        """
        deadline = time.monotonic() + seconds
        answer = bytearray()
        try:
            while True:
                if len(answer) >= 4:
                    (size,) = struct.unpack_from("<I", answer)
                    if size > wire.MOST_BYTES + 8:
                        raise Ended("the answer sent too much")
                    if len(answer) >= 4 + size:
                        return wire.unpack(bytes(answer[4 : 4 + size]))
                if time.monotonic() > deadline:
                    raise Ended("it took too long by the clock")
                request = self._exchange(request, answer)
        except wire.WireError:
            raise Ended("the answer wrote into the grader's channel") from None
        except OSError:
            raise Ended("the answer ended the process") from None

    def _exchange(self, request: bytes, answer: bytearray) -> bytes:
        """Write and read what can be written and read now; return what is left to write."""
        if memory_below(self.process.pid) > (self.limits.memory + 1) * 2**30:
            raise Ended(f"it took more than {self.limits.memory:g} GiB with all its processes")
        stdin, stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        readable, writable, _ = select.select([stdout], [stdin] if request else [], [], 0.2)
        if writable:
            with suppress(BlockingIOError):
                request = request[os.write(stdin, request[: 1 << 16]) :]
        if readable:
            data = os.read(stdout, 1 << 20)
            if not data:
                raise Ended("the answer ended the process")
            answer += data
        return request

    def close(self) -> None:
        """End the process and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def memory_below(pid: int) -> int:
    """Return the resident bytes of a process and all below it; what is shared counts once each."""
    total, todo = 0, [pid]
    while todo:
        pid = todo.pop()
        with suppress(OSError, IndexError):
            pages = Path(f"/proc/{pid}/statm").read_text().split()
            total += (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
    return total
