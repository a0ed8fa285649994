"""Lives of the package's commands, and what can happen to them.

A *scenario* is a function that runs in a process of its own, with the package loaded. Commands are
forked from it, so that a life costs no import, and what is done to a scenario's disks, limits and
clocks stays in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["pytest", "matplotlib.pyplot", "sklearn.datasets", "sff_teach.cli",
     "sff_teach.draw.charts", "sff_teach.study", "tests.faults._work"]
)  # fmt: skip
# of unshare(2) and mount(2)
NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
LONGEST = 300  # seconds for any one life; only a hang takes as long


# ---------------------------------------------------------------- scenarios


def scenario(function: Callable, *args):
    """What ``function(*args)`` returns, in a new process; its errors come with their traceback."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_scenario, args=(theirs, function, args))
    process.start()
    theirs.close()
    if not ours.poll(2 * LONGEST):
        process.kill()
    try:
        result, error = ours.recv()
    except EOFError:
        result, error = None, "the scenario's process ended without a word"
    process.join()
    assert error is None, error
    return result


def _scenario(channel, function, args) -> None:
    try:
        channel.send((function(*args), None))
    except BaseException:
        channel.send((None, traceback.format_exc()))


# ---------------------------------------------------------------- lives


@dataclass(frozen=True)
class End:
    """How a life ended: exit code (negative: the signal), and what it had printed."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The sentences on the error output, without the progress bars before them on the line."""
        lines = self.err.replace("\r", "\n").splitlines()
        return [x[x.index("sff-teach: ") :].strip() for x in lines if "sff-teach: " in x]


class Life:
    """``sff-teach COMMAND…`` in a process of its own, in ``folder``, from now on.

    ``before`` runs in the new process before the command does.
    """

    def __init__(self, folder: Path, command: list[str], before: Callable | None = None):
        self.began = time.monotonic()
        self.status = None
        # Pipes, which no full disk and no limit on files can reach; they hold all that is printed.
        pipes = [os.pipe(), os.pipe()]
        self.output = [read for read, _ in pipes]
        for read in self.output:
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                for number, (read, write) in enumerate(pipes, 1):
                    os.close(read)
                    os.dup2(write, number)
                    os.close(write)
                os.chdir(folder)
                if before is not None:
                    before()
                from sff_teach.cli import main

                code = main([str(word) for word in command])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 98
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        for _, write in pipes:
            os.close(write)

    def running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def kill_after(self, seconds: float) -> bool:
        """SIGKILL at that age; whether it was still alive then."""
        while self.running() and (left := self.began + seconds - time.monotonic()) > 0:
            time.sleep(min(left, 0.005))
        if not self.running():
            return False
        os.kill(self.pid, signal.SIGKILL)
        return self.end().code == -signal.SIGKILL

    def end(self) -> End:
        """Wait for it."""
        while self.running():
            time.sleep(0.005)
            if time.monotonic() - self.began > LONGEST:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"hangs: {self._printed(1)[-2000:]}")
        self.age = time.monotonic() - self.began
        return End(os.waitstatus_to_exitcode(self.status), self._printed(0), self._printed(1))

    def _printed(self, number: int) -> str:
        with open(self.output[number], encoding="utf-8", errors="replace") as file:
            return file.read()


def run(
    folder: Path, command: list[str], before: Callable | None = None, code: int | None = 0
) -> End:
    """A whole life, which has to end with that exit code."""
    end = Life(folder, command, before).end()
    assert code is None or end.code == code, end
    return end


def wait_for(what: Callable[[], bool], life: Life) -> None:
    """Until it is so; an error if the life ends before."""
    while not what():
        assert life.running(), f"it ended too early: {life.end()}"
        time.sleep(0.002)


def leftovers(folder: Path, *wanted: str) -> list[str]:
    """The files in the folder that are neither wanted nor locks, which are empty and stay."""
    files = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(f for f in files if f not in wanted and not f.endswith(".lock"))


# ---------------------------------------------------------------- killed


def killed_until_done(
    begin: Callable[[], Path], command: list[str], kills: int, seconds: float, check: Callable,
    before: Callable | None = None,
) -> None:  # fmt: skip
    """Kill a command at random moments, spread over a whole run, and start it again each time.

    Args:
        begin: makes a fresh folder; used again when a life was over before its kill came.
        kills: that must hit. seconds: a whole run takes.
        check: of the folder, after a last life that nobody kills.
    """
    moments = random.Random(0)
    folder, hit = begin(), 0
    for attempt in range(5 * kills):
        if hit == kills:
            break
        share = (attempt % kills + moments.random()) / kills
        if Life(folder, command, before).kill_after(share * seconds):
            hit += 1
        else:
            finish(folder, command, check, before)
            folder = begin()
    assert hit == kills, f"only {hit} kills hit"
    finish(folder, command, check, before)


def finish(folder: Path, command: list[str], check: Callable, before: Callable | None = None):
    """Run the command once more, to its end, and check what is there."""
    end = run(folder, command, before)
    assert end.code == 0, end
    check(folder)


