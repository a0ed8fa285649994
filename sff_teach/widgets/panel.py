"""What the explorers share: controls, buttons, trials that stay until Clear, files to save.

Training runs in a background thread, so that Stop is heard; it only assigns widget traits and never
prints. Works with ipywidgets 7.7 and 8.
"""

import base64
import csv
import functools
import html
import io
import threading
import time
from collections.abc import Callable, Sequence

import ipywidgets
from matplotlib.figure import Figure

from .. import draw
from ..training.fit import History
from ..util.checks import explained

RULES = ("sff", "deepsup", "bp-goodness", "bp")
KERNELS = (1, 3, 5)
SEEDS = (0, 1, 2, 3, 4)
REDRAW_SECONDS = 1.0  # while training, at least; drawing takes a fifth of it


class Panel:
    """A widget whose controls make results, keeps them until Clear, and offers them as files.

    ``box`` is what is displayed, ``results`` are the trials. A subclass says how to draw and
    describe them, and which button adds one. ``error`` is the last exception, which the reader saw
    as one sentence: ``raise explorer.error`` says where it came from.

    Args:
        controls: name of an argument of ``run`` → its widget.
        others: controls that decide only what is shown.
        buttons: shown left of Clear.
        results: trials to start from.
        file: name of the files to save, without ending.
    """

    title = "Trials"

    def __init__(
        self,
        controls: dict[str, ipywidgets.Widget],
        others: Sequence[ipywidgets.Widget],
        buttons: Sequence[ipywidgets.Widget],
        results: Sequence,
        file: str,
    ):
        self.controls, self.results, self.file = controls, list(results), file
        self.error: Exception | None = None
        self.clear = button("Clear", "trash", "Forget all trials")
        self.clear.on_click(self._guarded(self._on_clear))
        self.status = ipywidgets.HTML()
        self.network, self.picture = Picture(), Picture()
        self.caption, self.table, self.save = (ipywidgets.HTML() for _ in range(3))
        row = layout(flex_flow="row wrap", align_items="center")
        self.box = ipywidgets.VBox(
            [
                ipywidgets.HBox([*self.controls.values(), *others], layout=row),
                ipywidgets.HBox([*buttons, self.clear, *self.after_buttons()], layout=row),
                self.status,
                self.network,
                self.picture,
                self.caption,
                self.table,
                self.save,
            ]
        )
        self._list_trials()

    # What a subclass says.

    def after_buttons(self) -> Sequence[ipywidgets.Widget]:
        """What stands right of the buttons."""
        return ()

    def describe(self) -> str:
        """The trials in words."""
        raise NotImplementedError

    def summary(self, result) -> str:
        """What the status line says about a result."""
        raise NotImplementedError

    def rows(self) -> list[dict]:
        """One dict of plain values per trial, for the table and the CSV."""
        return [{"trial": i} | one.row() for i, one in enumerate(self.results, 1)]

    # What all do alike.

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.results)} trials)"

    @property
    def settings(self) -> dict:
        """What the controls say, as arguments for ``run``."""
        return {name: control.value for name, control in self.controls.items()}

    def offer(self, fig: Figure) -> None:
        """Offer a figure to be saved that is shown elsewhere: above the widget."""
        self.picture.png = draw.png(fig)
        self._list_trials()

    def _guarded(self, callback: Callable) -> Callable:
        """A callback whose exceptions become one red sentence; they would vanish into a log."""

        @functools.wraps(callback)
        def guarded(*args):
            try:
                return callback(*args)
            except Exception as error:
                self._say_error(error)

        return guarded

    def _say_error(self, error: Exception) -> None:
        self.error = error
        text = next(iter(str(error).strip().splitlines()), "")
        if not text or not isinstance(error, ValueError | TypeError | RuntimeError | OSError):
            text = f"{type(error).__name__}: {text}".removesuffix(
                ": "
            )  # KeyError says its key only
        self._say(text, error=True)

    def _say(self, text: str, error: bool = False) -> None:
        colour = draw.ink(draw.OKABE_ITO["vermillion"]) if error else "inherit"
        text = f"<b>Error:</b> {html.escape(text)}" if error else html.escape(text)
        self.status.value = f'<span role="status" style="color:{colour}">{text}</span>'

    def _on_clear(self, button) -> None:
        self.results.clear()
        self.network.hide()
        self.picture.hide()
        self.caption.value = ""
        self._list_trials()
        self._say("All trials are forgotten.")

    def _list_trials(self) -> None:
        rows = self.rows()
        self.table.value = trials_html(rows, self.title)
        links = []
        if rows:
            csv_bytes = trials_csv(rows).encode()
            links.append(save_link(f"{self.file}.csv", "text/csv", csv_bytes, "CSV"))
        if self.picture.png:
            links.append(save_link(f"{self.file}.png", "image/png", self.picture.png, "picture"))
        self.save.value = " · ".join(links)


