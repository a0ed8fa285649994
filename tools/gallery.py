"""Write docs/gallery.md and its pictures, and README's, from the executed notebooks.

    python tools/gallery.py

A picture is named by its notebook and the beginning of its alt text; text and caption come along.
"""

import base64
import html
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"  # shows cifar10.png
PAGE, FOLDER = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery"
PICTURES = (  # file, notebook, beginning of the caption, heading
    ("one-pass", "00", "SFF. Every block", "The whole idea in one picture"),
    ("decides", "00", "Blocks 1 to 4 say", "Watch a network make up its mind, block by block"),
    ("washed-out", "04", "Untrained networks", "Why Forward-Forward fails on CNNs"),
    ("evidence", "05", "Where the true class", "Where a block finds its evidence, at no cost"),
    ("explorer", "06", "Validation accuracy, one seed", "Turn the knobs yourself"),
    ("resnet", "07", "ResNet18 in nine blocks", "Cut a network you did not write"),
    ("hills", "08", "Backprop's curve has one summit", "Memory over one training step"),
    (
        "frontier",
        "09",
        "10,000 Fashion images, five seeds, 95 %",
        "Accuracy, memory and computation at once",
    ),
    ("cifar10", "12", "All 50,000 images of CIFAR-10", "All of CIFAR-10, beside the controls"),
    ("fine-tuning", "10", "1,000 Fashion images, 14 epochs", "A fair test of fine-tuning"),
    ("inspector", "11", "Over a map", "Look into single images"),
)
FIGURE = re.compile(
    r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)".*?<figcaption>(.*?)</figcaption>', re.S
)


def figures(notebook: Path) -> list[tuple[bytes, str, str]]:
    """(PNG, alt text, caption) of every figure among a notebook's outputs."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    found = []
    for cell in cells:
        for output in cell.get("outputs", ()):
            text = "".join(output.get("data", {}).get("text/html", ""))
            for data, alt, caption in FIGURE.findall(text):
                found.append((base64.b64decode(data), html.unescape(alt), html.unescape(caption)))
    return found


def find_figure(number: str, beginning: str) -> tuple[Path, bytes, str, str]:
    """The notebook and the figure whose caption begins like this."""
    (notebook,) = (ROOT / "executed").glob(f"{number}_*.ipynb")
    for picture, alt, caption in figures(notebook):
        if caption.startswith(beginning):
            return notebook, picture, alt, caption
    raise SystemExit(f"{notebook.name} has no figure whose caption begins {beginning!r}.")


def page() -> tuple[str, dict[str, bytes]]:
    """The text of gallery.md, and its pictures by file name."""
    count = "Eleven pictures from the notebooks; `make gallery` collects them anew."
    lines = ["# Gallery", "", count]
    pictures = {}
    for name, number, beginning, title in PICTURES:
        notebook, picture, alt, caption = find_figure(number, beginning)
        pictures[f"{name}.png"] = picture
        alt = plain(alt)
        link = f"[Notebook {number}](../executed/{notebook.name})"
        lines += ["", f"## {title}", "", f"![{alt}](gallery/{name}.png)", "", f"{caption} {link}."]
    return "\n".join(lines) + "\n", pictures


def plain(alt: str) -> str:
    """An alternative text for Markdown: one line without square brackets."""
    return " ".join(alt.split()).replace("]", ")").replace("[", "(")


def readme() -> str:
    """README.md with the alternative text that its picture has now."""
    ((_, number, beginning, _),) = (p for p in PICTURES if p[0] == "cifar10")
    alt = plain(find_figure(number, beginning)[2])
    text = README.read_text(encoding="utf-8")
    line = r"!\[[^]]*\]\(docs/gallery/cifar10\.png\)"
    return re.sub(line, lambda _: f"![{alt}](docs/gallery/cifar10.png)", text)


def main() -> None:
    """Write page and pictures; remove pictures that are no longer shown."""
    text, pictures = page()
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.png"):
        if old.name not in pictures:
            old.unlink()
    for name, picture in pictures.items():
        (FOLDER / name).write_bytes(picture)
    PAGE.write_text(text, encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")
    print(f"{len(pictures)} pictures, {sum(map(len, pictures.values())) / 1e3:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
