"""The inspector: one image through two or more networks, block by block."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor

from .. import draw
from ..analysis.probes import goodness_maps
from ..core import SFF
from ..data import ImageSet
from ..util.checks import SFFError, check_count
from ..util.modes import evaluating
from .panel import Explorer, asset, button, dropdown, slider

CHOICE, TRUTH = "its own prediction", "the true class"
BEST = 3  # classes drawn over the blocks


@dataclass(frozen=True, eq=False)
class View:
    """One network's view of an image."""

    maps: list[Tensor]  # (K, H, W) per block

    @property
    def goodness(self) -> Tensor:
        """(blocks, K)."""
        return torch.stack([block_map.mean((1, 2)) for block_map in self.maps])

    @property
    def votes(self) -> list[int]:
        """The class with the highest goodness in each block."""
        return self.goodness.argmax(1).tolist()

    @property
    def running(self) -> Tensor:
        """(blocks, K): softmax of the mean goodness of the blocks so far."""
        count = torch.arange(1, len(self.maps) + 1)[:, None]
        return (self.goodness.cumsum(0) / count).softmax(1)

    @property
    def prediction(self) -> int:
        """By the mean of all blocks."""
        return int(self.running[-1].argmax())


@dataclass(frozen=True, eq=False)
class InspectorResult:
    """An image, and each network's goodness maps for it."""

    name: str
    image: Tensor  # (C, H, W) in [0, 1]
    label: int | None  # None for an upload
    classes: tuple[str, ...]
    views: Mapping[str, View]  # by the networks' names
    evidence: str = CHOICE  # whose maps are drawn: CHOICE, TRUTH, or a class

    @property
    def true(self) -> str:
        """Name of the true class, or a question mark."""
        return "?" if self.label is None else self.classes[self.label]

    def shown(self, view: View) -> int:
        """The class whose maps are drawn; for an upload the prediction."""
        if self.evidence in self.classes:
            return self.classes.index(self.evidence)
        return view.prediction if self.evidence == CHOICE or self.label is None else self.label

    def row(self) -> dict[str, object]:
        """The predictions as plain values, for a table."""
        views = self.views.items()
        row: dict[str, object] = {
            f"{name}: prediction": self.classes[view.prediction] for name, view in views
        }
        row |= {"true class": self.true, "image": self.name}
        for name, view in views:
            row[f"{name}: softmax %"] = round(100 * view.running[-1].max().item(), 1)
            row[f"{name}: by block"] = ", ".join(self.classes[k] for k in view.votes)
        return row

    def __str__(self) -> str:
        row = self.row()
        sentences = (
            f"{name} says {row[f'{name}: prediction']} ({row[f'{name}: softmax %']:.0f}%); "
            f"by block: {row[f'{name}: by block']}."
            for name in self.views
        )
        return f"Image {self.name}, true class {self.true}. {' '.join(sentences)}"


def run_inspector(
    models: Mapping[str, SFF],
    data: ImageSet,
    number: int = 0,
    evidence: str = CHOICE,
    upload: str = "",
    invert: bool = False,
) -> InspectorResult:
    """Goodness maps of one image in every network.

    Args:
        models: name → a network with goodness heads, all for ``data``'s classes and images.
        data: the images.
        number: of the image.
        evidence: whose maps are drawn: each network's own prediction, the true class, or a class.
        upload: an image to look at instead, as ``read_upload`` takes it.
        invert: whether light and dark of the upload are swapped.
    """
    chosen = data.subset([number])
    name, label, pixels = f"number {number}", int(chosen.y[0]), chosen.pixels()[0]
    x = chosen.x
    if upload:
        name, pixels = read_upload(upload, data)
        pixels, label = (1 - pixels if invert else pixels), None
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
        x = (pixels[None] - mean) / std
    views = {
        key: View([block_map[0].cpu() for block_map in goodness_maps(model, x)])
        for key, model in models.items()
    }
    return InspectorResult(name, pixels, label, data.classes, views, evidence)


def read_upload(text: str, data: ImageSet) -> tuple[str, Tensor]:
    """The name and the pixels (C, H, W) in [0, 1], like the images of ``data``, of an upload.

    Args:
        text: a file's name, a line's end, and a PNG image, or another file's beginning, in base 64.
        data: gives size and channels.
    """
    name, _, content = text.partition("\n")
    name, content = name[-60:], base64.b64decode(content)
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
    except OSError:
        raise SFFError(f"{name} {_unreadable(content)}") from None
    image = image.convert("L" if data.channels == 1 else "RGB")
    image = ImageOps.fit(image, data.size[::-1], Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).float() / 255
    return name, pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def _unreadable(content: bytes) -> str:
    """Why the browser could not read a file, from its first bytes."""
    if content.startswith(b"GIF8"):
        return "is a GIF: save it as PNG or JPEG"
    if content[4:11] in (b"ftyphei", b"ftyphev", b"ftypmif", b"ftypmsf"):
        return "is a HEIC picture: save it as JPEG or PNG"
    return "is damaged or not an image" if content else "is empty"


