"""The base of all explorers: controls, one figure, and a table of trials.

Results are computed in a background thread, so that the notebook and Stop stay responsive. The
thread only assigns widget traits and never prints. Works with ipywidgets 7.7 and 8.
"""

import html
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ipywidgets
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from .. import draw
from ..training.history import History
from ..util.checks import SFFError

RULES = ("sff", "deepsup", "bp-goodness", "bp")
KERNELS = (1, 3, 5)
SEEDS = (0, 1, 2, 3, 4)

# The static figure is for viewers without a kernel. A live widget hides it; where a saved widget
# cannot be restored, the figure hides the front end's error message.
_STILL = """<style>
.jp-OutputArea:has(.sff-explorer) .sff-still,
.output:has(.sff-explorer) .sff-still,
#output-body:has(.sff-explorer) .sff-still,
.jp-OutputArea:has(.sff-still) .jp-OutputArea-output.jupyter-widgets:not(:has(*))
{ display: none; }
</style><div class="sff-still">%s<p><em>Run this cell to use the explorer.</em></p></div>"""

E = TypeVar("E", bound="Explorer")
_SHOWN: dict[tuple, "Explorer"] = {}  # the explorer that a cell displayed last, by title and cell


class Explorer:
    """Controls with an immediate result; Keep makes it a trial.

    ``box`` is the widget, ``results`` are the trials, ``result`` is the latest result, and
    ``error`` the last exception. A result has ``row()``, its values for the table, and a sentence
    as its ``str``.

    Args:
        controls: name of an argument of ``run`` → its widget.
        run: settings → a result; called in the background thread.
        draw: trials, latest result → a figure with an alternative text.
        results: trials to start from.
        title: of the table of trials.
        caption: how to read the picture.
        others: widgets beside the buttons.
    """

    waiting = "Move a control. Keep makes a trial of what you see."
    working = "Computing …"

    def __init__(
        self,
        controls: dict[str, ipywidgets.Widget],
        run: Callable[..., Any],
        draw: Callable[..., Figure],
        results: Sequence = (),
        *,
        title: str,
        caption: str,
        others: Sequence[ipywidgets.Widget] = (),
    ):
        self.controls, self.run, self.draw, self.results = controls, run, draw, list(results)
        self.title, self.caption = title, caption
        self.error: Exception | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted: dict | None = None
        self._stop = threading.Event()
        self.picture, self.table, self.network = (ipywidgets.HTML() for _ in range(3))
        self.status = ipywidgets.HTML(self.waiting)
        self.status.add_class("sff-status")
        self.clear = button("Clear", "trash", "Forget all trials", self.forget)
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        buttons = [*self.make_buttons(), *others, self.clear]
        rows = [ipywidgets.HBox(list(line), layout=row) for line in (controls.values(), buttons)]
        shown = [self.status, self.picture, self.table, self.network]
        self.box = ipywidgets.VBox([*rows, *shown, ipywidgets.HTML(asset("accessible.html"))])
        self.box.add_class("sff-explorer")

    # ---- overridden by TrainingExplorer

    def make_buttons(self) -> list[ipywidgets.Widget]:
        """The buttons left of Clear. Here a change of a control is a request."""
        self.result = self.run(**self.settings)
        for control in self.controls.values():
            control.observe(self.request, "value")
        self.keep = button("Keep", "plus", "Make a trial of what you see", self.on_keep, "success")
        return [self.keep]

    def on_keep(self) -> None:
        """Make a trial of the latest result."""
        self.add(self.result)

    def answer(self, settings: dict) -> None:
        """Compute and show a result; called in the background thread."""
        self.result = self.run(**settings)
        self.redraw()
        self.say(str(self.result))

    def set_busy(self, busy: bool) -> None:
        """Disable the controls that must not be used now."""
        self.keep.disabled = busy

    # ---- requests

    @property
    def settings(self) -> dict[str, Any]:
        """The values of the controls, as arguments for ``run``."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def busy(self) -> bool:
        """Whether a result is being computed."""
        return self._thread is not None

    def request(self, *_: Any) -> None:
        """Request a result for the current settings, instead of a waiting request."""
        with self._lock:
            self._wanted = self.settings
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def wait(self, seconds: float = 120) -> None:
        """Wait until all requests are done."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _work(self) -> None:
        self.set_busy(True)
        while True:
            with self._lock:
                settings, self._wanted = self._wanted, None
                if settings is None or self._stop.is_set():
                    self.set_busy(False)
                    self._thread = None
                    return
            self.say(self.working)
            try:
                self.answer(settings)
            except Exception as error:  # a thread's exception would only be logged
                self.say_error(error)

    # ---- trials

    def add(self, result: Any) -> int:
        """Make a trial of a result, unless it is one already; return its number."""
        rows = [trial.row() for trial in self.results]
        if result.row() in rows:
            number = rows.index(result.row()) + 1
            self.say(f"This is trial {number} already.")
            return number
        self.results.append(result)
        self.redraw()
        self.say(f"Trial {len(self.results)}: {result}")
        return len(self.results)

    def forget(self) -> None:
        """Remove all trials."""
        self.results.clear()
        self.network.value = ""
        self.redraw()
        self.say("All trials are forgotten.")

    def redraw(self) -> Figure:
        """Update figure and table; the figure's height stays reserved."""
        fig = self.draw(self.results, self.result)
        self.picture.layout.min_height = f"{100 * fig.get_figheight():.0f}px"
        show_figure(self.picture, fig)
        rows = [{"trial": i} | result.row() for i, result in enumerate(self.results, 1)]
        self.table.value = _trials_html(rows, self.title) if rows else ""
        return fig

    # ---- status line

    def say(self, text: str) -> None:
        """Write the status line."""
        self.status.value = html.escape(text)

    def say_error(self, error: Exception) -> None:
        """Write an error into the status line, in red, and keep it in ``error``."""
        self.error = error
        text = str(error) if isinstance(error, SFFError) else repr(error)
        self.status.value = f'<span style="color:#b00020"><b>Error:</b> {html.escape(text)}</span>'

    # ---- in a notebook

    def show(self: E) -> E:
        """Display a static figure and the widget, which hides it while live; return self.

        A previous explorer of the same cell is stopped, and its trials are taken over.
        """
        cell = running_cell()
        old = None if cell is None else _SHOWN.get((self.title, cell))
        if old is not None:
            old._stop.set()
            rows = [result.row() for result in self.results]
            self.results += [result for result in old.results if result.row() not in rows]
        figure = self.redraw()
        if cell is None:
            draw.show(figure, caption=self.caption)
            return self
        _SHOWN[self.title, cell] = self
        data = draw.figure_data(figure, caption=self.caption)
        display(data | {"text/html": _STILL % data["text/html"]}, raw=True)
        display(draw.caption_data(self.caption), raw=True)
        display(self.box)
        return self


