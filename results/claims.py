"""The claims about SFF, each with the runs that speak for or against it and a derived verdict.

``make claims`` writes ``results/claims.md`` and the README's picture ``results/claims.png`` from
the stored runs. Nobody types a verdict: it follows from the effects by the claim's own test. To add
a claim, add an entry to ``CLAIMS``.
"""

import hashlib
import io
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import stats

from sff_teach.draw import GREY, INK, new_figure, png, rule_style
from sff_teach.study import FASHION, interval, read_runs, runs_by_row, runs_matching

PAPER = "Krutsylo 2025"
MARGIN = 1.0  # points: "as good" means not more than this below (a non-inferiority test)
SIMILAR = 1.1  # times backprop's seconds
ABSENT = "not yet measured"
OUTCOMES = ("supported", "undecided", "contradicted")


@dataclass(frozen=True)
class Effect:
    """One measured difference or ratio, under one condition, with its 95 % interval."""

    condition: str
    n: int  # seeds, or paired rounds; 1 for a count, which has no spread
    mean: float
    low: float
    high: float
    unit: str = "points"  # or "×"
    decides: bool = True  # False for what is shown beside a claim, such as a control

    def __str__(self) -> str:
        if self.unit == "×":
            spread = "exact" if self.n == 1 else f"{self.low:.2f} … {self.high:.2f}"
            return f"{self.condition}: {self.mean:.2f} × ({spread})"
        return f"{self.condition}: {self.mean:+.1f} ({self.low:+.1f} … {self.high:+.1f})"


def difference(
    condition: str,
    runs: Mapping[int, dict],
    base: Mapping[int, dict],
    figure: str = "accuracy_mean",
    base_figure: str | None = None,
    decides: bool = True,
) -> list[Effect]:
    """``runs`` minus ``base`` in points, paired by seed: one effect; none below two pairs.

    Args:
        condition: what the effect is called.
        runs: seed → record.
        base: seed → record.
        figure: which number of a record.
        base_figure: which number of a record of ``base``, if it is another.
        decides: see ``Effect``.
    """
    pairs = [100 * (runs[s][figure] - base[s][base_figure or figure]) for s in runs if s in base]
    if len(pairs) < 2:
        return []
    return [Effect(condition, len(pairs), *interval(pairs), decides=decides)]


