"""Linux's walls around a student's process: namespaces, limits, another user.

Two steps. `enter_room` is called once, by the grader's helper process: it moves into a file system
that holds the Python installation, read-only, and nothing else of the machine. `drop_rights` is
called in a fork of it, one for each notebook: own processes, no network, an empty folder in memory
to write into, limits, no rights. The system calls are made through ctypes: `os.unshare` came with
Python 3.12 only. See unshare(2), mount(2), user_namespaces(7), setrlimit(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from _signal import signal as _set_handler  # itself: the session replaces what stands in modules
from pathlib import Path

HOME = "/home/sff-teach-student"  # an empty folder in the room, of no user of the machine
# Users that nobody is; the second range is for containers. A grader takes some in a row, one for
# each notebook at a time, from a random one on: who shares a user shares its limit of processes.
UIDS = ((1_900_000_000, 2_100_000_000), (64_000, 65_500))

# What a wall keeps out, and what its absence means: this is said before grading starts.
WALLS = {
    "files": "a private file system",
    "network": "a network of its own",
    "processes": "processes of its own",
    "user": "an unprivileged user",
    "limits": "limits of memory and processes",
    "sum": "one memory limit for all processes of a notebook",
}
WITHOUT = {
    "files": "student code can read what the grader's user can read, hidden tests included, and "
    "write where that user can write",
    "network": "student code can reach the network",
    "processes": "student code can leave processes behind, and sees those of other notebooks",
    "user": "student code runs with the rights of the one who grades",
    "limits": "student code can take all memory",
    "sum": "the limit holds for each process, and a notebook may start 48 of them",
}

_NEWNS, _NEWUTS, _NEWIPC = 0x00020000, 0x04000000, 0x08000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT = 1, 2, 4, 8, 32
_BIND, _MOVE, _REC, _PRIVATE = 4096, 8192, 16384, 1 << 18
_PDEATHSIG, _DUMPABLE, _SUBREAPER, _NO_NEW_PRIVS = 1, 4, 36, 38
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _call(name: str, *args) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _unshare(flags: int) -> None:
    _call("unshare", ctypes.c_int(flags))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    kind = kind and kind.encode()
    _call("mount", source.encode(), target.encode(), kind, ctypes.c_ulong(flags), data.encode())


def _prctl(option: int, value: int) -> None:
    _call("prctl", option, *map(ctypes.c_ulong, (value, 0, 0, 0)))


def _own_user_namespace() -> None:
    """Become the owner of a new user namespace: all rights inside it, none outside."""
    uid, gid = os.getuid(), os.getgid()
    _unshare(_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"65534 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"65534 {gid} 1")


# ---------------------------------------------------------------- what this machine offers


def _possible(test) -> bool:
    """Whether ``test()`` runs without an error, in a process of its own."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            test()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def _probe() -> list[str]:
    """The walls that this machine has. Forks, so it wants a process with one thread."""
    root = os.geteuid() == 0

    def with_rights(flags: int):
        def test():
            if not root:
                _own_user_namespace()
            _unshare(flags)
            if flags == _NEWNS:
                _mount("none", "/", None, _REC | _PRIVATE)
                _mount("none", "/mnt", "tmpfs", _NOSUID)
            if flags == _NEWPID:
                inner = os.fork()
                if inner == 0:
                    os._exit(0)
                os.waitpid(inner, 0)

        return test

    walls = [("files", _NEWNS), ("network", _NEWNET), ("processes", _NEWPID)]
    found = [name for name, flags in walls if _possible(with_rights(flags))]
    # In a namespace of its own a process can give up every right but to compute.
    if other_users(1) is not None or "files" in found:
        found.append("user")
    found.append("limits")
    if Path(f"/proc/self/task/{os.getpid()}/children").exists() and own_memory(os.getpid()):
        found.append("sum")
    return found


def other_users(count: int) -> int | None:
    """The first of ``count`` users that nobody is and that this process can turn others into.

    None where it can't: it isn't root, or has no such users.
    """
    if os.geteuid() != 0:
        return None
    for low, high in UIDS:
        first = random.SystemRandom().randrange(low, max(high - count, low + 1))
        if _possible(lambda first=first: os.setresuid(*[first + count] * 3)):
            return first
    return None


