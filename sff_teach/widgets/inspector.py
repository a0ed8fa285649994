"""The inspector: one image through two or more networks, block by block."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ipywidgets
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .. import draw
from ..analysis.probes import goodness_maps
from ..core import SFF, GoodnessHead
from ..data import ImageSet
from ..util.checks import SFFError, check_known, escape_unprintable
from ..util.modes import evaluating
from .panel import STYLE, Explorer, button, slider

FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
CHOICE, TRUTH = "its own prediction", "the true class"
# The browser shrinks large pictures, which would exceed what a notebook's server lets through, and
# hands name and content over as text. Of what it cannot show the first bytes say what it is.
_UPLOAD = """<label>Upload a picture <input type="file" accept="image/*" onchange="(async () => {
  const file = this.files[0];
  if (!file) return;
  let part = file;
  if (file.size > 1e6) try {
    if (/gif|hei|avif/.test(file.type)) throw file.type;
    const picture = await createImageBitmap(file);
    const scale = Math.min(1, 512 / Math.max(picture.width, picture.height));
    const canvas = document.createElement('canvas');
    canvas.width = Math.max(1, scale * picture.width);
    canvas.height = Math.max(1, scale * picture.height);
    canvas.getContext('2d').drawImage(picture, 0, 0, canvas.width, canvas.height);
    part = await new Promise(done => canvas.toBlob(done));
  } catch { part = file.slice(0, 64); }
  const reader = new FileReader();
  reader.onload = () => {
    const text = this.closest('.sff-explorer').querySelector('.sff-upload textarea');
    text.value = file.name + String.fromCharCode(10) + reader.result;
    text.dispatchEvent(new Event('input', {bubbles: true}));
    text.dispatchEvent(new Event('change', {bubbles: true}));
    this.value = '';
  };
  reader.readAsDataURL(part);
})()"></label>"""
BEST = 3  # classes followed through the blocks


@dataclass(frozen=True, eq=False)
class View:
    """One network's view of an image.

    Attributes:
        goodness: (blocks, K).
        maps: (K, H, W) per block.
    """

    goodness: Tensor
    maps: tuple[Tensor, ...]

    @property
    def votes(self) -> list[int]:
        """What each block alone would choose."""
        return self.goodness.argmax(1).tolist()

    @property
    def running(self) -> Tensor:
        """(blocks, K): softmax of the mean goodness of the blocks so far."""
        count = torch.arange(1, len(self.goodness) + 1)[:, None]
        return (self.goodness.cumsum(0) / count).softmax(1)

    @property
    def prediction(self) -> int:
        """By the mean of all blocks."""
        return int(self.running[-1].argmax())


@dataclass(frozen=True, eq=False)
class InspectorResult:
    """An image and how each network sees it.

    Attributes:
        name: of the image.
        image: (C, H, W) pixels in [0, 1].
        label: its class number; None for an upload.
        classes: names of all classes.
        views: name of a network → its ``View``.
        evidence: whose maps are drawn: ``CHOICE``, ``TRUTH``, or a class.
    """

    name: str
    image: Tensor
    label: int | None
    classes: tuple[str, ...]
    views: Mapping[str, View] = field(repr=False)
    evidence: str = CHOICE

    @property
    def true(self) -> str:
        """Name of the true class, or a question mark."""
        return "?" if self.label is None else self.classes[self.label]

    def row(self) -> dict[str, object]:
        """The predictions as plain values, for a table."""
        row: dict[str, object] = {}
        for name, view in self.views.items():
            row[f"{name}: prediction"] = self.classes[view.prediction]
            row[f"{name}: softmax %"] = round(100 * view.running[-1].max().item(), 1)
            row[f"{name}: by block"] = ", ".join(self.classes[k] for k in view.votes)
        return row | {"image": self.name, "true class": self.true}

    def __str__(self) -> str:
        parts = [f"Image {self.name}, true class {self.true}."]
        for name, view in self.views.items():
            votes = ", ".join(self.classes[k] for k in view.votes)
            sure = f"{view.running[-1].max().item():.0%}"
            parts.append(
                f"{name} says {self.classes[view.prediction]} ({sure}); by block: {votes}."
            )
        if self.label is None and self.evidence == TRUTH:
            parts.append("The true class is unknown, so the maps are those of the predictions.")
        return " ".join(parts)

    def shown(self, view: View) -> int:
        """The class whose maps are drawn."""
        if self.evidence in self.classes:
            return self.classes.index(self.evidence)
        return view.prediction if self.evidence == CHOICE or self.label is None else self.label


