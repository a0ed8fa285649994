"""The base of the explorers: controls, one picture, trials that stay until Clear, files to save.

Answers are computed in a background thread, so that the notebook stays usable and Stop is heard.
The thread only assigns widget traits and never prints. Works with ipywidgets 7.7 and 8.
"""

import base64
import csv
import functools
import html
import io
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from .. import draw
from ..training.fit import History

RULES = ("sff", "deepsup", "bp-goodness", "bp")
KERNELS = (1, 3, 5)
SEEDS = (0, 1, 2, 3, 4)

# The still above a widget is for viewers without a kernel. A live widget takes its place, and where
# a saved widget cannot come back, the front end's error message gives way to the still.
_STILL = """<style>
.jp-OutputArea:has(.sff-explorer) .sff-still,
.output:has(.sff-explorer) .sff-still,
#output-body:has(.sff-explorer) .sff-still,
.jp-OutputArea:has(.sff-still) .jp-OutputArea-output.jupyter-widgets:not(:has(*))
{ display: none; }
</style><div class="sff-still">%s<p><em>%s</em></p></div>"""

# What ipywidgets leaves out: the status is a live region that stays in the page while its text
# changes, and a slider has its label as its name and what it displays as its spoken value.
_ACCESSIBLE = """<img src="data:," alt="" hidden onerror="setTimeout(() => {
  const box = this.closest('.sff-explorer');
  box.querySelector('.sff-status').setAttribute('role', 'status');
  for (const slider of box.querySelectorAll('.widget-slider')) {
    const handle = slider.querySelector('.noUi-handle');
    const readout = slider.querySelector('.widget-readout');
    if (!handle || !readout) continue;
    handle.setAttribute('aria-label', slider.querySelector('.widget-label').textContent);
    const say = () => handle.getAttribute('aria-valuetext') === readout.textContent ||
      handle.setAttribute('aria-valuetext', readout.textContent);
    new MutationObserver(say).observe(slider, {subtree: true, childList: true,
      characterData: true, attributes: true, attributeFilter: ['aria-valuetext']});
    say();
  }
}, 300)">"""

_SHOWN: dict[tuple, "Explorer"] = {}  # by class and cell: what the last run of a cell displayed


