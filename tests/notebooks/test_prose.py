"""No figure in the prose that nobody measured, asserted or cited; and the check can fail."""

import json

import pytest

from tools.check_prose import ROOT, problems, stored_pages, unsupported

PAGES = [*sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "README.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_figure_has_a_ground(path):
    assert problems(path, stored_pages()) == []


@pytest.mark.parametrize(
    ("prose", "ground"),
    [
        ("SFF is ahead by 3.7 points.", False),
        ("SFF reaches 91.8 % here.", False),
        ("It is 2.4 × slower.", False),
        ("It takes 17 seconds.", False),
        ("SFF reaches 88.5 % here.", True),  # printed by the notebook
        ("SFF reaches 8.5 % here.", False),  # part of another number
        ("SFF reaches 88 % here.", True),  # rounded
        ("Less than 60 % are right.", True),  # asserted as 0.6
        ("One in $10/11 = 0.91$: 91 % sure.", True),
        ("SFF reaches 77.7 % here.", True),  # in a page of results
        ("Wang et al. (2021) report 91.8 %.", True),
        ("| row | 91.8 % |\n| Wang et al. 2021 | 12.3 % |", False),
        ("Say, 91.8 %. <!-- not measured: an example -->", True),
        ("Say, 91.8 %. <!-- not measured: -->", False),
        ("The mean $91.8 %$ of `91.8 %`.", True),
        ("A 3 × 3 kernel and 1×1 heads on 28×28 images.", True),
    ],
)
def test_what_counts_as_ground(prose, ground):
    assert (unsupported(prose, "accuracy 88.49 %\nassert share < 0.6", "| 77.7 |") == []) == ground


def test_a_planted_figure_is_found(tmp_path):
    notebook = json.loads(PAGES[1].read_text(encoding="utf-8"))
    notebook["cells"][2]["source"] = ["SFF wins by 4.321 points."]
    notebook["cells"][2]["cell_type"] = "markdown"
    path = tmp_path / "planted.ipynb"
    path.write_text(json.dumps(notebook), encoding="utf-8")
    planted = [line for line in problems(path, stored_pages()) if "4.321" in line]
    assert planted and planted[0].startswith("planted.ipynb, cell 3: '4.321 points'")