class TrainingExplorer(Explorer):
    """An explorer with the buttons Train and Stop; every training is a trial.

    Among the controls are ``rule``, ``blocks`` and ``kernel_size``. ``run`` also takes ``on_epoch``
    and ``stop``, for ``fit``; the ``result`` that is drawn is the history of a run in progress, or
    None. A trial also has ``history``.
    """

    waiting = "Choose, predict, then press Train."
    working = "Training …"
    draw_network: Callable[[Any, str], Figure] | None = None  # result, title → figure

    def make_buttons(self) -> list[ipywidgets.Widget]:
        """Train, Stop, and the bar of progress."""
        self.result = None
        self.train = button(
            "Train", "play", "Train a network with these settings", self.on_train, "success"
        )
        self.stop = button(
            "Stop", "stop", "Stop after the current step; the run does not count", self._stop.set
        )
        self.stop.disabled = True
        layout = ipywidgets.Layout(width="200px")
        self.progress = ipywidgets.FloatProgress(min=0, max=1, value=0, layout=layout)
        self.controls["rule"].observe(self.on_rule, "value")
        return [self.train, self.stop, self.progress]

    def answer(self, settings: dict) -> None:
        """Train, and add a trial unless the training was stopped."""
        self._pace = draw.Pace()
        try:
            result = self.run(**settings, on_epoch=self.on_epoch, stop=self._stop)
        finally:
            self.result = None
        if result.history.stopped:
            self.redraw()
            self.say(f"The run has {result.history.stopped}, so it is no trial.")
            return
        number = self.add(result)
        if self.draw_network is not None:
            show_figure(self.network, self.draw_network(result, f"Network of trial {number}"))

    def set_busy(self, busy: bool) -> None:
        """During a training only Stop is enabled."""
        self.stop.disabled = not busy
        self.progress.value = 0
        for widget in (self.train, self.clear, *self.controls.values()):
            widget.disabled = busy
        if not busy:
            self.on_rule()

    def on_rule(self, *_: Any) -> None:
        """Disable blocks and heads for backprop."""
        rule = self.controls["rule"].value
        self.controls["blocks"].disabled = rule.startswith("bp")
        self.controls["kernel_size"].disabled = rule == "bp"

    def on_train(self) -> None:
        """Train, unless there is a trial with these settings."""
        wanted = columns(**self.settings).items()
        for number, trial in enumerate(self.results, 1):
            if wanted <= trial.row().items():
                self.say(f"This is trial {number} already: {trial}")
                return
        self.request()

    def on_epoch(self, history: History) -> None:
        """Show the progress of the training."""
        epochs = history.settings["epochs"]
        self.progress.value = len(history.rows) / epochs
        self.say(f"Training: epoch {len(history.rows)} of {epochs} is over.")
        if self._pace.due and len(history.rows) < epochs and not history.stopped:
            with self._pace:
                self.result = history
                self.redraw()