class Explorer:
    """Controls whose settings are answered at once; Keep makes a trial of the answer.

    A subclass says how to compute and draw. ``box`` is what is displayed. A result has ``row()``,
    its values for the table, and a sentence as its ``str``.

    Args:
        controls: name of an argument of ``run`` → its widget.
        results: trials to start from.
        others: widgets that stand beside the buttons.

    Attributes:
        results: the trials.
        result: the latest answer; None before the first one and after an error.
        error: the last exception, of which the reader saw one sentence; ``raise explorer.error``
            shows where it came from.
    """

    title = "Kept"
    file = "sff-explorer"  # name of the files to save, without ending
    caption = ""  # how to read the picture
    waiting = "Move a control. Keep makes a trial of what you see."
    working = "Computing …"

    def __init__(
        self,
        controls: dict[str, ipywidgets.Widget],
        results: Sequence = (),
        others: Sequence[ipywidgets.Widget] = (),
    ):
        self.controls = controls
        self.results = list(results)
        self.result: Any = None
        self.error: Exception | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted: dict | None = None
        self._stop = threading.Event()
        self.picture = Picture()
        self.network = Picture()
        self.table = ipywidgets.HTML()
        self.save = ipywidgets.HTML()
        self.status = ipywidgets.HTML(self.waiting)
        self.status.add_class("sff-status")
        self.clear = button("Clear", "trash", "Forget all trials")
        self.clear.on_click(self.guarded(lambda _: self.forget()))
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        buttons = [*self.make_buttons(), *others, self.clear]
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HBox(list(controls.values()), layout=row),
                ipywidgets.HBox(buttons, layout=row),
                self.status,
                self.picture,
                self.table,
                self.save,
                self.network,
                ipywidgets.HTML(_ACCESSIBLE),
            ]
        )
        self.box.add_class("sff-explorer")
        self.list_trials()

    # ---- what a subclass says

    def make_buttons(self) -> list[ipywidgets.Widget]:
        """The buttons left of Clear; here also: a control that moves is a request."""
        for control in self.controls.values():
            control.observe(self.request, "value")
        self.keep = button("Keep", "plus", "Make a trial of this result", "success")
        self.keep.on_click(self.guarded(lambda _: self.add(self.result)))
        return [self.keep]

    def run(self, **settings: Any) -> Any:
        """The result of these settings."""
        raise NotImplementedError

    def draw(self) -> Figure:
        """The present result and the trials, with an alternative text."""
        raise NotImplementedError

    def answer(self, settings: dict) -> None:
        """Compute and show a result; called in the background."""
        self.result = None
        self.result = self.run(**settings)
        self.redraw()
        self.say(str(self.result))

    def set_busy(self, busy: bool) -> None:
        """Enable and disable what must not be used now."""
        self.keep.disabled = busy or self.result is None

    # ---- requests

    @property
    def settings(self) -> dict[str, Any]:
        """What the controls say, as arguments for ``run``."""
        return {name: control.value for name, control in self.controls.items()}

    @property
    def busy(self) -> bool:
        """Whether an answer is being computed."""
        return self._thread is not None

    def request(self, *_: Any) -> None:
        """Ask for an answer to the present settings; it replaces a request that still waits."""
        with self._lock:
            self._wanted = self.settings
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def wait(self, seconds: float = 120) -> None:
        """Wait until everything that was asked for is answered."""
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

    def guarded(self, callback: Callable) -> Callable:
        """A callback whose exception becomes a sentence; ipywidgets would only log it."""

        @functools.wraps(callback)
        def guarded(*args: Any) -> None:
            try:
                callback(*args)
            except Exception as error:
                self.say_error(error)

        return guarded

    # ---- trials

    def add(self, result: Any) -> int:
        """Make a trial of a result, unless it is one already; return its number."""
        for number, trial in enumerate(self.results, 1):
            if _same_trial(trial, result):
                self.say(f"This is trial {number} already.")
                return number
        self.results.append(result)
        self.redraw()
        self.say(f"Trial {len(self.results)}: {result}")
        return len(self.results)

    def forget(self) -> None:
        """Forget all trials; what the controls say stays on show."""
        self.results.clear()
        self.network.hide()
        self.redraw()
        self.say("All trials are forgotten.")

    def redraw(self) -> None:
        """Draw picture, table and links anew; after an error the old picture stays."""
        if self.result is not None:
            self.picture.draw(self.draw())
        self.list_trials()

    def list_trials(self) -> None:
        """Write the table of trials and the links that save them."""
        rows = [{"trial": i} | result.row() for i, result in enumerate(self.results, 1)]
        self.table.value = _trials_html(rows, self.title)
        links = []
        if rows:
            links.append(
                _save_link(f"{self.file}.csv", "text/csv", _trials_csv(rows).encode(), "CSV")
            )
        if self.picture.png:
            links.append(_save_link(f"{self.file}.png", "image/png", self.picture.png, "picture"))
        self.save.value = " · ".join(links)

    # ---- words

    def say(self, text: str) -> None:
        """Write the status line."""
        self.status.value = html.escape(text)

    def say_error(self, error: Exception) -> None:
        """Write an error into the status line, in red, and keep it in ``error``."""
        self.error = error
        text = next(iter(str(error).strip().splitlines()), "")
        if not text or not isinstance(error, ValueError | TypeError | RuntimeError | OSError):
            text = f"{type(error).__name__}: {text}".removesuffix(": ")
        colour = draw.ink(draw.OKABE_ITO["vermillion"])
        self.status.value = f'<span style="color:{colour}"><b>Error:</b> {html.escape(text)}</span>'

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.results)} trials)"

    # ---- in a notebook

    def show(self) -> None:
        """Display a still and the widget, which hides the still while it lives.

        If the same cell has displayed an explorer before, that one stops, and its trials come over.
        """
        key = (type(self), _cell())
        if key in _SHOWN:
            old = _SHOWN[key]
            old._stop.set()
            new = [one for one in old.results if not any(_same_trial(one, r) for r in self.results)]
            self.results += new
        _SHOWN[key] = self
        figure = self.draw()
        self.picture.draw(figure)
        self.list_trials()
        if _cell() is None:
            draw.show(figure, caption=self.caption)
            return
        data = draw.figure_data(figure, caption=self.caption)
        data["text/html"] = _STILL % (data["text/html"], "Run this cell to use the explorer.")
        draw.display_data(data)
        from IPython.display import display

        display(self.box)