def torn_at(number: int, lost: int = 40, more: Callable | None = None) -> Callable:
    """For ``before``: at the ``number``-th file that is to be safe on the disk, the power goes.

    The last ``lost`` bytes of that file never reach the disk.
    """

    def before() -> None:
        safe, numbers = os.fsync, count(1)

        def power_cut(fd) -> None:
            if next(numbers) == number:
                os.ftruncate(fd, max(0, os.fstat(fd).st_size - lost))
                safe(fd)
                os.kill(os.getpid(), signal.SIGKILL)
            safe(fd)

        os.fsync = power_cut
        if more is not None:
            more()

    return before


def held_at(number: int, more: Callable | None = None) -> Callable:
    """For ``before``: at the ``number``-th file that is to be safe on the disk, wait for ``go``."""

    def before() -> None:
        safe, numbers = os.fsync, count(1)

        def held(fd) -> None:
            if next(numbers) == number:
                Path("held").touch()
                while not Path("go").exists():
                    time.sleep(0.005)
            safe(fd)

        os.fsync = held
        if more is not None:
            more()

    return before


def meanwhile(
    folder: Path, command: list[str], number: int, others: list[tuple],
    before: Callable | None = None,
) -> list[End]:  # fmt: skip
    """Hold a command in the middle, let others come and go, then let it end: all their ends.

    Args:
        number: of the file at which it is held. others: command, and what happens before it.
    """
    first = Life(folder, command, held_at(number, before))
    wait_for(lambda: (folder / "held").exists(), first)
    ends = [Life(folder, *other).end() for other in others]
    assert first.running()
    (folder / "go").touch()
    ends.insert(0, first.end())
    for name in ("held", "go"):
        (folder / name).unlink()
    return ends


# ---------------------------------------------------------------- disks


@lru_cache(maxsize=1)
def own_mounts() -> bool:
    """Give this scenario mounts of its own, where the system lets us."""
    if sys.platform != "linux" or os.environ.get("SFF_FAULTS_WITHOUT_MOUNTS"):
        return False
    if not _in_a_fork(_enter_mount_namespace):
        return False
    _enter_mount_namespace()
    return True


def _enter_mount_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    _call("unshare", NEW_MOUNTS if uid == 0 else NEW_MOUNTS | NEW_USER)
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    mount("none", "/", None, RECURSIVE | PRIVATE)
    mount("none", "/mnt", "tmpfs", 0)


def _in_a_fork(function: Callable) -> bool:
    """Tell whether a function works, without doing it here."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    kind = kind.encode() if kind else None
    _call("mount", source.encode(), target.encode(), kind, flags, options.encode())


def _call(name: str, *arguments) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


class SmallDisk:
    """A disk that can be filled up: a file system in memory, or else a limit on sizes of files."""

    def __init__(self, folder: Path, size: int = 1 << 20):
        self.folder, self.size, self.filler = folder, size, folder / "filler"
        self.most = None
        folder.mkdir()
        self.mounted = own_mounts()
        if self.mounted:
            mount("none", str(folder), "tmpfs", 0, f"size={size},mode=755")
        self.how = (
            "a file system in memory (tmpfs) that the test has filled"
            if self.mounted
            else "a limit on the size of files (RLIMIT_FSIZE): this system allows no mounts"
        )

    def fill(self, room: int = 0) -> None:
        """Leave ``room`` bytes; without mounts: let no file grow beyond that."""
        if not self.mounted:
            self.most = max(room, 1)
            return
        self.filler.unlink(missing_ok=True)
        free = os.statvfs(self.folder)
        with self.filler.open("wb") as file:
            file.write(bytes(free.f_bavail * free.f_frsize - room))
        assert os.statvfs(self.folder).f_bavail * free.f_frsize == room

    def make_room(self) -> None:
        self.most = None
        self.filler.unlink(missing_ok=True)

    def limit(self) -> None:
        """For ``before``."""
        if self.most is not None:
            import resource

            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.most, hard))


class ReadOnly:
    """Makes a folder read-only for the lives of this scenario, root's too."""

    def __init__(self, folder: Path):
        self.mounted = own_mounts()
        if self.mounted:
            mount(str(folder), str(folder), None, BIND)
            mount("none", str(folder), None, REMOUNT | BIND | READ_ONLY)
        else:
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
        self.how = (
            "a read-only mount"
            if self.mounted
            else "permissions, and no right to override them: this system allows no mounts"
        )

    def give_up_rights(self) -> None:
        """For ``before``: root, too, is bound by permissions once it has no capabilities."""
        if not self.mounted and os.geteuid() == 0:
            none = (ctypes.c_uint32 * 6)()
            _call("capset", (ctypes.c_uint32 * 2)(0x20080522, 0), none)


# ---------------------------------------------------------------- clocks


def jumping_clock() -> None:
    """For ``before``: whenever anything looks at the system's clock, it was set by days meanwhile.

    Once forward, once back, and each time by a day more, so that no two looks agree.

    Every module that took hold of ``time.time`` gets the new one. The clock that counts from the
    start of the machine cannot be set, and stays.
    """
    honest, honest_ns = time.time, time.time_ns
    looks = count()

    def off() -> int:
        number = next(looks) % 1000
        return 86_400 * number * (-1) ** number

    stand_ins = {
        honest: lambda: honest() + off(),
        honest_ns: lambda: honest_ns() + off() * 1_000_000_000,
    }
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is honest or value is honest_ns:
                setattr(module, name, stand_ins[value])
