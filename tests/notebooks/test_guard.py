"""Every notebook and page is whole (tools/check_notebooks.py), and the checker sees what is not.

A check that cannot fail is worth nothing, so a small good notebook is broken here in every way that
the checker knows, one at a time; and tools/run_notebooks.py is run on small notebooks.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import bootstrap_cell, notebook_times, run_notebooks, stamp
from tools.bootstrap_cell import BOOTSTRAP, COLAB, MARK
from tools.check_form import LANGUAGE, MAX_BYTES, WIDGET_VIEW, executed_copy
from tools.check_notebooks import ROOT, check_executed, check_markdown, check_notebook, course_files

NOTEBOOKS = [path for path in course_files() if path.suffix == ".ipynb"]
PAGES = [path for path in course_files() if path.suffix == ".md"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook(path):
    problems = [*check_notebook(path), *check_executed(path)]
    assert not problems, "\n".join(problems)


def test_executed_copies_are_those_of_the_notebooks():
    assert sorted((ROOT / "executed").iterdir()) == [executed_copy(path) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_page(path):
    problems = check_markdown(path)
    assert not problems, "\n".join(problems)


def test_notebooks_have_their_own_numbers():
    numbers = [path.name[:2] for path in NOTEBOOKS]
    assert len(set(numbers)) == len(numbers)


# ---------------------------------------------------------------- the checker itself

PICTURE = '<img src="data:image/png;base64,iVBORw0KGgo/tmp/AAAA" alt="two lines that cross">'
FIGURE = f"<figure>{PICTURE}<figcaption>Two lines.</figcaption></figure>"
OPENING = """# A small notebook

[Read it with its results](../executed/small.ipynb)

You will be able to say what a good notebook is. 5 minutes on a laptop. Needs: nothing."""
EXERCISES = """## Exercises

*Optional · about 1 minute*

### Exercise 1: predict

<details><summary>Hint</summary>

Count.
</details>

### Exercise 2: change

<details><summary>Solution</summary>

```python
# Two, not a heading.
```
</details>"""
CLAIM = "**Claim** it is small → **Evidence** a test → **Verdict** yes"
QUESTIONS = "## Check yourself\n\n*Core · about 1 minute*\n" + "".join(
    f"""
**{letter}.** Which is it?

<details><summary>This</summary>

**Right.** This is why it is.
</details>

<details><summary>That</summary>

**No.** That is why it is not.
</details>

<details><summary>Both</summary>

**Not quite.** A half of it is wrong.
</details>
"""
    for letter in "ABC"
)
ONWARD = """## Summary

*Core · about 1 minute*