class TrainingExplorer(Explorer):
    """An explorer that trains when Train is pressed, which Stop ends; every training is a trial.

    Among the controls are ``rule``, ``blocks`` and ``kernel_size``.
    """

    title = "Trials"
    waiting = "Choose, predict, then press Train."
    working = "Training …"

    def make_buttons(self) -> list[ipywidgets.Widget]:
        """Train, Stop, and the bar of progress."""
        self._pace = draw.Pace()
        self._history: History | None = None
        self.train = button("Train", "play", "Train a network with these settings", "success")
        self.train.on_click(self.guarded(self._on_train))
        self.stop = button("Stop", "stop", "Stop after the current step; the run does not count")
        self.stop.disabled = True
        self.stop.on_click(lambda _: self._stop.set())
        self.progress = ipywidgets.FloatProgress(
            min=0, max=1, value=0, layout=ipywidgets.Layout(width="200px")
        )
        self.controls["rule"].observe(self.guarded(self._on_rule), "value")
        return [self.train, self.stop, self.progress]

    def draw(self, history: History | None = None) -> Figure:
        """All trials; with ``history``, the run in progress as well."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Draw picture, table and links anew; the trials are what there is to draw."""
        self.picture.draw(self.draw())
        self.list_trials()

    def draw_network(self, result: Any, title: str) -> Figure | None:
        """The network of a trial, for explorers that show it."""
        return None

    def trial_number(self, settings: dict) -> int | None:
        """The number of the trial that has these settings, if there is one."""
        raise NotImplementedError

    def answer(self, settings: dict) -> None:
        """Train, then add a trial or say why there is none."""
        result = self.run(**settings, on_epoch=self._on_epoch, stop=self._stop)
        if result.history.stopped is None:
            number = self.add(result)
            network = self.draw_network(result, f"Network of trial {number}")
            if network is not None:
                self.network.draw(network)
            return
        self.redraw()
        if result.history.stopped == "diverged":
            raise RuntimeError("The loss is no longer finite, so this run is no trial.")
        self.say("Stopped. A run that was cut short is no trial.")

    def set_busy(self, busy: bool) -> None:
        """While a training runs only Stop can be pressed, and the controls say what is trained."""
        self.stop.disabled = not busy
        self.progress.value = 0
        for widget in (self.train, self.clear, *self.controls.values()):
            widget.disabled = busy
        if not busy:
            self._on_rule()

    def _on_rule(self, *_: Any) -> None:
        rule = self.controls["rule"].value
        self.controls["blocks"].disabled = rule.startswith("bp")
        self.controls["kernel_size"].disabled = rule == "bp"

    def _on_train(self, _: Any) -> None:
        number = self.trial_number(self.settings)
        if number is not None:
            self.say(f"This is trial {number} already: {self.results[number - 1]}")
        elif not self.busy:
            self.request()

    def _on_epoch(self, history: History) -> None:
        epochs = history.settings["epochs"]
        self.progress.value = len(history.rows) / epochs
        self.say(f"Training: epoch {len(history.rows)} of {epochs} is over.")
        if history.rows and self._pace.due and not self._stop.is_set():
            with self._pace:
                self.picture.draw(self.draw(history))


