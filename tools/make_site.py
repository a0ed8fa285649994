"""Build the course as a static site in build/site: pages, notebooks as they are stored, reference.

    python tools/make_site.py

No notebook is run, and the site needs no other host. The pages are copied to build/site-source
first, where the reference's pages are added, so that Sphinx writes nothing into the course itself.
Every build starts from scratch, because each warning stops the build and Sphinx does not repeat
warnings of cached pages.
"""

import importlib.util
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that this file also runs as a script

from tools.bootstrap_cell import REPOSITORY, TAG, with_links  # noqa: E402
from tools.check_form import executed_copy  # noqa: E402
from tools.check_links import page_anchor  # noqa: E402

SOURCE, OUT, CACHE = (ROOT / "build" / name for name in ("site-source", "site", "site-cache"))
PAGES = (
    "*.md",
    "docs/*.md",
    "results/*.md",
    "data/README.md",
    "executed/*.ipynb",
    "notebooks/assignments/release/*/*.ipynb",  # the other copies hold the answers
)
# What the pages link to.
FILES = ("docs/gallery/*.png", "results/*.png", "LICENSE", "*/LICENSE", "CITATION.cff")

# The landing page is the README with hidden contents below it, which fill the side bar.
CONTENTS = (  # heading, pages
    ("The course", "executed/*"),
    ("Assignments", "notebooks/assignments/release/*/*"),
    ("Guides", "docs/teaching", "docs/*"),
    ("What we measured", "results/claims", "results/*"),
    ("Reference", "api/index"),
    ("Project", "CONTRIBUTING", "CHANGELOG", "data/README"),
)

# Helpers of the package that users do not call, and the file that is read as a whole.
INTERNAL = (
    "__main__", "sff_minimal", "cut.export", "cut.graph", "cut.measure", "cut.state", "cut.verify",
    "data.download", "data.folder", "training.checkpoint", "training.loader", "training.loop",
    "training.prepare", "util.checks", "util.files", "util.modes", "util.original",
    "util.progress", "widgets.panel",
)  # fmt: skip

# A link to a file of the course, also around a picture; a picture alone is no link.
LINK = re.compile(
    r"(?<!!)\[([^\[\]]*(?:!\[[^\]]*\]\([^)]*\))?[^\[\]]*)\]\((?!\w+:)([^)\s#]*)(?:#([^)\s]+))?\)"
)

# Between the ends of an interval, which stay on one line.
INTERVAL = re.compile(r"(?<=\d) … (?=[-+−]?\d)")

# Parts of MathJax: one renderer with its fonts, and spoken formulas.
MATHJAX = ("tex-chtml.js", "output/chtml/fonts", "input/tex/extensions", "a11y", "sre")


def rewrite_links(text: str, folder: Path, copied: set[Path]) -> str:
    """Return Markdown of a folder with its links as on the site.

    The README is the site's index. A link to a file that is not copied leads to the repository, or
    is removed if there is no address. Anchors of notebooks' headings are in lower case.
    """

    def changed(link: re.Match) -> str:
        words, path, anchor = link[1], link[2], link[3]
        target = (folder / unquote(path)).resolve()
        if target.parent == ROOT / "notebooks" and executed_copy(target) in copied:
            target = executed_copy(target)  # visitors read the copy with results
            path = os.path.relpath(target, folder)
        if target == ROOT / "README.md":
            path = path.removesuffix("README.md") + "index.md"
        elif path and target.exists() and target not in copied:
            if REPOSITORY is None:
                return words
            kind = "tree" if target.is_dir() else "blob"
            path = f"{REPOSITORY}/{kind}/{TAG}/{target.relative_to(ROOT).as_posix()}"
            anchor = None
        return f"[{words}]({path}" + (f"#{page_anchor(unquote(anchor))})" if anchor else ")")

    return LINK.sub(changed, text)


def fold(cell: dict) -> None:
    """Fold on the site what is folded in JupyterLab: a cell's code, or its outputs as well."""
    folded = cell["metadata"].get("jupyter", {})
    if folded.get("source_hidden"):
        tag = "hide-cell" if folded.get("outputs_hidden") else "hide-input"
        cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), tag]