def run_inspector(
    models: Mapping[str, SFF],
    data: ImageSet,
    number: int = 0,
    evidence: str = CHOICE,
    *,
    pixels: Tensor | None = None,
    name: str = "upload",
) -> InspectorResult:
    """Send one image through every network and keep votes, goodness and maps.

    Args:
        models: name → a network with goodness heads, all for ``data``'s classes and images.
        data: where the image comes from.
        number: which one.
        evidence: whose maps are drawn: each network's own prediction, the true class, or a class.
        pixels: (C, H, W) in [0, 1], an image to look at instead.
        name: what to call it.
    """
    if pixels is None:
        one = data.subset([number])
        x, label, pixels = one.x, int(one.y[0]), one.pixels()[0]
        name = f"number {number}"
    else:
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
        x, label = (pixels[None] - mean) / std, None
    views = {}
    for key, model in models.items():
        maps = tuple(one[0].cpu() for one in goodness_maps(model, x))
        views[key] = View(torch.stack([one.mean((1, 2)) for one in maps]), maps)
    return InspectorResult(name, pixels, label, data.classes, views, evidence)


def read_upload(content: bytes, name: str, data: ImageSet, invert: bool = False) -> Tensor:
    """(C, H, W) in [0, 1], like the images of ``data``, from an image file's bytes.

    What is transparent becomes white.

    Args:
        content: of the file.
        name: of the file.
        data: gives size and channels.
        invert: whether light and dark are swapped.

    Raises:
        SFFError: not a PNG, JPEG, BMP or WebP image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.draft(None, (max(data.size), max(data.size)))  # decode no more than is needed
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16-bit grey, which convert would clip
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert("L" if data.channels == 1 else "RGB")
            image = ImageOps.fit(image, data.size[::-1], Image.Resampling.BILINEAR)
    except Image.DecompressionBombError:
        raise SFFError(f"{name} has too many pixels") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise SFFError(f"{name} {_what_else(content)}") from None
    pixels = torch.from_numpy(np.array(image)).float() / 255
    pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
    return 1 - pixels if invert else pixels


def _what_else(content: bytes) -> str:
    """What is wrong with a file that is no image of the right kind."""
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return "is a GIF: save it as PNG or JPEG"
    if content[4:8] == b"ftyp" and content[8:11] in (b"hei", b"hev", b"mif", b"msf", b"avi"):
        return "is a HEIC or AVIF picture: save it as JPEG or PNG"
    return "is damaged or not an image" if content else "is empty"


@draw.course_style()
def draw_inspector(result: InspectorResult) -> Figure:
    """Draw the image, each network's goodness maps, and its prediction block by block.

    A row per network. Over each map stands what that block alone would choose, with a tick where
    it is right. The curves are the softmax of the mean goodness of the blocks so far.
    """
    blocks = max(len(view.goodness) for view in result.views.values())
    rows = len(result.views)
    fig, axes = draw.new_figure(
        draw.WIDTH, 2.0 * rows + 0.3, rows, blocks + 2, width_ratios=[1] * (blocks + 1) + [1.6]
    )
    axes = np.array(axes).reshape(rows, blocks + 2)
    position: dict[int, int] = {}  # class → its style, the same in every row
    for i, ((name, view), (left, *maps, curves)) in enumerate(
        zip(result.views.items(), axes, strict=True)
    ):
        draw.draw_picture(left, result.image)
        left.set_title(f"true: {_short(result.true)}" if i == 0 else "", fontsize=9)
        left.set_ylabel(name, fontweight="bold")
        shown = result.shown(view)
        for k, ax in enumerate(maps):
            if k >= len(view.maps):
                ax.set_axis_off()
                continue
            one = view.maps[k][shown].numpy()
            ax.imshow(one, cmap="cividis", vmin=0, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
            vote = view.votes[k]
            mark = "" if result.label is None else (" ✓" if vote == result.label else " ✗")
            ax.set_title(f"{k + 1}: {_short(result.classes[vote])}{mark}", fontsize=9)
            ax.set_xlabel(f"{_short(result.classes[shown])} {one.mean():.2g}", fontsize=9)
        _draw_running(curves, view, result, position)
        if i == rows - 1:
            curves.set_xlabel("blocks so far")
    return draw.with_alt(
        fig,
        "A row per network: the image, the goodness map of every block for one class, and the vote "
        f"of the blocks so far. {result}",
    )


def _draw_running(ax: Axes, view: View, result: InspectorResult, position: dict[int, int]) -> None:
    best = view.running[-1].topk(min(BEST, len(result.classes)))[1].tolist()
    if result.label is not None and result.label not in best:
        best[-1] = result.label
    places, labels = range(1, len(view.goodness) + 1), []
    for k in best:
        look = draw.rule_style(f"class {k}", position.setdefault(k, len(position)))
        values = 100 * view.running[:, k].numpy()
        ax.plot(places, values, **look.line)
        labels.append((places[-1], float(values[-1]), _short(result.classes[k]), look.colour))
    ax.set_ylim(-4, 104)
    ax.set_xticks(list(places))
    ax.set_title("vote so far, %", fontsize=9)
    draw.end_labels(ax, labels)


def _short(name: str) -> str:
    return draw.shortened(name, 11)  # over a small picture


class Inspector(Explorer):
    """The widget of ``inspector``.

    Args:
        models: name → network.
        data: images to pick from.
        number: the first one.
    """

    title = "Kept images"
    file = "sff-inspect"
    caption = "Over a map: what that block alone would choose. Under it: a class and its goodness."

    def __init__(self, models: Mapping[str, SFF], data: ImageSet, number: int = 0):
        self.models = dict(models)
        self.data = data
        self._upload: tuple[str, bytes] | None = None
        controls = {
            "number": slider("image", 0, len(data) - 1, number, continuous_update=False),
            "evidence": ipywidgets.Dropdown(
                options=[CHOICE, TRUTH, *data.classes], value=CHOICE, description="maps of",
                style=STYLE, layout=ipywidgets.Layout(width="270px"),
            ),
        }  # fmt: skip
        self.mistake = button("Next mistake", "step-forward", "Next image with a wrong prediction")
        self.upload = ipywidgets.Textarea(layout=ipywidgets.Layout(display="none"))
        self.upload.add_class("sff-upload")
        self.invert = ipywidgets.Checkbox(
            value=False, description="swap light and dark", indent=False,
            layout=ipywidgets.Layout(width="170px"),
        )  # fmt: skip
        controls["number"].observe(self.guarded(self._on_number), "value")
        super().__init__(
            controls, [], [self.mistake, ipywidgets.HTML(_UPLOAD), self.upload, self.invert]
        )
        self.mistake.on_click(self.guarded(self._on_mistake))
        self.upload.observe(self.guarded(self._on_upload), "value")
        self.invert.observe(lambda _: self._upload is None or self.request(), "value")
        self.result = run_inspector(self.models, data, number)

    def run(self, number: int, evidence: str) -> InspectorResult:
        """``run_inspector`` of the picked or the uploaded image."""
        if self._upload is None:
            return run_inspector(self.models, self.data, number, evidence)
        name, content = self._upload
        pixels = read_upload(content, name, self.data, self.invert.value)
        return run_inspector(self.models, self.data, evidence=evidence, pixels=pixels, name=name)

    def draw(self) -> Figure:
        """``draw_inspector``."""
        return draw_inspector(self.result)

    def _on_number(self, _: Any) -> None:
        self._upload = None

    def _on_upload(self, change: Any) -> None:
        name, _, address = change["new"].partition("\n")
        if not name:
            return
        self.upload.value = ""  # so that the same file can be given again
        content = base64.b64decode(address.partition("base64,")[2])
        self._upload = escape_unprintable(name)[:60], content
        self.request()

    def _on_mistake(self, _: Any) -> None:
        """Go to the next image that the first network gets wrong."""
        model = next(iter(self.models.values()))
        device = next(model.parameters()).device
        start = self.controls["number"].value + 1
        order = [*range(start, len(self.data)), *range(start)]
        for i in range(0, len(order), 100):
            part = self.data.subset(order[i : i + 100])
            with evaluating(model):
                goodness = model.block_goodness(part.x.to(device))
            said = goodness.mean(1).argmax(1).cpu()  # as a View judges
            wrong = (said != part.y).nonzero().flatten()
            if len(wrong):
                self.controls["number"].value = order[i + int(wrong[0])]
                return
        self.say("There is no mistake among these images.")


def inspector(models: Mapping[str, SFF], data: ImageSet, number: int = 0) -> Inspector:
    """Show one image's way through the networks, and a widget that takes any other.

    Args:
        models: name → a network with goodness heads, all for ``data``'s classes and images.
        data: images to pick from.
        number: the first one.

    Returns:
        The inspector.

    Raises:
        SFFError: no network, or no such image.
        TypeError: a network without goodness heads.
    """
    if not models:
        raise SFFError("models is empty")
    for name, model in models.items():
        heads = (block.head for block in model.blocks) if isinstance(model, SFF) else [None]
        if not all(isinstance(head, GoodnessHead) for head in heads):
            raise TypeError(
                f"models[{name!r}] has no goodness heads; train it with sff, deepsup or bp-goodness"
            )
    check_known(number, range(len(data)), "number")
    made = Inspector(models, data, number)
    made.show()
    return made