def available_walls() -> list[str]:
    """Those of `WALLS` that this machine can build; none on other systems than Linux."""
    if sys.platform != "linux":
        return []
    code = "from sff_teach import _sandbox; print(*_sandbox._probe())"
    # -S and a bare package: the answer shouldn't cost an import of torch
    bare = (
        "import sys, types; package = types.ModuleType('sff_teach'); "
        f"package.__path__ = [{str(Path(__file__).parent)!r}]; sys.modules['sff_teach'] = package; "
    )
    done = subprocess.run(
        [sys.executable, "-c", bare + code], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OSError("could not find out how this machine isolates: " + done.stderr.strip()[-300:])
    return done.stdout.split()


# ---------------------------------------------------------------- step 1: the room


def _needed(data: list[str]) -> list[Path]:
    """What Python and the package read at run time: each of these is shown, read-only."""
    paths = [Path(p) for p in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")]
    paths += [Path(f"/etc/{name}") for name in ("ld.so.cache", "localtime", "fonts")]
    paths += [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parent]
    paths += [Path(p) for p in sysconfig.get_paths().values()]
    paths += [Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages", ".zip"))]
    paths += [Path(p) for p in data]
    kept: list[Path] = []
    for path in sorted({Path(os.path.abspath(p)) for p in paths if p.exists()}):
        if path != Path("/") and not any(
            path.is_relative_to(k) for k in kept if not k.is_symlink()
        ):
            kept.append(path)
    return kept


_own_tmp = True  # False where the course lies in /tmp, which a /tmp of the student's would cover


def enter_room(room: str, data: list[str], hidden: list[str]) -> None:
    """Move this process into a file system with Python and ``data`` alone, all of it read-only.

    ``room`` is an empty folder to build it in; it stays empty for everybody else. ``hidden``
    folders are covered even where they lie inside something that is shown.
    """
    if os.geteuid() != 0:
        _own_user_namespace()
    _unshare(_NEWNS)
    _mount("none", "/", None, _REC | _PRIVATE)
    outside = os.open(os.path.dirname(room), os.O_RDONLY)
    _mount("none", room, "tmpfs", _NOSUID | _NODEV, "size=16m,mode=755")
    for path in _needed(data):
        inside = Path(room + str(path))
        inside.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():  # /lib → /usr/lib
            inside.symlink_to(os.readlink(path))
            continue
        if path.is_dir():
            inside.mkdir(exist_ok=True)
        else:
            inside.touch()
        _mount(str(path), str(inside), None, _BIND | _REC)
        _read_only(str(inside), _NODEV | _NOSUID)
    for name in ("null", "zero", "random", "urandom"):
        inside = Path(f"{room}/dev/{name}")
        inside.parent.mkdir(exist_ok=True)
        inside.touch()
        _mount(f"/dev/{name}", str(inside), None, _BIND)
    for folder in ("proc", "tmp", "dev/shm", HOME[1:]):
        Path(room, folder).mkdir(parents=True, exist_ok=True)
    global _own_tmp  # forks of this process read it
    _own_tmp = not any(path.is_relative_to("/tmp") for path in _needed(data))
    scratch = "/tmp" if _own_tmp else HOME
    _mount("none", room + scratch, "tmpfs", _NOSUID | _NODEV | _NOEXEC, "size=16m,mode=700")
    os.environ.update(TMPDIR=scratch, MPLCONFIGDIR=scratch)
    for path in hidden:
        if Path(room + path).is_dir():
            _mount("none", room + path, "tmpfs", _NOSUID | _NODEV | _NOEXEC, "size=4k,mode=700")
    os.chdir(room)
    _mount(room, "/", None, _MOVE)
    os.chroot(".")
    os.chdir("/")
    os.rmdir(os.path.basename(room), dir_fd=outside)  # nothing stays behind, however this ends
    os.close(outside)
    _read_only("/", _NODEV | _NOSUID)


def _read_only(path: str, flags: int) -> None:
    # In a user namespace a remount must keep what was locked; ask for all of the usual flags.
    for more in (0, _NOEXEC, 1024, 1024 | _NOEXEC, 1 << 21, 1 << 21 | _NOEXEC):
        try:
            return _mount("none", path, None, _BIND | _REMOUNT | _RDONLY | flags | more)
        except PermissionError as error:
            last = error
    raise last


# ---------------------------------------------------------------- step 2: the process


def drop_rights(
    walls: list[str], slot: int, memory: int, seconds: int, first_user: int | None
) -> str:
    """Become a process that can only compute, and return its folder.

    Returns in a new process; the one that called stays behind as its guard: it takes the process
    along when it dies, and ends it and tidies up when it is told to terminate. ``memory`` in bytes
    on top of what the process has already, ``seconds`` of processor time. Without "files" the
    folder is a temporary one of the machine.
    """
    linux = sys.platform == "linux"
    os.setsid()
    _set_handler(signal.SIGCHLD, int(signal.SIG_DFL))
    if linux:
        _prctl(_PDEATHSIG, signal.SIGKILL)
    flags = {"network": _NEWNET | _NEWIPC, "processes": _NEWPID, "files": _NEWNS | _NEWUTS}
    wanted = sum(flags[name] for name in walls if name in flags)
    if wanted:
        _unshare(wanted)
    folder = HOME if "files" in walls else tempfile.mkdtemp(prefix="sff-grade-")
    child = os.fork()
    if child:
        _set_handler(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
        # Of the first process in a namespace this waits for all the others, too.
        os.waitpid(child, 0)
        if "files" not in walls:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)
    os.setsid()  # else a signal to its own group would reach the guard
    if linux:
        _prctl(_PDEATHSIG, signal.SIGKILL)
        _prctl(_SUBREAPER, 1)  # what its children leave behind stays below it
    user = first_user + slot if first_user is not None and "user" in walls else None
    if "files" in walls:
        # Nothing that is written can be executed or loaded as a library.
        owner = f",uid={user},gid={user}" if user is not None else ""
        folders = {HOME: "256m", "/tmp": "64m", "/dev/shm": "64m"}
        if not _own_tmp:
            del folders["/tmp"]
        for path, size in folders.items():
            _mount(
                "none", path, "tmpfs", _NOSUID | _NODEV | _NOEXEC, f"size={size},mode=700{owner}"
            )
    elif user is not None:
        os.chown(folder, user, user)
    os.chdir(folder)
    os.environ.update(HOME=folder, TMPDIR="/tmp" if "files" in walls and _own_tmp else folder)
    if linux and user is None and "user" in walls:
        # The number of a user's processes is counted in each user namespace, so that a notebook
        # that uses all of it up does so for itself.
        with contextlib.suppress(OSError):
            _unshare(_NEWUSER)
    _limit(memory, seconds)
    if linux:
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)  # and with the user go all capabilities
        elif "user" in walls:
            # version 3 of the header; two words each of effective, permitted, inheritable: none
            _call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
        _prctl(_NO_NEW_PRIVS, 1)
        if "processes" not in walls:  # else nobody sees it, and the grader may count its memory
            _prctl(_DUMPABLE, 0)
        _prctl(_PDEATHSIG, signal.SIGKILL)  # a change of user had cleared it
    return folder


def _limit(memory: int, seconds: int) -> None:
    import resource

    def limit(name: str, value: int) -> None:
        what = getattr(resource, name, None)
        if what is not None:
            hard = resource.getrlimit(what)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(what, (value, value))

    if sys.platform == "linux":
        sizes = {}
        for line in _size:
            name, _, rest = line.partition(":")
            if name in ("VmSize", "VmData"):
                sizes[name] = int(rest.split()[0]) * 1024
        limit("RLIMIT_DATA", sizes["VmData"] + memory)
        limit("RLIMIT_AS", sizes["VmSize"] + memory + 2**30)
    limit("RLIMIT_NPROC", 48)
    limit("RLIMIT_FSIZE", 256 * 2**20)
    limit("RLIMIT_NOFILE", 256)
    limit("RLIMIT_CORE", 0)
    limit("RLIMIT_CPU", seconds)


# Lines of /proc/self/status, from which the limits are counted; the room has no /proc.
_size: list[str] = []


def watch_size():
    """A function that notes this process's size; it works from inside the room as well."""
    if sys.platform != "linux":
        return lambda: None
    status = open("/proc/self/status")  # noqa: SIM115 (kept open until the note is taken)

    def note() -> None:
        with status:
            _size[:] = status.read().splitlines()

    return note


# ---------------------------------------------------------------- from outside


def first_to_die(pid: int) -> None:
    """If the machine's memory ends, the kernel is to end this process or one that it forks."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def memory_of(guard: int, base: int, enough: int) -> int:
    """Bytes that all of a notebook's processes take on top of ``base``, which each has at first.

    Shared pages count in each process as long as that sum is below ``enough``; above it once, where
    the kernel tells (proc_pid_smaps(5)).
    """
    waiting, sizes = [guard], {}
    while waiting:
        pid = waiting.pop()
        with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
            if pid != guard:
                sizes[pid] = max(0, own_memory(pid) - base) + _files_in_memory(pid)
    total = sum(sizes.values())
    if total <= enough:
        return total
    shares = [_share(pid) for pid in sizes]
    return total if None in shares else max(0, sum(shares) - base)


def own_memory(pid: int) -> int:
    """Bytes of memory that a process holds, files on disks aside; 0 if there is no such process."""
    return _kilobytes(f"/proc/{pid}/status", "RssAnon", "RssShmem") or 0


def _share(pid: int) -> int | None:
    """The same, but each page divided by the number of processes that share it."""
    share = _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss_Anon", "Pss_Shmem")
    return None if share is None else share + _files_in_memory(pid)


def _kilobytes(file: str, *names: str) -> int | None:
    """The sum of these lines of a file in /proc, in bytes; None if it can't be read."""
    try:
        lines = Path(file).read_text().splitlines()
    except PermissionError:
        return None
    except OSError:
        return 0  # the process has ended
    parts = (line.partition(":") for line in lines)
    return sum(1024 * int(rest.split()[0]) for name, _, rest in parts if name in names)


def _files_in_memory(pid: int) -> int:
    """Bytes of files without a place, memfd_create(2): no limit of a process counts them."""
    size = 0
    with contextlib.suppress(OSError):
        for handle in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(handle.path).startswith("/memfd:"):
                    size += 512 * os.stat(handle.path).st_blocks
    return size