def copy_pages() -> None:
    """Copy the pages and the files they link to in the same folders, the README as index.md."""
    pages = {page for pattern in PAGES for page in ROOT.glob(pattern)}
    files = {file for pattern in FILES for file in ROOT.glob(pattern)}
    copied = pages | files
    for file in sorted(copied):
        copy = SOURCE / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file in files:
            shutil.copyfile(file, copy)
            continue
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".ipynb":
            notebook = json.loads(text)
            opening = notebook["cells"][0]
            opening["source"] = with_links("".join(opening["source"]), file.name)
            for cell in notebook["cells"]:
                fold(cell)
                if cell["cell_type"] == "markdown":
                    source = "".join(cell["source"])
                    cell["source"] = rewrite_links(source, file.parent, copied)
            text = json.dumps(notebook, ensure_ascii=False, indent=1)
        else:
            text = INTERVAL.sub("\u00a0…\u00a0", rewrite_links(text, file.parent, copied))
        copy.write_text(text, encoding="utf-8")
    (SOURCE / "README.md").rename(SOURCE / "index.md")


def write_contents() -> None:
    """Add the contents to the landing page; a new page in a folder appears by itself."""
    with (SOURCE / "index.md").open("a", encoding="utf-8") as index:
        for heading, *pages in CONTENTS:
            lines = ["```{toctree}", ":hidden:", ":glob:", f":caption: {heading}", "", *pages]
            index.write("\n".join(["", *lines, "```", ""]))


def public_modules() -> list[str]:
    """Return the names of the package's modules that define something users may import."""
    import sff_teach

    found = pkgutil.walk_packages(sff_teach.__path__, "sff_teach.")
    names = (name for _, name, is_folder in found if not is_folder and "._" not in name)
    return sorted(name for name in names if name.removeprefix("sff_teach.") not in INTERNAL)


def write_reference() -> None:
    """Write a page for each public module, and an index of them and of what `sff_teach` exports."""
    import sff_teach

    exports = [getattr(sff_teach, name) for name in sff_teach.__all__ if name[0] != "_"]
    exported = [f"~{thing.__module__}.{thing.__name__}" for thing in exports]
    modules = public_modules()
    index = ["Reference", "=========", "", "Made from the docstrings of ``sff_teach``."]
    index += ["", "Exported by the package", "-----------------------", ""]
    index += [".. autosummary::", "", *(f"   {name}" for name in exported)]
    index += ["", "Modules", "-------", "", ".. autosummary::", ""]
    index += [*(f"   {name}" for name in modules), "", ".. toctree::", "   :hidden:", ""]
    index += [f"   {name}" for name in modules]
    folder = SOURCE / "api"
    folder.mkdir()
    (folder / "index.rst").write_text("\n".join([*index, ""]), encoding="utf-8")
    for name in modules:
        page = [name, "=" * len(name), "", f".. automodule:: {name}", "   :members:", ""]
        (folder / f"{name}.rst").write_text("\n".join(page), encoding="utf-8")


def copy_mathjax() -> None:
    """Copy MathJax from its Python package to the site's static files."""
    carrier = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
    for name in MATHJAX:
        part, copy = carrier / "static" / "mathjax" / name, SOURCE / "_static" / "mathjax" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if part.is_dir():
            shutil.copytree(part, copy)
        else:
            shutil.copyfile(part, copy)


def main() -> None:
    for folder in (SOURCE, OUT, CACHE):
        shutil.rmtree(folder, ignore_errors=True)
    copy_pages()
    write_contents()
    write_reference()
    copy_mathjax()
    sphinx = [sys.executable, "-m", "sphinx", "--builder", "html", "--quiet"]
    strict = ["--fail-on-warning", "--conf-dir", "docs/site", "--doctree-dir", str(CACHE)]
    done = subprocess.run([*sphinx, *strict, str(SOURCE), str(OUT)], cwd=ROOT)
    if done.returncode:
        raise SystemExit("The site was not built; Sphinx says above what is wrong, and where.")
    print(
        f"The site is in {OUT.relative_to(ROOT)}; open it with: python -m http.server -d build/site"
    )


if __name__ == "__main__":
    main()
