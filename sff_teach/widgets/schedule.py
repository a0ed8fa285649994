"""The schedule explorer: timelines of backprop's pipeline (GPipe) and of SFF's."""

from typing import NamedTuple

from matplotlib.figure import Figure

from .. import draw
from .panel import Explorer, dropdown, slider

BACKWARD = 2  # a backward pass takes about two forward passes
SHOWN = 3  # batches of GPipe that are drawn; SFF gets the same time
NAMES = {"gpipe": "backprop, GPipe", "sff": "SFF, one way"}
COLOURS = {"forward": draw.diagrams.BLOCK, "backward": draw.diagrams.GRADIENT}


class Task(NamedTuple):
    """A task; the unit of time is a mean stage's forward pass of a batch."""

    worker: int
    what: str
    batch: int
    start: float
    end: float


def _plan(kind: str, times: list[float], parts: int, batches: int) -> list[Task]:
    """All tasks; each begins as soon as its worker and its input are available."""
    tasks, free, stages = [], [0.0] * len(times), list(enumerate(times))

    def work(worker: int, what: str, batch: int, ready: float, length: float) -> float:
        start = max(free[worker], ready)
        free[worker] = start + length
        tasks.append(Task(worker, what, batch, start, free[worker]))
        return free[worker]

    for batch in range(batches):
        if kind == "sff":  # a worker hands the batch over after its forward pass, then learns
            ready = 0.0
            for worker, time in stages:
                ready = work(worker, "forward", batch, ready, time)
                work(worker, "backward", batch, ready, BACKWARD * time)
        else:  # every micro-batch forward, then every one backward, then the next batch
            done = [0.0] * parts  # when the stage before was ready with each micro-batch
            for worker, time in stages:
                for i in range(parts):
                    done[i] = work(worker, "forward", batch, done[i], time / parts)
            for worker, time in reversed(stages):
                for i in reversed(range(parts)):
                    done[i] = work(worker, "backward", batch, done[i], BACKWARD * time / parts)
    return tasks


class Schedule(NamedTuple):
    """Two pipelines with the same work; see ``run_schedule``."""

    workers: int
    parts: int
    first: float
    tasks: dict[str, list[Task]]
    idle: dict[str, float]  # share of all workers' time

    def row(self) -> dict[str, object]:
        """The result as plain values, for a table."""
        idle = {f"{name}: idle %": round(100 * self.idle[kind]) for kind, name in NAMES.items()}
        settings = {"workers": self.workers, "micro-batches": self.parts, "first stage": self.first}
        return idle | settings

    def __str__(self) -> str:
        words = (f"{name}: {idle:.0%} idle, {self.workers * (1 - idle):.1f} times one worker"
                 for name, idle in zip(NAMES.values(), self.idle.values()))  # fmt: skip
        return f"{self.workers} workers, {self.parts} micro-batches. {'; '.join(words)}."


def run_schedule(workers: int = 4, parts: int = 4, first: float = 1.0) -> Schedule:
    """Plan both pipelines.

    Args:
        workers: devices in a row, each with one stage.
        parts: micro-batches that GPipe makes of a batch; SFF needs none.
        first: time of the first stage over that of any other.
    """
    times = [first] + [1.0] * (workers - 1)
    times = [workers * time / sum(times) for time in times]
    tasks = {kind: _plan(kind, times, parts, 20) for kind in NAMES}
    idle = {}
    for kind in NAMES:  # once it runs: from the tenth batch to the last
        ends = [max(t.end for t in tasks[kind] if t.batch == batch) for batch in (9, 19)]
        idle[kind] = 1 - 10 * (1 + BACKWARD) / (ends[1] - ends[0])
    return Schedule(workers, parts, first, tasks, idle)


@draw.course_style()
def draw_schedule(result: Schedule) -> Figure:
    """A row per worker in both pipelines."""
    rows = range(result.workers)
    titles = [f"{name}: {result.idle[kind]:.0%} idle" for kind, name in NAMES.items()]
    fig, axes = draw.new_figure(
        draw.WIDTH, 4.6, nrows=2, sharex=True, title=titles, xlabel=["", "time"]
    )
    end = max(t.end for t in result.tasks["gpipe"] if t.batch < SHOWN)
    for ax, tasks in zip(axes, result.tasks.values()):
        ax.barh(rows, end, color="#F5F5F5", edgecolor="#BDBDBD", hatch="////")
        for row in rows:
            own = [t for t in tasks if t.worker == row and t.start < end]
            shades = [draw.tint(COLOURS[t.what], (0.35, 0.75)[t.batch % 2]) for t in own]
            spans = [(t.start, t.end - t.start) for t in own]
            ax.broken_barh(spans, (row - 0.4, 0.8), facecolors=shades, edgecolor="white",
                           linewidth=min(0.5, 3 / result.parts))  # fmt: skip
        ax.set_xlim(0, end)
        ax.set_yticks(rows, [f"worker {row + 1}" for row in rows])
        ax.set_ylim(result.workers - 0.4, -0.6)
        ax.grid(visible=False)
    for what, colour in COLOURS.items():
        axes[0].barh(0, 0, color=draw.tint(colour, 0.75), label=what)
    axes[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    return draw.with_alt(fig, f"Two timelines, a row per worker. {result}")


def schedule_explorer() -> Explorer:
    """Show a pipeline of backprop and one of SFF, and a widget to plan others."""
    firsts = {"like the others": 1.0, "1.5 times": 1.5, "2 times": 2.0, "3 times": 3.0}
    controls = {"workers": slider("workers", 2, 8, 4), "parts": slider("micro-batches", 1, 32, 4),
                "first": dropdown("first stage", firsts)}  # fmt: skip
    return Explorer(
        controls, run_schedule, lambda _, result: draw_schedule(result),
        title="Kept: two pipelines with the same work",
        caption="Planned, not measured: sending takes no time, a backward pass two forward passes. "
        "Hatched: idle. The percentages leave the start out. Light, dark: one batch and the next.",
    ).show()  # fmt: skip
