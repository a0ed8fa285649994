"""The inspector: one image through two or more networks, block by block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ipywidgets
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import draw
from ..analysis.probes import goodness_maps
from ..core import SFF, GoodnessHead
from ..data.folder import read_image
from ..data.sets import ImageSet
from ..util.checks import check_known, escape_unprintable, explained, short_repr
from ..util.modes import evaluating
from .panel import STYLE, InstantPanel, button, display_box, layout

MAX_BYTES = 4_000_000  # of an uploaded file
CHOICE, TRUTH = "its own prediction", "the true class"
BEST = 3  # classes followed through the blocks


@dataclass(frozen=True, eq=False)
class View:
    """One network's view of an image: ``goodness`` (blocks, K), ``maps`` (K, H, W) per block."""

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

    ``image``: (C, H, W) pixels in [0, 1]. ``label``: its class number, None for an upload.
    ``views``: name of a network → its ``View``.
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
        row: dict[str, object] = {"image": self.name, "true class": self.true}
        for name, view in self.views.items():
            row[f"{name}: prediction"] = self.classes[view.prediction]
            row[f"{name}: softmax %"] = round(100 * view.running[-1].max().item(), 1)
            row[f"{name}: by block"] = ", ".join(self.classes[k] for k in view.votes)
        return row


