"""The command line: ``sff-grade FOLDER``."""

import tyro

from sff_teach.util.checks import exit_code

from .grading import grade


def main(args: list[str] | None = None) -> int:
    """Grade a folder; a bad argument ends in one sentence and exit code 2, Ctrl-C in 130."""
    options = {"args": args, "prog": "sff-grade", "config": [tyro.conf.FlagCreatePairsOff]}
    return exit_code("sff-grade", lambda: tyro.cli(grade, **options), ValueError, TypeError)
