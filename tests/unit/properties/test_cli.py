"""The command line: whatever is typed, a result, tyro's own page of usage, or one sentence."""

import os
import shlex
from unittest.mock import patch

from hypothesis import strategies as st

from sff_teach import cli, study

from .hostile import call, explore
from .test_records import FOLDER, good_record

NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "1e-9",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 40,
    "1_0",
    "0x10",
    "abc",
    "",
    " ",
    "None",
    "True",
    "½",
]
NAMES = [
    "digits",
    "Digits",
    "digits-sff",
    "sff",
    "SFF",
    "bp",
    "cnn3",
    "resnet999",
    "layer",
    "2",
    "99",
    "list",
    "nothing",
    "",
    "-",
    "--",
    "folder:",
    "folder:/nowhere",
    "folder:.",
    "ä🐝",
    "a\nb",
    "$(id)",
    "../x",
    "x" * 300,
    "cuda:7",
    "cpu",
    "xla",
    "None",
]
PATHS = [
    "",
    ".",
    "/dev/null/x/y",
    "/dev/null/x",
    "x" * 300,
    "a\0b",
    str(FOLDER),
    str(FOLDER / "new"),
    "/proc/x",
    "-",
]
numbers, names, paths = map(st.sampled_from, (NUMBERS, NAMES, PATHS))
OPTIONS = {
    "--data": names,
    "--fraction": numbers,
    "--network": names,
    "--cut": st.one_of(names, numbers),
    "--kernel-size": numbers,
    "--epochs": numbers.filter(lambda n: n not in ("2", "9" * 40)),
    "--lr": numbers,
    "--device": names,
}
HERE = FOLDER / "here"
HERE.mkdir()
COMMANDS = {  # options besides; positional arguments under ""
    "doctor": {},
    "train": {
        "": names,
        "--rule": names,
        "--seed": numbers,
        "--out": paths,
        "--checkpoint": paths,
        "--pipeline": numbers,
        **OPTIONS,
    },
    "compare": {
        "": names,
        "--rules": names,
        "--fractions": numbers,
        "--seeds": numbers,
        "--out": paths,
        "--picture": paths,
        **OPTIONS,
    },
    "claims": {"--root": paths, "--check": st.just("")},
    "data": {"": names.filter(lambda n: n not in ("list",))},
    "grade": {
        "": paths,
        "--out": paths,
        "--source": paths,
        "--assignment": names,
        "--seconds": numbers,
        "--memory": numbers,
        "--jobs": numbers,
        "--no-isolation": st.just(""),
    },
}


@st.composite
def typed(draw) -> list[str]:
    """A command with some options, each with something behind it."""
    command = draw(st.sampled_from(list(COMMANDS)))
    options = COMMANDS[command]
    words = [command]
    if "" in options:
        words.append(draw(st.one_of(st.just("digits-sff"), options[""])))
    for name in draw(
        st.lists(st.sampled_from([n for n in options if n] or ["--help"]), max_size=3, unique=True)
    ):
        words += [name] if name == "--check" else [name, draw(options.get(name, numbers))]
    if command == "compare" and "--seeds" not in words:
        words += ["--seeds", "1"]  # five build 25 networks and try nothing more
    return words + draw(
        st.lists(
            st.sampled_from(["--nothing", "extra", "--help", "--seed", "-h", "\udcff"]),
            max_size=1 if draw(st.integers(0, 9)) == 0 else 0,
        )
    )


def not_run(recipe, *args, **options):
    """A run up to where training would start: the data are loaded and the network is built."""
    splits = study.load_for(recipe)
    study.build(recipe, splits.train)
    return good_record() | {"epochs": [], "stopped": None}


def run(words):
    """Run a command; the message of a refusal is judged as the user reads it."""
    before = os.getcwd()
    os.chdir(HERE)  # what is written, and what "." holds, is of no use to anybody
    try:
        with patch.object(study, "measure_run", not_run):
            return _judged(words)
    finally:
        os.chdir(before)


def _judged(words):
    import contextlib
    import io

    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            code = cli.main(words)
        except SystemExit as stop:  # tyro prints what it understands, and ends
            assert stop.code in (0, 2), (shlex.join(words), stop.code)
            return stop.code
    said = err.getvalue()
    assert code in (0, 1, 2), code
    if code == 2:
        text = said.strip().rsplit("sff-teach: ", 1)[-1]
        assert "sff-teach: " in said and text.endswith((".", "?")) and "\n" not in text, (
            words,
            said,
        )
        assert "Traceback" not in said and len(text) < 900, (words, said)
    return code


test_command_line = explore(
    "command line",
    [
        call(run, words=(["train", "list"], typed()), named="sff-teach"),
    ],
)