@explained()
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
        data: where the image comes from. number: which one.
        evidence: whose maps are drawn: each network's own prediction, the true class, or a class.
        pixels: (C, H, W) in [0, 1], an image to look at instead. name: what to call it.

    Raises:
        ValueError, TypeError: no such image or class, or a network without goodness heads.
    """
    if not models:
        raise ValueError("models is empty; give at least one network, as {'SFF': model}.")
    for key, model in models.items():
        if not isinstance(model, SFF) or not all(
            isinstance(block.head, GoodnessHead) for block in model.blocks
        ):
            raise TypeError(
                f"models[{key!r}] has no goodness heads to inspect; train one of localize's "
                "networks with 'sff', 'deepsup' or 'bp-goodness'."
            )
    check_known(evidence, (CHOICE, TRUTH, *data.classes), "evidence")
    if pixels is None:
        if not 0 <= number < len(data):
            raise ValueError(
                f"number={short_repr(number)} is no image of {len(data)}; give 0 to {len(data) - 1}."
            )
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


@explained()
def read_upload(content: bytes, name: str, data: ImageSet, invert: bool = False) -> Tensor:
    """(C, H, W) in [0, 1], like the images of ``data``, from an image file's bytes.

    Args:
        content, name: of the file. data: gives size and channels. invert: light and dark swapped.

    Raises:
        ValueError: too large, or not a PNG, JPEG, BMP or WebP image.
    """
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(f"content must be the bytes of a file, not {short_repr(content)}; read it.")
    if not isinstance(name, str) or not isinstance(data, ImageSet):
        raise TypeError(
            f"name and data must be a string and an ImageSet, not {short_repr(name)} and {short_repr(data)}; "
            "see data.load."
        )
    name = escape_unprintable(name.replace("\\", "/").rpartition("/")[2])[:60] or "the upload"
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"{name} has {len(content) / 1e6:.1f} MB; give one below {MAX_BYTES / 1e6:.0f} MB."
        )
    image = read_image(Path(name), data.size, content=bytes(content))
    if image.ndim == 3 and data.channels == 1:
        image = image @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    if image.ndim == 2:
        image = np.repeat(image[None], data.channels, 0)
    else:
        image = image.transpose(2, 0, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).float() / 255
    return 1 - pixels if invert else pixels


@explained()
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
        shown = {CHOICE: view.prediction, TRUTH: result.label}.get(result.evidence)
        if shown is None:
            known = result.evidence in result.classes
            shown = result.classes.index(result.evidence) if known else view.prediction
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
    return fig


def _draw_running(ax, view: View, result: InspectorResult, position: dict[int, int]) -> None:
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


@explained()
def describe_inspector(result: InspectorResult) -> str:
    """The predictions in words."""
    lines = [f"Image {result.name}, true class {result.true}."]
    for name, view in result.views.items():
        votes = ", ".join(result.classes[k] for k in view.votes)
        lines.append(
            f"{name} says {result.classes[view.prediction]} "
            f"({view.running[-1].max().item():.0%}); block by block: {votes}."
        )
    return " ".join(lines)


class Inspector(InstantPanel):
    """The widget of ``inspector``: ``box`` is displayed, ``results`` are the kept images.

    Args:
        models: name → network. data: images to pick from. results: kept from the start.
    """

    title = "Kept images"

    def __init__(
        self,
        models: Mapping[str, SFF],
        data: ImageSet,
        results: Sequence[InspectorResult] = (),
        number: int = 0,
    ):
        self.models, self.data = dict(models), data
        self._upload: tuple[str, bytes] | None = None
        controls = {
            "number": ipywidgets.IntSlider(
                min=0, max=len(data) - 1, value=number, description="image", style=STYLE,
                continuous_update=False, layout=layout(width="360px"),
            ),
            "evidence": ipywidgets.Dropdown(
                options=[CHOICE, TRUTH, *data.classes], value=CHOICE, description="maps of",
                style=STYLE, layout=layout(width="270px"),
            ),
        }  # fmt: skip
        self.mistake = button("Next mistake", "step-forward", "Next image with a wrong prediction")
        self.upload = ipywidgets.FileUpload(
            accept=".png,.jpg,.jpeg,.bmp,.webp", multiple=False, description="Upload"
        )
        self.invert = ipywidgets.Checkbox(
            value=False, description="swap light and dark", indent=False,
            layout=layout(width="170px"),
        )  # fmt: skip
        super().__init__(controls, [self.mistake, self.upload, self.invert], results, "sff-inspect")
        self.mistake.on_click(self._guarded(self._on_mistake))
        self.upload.observe(self._guarded(self._on_upload), "value")
        self.invert.observe(self._guarded(self._on_invert), "value")
        controls["number"].observe(self._guarded(self._on_number), "value")

    def run(self, number: int, evidence: str) -> InspectorResult:
        """``run_inspector`` of the picked or the uploaded image."""
        if self._upload is None:
            return run_inspector(self.models, self.data, number, evidence)
        name, content = self._upload
        pixels = read_upload(content, name, self.data, self.invert.value)
        return run_inspector(
            self.models, self.data, evidence=evidence, pixels=pixels, name=Path(name).name[:60]
        )

    def draw(self, result: InspectorResult) -> Figure:
        """``draw_inspector``."""
        return draw_inspector(result)

    def describe(self) -> str:
        """``describe_inspector`` of what is on show."""
        return describe_inspector(self.result)

    def summary(self, result: InspectorResult) -> str:
        """What each network says."""
        said = (f"{name}: {result.classes[v.prediction]}" for name, v in result.views.items())
        return f"True class: {result.true}. " + ", ".join(said) + "."

    def _on_number(self, change) -> None:
        if self._upload is not None:
            self._upload = None
            self.update()

    def _on_invert(self, change) -> None:
        if self._upload is not None:
            self.update()

    def _on_upload(self, change) -> None:
        files = change["new"]
        if not files:
            return
        # ipywidgets 8: a tuple of dicts; 7: a dict from the name to one
        if isinstance(files, Mapping):
            name, one = next(iter(files.items()))
        else:
            one = files[0]
            name = one["name"]
        self._upload = name, bytes(one["content"])
        self.update()

    def _on_mistake(self, button) -> None:
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
        self._say("There is no mistake among these images.")


def inspector(models: Mapping[str, SFF], data: ImageSet, number: int = 0) -> Inspector:
    """Show one image's way through the networks as a figure, then a widget that takes any other.

    Args as for ``run_inspector``. Returns the inspector.
    """
    result = run_inspector(models, data, number)
    text, fig = describe_inspector(result), draw_inspector(result)
    draw.show(
        fig,
        alt="A row per network: the image, the goodness map of every block for one class, and the "
        f"vote of the blocks so far. {text}",
        caption=f"Over a map: what that block alone would choose. {text}",
    )
    made = Inspector(models, data, number=number)
    made.offer(fig)
    display_box(made.box)
    return made