@draw.course_style()
def draw_inspector(result: InspectorResult) -> Figure:
    """Draw the image, each network's goodness maps, and its prediction block by block."""
    blocks = max(len(view.maps) for view in result.views.values())
    rows = len(result.views)
    fig, axes = draw.new_figure(
        draw.WIDTH, 2.0 * rows + 0.3, rows, blocks + 2, width_ratios=[1] * (blocks + 1) + [1.6]
    )
    position: dict[int, int] = {}  # class → its style, the same in every row
    for (name, view), (left, *places, curves) in zip(
        result.views.items(), np.reshape(axes, (rows, -1))
    ):
        draw.draw_picture(left, result.image)
        left.set_title("true class", fontsize=9)
        left.set_xlabel(_short(result.true), fontsize=9)
        left.set_ylabel(name, fontweight="bold")
        _draw_maps(places, view, result)
        _draw_running(curves, view, result, position)
    curves.set_xlabel("blocks so far")
    return draw.with_alt(
        fig,
        "A row per network: the image, the goodness map of every block for one class, and the vote "
        f"of the blocks so far. {result}",
    )


def _draw_maps(places: Sequence[Axes], view: View, result: InspectorResult) -> None:
    shown = result.shown(view)
    for ax in places[len(view.maps) :]:
        ax.set_axis_off()
    for k, (ax, maps, vote) in enumerate(zip(places, view.maps, view.votes), 1):
        ax.imshow(maps[shown].numpy(), cmap="cividis", vmin=0, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        mark = "" if result.label is None else (" ✓" if vote == result.label else " ✗")
        ax.set_title(f"{k}: {_short(result.classes[vote])}{mark}", fontsize=9)
        ax.set_xlabel(f"{_short(result.classes[shown])} {maps[shown].mean():.2g}", fontsize=9)


def _draw_running(ax: Axes, view: View, result: InspectorResult, position: dict[int, int]) -> None:
    best = view.running[-1].topk(min(BEST, len(result.classes)))[1].tolist()
    if result.label is not None and result.label not in best:
        best[-1] = result.label
    places, labels = range(1, len(view.maps) + 1), []
    for k in best:
        look = draw.rule_style(_short(result.classes[k]), position.setdefault(k, len(position)))
        values = 100 * view.running[:, k].numpy()
        ax.plot(places, values, **look.line, linewidth=2)
        labels.append((places[-1], float(values[-1]), look.label, look.colour))
    ax.set_ylim(-4, 104)
    ax.set_xticks(places)
    ax.set_title("vote so far, %", fontsize=9)
    draw.end_labels(ax, labels)


def _short(name: str) -> str:
    return draw.shortened(name, 11)  # over a small picture


def next_mistake(model: SFF, data: ImageSet, number: int) -> int:
    """The next misclassified image after ``number``, or ``number`` if there is none.

    Args:
        model: predicts by the mean of its blocks.
        data: the images.
        number: where to start; after the last image comes the first.
    """
    device = next(model.parameters()).device
    with evaluating(model):
        goodness = [model.block_goodness(x.to(device)).mean(1) for x in data.x.split(500)]
    wrong = (torch.cat(goodness).argmax(1).cpu() != data.y).nonzero().flatten().tolist()
    return next((i for i in wrong if i > number), (wrong or [number])[0])


def inspector(models: Mapping[str, SFF], data: ImageSet, number: int = 0) -> Explorer:
    """Show one image's maps in each network, and a widget to choose another image.

    Args:
        models: name → a network with goodness heads, all for ``data``'s classes and images.
        data: images to pick from.
        number: the first one.
    """
    if not models:
        raise SFFError("models is empty")
    check_count(number, "number", 0, len(data) - 1)
    evidence = {name: name for name in (CHOICE, TRUTH, *data.classes)}
    layout = ipywidgets.Layout(display="none")
    controls = {
        "number": slider("image", 0, len(data) - 1, number),
        "evidence": dropdown("maps of", evidence),
        "invert": ipywidgets.Checkbox(description="swap light and dark", indent=False),
        "upload": ipywidgets.Textarea(layout=layout),
    }
    image, upload = controls["number"], controls["upload"]
    upload.add_class("sff-upload")
    image.observe(lambda _: setattr(upload, "value", ""), "value")
    model = next(iter(models.values()))

    def to_mistake() -> None:
        upload.value, image.value = "", next_mistake(model, data, image.value)

    return Explorer(
        controls, partial(run_inspector, models, data), lambda _, result: draw_inspector(result),
        title="Kept images",
        caption="Over a map: what that block alone would choose. Under it: a class and its "
        "goodness.",
        others=[
            button("Next mistake", "step-forward", "Next image the first network gets wrong",
                   to_mistake),
            ipywidgets.HTML(asset("upload.html")),
        ],
    ).show()  # fmt: skip