That was it. On to [the next](next.ipynb#More-to-read), or [up](#Exercises)."""


def good_notebook():
    """A good executed copy, but for the link below its title."""
    code = [
        new_code_cell(BOOTSTRAP, outputs=[new_output("stream", name="stdout", text="0.1.0\n")]),
        new_code_cell(
            "draw()",
            outputs=[new_output("display_data", {"text/html": FIGURE, "text/plain": "[lines]"})],
        ),
        new_code_cell(
            "1 / 0",
            metadata={"tags": ["raises-exception"]},
            outputs=[new_output("error", ename="ZeroDivisionError", evalue="", traceback=["…"])],
        ),
    ]
    for count, cell in enumerate(code, 1):
        cell.execution_count = count
    texts = [new_markdown_cell(text) for text in (OPENING, EXERCISES, CLAIM, QUESTIONS, ONWARD)]
    notebook = new_notebook(cells=[texts[0], *code, *texts[1:]])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook.metadata["language_info"] = LANGUAGE
    notebook.metadata["sff_teach"] = {"version": "0.1.0", "seconds": 3.0}
    return notebook


def cleaned(notebook):
    """The students' copy of an executed notebook."""
    clean = copy.deepcopy(notebook)
    clean.metadata.pop("sff_teach", None)
    for cell in clean.get("cells", ()):
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return clean


def write_course(folder: Path, clean, executed) -> Path:
    """Write both copies of a notebook, and another that it links to, as the course has them."""
    further = new_notebook(cells=[new_markdown_cell("# Next\n\n## More to read")])
    for part, notebook in (("notebooks", clean), ("executed", executed)):
        (folder / part).mkdir(exist_ok=True)
        nbformat.write(further, folder / part / "next.ipynb")
        text = json.dumps(notebook)  # as it is, valid or not
        (folder / part / "small.ipynb").write_text(text, encoding="utf-8")
    return folder / "notebooks" / "small.ipynb"


def problems_of(notebook, folder: Path) -> list[str]:
    """What is wrong with a notebook and its executed copy, given the executed one."""
    path = write_course(folder, cleaned(notebook), notebook)
    return [*check_notebook(path), *check_executed(path)]


def test_good_notebook_has_no_problem(tmp_path):
    assert problems_of(good_notebook(), tmp_path) == []


def edit(number: int, old: str, new: str):
    """Break a cell's source, in both copies, so that only the one thing is wrong."""

    def change(notebook):
        cell = notebook.cells[number]
        assert old in cell.source
        cell.source = cell.source.replace(old, new)

    return change


def output(number: int, kind: str, *data, **fields):
    """Give a cell another output."""

    def change(notebook):
        notebook.cells[number].outputs = [new_output(kind, *data, **fields)]

    return change


def metadata(key: str, value, number: int | None = None):
    def change(notebook):
        (notebook if number is None else notebook.cells[number]).metadata[key] = value

    return change


def field(number: int, key: str, value):
    def change(notebook):
        notebook.cells[number][key] = value

    return change


def forget(key: str):
    def change(notebook):
        del notebook.metadata["sff_teach"][key]

    return change


def no_outputs(notebook):
    notebook.cells = [c for c in notebook.cells if "tags" not in c.metadata]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []


BROKEN = {
    "no notebook": (lambda n: n.pop("cells"), "not a valid notebook"),
    "old format": (lambda n: n.update(nbformat_minor=4), "older than notebook format 4.5"),
    "unknown field": (field(1, "colour", "red"), "not a valid notebook"),
    "no id": (lambda n: n.cells[1].pop("id"), "not a valid notebook"),
    "same ids": (lambda n: n.cells[2].update(id=n.cells[1].id), "two cells have the id"),
    "other kernel": (metadata("kernelspec", {"name": "ir", "display_name": "R"}), "not python3"),
    "widget state": (metadata("widgets", {}), "unneeded metadata: widgets"),
    "timing": (metadata("execution", {}, 1), "unneeded metadata: execution"),
    "tag": (metadata("tags", ["nbval-skip"], 2), "unknown tag 'nbval-skip'"),
    "too large": (metadata("tags", ["x" * MAX_BYTES], 2), "bytes; at most"),
    "empty cell": (edit(5, CLAIM, " "), "cell 6: empty cell"),
    "long line": (edit(2, "draw()", "d" * 101), "a line of 101 characters"),
    "not run": (field(2, "execution_count", None), "not run once from top to bottom"),
    "run twice": (field(2, "execution_count", 7), "not run once from top to bottom"),
    "no outputs": (no_outputs, "no outputs are kept"),
    "no version": (forget("version"), "sff_teach.version is missing"),
    "no seconds": (forget("seconds"), "sff_teach.seconds is missing"),
    "slow": (lambda n: n.metadata["sff_teach"].update(seconds=91), "one run took 91 s"),
    "slower than said": (
        lambda n: n.cells[0].update(source=OPENING + " It runs in\nabout 1 seconds."),
        "one run took 3.0 s; the opening says 1 seconds",
    ),
    "error": (output(2, "error", ename="KeyError", evalue="x", traceback=[]), "error output"),
    "raised nothing": (output(3, "stream", text="fine"), "nothing was raised"),
    "warning": (output(2, "stream", name="stderr", text="UserWarning: x"), "text on stderr"),
    "live widget": (
        output(2, "display_data", {WIDGET_VIEW: {"model_id": "1"}}),
        "a live widget is stored",
    ),
    "bare picture": (output(2, "display_data", {"image/png": "AAAA"}), "image/png without alt"),
    "empty alt": (
        output(2, "display_data", {"text/html": '<img src="data:," alt=" ">'}),
        "<img> without alt text in an output",
    ),
    "no caption": (
        output(2, "display_data", {"text/html": f"<figure>{PICTURE}</figure>caption"}),
        "a picture without a caption",
    ),
    "empty caption": (
        output(
            2,
            "display_data",
            {"text/html": f"<figure>{PICTURE}<figcaption> <b></b></figcaption></figure>"},
        ),
        "a picture without a caption",
    ),
    "home path": (output(2, "stream", text="read /home/ada/x"), "machine: /home/ada/x"),
    "Windows path": (output(2, "stream", text="read C:\\Users\\x"), "machine: C:\\Users\\x"),
    "path in error": (
        output(3, "error", ename="E", evalue="", traceback=["File \x1b[32m/root/x.py"]),
        "machine: /root/x.py",
    ),
    "traceback": (
        output(2, "stream", text="Traceback (most recent call last):\n"),
        "a traceback was printed",
    ),
    "broken link": (edit(7, "next.ipynb#", "gone.ipynb#"), "broken link: gone.ipynb"),
    "broken anchor": (edit(7, "#More-to-read", "#Less"), "broken anchor: next.ipynb#Less"),
    "broken own anchor": (edit(7, "(#Exercises)", "(#Tests)"), "broken anchor: #Tests"),
    "broken picture": (edit(5, "**Claim**", "**Claim** ![a](a.png)"), "broken link: a.png"),
    "picture without alt": (
        edit(5, "**Claim**", "**Claim** ![](next.ipynb)"),
        "cell 6: picture without alt text",
    ),
    "<img> without alt": (
        edit(5, "**Claim**", '**Claim** <img src="next.ipynb">'),
        "cell 6: picture without alt text",
    ),
    "HTML link": (edit(5, "**Claim**", '<a href="no.md">Claim</a>'), "broken link: no.md"),
    "heading jump": (edit(4, "## Exercises\n", ""), "heading jumps from level 1 to 3"),
    "two titles": (edit(4, "## Exercises", "# Exercises"), "2 headings of level 1"),
    "no title": (edit(0, "# A small", "## A small"), "0 headings of level 1"),
    "no aims": (edit(0, "You will be able to", "You may"), '"You will be able to"'),
    "no minutes": (edit(0, "5 minutes", "A while"), "the minutes it takes"),
    "no needs": (edit(0, "Needs:", "Brings:"), "what it needs"),
    "other bootstrap": (edit(1, "import sys", "import sys  # mine"), "tools/bootstrap_cell.py"),
    "one exercise": (edit(4, "### Exercise 2", "### Example 2"), "1 headings like"),
    "no hint": (edit(4, "<summary>Hint</summary>", ""), "an exercise without a hint or solution"),
    "no solution": (edit(4, "<details><summary>Sol", "<p><summary>Sol"), "an exercise without"),
    "no verdict": (edit(5, "Verdict", "Result"), "no cell holds claim"),
    "no questions": (edit(6, "## Check yourself", "## More"), 'no section "Check yourself"'),
    "questions elsewhere": (
        edit(6, "## Check yourself", "## Check yourself\n\n## Then"),
        "no section",
    ),
    "two questions": (edit(6, "**C.**", "And:"), "2 self-check questions"),
    "two answers": (
        edit(6, "<details><summary>Both</summary>\n\n**Not quite.** A half", "A half"),
        "question A: at least 3 answers",
    ),
    "no verdict on an answer": (edit(6, "**No.** ", ""), "question B: at least 3 answers"),
    "hidden Markdown": (
        edit(6, "</summary>\n\n", "</summary>\n"),
        "question C: at least 3 answers",
    ),
    "Markdown in an answer": (edit(6, "<summary>That", "<summary>$K$"), "Markdown is not seen"),
    "no right answer": (edit(6, "**Right.**", "**No.**"), "question A: exactly one answer"),
    "all right": (edit(6, "**No.**", "**Right.**"), "question A: exactly one answer"),
    "no reason": (
        edit(6, "That is why it is not.", "No!"),
        "question A: no reason given behind 'That'",
    ),
    "no summary": (edit(7, "## Summary", "## End"), 'no heading "Summary"'),
    "no link onward": (edit(7, "[the next](next.ipynb#More-to-read)", ""), "no link onward"),
    "a link to Colab": (
        edit(0, "You will", f"[Open in Colab]({COLAB}x/y)\n\nYou will"),
        "links below the",
    ),
    "unchecked stub": (
        metadata("tags", ["exercise"], 2),
        "an exercise without a cell tagged check",
    ),
    "language": (metadata("language_info", {"name": "python"}), "language_info is not what"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_checker_sees(case, tmp_path):
    change, words = BROKEN[case]
    notebook = good_notebook()
    change(notebook)
    assert any(words in problem for problem in problems_of(notebook, tmp_path))


def test_checker_sees_two_copies_that_differ(tmp_path):
    executed = good_notebook()
    clean = cleaned(executed)
    clean.cells[5].source += " And more."
    path = write_course(tmp_path, clean, executed)
    assert check_notebook(path) == []
    assert any("cells are not those of the notebook" in said for said in check_executed(path))
    executed_copy(path).unlink()
    assert any("is missing" in said for said in check_executed(path))


def test_checker_sees_outputs_in_a_students_copy(tmp_path):
    path = write_course(tmp_path, good_notebook(), good_notebook())
    problems = check_notebook(path)
    assert sum("an output or a count is kept" in said for said in problems) == 3
    assert any("unneeded metadata: sff_teach" in said for said in problems)


def test_checker_sees_minutes_that_are_not_true(tmp_path):
    notebook = good_notebook()
    notebook.cells[7].source = notebook.cells[7].source.replace("1 minute", "5 minutes")
    assert any("its minutes are not those" in said for said in problems_of(notebook, tmp_path))
    notebook = good_notebook()
    notebook.cells[7].source += " word" * 9000
    assert any("its core takes 80 minutes" in said for said in problems_of(notebook, tmp_path))


def test_checker_accepts_what_only_looks_wrong(tmp_path):
    notebook = good_notebook()
    notebook.cells[2].outputs.append(
        new_output("stream", text="https://example.org/home/ada/ and ~/work/ and sff-teach/data\n")
    )
    assert problems_of(notebook, tmp_path) == []


PAGE = (
    '# Page\n\n## A part\n\n[here](#a-part) [file](a.txt) ![a cat](a.txt) <img src="a.txt" alt="b">'
)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("", "", None),
        ("[file](a.txt)", "[file](b.txt)", "broken link: b.txt"),
        ("#a-part", "#another", "broken anchor: #another"),
        ("![a cat]", "![]", "picture without alt text"),
        (' alt="b"', "", "picture without alt text"),
        ("## A part", "### A part", "heading jumps"),
    ],
)
def test_checker_sees_in_pages(old, new, words, tmp_path):
    (tmp_path / "a.txt").touch()
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace(old, new) if old else PAGE, encoding="utf-8")
    problems = check_markdown(page)
    assert problems == [] if words is None else any(words in problem for problem in problems)