def asset(name: str) -> str:
    """The content of a file beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def running_cell() -> str | None:
    """The id of the running notebook cell, "" if unknown; None outside a notebook."""
    shell = get_ipython()
    if shell is None:
        return None
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return parent.get("metadata", {}).get("cellId", "")


def show_figure(widget: ipywidgets.HTML, fig: Figure) -> None:
    """Put a figure into a widget, with its alternative text."""
    widget.value = draw.image_html(draw.quick_png(fig), fig.get_figwidth(), fig.alt)


def columns(rule: str, blocks: int, kernel_size: int, **others: Any) -> dict[str, Any]:
    """Settings of a training as columns of the table: backprop has one block and its own head."""
    return {
        "rule": draw.rule_style(rule).label,
        "blocks": 1 if rule.startswith("bp") else blocks,
        "head": "linear" if rule == "bp" else f"{kernel_size}×{kernel_size}",
        **others,
    }


def in_words(trials: Sequence) -> str:
    """The last six trials, as text."""
    numbered = [f"Trial {i}: {trial}" for i, trial in enumerate(trials, 1)]
    return " ".join(numbered[-6:]) or "No trial yet."


def _trials_html(rows: Sequence[dict], title: str) -> str:
    """Trials as an HTML table that scrolls sideways."""
    look = "padding:0 0.8em; text-align:right; white-space:"
    head = f'<th scope="col" style="{look}normal">'
    cell = f'<td style="{look}nowrap">'
    lines = ["".join(f"{head}{html.escape(name)}</th>" for name in rows[0])]
    for row in rows:
        lines.append("".join(f"{cell}{html.escape(str(value))}</td>" for value in row.values()))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div style="overflow-x:auto" tabindex="0" role="group" aria-label="{title}">'
        f'<table><caption style="text-align:left">{title}</caption>{body}</table></div>'
    )


# ---------------------------------------------------------------- controls

STYLE = {"description_width": "100px"}


def dropdown(description: str, options: dict, value: Any = None) -> ipywidgets.Dropdown:
    """A list to choose from: text → value; the first one, unless another value is given."""
    value = next(iter(options.values())) if value is None else value
    return ipywidgets.Dropdown(
        options=list(options.items()), value=value, description=description, style=STYLE,
        layout=ipywidgets.Layout(width="270px"),
    )  # fmt: skip


def slider(description: str, low: int, high: int, value: int) -> ipywidgets.IntSlider:
    """A slider of whole numbers."""
    return ipywidgets.IntSlider(
        min=low, max=high, value=value, description=description, style=STYLE,
        layout=ipywidgets.Layout(width="290px"),
    )  # fmt: skip


def button(
    text: str, icon: str, tooltip: str, action: Callable[[], Any], style: str = ""
) -> ipywidgets.Button:
    """A button with an icon of Font Awesome 4."""
    made = ipywidgets.Button(description=text, icon=icon, tooltip=tooltip, button_style=style)
    made.on_click(lambda _: action())
    return made