def paired_p_value(n: int, mean: float, low: float, high: float, threshold: float = 0.0) -> float:
    """Two-sided p value of a mean against a threshold, from its 95 % interval by Student's t.

    Args:
        n: number of values, at least 2.
        mean: their mean.
        low: lower end of its 95 % interval.
        high: upper end.
        threshold: what the mean is compared with.
    """
    error = (high - low) / 2 / stats.t.ppf(0.975, n - 1)
    if error == 0:
        return float(mean == threshold)
    return float(2 * stats.t.sf(abs(mean - threshold) / error, n - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several tests: the corrected p values, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


@dataclass(frozen=True)
class Test:
    """What must hold of an effect: it lies beyond a threshold that was fixed before the runs.

    Attributes:
        threshold: in the effect's unit.
        above: whether the effect must be above the threshold, or below it.
    """

    threshold: float
    above: bool = True

    def outcomes(self, effects: Sequence[Effect]) -> list[str]:
        """*supported*, *contradicted* or *undecided*, for each effect.

        Differences in points are decided at p < 0.05 after Holm's correction over all effects
        given. Ratios are decided by their interval, which is exact for counts.
        """
        differences = [e for e in effects if e.unit == "points"]
        p_values = holm(
            [paired_p_value(e.n, e.mean, e.low, e.high, self.threshold) for e in differences]
        )
        decided = {id(e): p < 0.05 for e, p in zip(differences, p_values)}
        return [self._outcome(e, decided.get(id(e))) for e in effects]

    def _outcome(self, effect: Effect, decided: bool | None) -> str:
        if decided is None:
            decided = not effect.low <= self.threshold <= effect.high
        if not decided:
            return "undecided"
        return "supported" if (effect.mean > self.threshold) == self.above else "contradicted"


NON_INFERIOR = Test(-MARGIN)
SUPERIOR = Test(0.0)
RATIO_AT_MOST = Test(SIMILAR, above=False)
RATIO_BELOW_ONE = Test(1.0, above=False)


@dataclass(frozen=True)
class Claim:
    """What somebody claims and how it is tested here.

    Attributes:
        title: the claim.
        source: who says so.
        protocol: what was run.
        test: what its effects must show.
        effects: from the folder of results to the effects.
        command: reproduces the runs.
        file: holds them.
    """

    title: str
    source: str
    protocol: str
    test: Test
    effects: Callable[[Path], list[Effect]]
    command: str
    file: str

    def outcomes(self, effects: Sequence[Effect]) -> dict[str, str]:
        """Condition → *supported*, *contradicted* or *undecided*, of the effects that decide."""
        deciding = [effect for effect in effects if effect.decides]
        return dict(zip([e.condition for e in deciding], self.test.outcomes(deciding)))

    def verdict(self, effects: Sequence[Effect]) -> str:
        """The outcome that all deciding effects share; else how often each was found."""
        found = list(self.outcomes(effects).values())
        if not found:
            return ABSENT
        if len(set(found)) == 1:
            return found[0]
        counts = [f"{found.count(o)} {o}" for o in OUTCOMES if o in found]
        return f"depends: {', '.join(counts)}"


# ---------------------------------------------------------------- what is compared


@dataclass(frozen=True)
class Pair:
    """Two groups of stored runs whose difference is an effect.

    Attributes:
        condition: what the effect is called.
        runs: where the runs are: a study's name and the settings of their recipe; or, for studies
            that name their rows, the name of a row and the fields of its records.
        base: what is subtracted.
        decides: False for a control.
        figure: which number of a run is compared.
        base_figure: which number of a run of ``base``, if it is another.
    """

    condition: str
    runs: tuple[str, Mapping | str]
    base: tuple[str, Mapping | str]
    decides: bool = True
    figure: str = "accuracy_mean"
    base_figure: str | None = None


def compared(*pairs: Pair, **fields: str) -> Callable[[Path], list[Effect]]:
    """The effects of these pairs, once the folder of results is known.

    Args:
        pairs: in the order of the table.
        fields: that records of studies with named rows must have.
    """

    def find(folder: Path, place: tuple[str, Mapping | str]) -> Mapping[int, dict]:
        study, row = place
        if isinstance(row, str):
            return runs_by_row(folder / f"{study}.jsonl", **fields).get(row, {})
        return runs_matching(folder, study, row)

    def effects(folder: Path) -> list[Effect]:
        found = []
        for pair in pairs:
            runs, base = find(folder, pair.runs), find(folder, pair.base)
            found += difference(
                pair.condition, runs, base, pair.figure, pair.base_figure, pair.decides
            )
        return found

    return effects


BP = {"rule": "bp"}
PLAIN = {"rule": "sff", "cut": "layer", "kernel_size": 1, "hidden": 0}  # the paper's head
BLOCKS = {"rule": "sff", "cut": 2, "kernel_size": 3, "hidden": 0}
HEAD_ALONE = {"rule": "bp-goodness", "cut": "layer", "kernel_size": 3}
CIFAR = "CIFAR-10 (JPEG copy)"


def _fashion(row: Mapping, sizes: Sequence[int] = tuple(FASHION), control: str = "") -> list[Pair]:
    """SFF, or a control, minus bp on the Fashion sample."""
    return [
        Pair(
            f"Fashion, {images:,} images{control}",
            ("fashion_rules", {**row, "fraction": FASHION[images]}),
            ("fashion_rules", {**BP, "fraction": FASHION[images]}),
            decides=not control,
        )
        for images in sizes
    ]


def _cifar(cut: int, kernel_size: int) -> Pair:
    row = {"rule": "sff", "cut": cut, "kernel_size": kernel_size}
    name = f"{CIFAR}, 5,000 images, {cut} blocks"
    return Pair(name, ("cifar_rules", row), ("cifar_rules", BP))


def _residual(network: str, blocks: int) -> Pair:
    shared = {"network": network, "kernel_size": 1}
    return Pair(
        f"{network}, Fashion, 1,000 images, {blocks} blocks",
        ("residual_blocks", {**shared, "rule": "sff", "cut": blocks}),
        ("residual_blocks", {**shared, **BP}),
    )


def _hidden(hidden: int, kernel: int, *, cifar: bool) -> Pair:
    setting = {"network": "cnn5"} if cifar else {"fraction": 1.0}
    title = f"{CIFAR}, 5,000 images" if cifar else "Fashion, 10,000 images"
    row = {"rule": "sff", "cut": 5 if cifar else "layer", "vote": "mean"}
    return Pair(
        f"{title}, hidden {hidden}, {kernel}×{kernel}",
        ("closing_the_gap", {**row, **setting, "hidden": hidden, "kernel_size": kernel}),
        ("cifar_rules" if cifar else "fashion_rules", {**BP, **setting}),
    )


def _transfer(row: str, base: str, control: str = "") -> Pair:
    condition = f"({row}) − ({base})"
    if control:
        condition = f"control, {control}: {condition}"
    runs, bases = ("transfer", row), ("transfer", base)
    return Pair(condition, runs, bases, decides=not control, figure="accuracy")


LAYERWISE = compared(*_fashion(PLAIN), _cifar(5, 1))
IN_BLOCKS = compared(
    *_fashion(BLOCKS),
    _cifar(2, 3),
    Pair(
        f"{CIFAR}, 50,000 images, 2 blocks",
        ("laptop_cifar10", {"rule": "sff"}),
        ("laptop_cifar10", BP),
    ),
    _residual("resnet18", 9),
    _residual("mobilenet_v3_small", 13),
)
HIDDEN_HEAD = compared(
    _hidden(32, 1, cifar=False),
    _hidden(64, 1, cifar=False),
    _hidden(64, 1, cifar=True),
    _hidden(128, 1, cifar=True),
    _hidden(128, 3, cifar=True),
    Pair(
        f"{CIFAR}, 50,000 images, accurate head, vote by depth",
        ("accurate_head", {"rule": "sff", "cut": "layer"}),
        ("laptop_cifar10", BP),
        figure="accuracy",
    ),
    Pair(
        f"{CIFAR}, 50,000 images, accurate heads, one cut, vote of the last",
        ("accurate_head", {"rule": "sff", "cut": "memory"}),
        ("laptop_cifar10", BP),
        figure="accuracy_last",
    ),
)
HUNDRED_CLASSES = compared(
    *(
        Pair(
            f"K = 100, 5,000 images, {row}",
            ("hundred_classes", row),
            ("hundred_classes", "bp"),
            decides=row.startswith("sff"),
            figure="accuracy",
        )
        for row in (
            "sff, two blocks, 3×3 heads",
            "sff, layer by layer, accurate heads",
            "bp-goodness, 3×3 head",
            "bp-goodness, accurate head",
        )
    )
)
TUNED_LITTLE_DATA = compared(
    *_fashion(BLOCKS, (200, 1000)),
    *_fashion(HEAD_ALONE, (200, 1000), ", control bp-goodness"),
)


def _against_negatives(row: str, images: int) -> Pair:
    return Pair(
        f"− {row}, {images:,} images",
        ("fashion_rules", {**PLAIN, "fraction": FASHION[images]}),
        ("negatives", f"{row}, {images:,} images"),
    )


NEGATIVES = compared(
    *(_against_negatives(row, n) for row in ("sampled", "spread") for n in (1000, 10_000)),
    *(
        Pair(
            f"control, label in the first pixels, {images:,} images",
            ("fashion_rules", {**PLAIN, "fraction": fraction}),
            ("fashion_rules", {"rule": "ff", "fraction": fraction}),
            decides=False,
        )
        for images, fraction in FASHION.items()
    ),
)
PARTITIONING = compared(
    Pair(
        "Fashion, 10,000 images, 1×1 head − channel groups",
        ("fashion_rules", {**PLAIN, "fraction": 1.0}),
        ("partitioning", "groups"),
    )
)
FINE_TUNING = compared(
    _transfer("sff, then bp", "bp"),
    _transfer("sff, then bp", "bp, new head, then bp"),
    _transfer("bp, then bp", "bp", "a second schedule alone"),
    _transfer("bp, new head, then bp", "bp", "a second schedule and a new head"),
    _transfer("sff, then deepsup", "bp", "heads and normalisation kept"),
    task="fine-tuning",
)
PRE_TRAINING = compared(
    _transfer("sff, then sff", "sff"),
    _transfer("sff, then bp", "bp"),
    _transfer("bp, then bp", "bp", "backprop on both"),
    _transfer("sff, then frozen", "sff", "new heads alone"),
    task="pre-training",
)
AVERAGING = compared(
    *(
        Pair(
            f"{name}, {images:,} images",
            ("fashion_rules", {**row, "fraction": fraction}),
            ("fashion_rules", {**row, "fraction": fraction}),
            base_figure="accuracy_last",
        )
        for name, row in (("four blocks 1×1", PLAIN), ("two blocks 3×3", BLOCKS))
        for images, fraction in FASHION.items()
    )
)


def little_data(folder: Path) -> list[Effect]:
    """SFF and the head alone minus bp: the study from 20 images up, then the one from 200 up."""
    by: dict[tuple, dict[int, dict]] = {}
    for run in read_runs(folder / "small_data.jsonl"):
        if run["on"] == "test":
            key = (run["set"], run["network"], run["images"], run["rule"])
            by.setdefault(key, {})[run["seed"]] = run
    effects = []
    for (name, network, images, rule), runs in sorted(by.items(), reverse=True):
        if rule in ("sff", "bp-goodness"):
            condition = f"{name}, {network}, {images} images"
            condition += ", control bp-goodness" if rule == "bp-goodness" else ""
            base = by.get((name, network, images, "bp"), {})
            effects += difference(condition, runs, base, "accuracy", decides=rule == "sff")
    return effects + TUNED_LITTLE_DATA(folder)


def beyond_images(folder: Path) -> list[Effect]:
    """SFF and two controls minus bp on each task that is not about images."""
    effects = []
    for task, n in (
        ("breast cancer, all rows", 3),
        ("breast cancer, 40 rows", 3),
        ("docstrings", 4),
    ):
        rows = (f"sff {n} blocks", "bp-goodness", f"deepsup {n} blocks")
        effects += compared(
            *(
                Pair(
                    task if row.startswith("sff") else f"{task}, control {row}",
                    ("beyond_images", row),
                    ("beyond_images", "bp"),
                    decides=row.startswith("sff"),
                    figure="accuracy",
                )
                for row in rows
            ),
            task=task,
        )(folder)
    return effects


def speed(folder: Path) -> list[Effect]:
    """Seconds of a step over backprop's: stored as ratios."""
    by_condition = {}  # a later measurement replaces an earlier one
    for r in read_runs(folder / "speed_rules.jsonl"):
        if "batch" in r:
            by_condition[r["row"]] = r
        elif r["row"].startswith("sff") and r["machine"]["threads"] == 1:  # an older form
            by_condition[f"four-layer CNN, {r['row'].removeprefix('sff ')}"] = r
    effects = [_ratio(condition, r) for condition, r in by_condition.items()]
    for r in read_runs(folder / "cost_resnet18.jsonl"):
        if r["what"] == "seconds" and r["rule"] == "sff":
            effects.append(_ratio(f"ResNet18, {r['classes']:,} classes", r))
    return effects


def _ratio(condition: str, timed: Mapping) -> Effect:
    return Effect(condition, timed["rounds"], timed["ratio"], timed["low"], timed["high"], "×")


def memory(folder: Path) -> list[Effect]:
    """Saved bytes of a step over backprop's: counts, which have no spread."""
    counts = [r for r in read_runs(folder / "cost_resnet18.jsonl") if r["what"] == "counts"]
    saved = {(r["rule"], r["classes"]): r["saved"] for r in counts}
    effects = []
    for (rule, classes), value in saved.items():
        if rule in ("sff", "bp, checkpointing"):
            ratio = value / saved["bp", classes]
            name = f"ResNet18, {classes:,} classes"
            name += "" if rule == "sff" else ", control: checkpointed backprop"
            effects.append(Effect(name, 1, ratio, ratio, ratio, "×", decides=rule == "sff"))
    return effects


def features(folder: Path) -> list[Effect]:
    """Layer by layer: a linear probe of SFF's features minus one of bp's; and CKA."""
    named: dict[str, dict[int, dict]] = {}
    for run in read_runs(folder / "features.jsonl"):
        named.setdefault(run["name"], {})[run["seed"]] = run
    effects: list[Effect] = []
    for figure, what, decides in (
        ("probe", "linear probe of layer {}", True),
        ("cka_bp", "control: CKA × 100 with backprop, less that of two seeds, layer {}", False),
    ):
        for layer in range(4 if "bp" in named else 0):
            sff, bp = (
                {seed: {figure: run[figure][layer]} for seed, run in named.get(rule, {}).items()}
                for rule in ("sff", "bp")
            )
            effects += difference(what.format(layer + 1), sff, bp, figure, decides=decides)
    return effects


def _command(name: str) -> str:
    return f"python results/{name}.py"


FOUR_LAYERS = "same CNN, rates tuned per row with equal budget, test after the last epoch"
CLAIMS = (
    Claim(
        "as good as backprop, layer by layer", PAPER,
        "every layer its own block, 1×1 head; SFF − bp; " + FOUR_LAYERS,
        NON_INFERIOR, LAYERWISE, _command("fashion_rules"),
        "fashion_rules.jsonl, cifar_rules.jsonl",
    ),
    Claim(
        "as good as backprop, with a hidden head", "this course; such heads: "
        "Nøkland & Eidnes 2019, Belilovsky et al. 2020",
        "every layer its own block, or cut where it lowers the peak of memory; a small convolution "
        "before the goodness; SFF − bp; "
        + FOUR_LAYERS,
        NON_INFERIOR, HIDDEN_HEAD, _command("closing_the_gap"),
        "closing_the_gap.jsonl, accurate_head.jsonl",
    ),
    Claim(
        "as good as backprop, in blocks", f"{PAPER} (\"tends to outperform\")",
        "two blocks of layers with 3×3 heads, or one per residual block with 1×1; SFF − bp; "
        + FOUR_LAYERS,
        NON_INFERIOR, IN_BLOCKS, _command("fashion_rules"),
        "fashion_rules.jsonl, cifar_rules.jsonl, laptop_cifar10.jsonl, residual_blocks.jsonl",
    ),
    Claim(
        "as good as backprop, a hundred classes", "this course",
        "50 images per class, a stand-in for CIFAR-100 made of CIFAR-10; control: backprop with "
        "the goodness head; SFF − bp; " + FOUR_LAYERS,
        NON_INFERIOR, HUNDRED_CLASSES, _command("hundred_classes"), "hundred_classes.jsonl",
    ),
    Claim(
        "better than backprop on little data", PAPER,
        "two blocks, 3×3 heads; SFF − bp; control: backprop with the goodness head; rates and "
        "epochs tuned per row on as many validation images as training images; the last two "
        "sizes: the four-layer CNN, rates tuned on 1,000 validation images",
        SUPERIOR, little_data, _command("small_data"), "small_data.jsonl, fashion_rules.jsonl",
    ),
    Claim(
        "similar training speed", f"{PAPER}, abstract; the author's later page: 1.5–3× slower "
        "for many classes",
        f"seconds of a step over backprop's, timed in turn; similar: at most {SIMILAR:g} ×",
        RATIO_AT_MOST, speed, _command("speed_rules"), "speed_rules.jsonl, cost_resnet18.jsonl",
    ),
    Claim(
        "less memory", f"{PAPER} (\"architecture-dependent\")",
        "peak of bytes saved for backward over backprop's, batch 32, nine blocks",
        RATIO_BELOW_ONE, memory, _command("cost_resnet18"), "cost_resnet18.jsonl",
    ),
    Claim(
        "needs no negatives", PAPER,
        "none are made, by construction; does accuracy suffer? SFF (1×1, four blocks) − the same "
        "heads with one sampled wrong class in each loss (sampled), and − Forward-Forward with the "
        "label as a wave over the whole image (spread; Scodellaro et al. 2023); " + FOUR_LAYERS,
        NON_INFERIOR, NEGATIVES, _command("negatives"), "negatives.jsonl, fashion_rules.jsonl",
    ),
    Claim(
        "needs no channel partitioning", PAPER,
        "1×1 head − goodness of one group of channels per class, same CNN and loss, every layer "
        "its own block, rates tuned",
        NON_INFERIOR, PARTITIONING, _command("partitioning"), "partitioning.jsonl",
    ),
    Claim(
        "its weights fine-tune by backprop", PAPER,
        "Fashion, 1,000 images: half the epochs by SFF, half by backprop of the joined network, "
        "against the same number of epochs of backprop; rates tuned per row",
        NON_INFERIOR, FINE_TUNING, _command("transfer"), "transfer.jsonl",
    ),
    Claim(
        "gains from pre-training", PAPER, "pre-trained on 2,000 Fashion images, then 100 "
        "digits of the same size, against digits alone; rates tuned per row",
        SUPERIOR, PRE_TRAINING, _command("transfer"), "transfer.jsonl",
    ),
    Claim(
        "feature hierarchies like backprop's", PAPER,
        "Fashion, 9,000 images, one layer per block: accuracy of a linear probe of each layer, SFF "
        "− bp; and linear CKA with a backprop network of another seed",
        NON_INFERIOR, features, _command("features"), "features.jsonl",
    ),
    Claim(
        "use in medicine and language", f"{PAPER}; its data and networks are not public",
        "a medical table (five folds, 569 patients, all rows or 40 to learn from) and sentences of "
        "five libraries by their letters; one layer per block, plain head; SFF − bp; rates tuned "
        "per row with equal budget",
        NON_INFERIOR, beyond_images, _command("beyond_images"), "beyond_images.jsonl",
    ),
    Claim(
        "averaging blocks beats the last block", f"{PAPER} predicts by the mean",
        "accuracy of the mean of all blocks minus the last block's, same runs",
        SUPERIOR, AVERAGING, _command("fashion_rules"), "fashion_rules.jsonl",
    ),
)  # fmt: skip


# ---------------------------------------------------------------- pages


def marked(claim: Claim, effects: Sequence[Effect]) -> list[str]:
    """Each effect in words, with the mark of its outcome."""
    outcomes = claim.outcomes(effects)
    marks = {"supported": "+", "undecided": "?", "contradicted": "−"}
    return [f"{marks[outcomes[e.condition]]} {e}" if e.decides else str(e) for e in effects]


def page(folder: Path) -> str:
    """results/claims.md."""
    lines = [
        "# What is claimed, what was measured, what follows",
        "",
        "Generated by `make claims` from the stored runs; do not edit. Intervals are 95 %, "
        "by Student's t over differences paired by seed (accuracy, in points) or by order "
        "statistics over paired rounds (seconds). Every effect is *supported* (+), *contradicted* "
        "(−) or *undecided* (?) against a threshold fixed beforehand: *as good* means not more "
        f"than {MARGIN:g} point below; *better* above 0; *similar speed* at most {SIMILAR:g} ×; "
        "*less* below 1 ×. Differences in points count as decided at p < 0.05 after Holm's "
        "correction over the effects of one claim; ratios by their interval. Intervals are as "
        "printed, without correction. Controls are shown without a mark and decide nothing.",
        "",
        "| claim | source | protocol | n | effect (95 % interval) | verdict | command | runs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        effects = claim.effects(folder)
        counts = sorted({effect.n for effect in effects})
        n = "–" if not counts else "–".join(str(c) for c in {counts[0]: 0, counts[-1]: 0})
        lines.append(
            f"| {claim.title} | {claim.source} | {claim.protocol} | {n} "
            f"| {'<br>'.join(marked(claim, effects)) or '–'} | **{claim.verdict(effects)}** "
            f"| `{claim.command}` | {claim.file} |"
        )
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- the picture

MARKS = {  # a colour that no rule has, a marker, and the colour of its inside
    "supported": (INK, "o", INK),
    "undecided": (GREY, "D", "white"),
    "contradicted": (rule_style("contradicted").colour, "X", rule_style("contradicted").colour),
}
LIMITS = {"points": (-11, 16), "×": (0.25, 2.0)}  # arrows lead to what lies outside


def forest(folder: Path) -> Figure:
    """Every deciding effect with its interval, by claim, and the threshold that it is held to."""
    found = [(claim, [e for e in claim.effects(folder) if e.decides]) for claim in CLAIMS]
    units = {
        unit: [(claim, effects) for claim, effects in found if effects and effects[0].unit == unit]
        for unit in LIMITS
    }
    heights = [sum(len(effects) + 1.2 for _, effects in rows) or 1 for rows in units.values()]
    fig, axes = new_figure(
        9, 0.115 * sum(heights) + 1.3, nrows=2, height_ratios=heights,
        xlabel=["difference, points of test accuracy", "times backprop's"],
    )  # fmt: skip
    for ax, (unit, rows) in zip(axes, units.items()):
        _draw_claims(ax, unit, rows)
    axes[1].set_xscale("log")
    axes[1].set_xticks([0.25, 0.5, 1, 2], ["0.25", "0.5", "1", "2"])
    axes[1].minorticks_off()
    for outcome, (colour, marker, fill) in MARKS.items():
        axes[0].plot([], [], marker, color=colour, markerfacecolor=fill, label=outcome)
    axes[0].plot([], [], "|", color="grey", markersize=12, label="threshold")
    key = axes[0].get_legend_handles_labels()
    fig.legend(*key, loc="outside upper right", ncols=4, fontsize=9, frameon=False)
    return fig


def _draw_claims(ax: Axes, unit: str, rows: Sequence[tuple[Claim, Sequence[Effect]]]) -> None:
    low, high = LIMITS[unit]
    y, ticks = 0.0, []
    for claim, effects in rows:
        top = y
        for effect, outcome in zip(effects, claim.test.outcomes(effects)):
            colour, marker, fill = MARKS[outcome]
            ax.plot([effect.low, effect.high], [y, y], "-", color=colour, linewidth=1.5)
            outside = effect.mean > high
            ax.plot(
                high if outside else effect.mean, y, ">" if outside else marker, color=colour,
                markerfacecolor=fill, clip_on=False,
            )  # fmt: skip
            y += 1
        ticks.append((top + y - 1) / 2)
        ax.vlines(claim.test.threshold, top - 0.6, y - 0.4, color="grey", linewidth=1.2)
        ax.axhline(y + 0.1, color="lightgrey", linewidth=0.6)
        y += 1.2
    ax.set_yticks(ticks, [textwrap.fill(claim.title, 36) for claim, _ in rows])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set(xlim=(low, high), ylim=(y - 1.1, -1))


def alt_text(folder: Path) -> str:
    """What the picture shows, in words."""
    verdicts = [f"{claim.title}: {claim.verdict(claim.effects(folder))}" for claim in CLAIMS]
    return "Effects with 95 % intervals, by claim. " + ". ".join(verdicts) + "."


def picture(folder: Path, name: str) -> bytes:
    """The figure as a PNG file that carries ``name``."""
    stored, info = io.BytesIO(), PngInfo()
    info.add_text("effects", name)
    Image.open(io.BytesIO(png(forest(folder)))).save(stored, "PNG", optimize=True, pnginfo=info)
    return stored.getvalue()


def picture_name(path: Path) -> str | None:
    """The name that a picture carries: a hash of the page that it belongs to."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get("effects")


START, END = "<!-- claims: written by `make claims` -->", "<!-- end of claims -->"


def in_readme(text: str, content: str) -> str:
    """The README's text with the content between its two markers.

    Raises:
        ValueError: a marker is missing.
    """
    if START not in text or END not in text:
        raise ValueError(f"README.md lacks the line {START} or {END}; put both where it belongs.")
    return re.sub(
        f"(?s){re.escape(START)}.*{re.escape(END)}", lambda _: f"{START}\n{content}\n{END}", text
    )


def write(root: Path, check: bool = False) -> list[str]:
    """Write page, picture and README, or with ``check`` only compare; those that were stale."""
    folder, readme = root / "results", root / "README.md"
    wanted = {
        folder / "claims.md": page(folder),
        readme: in_readme(
            readme.read_text(encoding="utf-8"), f"![{alt_text(folder)}](results/claims.png)"
        ),
    }
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text("utf-8") != text]
    image = folder / "claims.png"  # drawn anew only for other effects: its bytes vary by machine
    name = hashlib.sha256(wanted[folder / "claims.md"].encode()).hexdigest()
    redraw = picture_name(image) != name
    if not check:
        for path in stale:
            path.write_text(wanted[path], encoding="utf-8")
        if redraw:
            image.write_bytes(picture(folder, name))
    return [str(path.relative_to(root)) for path in [*stale, *([image] if redraw else [])]]


def main() -> int:
    """Write what is stale; with ``--check`` change nothing, and exit with 1 if anything is."""
    check = "--check" in sys.argv[1:]
    stale = write(Path(__file__).resolve().parents[1], check)
    print(f"{'Stale' if check else 'Written'}: {', '.join(stale) or 'nothing'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