# ---------------------------------------------------------------- running notebooks


TO_RUN = """\
import sys, pathlib, ipywidgets
from IPython.display import display
print(pathlib.Path.cwd() / "x")
print(object())
sys.stderr.write(" 50%|#####     | 1/2 [00:01<00:01]")
dot = '<figure><img src="data:," alt="a dot"><figcaption>A dot.</figcaption></figure>'
framed = ipywidgets.HTML(dot)
display(ipywidgets.VBox([ipywidgets.IntSlider(), ipywidgets.HBox([framed])]))"""


def test_running_writes_a_clean_and_an_executed_copy(tmp_path, capsys):
    notebook = good_notebook()
    notebook.cells[1].source = f"{MARK}\nan old bootstrap cell"
    notebook.cells[2].source = TO_RUN
    notebook.metadata["widgets"] = {}
    notebook.cells[2].metadata["execution"] = {"iopub.execute_input": "2020-01-01"}
    ids = [cell.id for cell in notebook.cells]
    path = write_course(tmp_path, notebook, good_notebook())

    assert run_notebooks.main([str(path)]) == 0, capsys.readouterr().out  # and nothing to mend
    clean, first = (nbformat.read(p, as_version=4) for p in (path, executed_copy(path)))
    assert [cell.id for cell in first.cells] == [cell.id for cell in clean.cells] == ids
    assert first.cells[1].source == BOOTSTRAP
    assert not any(cell.get("outputs") for cell in clean.cells)
    printed, widget = first.cells[2].outputs
    assert printed.text == "temporary/" + printed.text.split("/", 1)[1]
    assert "<object object at 0x…>" in printed.text
    assert '<img src="data:," alt="a dot">' in widget.data["text/html"]
    assert set(first.metadata) == {"kernelspec", "language_info", "sff_teach"}
    assert "(../notebooks/small.ipynb)" in first.cells[0].source

    assert run_notebooks.main([str(path)]) == 0
    again = nbformat.read(executed_copy(path), as_version=4)
    for run in (first, again):
        del run.metadata["sff_teach"]["seconds"]
    assert again == first