class Picture(ipywidgets.HTML):
    """A figure with alt text, which ``ipywidgets.Image`` cannot have; ``png`` are its bytes.

    Once it had a figure, its height stays reserved, so that nothing below it jumps.
    """

    def __init__(self) -> None:
        super().__init__(layout=ipywidgets.Layout(display="none", max_width="100%"))
        self.png = b""

    def draw(self, fig: Figure) -> None:
        """Show this figure."""
        self.png = draw.quick_png(fig)
        self.layout.min_height = f"{100 * fig.get_figheight():.0f}px"
        self.layout.display = "block"
        self.value = draw.image_html(self.png, fig.get_figwidth(), fig.alt)

    def hide(self) -> None:
        """Show nothing and forget the figure."""
        self.png = b""
        self.value = ""
        self.layout.display = "none"


def _cell() -> str | None:
    """The id of the notebook cell that is running; "" where the front end gives none; else None."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    if shell is None:
        return None
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return parent.get("metadata", {}).get("cellId", "")


def in_words(trials: Sequence) -> str:
    """The last six trials in words."""
    numbered = [f"Trial {i}: {trial}" for i, trial in enumerate(trials, 1)]
    return " ".join(numbered[-6:]) or "No trial yet."


def _same_trial(a: Any, b: Any) -> bool:
    """Whether two results have the same values, apart from the seconds they took."""
    a, b = ({k: v for k, v in one.row().items() if k != "seconds"} for one in (a, b))
    return a == b


def _trials_csv(rows: Sequence[dict]) -> str:
    """Trials as CSV."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _trials_html(rows: Sequence[dict], title: str) -> str:
    """Trials as an HTML table, without what only the CSV has; empty without trials."""
    if not rows:
        return ""
    names = [name for name in rows[0] if name not in ("seconds", "blocks %")]
    cell = 'style="padding:0 0.8em; text-align:right; white-space:nowrap"'
    head = "".join(f'<th scope="col" {cell}>{html.escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>"
        + "".join(f"<td {cell}>{html.escape(str(row[name]))}</td>" for name in names)
        + "</tr>"
        for row in rows
    )
    caption = f'<caption style="text-align:left">{title}</caption>'
    table = f"<table>{caption}<tr>{head}</tr>{body}</table>"
    return (
        f'<div style="overflow-x:auto" tabindex="0" role="group" aria-label="{title}">{table}</div>'
    )


def _save_link(name: str, kind: str, content: bytes, what: str) -> str:
    """A link that saves a file, with the file inside it."""
    data = base64.b64encode(content).decode("ascii")
    look = 'style="text-decoration:underline"'
    return f'<a download="{name}" href="data:{kind};base64,{data}" {look}>Save as {what}</a>'


# ---------------------------------------------------------------- controls

STYLE = {"description_width": "90px"}


def dropdown(description: str, options: dict, value: Any = None) -> ipywidgets.Dropdown:
    """A list to choose from.

    Args:
        description: its label.
        options: text → value.
        value: chosen at first; None takes the first one.
    """
    value = next(iter(options.values())) if value is None else value
    return ipywidgets.Dropdown(
        options=list(options.items()), value=value, description=description, style=STYLE,
        layout=ipywidgets.Layout(width="270px"),
    )  # fmt: skip


def slider(description: str, low: int, high: int, value: int, **options: Any):
    """A slider of whole numbers.

    Args:
        description: its label.
        low: the smallest value.
        high: the largest value.
        value: the first value.
        **options: of ``ipywidgets.IntSlider``.
    """
    return ipywidgets.IntSlider(
        min=low, max=high, value=value, description=description, style=STYLE,
        layout=ipywidgets.Layout(width="290px"), **options,
    )  # fmt: skip


def button(text: str, icon: str, tooltip: str, style: str = "") -> ipywidgets.Button:
    """A button with an icon.

    Args:
        text: on the button.
        icon: a name of Font Awesome 4.
        tooltip: what the button does.
        style: an ipywidgets ``button_style``.
    """
    return ipywidgets.Button(description=text, icon=icon, tooltip=tooltip, button_style=style)
