"""A process that student code may have: bubblewrap, limits, and one channel.

bubblewrap makes it a file system of its own (Python, the package, the data, read-only), no network,
no other processes in sight. Inside, the process is an ordinary user without rights, and a seccomp
filter refuses the system calls that no answer needs: new namespaces, tracing, other processes'
memory, shared memory of the System V kind.
"""

import compileall
import errno
import json
import math
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sff_teach
from sff_teach.data import data_home
from sff_teach.data.files import embedded_path
from sff_teach.data.sets import SAMPLE_FILE

from . import wire
from .source import Assignment, without_name

SCRATCH = 64 << 20  # bytes of each folder that may be written, all in memory
PROCESSES = 64  # threads count as well


@dataclass(frozen=True)
class Rules:
    """How student code is run."""

    seconds: float  # of computing, for each cell and each call
    memory: float  # GiB on top of what torch itself takes
    notebook: float  # seconds by the clock for the whole notebook
    isolated: bool = True
    secret: tuple[Path, ...] = ()  # folders that are not seen inside
    room: Path = Path()  # see `make_room`


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
    """Return the filter as the kernel reads it (classic BPF), see seccomp(2).

    A refused call fails with EPERM; clone3, whose flags cannot be looked at, with ENOSYS, so that
    the C library takes clone.
    """
    column, architecture, clone = MACHINES[platform.machine()]
    load, equal, larger, any_bit, end = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, no_such_call = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (end, 0, 0, refuse), (load, 0, 0, 0)]
    program += [(larger, 0, 1, 0x40000000), (end, 0, 0, refuse)]  # the x32 calls
    program += [(equal, 0, 1, CLONE3), (end, 0, 0, no_such_call)]
    for numbers in REFUSED.values():
        program += [(equal, 0, 1, numbers[column]), (end, 0, 0, refuse)]
    program += [(equal, 0, 3, clone), (load, 0, 0, 16)]
    program += [(any_bit, 0, 1, NEW_NAMESPACES), (end, 0, 0, refuse), (end, 0, 0, allow)]
    return b"".join(struct.pack("<HBBI", *line) for line in program)  # code, yes, no, value


def make_room(folder: Path, assignment: Assignment) -> None:
    """Copy what the jail shows: our three files, and the package without what solves a task."""
    (folder / "grader").mkdir(parents=True)
    for name in ("inside.py", "returned.py", "wire.py"):
        shutil.copy(Path(__file__).parent / name, folder / "grader" / name)
    target = folder / "package" / "sff_teach"
    package = Path(sff_teach.__file__).parent
    shutil.copytree(package, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "_data").mkdir(exist_ok=True)  # of a wheel; a checkout has the images elsewhere
    shutil.copy(embedded_path(SAMPLE_FILE), target / "_data")
    for entry in assignment.absent:
        module, _, name = entry.partition(":")
        path = folder / "package" / Path(*module.split(".")).with_suffix(".py")
        path.write_text(without_name(path.read_text(encoding="utf-8"), name), encoding="utf-8")
    compileall.compile_dir(folder, quiet=2)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _environment(place: Path) -> dict[str, str]:
    """What the process inside sees, where our files lie in ``place``."""
    return {
        "PATH": "/usr/bin:/bin", "HOME": "/box", "USER": "student", "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "MPLCONFIGDIR": "/tmp",
        "PYTHONPATH": f"{place / 'grader'}:{place / 'package'}", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0", "TORCHDYNAMO_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "",
        "SFF_TEACH_DATA": str(data_home()),
    }  # fmt: skip


def _files(rules: Rules) -> list[str]:
    """Arguments of bubblewrap that lay out the file system."""
    places = ("/usr", "/etc/ld.so.cache", sys.base_prefix, sys.prefix, data_home())
    shown = [Path(place) for place in places]
    # bubblewrap would make the folders above with the rights of the originals, such as root's own.
    above = {parent for path in shown for parent in path.parents if parent.parent != parent}
    scratch = ["--perms", "1777", "--size", str(SCRATCH), "--tmpfs"]
    args = [*scratch, "/tmp", *scratch, "/box"]  # first: the course itself may lie in /tmp
    args += [x for p in sorted(above) for x in ("--perms", "0755", "--dir", str(p))]
    args += [x for path in shown for x in ("--ro-bind-try", str(path), str(path))]
    for path in ("/lib", "/lib64", "/bin"):  # links into /usr, on most machines
        link = os.path.islink(path)
        args += ["--symlink", os.readlink(path), path] if link else ["--ro-bind-try", path, path]
    # An installed copy of the package has all its functions; the teacher's folders hold the rest.
    hidden = {p.resolve() for p in [*rules.secret, *(Path(p) / "sff_teach" for p in sys.path if p)]}
    for path in hidden:
        if path.is_dir() and any(path.is_relative_to(other.resolve()) for other in shown):
            args += ["--tmpfs", str(path)]
    args += ["--ro-bind", str(rules.room), "/room"]
    args += ["--proc", "/proc", "--dev", "/dev", *scratch, "/dev/shm"]
    return [*args, "--remount-ro", "/", "--chdir", "/box"]