def test_what_cannot_be_kept_stays_as_it_was(tmp_path, capsys):
    def write(name, *sources):
        notebook = good_notebook()
        for cell, source in zip(notebook.cells[2:4], sources):
            cell.source = source
        nbformat.write(notebook, folder / name)

    folder = tmp_path / "notebooks"
    folder.mkdir()
    write("fails.ipynb", "print(undefined)")
    write("large.ipynb", "print('x' * 1_600_000)")
    write("raises_nothing.ipynb", "1 + 1", "2 + 2")
    write("no_bootstrap.ipynb")
    unmarked = folder / "no_bootstrap.ipynb"
    unmarked.write_text(unmarked.read_text(encoding="utf-8").replace(MARK, "# Mine"))
    before = {path: path.read_bytes() for path in folder.iterdir()}

    assert run_notebooks.main([str(path) for path in [*before, folder / "missing.ipynb"]]) == 1
    printed = capsys.readouterr().out
    assert "fails.ipynb … NOT KEPT: cell 3 failed: NameError" in printed
    assert "large.ipynb … NOT KEPT: it would be 1," in printed
    assert "raises_nothing.ipynb … NOT KEPT: cell 4 is tagged raises-exception" in printed
    assert "no_bootstrap.ipynb … NOT KEPT: the first code cell is not the bootstrap" in printed
    assert "missing.ipynb … NOT KEPT" in printed
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "executed").exists()


