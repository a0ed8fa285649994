"""The command line: ``sff-grade FOLDER``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sff_teach.util.checks import check_count, check_positive, exit_code

from .grading import BY_HAND, Limits, grade


@dataclass(frozen=True, kw_only=True)
class Grade:
    """Grade a folder of returned notebooks: marks.csv and a feedback page for each student."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Holds STUDENT/….ipynb or STUDENT.ipynb; what a learning platform's zip unpacks to."""
    out: Path = Path("marks")
    """Marks, pages and results go here; the same command again goes on where it was."""
    source: Path = Path("notebooks/assignments/source")
    """The instructor's notebooks, or the one of this assignment."""
    assignment: str | None = None
    """For example a1, where the names of the returned notebooks don't say it."""
    seconds: float = 20
    """Of computing, for each cell and each call of an answer."""
    memory: float = 2.0
    """GiB for each notebook, on top of what torch itself takes."""
    jobs: int | None = None
    """Notebooks at a time; one for each core if not given."""
    notebook: float = 300
    """Seconds by the clock for each notebook."""
    no_isolation: tyro.conf.FlagCreatePairsOff[bool] = False
    """Run student code with your own rights; the marks say so."""

    again: tuple[str, ...] = ()
    """Students to mark anew, as marks.csv names them."""
    nbgrader: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also write the repaired notebooks as nbgrader wants them, into OUT/submitted."""
    anonymous: tyro.conf.FlagCreatePairsOff[bool] = False
    """Codes in place of names in by_hand.html and manual-todo.csv."""

    def __call__(self) -> None:
        check_positive(seconds=self.seconds, memory=self.memory, notebook=self.notebook)
        if self.jobs is not None:
            check_count(self.jobs, "jobs")
        limits = Limits(seconds=self.seconds, memory=self.memory, notebook=self.notebook)
        marked = grade(
            self.folder, self.source, self.out, assignment=self.assignment, limits=limits,
            jobs=self.jobs, no_isolation=self.no_isolation, again=self.again,
            nbgrader=self.nbgrader, anonymous=self.anonymous,
        )  # fmt: skip
        print(f"Marks in {self.out / 'marks.csv'}, pages in {self.out / 'feedback'}.")
        waiting = sum(t["points"] is None for r in marked for t in r["tasks"].values())
        if waiting:
            print(f"{waiting} answers are {BY_HAND}: see {self.out / 'by_hand.html'}.")


def main(args: list[str] | None = None) -> int:
    """Grade a folder; a bad argument ends in one sentence and exit code 2, Ctrl-C in 130."""
    command = tyro.cli(Grade, args=args, prog="sff-grade")
    return exit_code("sff-grade", command, ValueError, TypeError)
