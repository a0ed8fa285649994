"""How Sphinx builds the site; `make site` calls it through tools/make_site.py."""

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sff_teach import __version__  # noqa: E402
from tools.bootstrap_cell import REPOSITORY, TAG  # noqa: E402

_authors = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["authors"]
_parts = ("name", "given-names", "family-names")

project = "Scalable Forward-Forward"
author = ", ".join(" ".join(one[part] for part in _parts if part in one) for one in _authors)
copyright = author
release = version = __version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]

# Notebooks: their stored outputs, never run here. None holds a live widget, so none needs a script.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
mathjax_path = "mathjax/tex-chtml.js"

# Docstrings.
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autosummary_generate = False
add_module_names = False
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # fields are listed once, in the words of the class
default_role = "code"
viewcode_follow_imported_members = False  # one source per name, where it is written

html_use_index = html_domain_indices = False  # the reference and the search do that
html_theme = "sphinx_book_theme"
html_title = project
html_favicon = "favicon.svg"
html_static_path = [str(ROOT / "build" / "site-source" / "_static"), "site.css", "site.js"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "max_navbar_depth": 1,  # deeper, the side bar has buttons without a name
    "extra_footer": f"<p>Version {__version__}. Code: MIT; notebooks: CC BY 4.0.</p>",
}
if REPOSITORY:
    html_theme_options |= {
        "repository_url": REPOSITORY,
        "repository_branch": TAG,
        "use_repository_button": True,
        "use_issues_button": True,
    }