class TrialsPanel(Panel):
    """A ``Panel`` that trains with the settings of its controls: Train, Stop, progress.

    Args as for ``Panel``; among the controls are ``rule``, ``blocks`` and ``kernel_size``.
    """

    def __init__(
        self,
        controls: dict[str, ipywidgets.Widget],
        others: Sequence[ipywidgets.Widget],
        results: Sequence,
        file: str,
    ):
        self.thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._drawn = 0.0
        self.train = button("Train", "play", "Train a network with these settings", "success")
        self.stop = button("Stop", "stop", "Stop after the current step; the run does not count")
        self.stop.disabled = True
        self.progress = ipywidgets.FloatProgress(
            min=0, max=1, value=0, layout=layout(width="300px")
        )
        self.train.on_click(self._guarded(self._on_train))
        self.stop.on_click(lambda button: self._stop.set())
        super().__init__(controls, others, [self.train, self.stop], results, file)
        self.controls["rule"].observe(self._guarded(self._on_rule), "value")
        self._say("Choose, predict, then press Train.")

    # What a subclass says.

    def run(self, *, on_epoch: Callable[[History], None], stop: threading.Event, **settings):
        """Train once: a result with ``history``, ``complete`` and ``row()``."""
        raise NotImplementedError

    def draw(self, history: History | None = None) -> Figure:
        """All trials; with ``history``, the run in progress as well."""
        raise NotImplementedError

    def draw_network(self, result) -> Figure | None:
        """The network of a trial, if it is shown."""
        return None

    # What all do alike.

    def after_buttons(self) -> Sequence[ipywidgets.Widget]:
        """The bar of progress."""
        return (self.progress,)

    def _on_rule(self, change) -> None:
        self.controls["blocks"].disabled = change["new"].startswith("bp")
        self.controls["kernel_size"].disabled = change["new"] == "bp"

    def _on_train(self, button) -> None:
        if self.thread is not None and self.thread.is_alive():
            return  # one run at a time
        self._stop.clear()
        thread = threading.Thread(target=self._work, args=(self.settings,), daemon=True)
        self._busy(True)
        self.progress.value = 0
        self._say("Training …")
        self.thread = thread
        thread.start()

    def _busy(self, busy: bool) -> None:
        self.train.disabled = self.clear.disabled = busy
        self.stop.disabled = not busy

    def _work(self, settings: dict) -> None:
        """In the background thread: train, then add a trial or say what went wrong."""
        try:
            result = self.run(**settings, on_epoch=self._on_epoch, stop=self._stop)
            if result.complete:
                self.results.append(result)
            if result.history.rows:
                self._draw(result)
            if result.complete:
                self._list_trials()
                self._say(f"Trial {len(self.results)}: {self.summary(result)}")
            elif result.history.stopped == "diverged":
                self._say("the loss is no longer finite, so this run is no trial.", error=True)
            else:
                self._say("Stopped. A run that was cut short is no trial.")
        except Exception as error:  # nobody would see it in a thread
            self._say_error(error)
        finally:
            self._busy(False)

    def _on_epoch(self, history: History) -> None:
        epochs = history.settings["epochs"]
        self.progress.value = len(history.rows) / epochs
        self._say(f"Training: epoch {len(history.rows)} of {epochs} is over.")
        if history.rows and time.monotonic() - self._drawn > REDRAW_SECONDS:
            self.picture.draw(self.draw(history), f"Training goes on. {self.describe()}")
            self._drawn = time.monotonic()

    def _draw(self, result=None) -> None:
        result = result or self.results[-1]
        network = self.draw_network(result)
        if network is not None:
            self.network.draw(network, "The trained network with its blocks and cuts.")
        self.picture.draw(self.draw(result.history), self.describe())
        self.caption.value = small(self.describe())
        self._list_trials()


