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
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import sff_teach
from sff_teach.util.checks import SFFError

from . import wire
from .source import Assignment, without_names

HERE = Path(__file__).parent
INSIDE = ("inside.py", "returned.py", "wire.py")
SCRATCH = 64 << 20  # bytes of each folder that may be written, all in memory
PROCESSES = 64  # threads count as well


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a notebook may use.

    Attributes:
        seconds: Of computing, for each cell and each call.
        memory: GiB on top of what torch itself takes.
        notebook: Seconds by the clock for the whole notebook.
    """

    seconds: float = 20
    memory: float = 2.0
    notebook: float = 300


# ---------------------------------------------------------------- system calls

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
MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}
CLONE3 = 435
NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW… flags


def seccomp_filter() -> bytes | None:
    """Return the filter as the kernel reads it (classic BPF); None on a machine not in the table.

    See seccomp(2): a refused call fails with EPERM; clone3, whose flags cannot be looked at, with
    ENOSYS, so that the C library takes clone.
    """
    if platform.machine() not in MACHINES:
        return None
    column, architecture, clone = MACHINES[platform.machine()]
    load, equal, larger, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000

    def line(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("<HBBI", code, yes, no, value)

    program = [
        line(load, 4), line(equal, architecture, 1, 0), line(end, refuse | errno.EPERM),
        line(load, 0),
        line(larger, 0x40000000, 0, 1), line(end, refuse | errno.EPERM),  # the x32 calls
        line(equal, CLONE3, 0, 1), line(end, refuse | errno.ENOSYS),
    ]  # fmt: skip
    for numbers in REFUSED.values():
        program += [line(equal, numbers[column], 0, 1), line(end, refuse | errno.EPERM)]
    program += [
        line(equal, clone, 0, 3), line(load, 16),
        line(any_bit, NEW_NAMESPACES, 0, 1), line(end, refuse | errno.EPERM),
        line(end, allow),
    ]  # fmt: skip
    return b"".join(program)


# ---------------------------------------------------------------- what is inside


def make_room(folder: Path, assignment: Assignment) -> None:
    """Copy what the jail shows: our three files, and the package without what solves a task."""
    (folder / "grader").mkdir(parents=True)
    for name in INSIDE:
        shutil.copy(HERE / name, folder / "grader" / name)
    package = Path(sff_teach.__file__).parent
    target = folder / "package" / "sff_teach"
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
    sample = package.parent / "data" / "fashion-mnist-sample.npz"
    if sample.is_file():
        (target / "_data").mkdir(exist_ok=True)
        shutil.copy(sample, target / "_data")
    by_module: dict[str, list[str]] = {}
    for entry in assignment.absent:
        module, _, name = entry.partition(":")
        by_module.setdefault(module, []).append(name)
    for module, names in by_module.items():
        path = folder / "package" / Path(*module.split(".")).with_suffix(".py")
        path.write_text(without_names(path.read_text(encoding="utf-8"), names), encoding="utf-8")
    compileall.compile_dir(folder, quiet=2)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _binds(room: Path, secret: Iterable[Path]) -> list[str]:
    from sff_teach.data import data_home

    shown = [Path("/usr"), Path("/etc/ld.so.cache"), Path(sys.base_prefix), Path(sys.prefix)]
    shown += [Path(p) for p in ("/lib", "/lib64", "/bin") if not Path(p).is_symlink()]
    shown = [path for path in [*shown, data_home()] if path.exists()]
    # bubblewrap would make the folders above with the rights of the originals, such as root's own.
    above = {parent for path in shown for parent in path.parents if parent.parent != parent}
    args = [x for p in sorted(above) for x in ("--perms", "0755", "--dir", str(p))]
    args += [x for path in shown for x in ("--ro-bind", str(path), str(path))]
    for link in ("/lib", "/lib64", "/bin"):
        if Path(link).is_symlink():
            args += ["--symlink", os.readlink(link), link]
    # Installed copies of the package and of this grader, and what the teacher's folders hold.
    places = [Path(p) for p in sys.path if p]
    hidden = [p / name for p in places for name in ("sff_teach", "sff_grade")] + list(secret)
    for path in {Path(p).resolve() for p in hidden}:
        if path.is_dir() and any(path.is_relative_to(other.resolve()) for other in shown):
            args += ["--tmpfs", str(path)]
    return [
        *args, "--ro-bind", str(room / "grader"), "/grader",
        "--ro-bind", str(room / "package"), "/package",
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    from sff_teach.data import data_home

    return {
        "PATH": "/usr/bin:/bin", "HOME": "/box", "USER": "student", "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "MPLCONFIGDIR": "/tmp",
        "PYTHONPATH": "/grader:/package", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0",
        "TORCHDYNAMO_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "", "SFF_TEACH_DATA": str(data_home()),
    }  # fmt: skip


def bubblewrap(room: Path, secret: Iterable[Path], filter_fd: int | None) -> list[str]:
    """Return the command that starts a jail, up to the program that runs in it."""
    tmpfs = [x for path in ("/tmp", "/box") for x in (
        "--perms", "1777", "--size", str(SCRATCH), "--tmpfs", path)]  # fmt: skip
    if os.geteuid() == 0:  # the process inside takes a user of its own
        user = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        user = ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    return [
        _program(), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts",
        "--unshare-cgroup-try", *user, "--die-with-parent", "--new-session",
        *tmpfs, *_binds(room, secret), "--proc", "/proc", "--dev", "/dev",
        "--perms", "1777", "--size", str(SCRATCH), "--tmpfs", "/dev/shm",
        "--remount-ro", "/", "--chdir", "/box", "--clearenv",
        *[x for pair in _environment().items() for x in ("--setenv", *pair)],
        *([] if filter_fd is None else ["--seccomp", str(filter_fd)]), "--",
    ]  # fmt: skip


def _program() -> str:
    return shutil.which("bwrap") or "bwrap"


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
        command = [*bubblewrap(Path(folder), [], None), "/usr/bin/true"]
        done = subprocess.run(command, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"bubblewrap does not work here ({done.stderr.strip()})"


# ---------------------------------------------------------------- the process


class Ended(BaseException):
    """The jailed process has ended or was ended; the text says why. No test catches this."""


class Jail:
    """One jailed process and the channel to it.

    Args:
        room: The folder that `make_room` made.
        limits: What the notebook may use.
        secret: Folders that must not be seen inside.
        isolated: False runs the same program with the teacher's own rights.
    """

    def __init__(
        self, room: Path, limits: Limits, secret: Iterable[Path] = (), isolated: bool = True
    ) -> None:
        self.limits = limits
        root = os.geteuid() == 0
        settings = asdict(limits) | {
            "memory": int(limits.memory * 2**30),
            "cpu": int(2 * limits.notebook),
            "user": 2**20 + os.getpid() % 2**20 if isolated and root else 0,
            "processes": PROCESSES if isolated else 0,
        }
        program = [sys.executable, "/grader/inside.py", json.dumps(settings)]
        environment, fds = None, []
        if isolated:
            read_end = _as_file(seccomp_filter())
            fds = [] if read_end is None else [read_end]
            program = bubblewrap(room, secret, read_end) + program
        else:
            program[1] = str(room / "grader" / "inside.py")
            path = f"{room / 'grader'}{os.pathsep}{room / 'package'}"
            environment = _environment() | {"PYTHONPATH": path, "PATH": os.environ["PATH"]}
        folder = None if isolated else room
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=fds, env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip
        for fd in fds:
            os.close(fd)
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
                request = self._exchange(request, answer, deadline)
        except wire.WireError:
            raise Ended("the answer wrote into the grader's channel") from None
        except OSError:
            raise Ended("the answer ended the process") from None

    def _exchange(self, request: bytes, answer: bytearray, deadline: float) -> bytes:
        """Write and read what can be written and read now; look after time and memory."""
        if time.monotonic() > deadline:
            raise Ended("it took too long by the clock")
        used = memory_below(self.process.pid)
        if used > (self.limits.memory + 1) * 2**30:
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

    def __enter__(self) -> Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_file(data: bytes | None) -> int | None:
    if data is None:
        return None
    read_end, write_end = os.pipe()
    os.write(write_end, data)
    os.close(write_end)
    return read_end


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


Say = Callable[[str], None]


def check_isolation(no_isolation: bool, say: Say) -> bool:
    """Say how student code is isolated; return whether it is.

    Raises:
        SFFError: It cannot be, and ``no_isolation`` was not given.
    """
    if no_isolation:
        say("No isolation, as asked: student code runs with your rights and reads your files.")
        return False
    if lacking():
        raise SFFError(f"{lacking()}; --no-isolation runs student code with your own rights")
    return True