# ---------------------------------------------------------------- the bootstrap cell

ADDRESS = "https://github.com/an-owner/a-name"


def run_bootstrap(folder: Path, *cells: str, **environment: str) -> Path:
    """Run cells, or the bootstrap cell twice, as a notebook in Colab would; the package's folder.

    No site-packages of another course may help: the package must come from what the cell finds.
    """
    script = f"""
import sys, types
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.path = [p for p in sys.path if p not in ("", {str(ROOT)!r})]
sys.modules["google.colab"] = types.ModuleType("google.colab")
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in {cells or (BOOTSTRAP, BOOTSTRAP)!r}:
    last = shell.run_cell(cell)
last.raise_error()
found = shell.user_ns["sff_teach"].__file__
assert found, "No module named 'sff_teach'"  # an editable install leaves an empty folder behind
print(found)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1]).resolve().parents[1]


def stand_in_course(folder: Path) -> Path:
    package = folder / "sff_teach"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "9.9"\n')
    return folder.resolve()


@pytest.mark.parametrize("place", ["notebooks", "notebooks/assignments/release/a1"])
def test_bootstrap_finds_the_course_above(place, tmp_path):
    course = stand_in_course(tmp_path / "course")
    folder = course / place
    folder.mkdir(parents=True)
    assert run_bootstrap(folder) == course
    assert list(folder.iterdir()) == []


@pytest.fixture
def kit(tmp_path):
    """A kit with the beginning of the package in it."""
    packed = tmp_path / "a kit.zip"
    with ZipFile(packed, "w") as archive:
        for module in ("__init__.py", "util/__init__.py"):
            archive.write(ROOT / "sff_teach" / module, f"sff_teach/{module}")
    return packed


@pytest.mark.parametrize("name", ["sff-teach-kit.zip", "sff-teach-kit (1).zip"])
def test_kit_beside_the_notebook_unpacks_itself(name, kit, tmp_path):
    folder = tmp_path / "with a space"
    folder.mkdir()
    shutil.copy(kit, folder / name)
    assert run_bootstrap(folder) == (folder / "sff-teach").resolve()


def test_kit_that_comes_late_is_found_by_a_second_run(kit, tmp_path):
    folder = tmp_path / "content"
    folder.mkdir()
    upload = f"import shutil; shutil.copy({str(kit)!r}, 'sff-teach-kit.zip')"
    upload += "\ndel sys.modules['sff_teach']"  # the empty folder of an editable install
    found = run_bootstrap(folder, BOOTSTRAP, upload, BOOTSTRAP)
    assert found == (folder / "sff-teach").resolve()


def test_bootstrap_fetches_nothing_until_there_is_an_address(tmp_path):
    """In Colab, with nothing there: an error, and the line that it shows says what to upload."""
    assert bootstrap_cell.REPOSITORY is None
    assert "git" not in BOOTSTRAP and "//" not in BOOTSTRAP
    assert "Put sff-teach-kit.zip beside this notebook" in BOOTSTRAP.splitlines()[-1]
    assert bootstrap_cell.colab_address("notebooks/small.ipynb") is None
    with pytest.raises(AssertionError, match="No module named 'sff_teach'"):
        run_bootstrap(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bootstrap_clones_a_tag_once_there_is_an_address(tmp_path):
    """A folder takes the place of the repository, by a setting of git: the cell stays as it is."""
    source = stand_in_course(tmp_path / "source")
    git = ["git", "-C", str(source), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"], ["tag", "v9"]):
        subprocess.run([*git, *command], check=True)
    redirect = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{source.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": ADDRESS,
    }
    content = tmp_path / "content"
    content.mkdir()
    cell = bootstrap_cell.bootstrap(ADDRESS, "v9")
    assert run_bootstrap(content, cell, cell, **redirect) == (content / "sff-teach").resolve()


# ---------------------------------------------------------------- stamping


def test_stamping_cleans_and_brings_new_prose_to_the_executed_copy(tmp_path):
    executed = good_notebook()
    notebook = copy.deepcopy(executed)
    executed.cells[1].source = f"{MARK}\nan old bootstrap cell"
    notebook.cells[5].source += " And more."
    path = write_course(tmp_path, notebook, executed)
    assert stamp.main([str(path)]) == 0
    assert check_notebook(path) == check_executed(path) == []
    after = nbformat.read(executed_copy(path), as_version=4)
    assert after.cells[5].source.endswith("And more.")
    assert after.cells[1].outputs == executed.cells[1].outputs
    text = path.read_bytes(), executed_copy(path).read_bytes()
    assert stamp.main([str(path)]) == 0
    assert text == (path.read_bytes(), executed_copy(path).read_bytes())


def test_stamping_does_not_hide_code_that_never_ran(tmp_path, capsys):
    notebook = good_notebook()
    notebook.cells[2].source = "never_ran()"
    path = write_course(tmp_path, notebook, good_notebook())
    stamp.main([str(path)])
    assert "small.ipynb: must run" in capsys.readouterr().out
    assert any("cells are not those" in problem for problem in check_executed(path))


def test_stamping_writes_links_to_colab_and_removes_them(monkeypatch):
    readme = stamp.README.read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| \d\d \| \[[^\]]+\]\((notebooks/[^)]+)\)", readme)
    assert [Path(row).name for row in rows] == [path.name for path in NOTEBOOKS]
    assert stamp.stamp_readme(readme) == readme, "run make stamp"
    with monkeypatch.context() as owned:
        owned.setattr(bootstrap_cell, "REPOSITORY", ADDRESS)
        linked = stamp.stamp_readme(readme)
        opening = bootstrap_cell.with_links(OPENING, "notebooks/small.ipynb")
    assert linked.count(f"{COLAB}an-owner/a-name/blob/{bootstrap_cell.TAG}/") == len(NOTEBOOKS)
    assert opening.splitlines()[2].endswith("/notebooks/small.ipynb)")
    assert stamp.stamp_readme(linked) == readme
    assert bootstrap_cell.with_links(opening, "notebooks/small.ipynb") == OPENING


# ---------------------------------------------------------------- time


def test_a_notebook_over_its_time_by_half_is_late(monkeypatch):
    seconds = {"quick.ipynb": 10.0, "slow.ipynb": 2 * notebook_times.MAX_SECONDS}
    monkeypatch.setattr(notebook_times, "seconds_of", seconds)
    assert notebook_times.late() == ["slow.ipynb"]