def bubblewrap() -> list[str]:
    """Return the command that starts a jail, without the file system and the program in it."""
    if os.geteuid() == 0:  # the process inside takes a user of its own
        user = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        user = ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    shared = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    kept = ["--unshare-cgroup-try", *user, "--die-with-parent", "--new-session"]
    return [shutil.which("bwrap"), *shared, *kept]


def lacking() -> str:
    """Say in a sentence why this machine cannot isolate student code; empty if it can."""
    if shutil.which("bwrap") is None:
        return ("student code is isolated by bubblewrap, which is not installed: on Debian and "
                "Ubuntu, also in WSL 2 or a container, apt install bubblewrap")  # fmt: skip
    if platform.machine() not in MACHINES:
        return f"student code is isolated on {' and '.join(MACHINES)} only"
    everything = ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    done = subprocess.run([*bubblewrap(), *everything], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"bubblewrap does not work here ({done.stderr.strip()})"


class Ended(BaseException):
    """The jailed process has ended or was ended; the text says why. No test catches this."""


class Jail:
    """One jailed process and the channel to it.

    Without isolation the same program runs with the teacher's own rights.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.deadline = math.inf
        self.why = "the answer ended the process"
        settings = {
            "seconds": rules.seconds,
            "memory": int(rules.memory * 2**30),
            "cpu": int(2 * rules.notebook),
            "processes": PROCESSES if rules.isolated else None,
            "user": 2**20 + os.getpid() % 2**20 if rules.isolated and os.geteuid() == 0 else None,
        }
        read_end, write_end = os.pipe()
        start, place = [], rules.room
        if rules.isolated:
            os.write(write_end, seccomp_filter())
            start = [*bubblewrap(), *_files(rules), "--seccomp", str(read_end), "--"]
            place = Path("/room")
        os.close(write_end)
        self.process = subprocess.Popen(
            [*start, sys.executable, place / "grader" / "inside.py", json.dumps(settings)],
            cwd=rules.room, env=_environment(place), pass_fds=[read_end], start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_end)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End the process when it is late or takes too much memory; then `ask` gets no answer."""
        while self.process.poll() is None:
            if time.monotonic() > self.deadline:
                self._kill("it took too long by the clock")
            elif memory_below(self.process.pid) > (self.rules.memory + 1) * 2**30:
                self._kill(f"it took more than {self.rules.memory:g} GiB with all its processes")
            time.sleep(0.1)

    def _kill(self, why: str) -> None:
        self.why = why
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def ask(self, message: bytes, seconds: float) -> bytes:
        """Send a message and return the answer, without its length.

        Raises:
            Ended: No answer came in time, or the process ended or took too much memory.
        """
        self.deadline = time.monotonic() + seconds
        try:
            self.process.stdin.write(message)
            self.process.stdin.flush()
            (size,) = struct.unpack("<I", self.process.stdout.read(4))
            if size > wire.MOST_BYTES + 8:
                raise Ended("the answer sent too much")
            answer = self.process.stdout.read(size)
        except (OSError, struct.error):
            raise Ended(self.why) from None
        finally:
            self.deadline = math.inf
        if len(answer) < size:
            raise Ended(self.why)
        return answer

    def close(self) -> None:
        """End the process and all that it has started."""
        self._kill("it is over")
        self.process.wait()
        with suppress(OSError):  # of a request that was never read
            self.process.stdin.close()
        self.process.stdout.close()


def memory_below(pid: int) -> int:
    """Return the resident bytes of a process and all below it; what is shared counts once each."""
    total, todo = 0, [pid]
    while todo:
        process = Path(f"/proc/{todo.pop()}")
        with suppress(OSError, IndexError):
            pages = (process / "statm").read_text().split()
            total += (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")
            for children in process.glob("task/*/children"):
                todo += map(int, children.read_text().split())
    return total