class InstantPanel(Panel):
    """A ``Panel`` that answers as soon as a control moves; Keep makes a trial of the answer.

    ``result`` is the answer to the present settings; None after an error.
    """

    def __init__(
        self,
        controls: dict[str, ipywidgets.Widget],
        others: Sequence[ipywidgets.Widget],
        results: Sequence,
        file: str,
    ):
        self.result = None
        self.keep = button("Keep", "plus", "Keep this result as a trial", "success")
        self.keep.on_click(self._guarded(self._on_keep))
        super().__init__(controls, others, [self.keep], results, file)
        for control in controls.values():
            control.observe(self.update, "value")
        self._say("Move a control. Keep holds on to what you see.")

    def run(self, **settings):
        """The result of these settings, with ``row()``."""
        raise NotImplementedError

    def draw(self, result) -> Figure:
        """The result, and the trials."""
        raise NotImplementedError

    def update(self, change=None) -> None:
        """Answer the present settings; an error becomes one sentence in red."""
        self._say("Computing …")
        try:
            self.result = self.run(**self.settings)
            self.picture.draw(self.draw(self.result), self.describe())
            self._say(self.summary(self.result))
            self.caption.value = small(self.describe())
            self._list_trials()
        except Exception as error:  # a callback's exception would go to a log
            self.result = None
            self._say_error(error)
        self.keep.disabled = self.result is None

    def _on_keep(self, button) -> None:
        if self.result is None:
            self.update()
        if self.result is not None:
            self.results.append(self.result)
            self.update()

    def _on_clear(self, button) -> None:
        super()._on_clear(button)
        self.update()  # what the controls say stays on show


@explained()
def trials_csv(rows: Sequence[dict]) -> str:
    """Trials as CSV; empty without trials."""
    file = io.StringIO(newline="")
    if rows:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file.getvalue()


@explained()
def trials_html(rows: Sequence[dict], title: str) -> str:
    """Trials as an HTML table; empty without trials."""
    if not rows:
        return ""
    names = [name for name in rows[0] if name not in ("seconds", "blocks %")]  # the CSV has them
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


def save_link(name: str, kind: str, content: bytes, what: str) -> str:
    """A link that saves a file, with the file inside it."""
    data = base64.b64encode(content).decode("ascii")
    look = 'style="text-decoration:underline"'
    return f'<a download="{name}" href="data:{kind};base64,{data}" {look}>Save as {what}</a>'


# ---------------------------------------------------------------- small parts

STYLE = {"description_width": "90px"}


def layout(**traits) -> ipywidgets.Layout:
    return ipywidgets.Layout(**traits)


def dropdown(description: str, options: dict, value=None) -> ipywidgets.Dropdown:
    value = next(iter(options.values())) if value is None else value
    return ipywidgets.Dropdown(
        options=list(options.items()), value=value, description=description, style=STYLE,
        layout=layout(width="270px"),
    )  # fmt: skip


def slider(description: str, low: int, high: int, value: int) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(
        min=low, max=high, value=value, description=description, style=STYLE,
        layout=layout(width="270px"),
    )  # fmt: skip


def button(text: str, icon: str, tooltip: str, style: str = "") -> ipywidgets.Button:
    return ipywidgets.Button(description=text, icon=icon, tooltip=tooltip, button_style=style)


class Picture(ipywidgets.HTML):
    """A figure with alt text, which ``ipywidgets.Image`` cannot have; ``png`` are its bytes.

    Hidden until it has a figure.
    """

    def __init__(self):
        super().__init__(layout=layout(display="none", max_width="100%"))
        self.png = b""

    def draw(self, fig: Figure, alt: str) -> None:
        """Show this figure."""
        self.png = draw.png(fig)
        self.value = draw.image_html(self.png, fig.get_figwidth(), alt)
        self.layout.display = "block"

    def hide(self) -> None:
        """Show nothing and forget the figure."""
        self.png, self.value = b"", ""
        self.layout.display = "none"


def small(text: str) -> str:
    return f'<span style="font-size:90%">{html.escape(text)}</span>'


def display_box(box: ipywidgets.Widget) -> None:
    """In a notebook, an output of its own, so that a saved notebook can do without it."""
    from IPython import get_ipython
    from IPython.display import display

    if get_ipython() is not None:
        display(box)
