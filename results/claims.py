"""The claims about SFF, each with the runs that speak for or against it and a derived verdict.

``make claims`` writes ``results/claims.md`` and the short table in the README from the stored
runs. Nobody types a verdict: it follows from the effects by the claim's own test. To add a claim,
add an entry to ``CLAIMS``.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sff_teach.study import FASHION, Effect, difference, read_runs, runs_by_row, runs_matching

PAPER = "Krutsylo 2025"
MARGIN = 1.0  # points: a mean that may lie further below backprop's is not "as good"
SIMILAR = 1.1  # times backprop's seconds
ABSENT = "not yet measured"


Test = Callable[[Effect], bool]


def as_good(effect: Effect) -> bool:
    """The interval reaches zero, and its lower end is above minus ``MARGIN``."""
    return effect.high >= 0 and effect.low >= -MARGIN


def better(effect: Effect) -> bool:
    """The interval lies above zero."""
    return effect.low > 0


def similar(effect: Effect) -> bool:
    """The interval's upper end is at most ``SIMILAR``."""
    return effect.high <= SIMILAR


def less(effect: Effect) -> bool:
    """The interval's upper end is below one."""
    return effect.high < 1


@dataclass(frozen=True)
class Claim:
    """What somebody claims and how it is tested here.

    Attributes:
        title: the claim. source: who says so. protocol: what was run.
        test: when one effect supports it. effects: from the folder of results to the effects.
        command: reproduces the runs. file: holds them.
    """

    title: str
    source: str
    protocol: str
    test: Test
    effects: Callable[[Path], list[Effect]]
    command: str
    file: str

    def verdict(self, effects: Sequence[Effect]) -> str:
        """*supported* by all deciding effects, *not supported* by none, or *only when* …"""
        deciding = [effect for effect in effects if effect.decides]
        if not deciding:
            return ABSENT
        passed = [effect.condition for effect in deciding if self.test(effect)]
        if len(passed) == len(deciding):
            return "supported"
        return f"only when: {'; '.join(passed)}" if passed else "not supported"


# ---------------------------------------------------------------- from runs to effects


BP = {"rule": "bp"}
PLAIN = {"cut": "layer", "kernel_size": 1, "hidden": 0}  # the paper's head on every layer
BLOCKS = {"cut": 2, "kernel_size": 3, "hidden": 0}


def _against_bp(
    folder: Path, cut: Mapping, sizes: Iterable[int] = FASHION, rule: str = "sff", decides=True
) -> list[Effect]:
    """SFF minus bp on the Fashion sample; ``bp-goodness`` in place of SFF gives the control."""
    effects = []
    for images in sizes:
        fraction = FASHION[images]
        base = runs_matching(folder, "fashion_rules", BP, fraction=fraction)
        runs = runs_matching(folder, "fashion_rules", {"rule": rule, **cut}, fraction=fraction)
        name = f"Fashion, {images:,} images" + ("" if decides else f", control {rule}")
        effects += difference(name, runs, base, decides=decides)
    return effects


def _cifar(folder: Path, cut: int, kernel_size: int) -> list[Effect]:
    base = runs_matching(folder, "cifar_rules", BP)
    runs = runs_matching(
        folder, "cifar_rules", {"rule": "sff", "cut": cut, "kernel_size": kernel_size}
    )
    return difference(f"CIFAR-10 (JPEG copy), 5,000 images, {cut} blocks", runs, base)


def _all_of_cifar(folder: Path) -> list[Effect]:
    rows = {rule: runs_matching(folder, "laptop_cifar10", {"rule": rule}) for rule in ("bp", "sff")}
    name = "CIFAR-10 (JPEG copy), 50,000 images, 2 blocks"
    return difference(name, rows["sff"], rows["bp"])


def _layerwise(folder: Path) -> list[Effect]:
    return _against_bp(folder, PLAIN) + _cifar(folder, cut=5, kernel_size=1)


def _in_blocks(folder: Path) -> list[Effect]:
    effects = _against_bp(folder, BLOCKS) + _cifar(folder, cut=2, kernel_size=3)
    effects += _all_of_cifar(folder)
    for network, count in (("resnet18", 9), ("mobilenet_v3_small", 13)):
        rows = {"network": network, "kernel_size": 1}
        base = runs_matching(folder, "residual_blocks", {**rows, **BP})
        runs = runs_matching(folder, "residual_blocks", {**rows, "rule": "sff", "cut": count})
        effects += difference(f"{network}, Fashion, 1,000 images, {count} blocks", runs, base)
    return effects


def _little_data(folder: Path) -> list[Effect]:
    head_alone = {"cut": "layer", "kernel_size": 3}
    return _against_bp(folder, BLOCKS, (200, 1000)) + _against_bp(
        folder, head_alone, (200, 1000), rule="bp-goodness", decides=False
    )


def _speed(folder: Path) -> list[Effect]:
    effects = [
        Effect(f"four-layer CNN, {r['row'].removeprefix('sff ')}", r["rounds"], r["ratio"],
               r["low"], r["high"], "×")
        for r in read_runs(folder / "speed_rules.jsonl")
        if r["row"].startswith("sff") and r["machine"]["threads"] == 1
    ]  # fmt: skip
    for r in read_runs(folder / "cost_resnet18.jsonl"):
        if r["what"] == "seconds" and r["rule"] == "sff":
            condition = f"ResNet18, {r['classes']:,} classes"
            effects.append(Effect(condition, r["rounds"], r["ratio"], r["low"], r["high"], "×"))
    return effects


def _memory(folder: Path) -> list[Effect]:
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


def _negatives(folder: Path) -> list[Effect]:
    effects = []
    for images, fraction in FASHION.items():
        sff = runs_matching(folder, "fashion_rules", {"rule": "sff", **PLAIN}, fraction=fraction)
        ff = runs_matching(folder, "fashion_rules", {"rule": "ff"}, fraction=fraction)
        effects += difference(f"against FF with negatives, {images:,} images", sff, ff)
    return effects


def _partitioning(folder: Path) -> list[Effect]:
    heads = runs_matching(folder, "fashion_rules", {"rule": "sff", **PLAIN}, fraction=1.0)
    groups = runs_by_row(folder / "partitioning.jsonl").get("groups", {})
    return difference("Fashion, 10,000 images, 1×1 head − channel groups", heads, groups)


def _transfer(folder: Path, task: str, pairs: Iterable[tuple[str, str, str]]) -> list[Effect]:
    """Effects from (row, baseline, what it controls, or nothing if it decides)."""
    rows = runs_by_row(folder / "transfer.jsonl", task=task)
    effects = []
    for row, base, control in pairs:
        condition = f"({row}) − ({base})"
        if control:
            condition = f"control, {control}: {condition}"
        runs, bases = rows.get(row, {}), rows.get(base, {})
        effects += difference(condition, runs, bases, "accuracy", decides=not control)
    return effects


def _fine_tuning(folder: Path) -> list[Effect]:
    pairs = (
        ("sff, then bp", "bp", ""),
        ("sff, then bp", "bp, new head, then bp", ""),
        ("bp, then bp", "bp", "a second schedule alone"),
        ("bp, new head, then bp", "bp", "a second schedule and a new head"),
        ("sff, then deepsup", "bp", "heads and normalisation kept"),
    )
    return _transfer(folder, "fine-tuning", pairs)


def _pre_training(folder: Path) -> list[Effect]:
    pairs = (
        ("sff, then sff", "sff", ""),
        ("sff, then bp", "bp", ""),
        ("bp, then bp", "bp", "backprop on both"),
        ("sff, then frozen", "sff", "new heads alone"),
    )
    return _transfer(folder, "pre-training", pairs)


def _hidden_head(folder: Path) -> list[Effect]:
    fashion = {"fraction": 1.0}, "layer", "fashion_rules", "Fashion, 10,000 images"
    cifar = {"network": "cnn5"}, 5, "cifar_rules", "CIFAR-10 (JPEG copy), 5,000 images"
    cases = ((fashion, 32, 1), (fashion, 64, 1), (cifar, 64, 1), (cifar, 128, 1), (cifar, 128, 3))
    effects = []
    for (setting, cut, baseline, title), hidden, kernel in cases:
        row = {"rule": "sff", "cut": cut, "hidden": hidden, "kernel_size": kernel, "vote": "mean"}
        runs = runs_matching(folder, "closing_the_gap", {**row, **setting})
        condition = f"{title}, hidden {hidden}, {kernel}×{kernel}"
        effects += difference(condition, runs, runs_matching(folder, baseline, {**BP, **setting}))
    return effects


def _features(folder: Path) -> list[Effect]:
    named: dict[str, dict[int, dict]] = {}
    for run in read_runs(folder / "features.jsonl"):
        named.setdefault(run["name"], {})[run["seed"]] = run
    sff, bp, effects = named.get("sff", {}), named.get("bp", {}), []
    for figure, what, decides in (
        ("probe", "linear probe of layer {}", True),
        ("cka_bp", "control: CKA × 100 with backprop, less that of two seeds, layer {}", False),
    ):
        for layer in range(4 if bp else 0):
            own, base = (
                {seed: {figure: run[figure][layer]} for seed, run in runs.items()}
                for runs in (sff, bp)
            )
            effects += difference(what.format(layer + 1), own, base, figure, decides=decides)
    return effects


def _averaging(folder: Path) -> list[Effect]:
    effects = []
    for name, cut in (("four blocks 1×1", PLAIN), ("two blocks 3×3", BLOCKS)):
        for images, fraction in FASHION.items():
            runs = runs_matching(folder, "fashion_rules", {"rule": "sff", **cut}, fraction=fraction)
            condition = f"{name}, {images:,} images"
            effects += difference(condition, runs, runs, "accuracy_mean", "accuracy_last")
    return effects


def _beyond_images(folder: Path) -> list[Effect]:
    effects = []
    for task, blocks in (
        ("breast cancer, all rows", 3),
        ("breast cancer, 40 rows", 3),
        ("docstrings", 4),
    ):
        rows = runs_by_row(folder / "beyond_images.jsonl", task=task)
        for row in (f"sff {blocks} blocks", "bp-goodness", f"deepsup {blocks} blocks"):
            decides = row.startswith("sff")
            condition = task if decides else f"{task}, control {row}"
            runs, base = rows.get(row, {}), rows.get("bp", {})
            effects += difference(condition, runs, base, "accuracy", decides=decides)
    return effects


def _command(name: str) -> str:
    return f"python results/{name}.py"


FOUR_LAYERS = "same CNN, rates tuned per row with equal budget, test after the last epoch"
CLAIMS = (
    Claim(
        "as good as backprop, layer by layer", PAPER,
        "every layer its own block, 1×1 head; SFF − bp; " + FOUR_LAYERS,
        as_good, _layerwise, _command("fashion_rules"), "fashion_rules.jsonl, cifar_rules.jsonl",
    ),
    Claim(
        "as good as backprop, layer by layer, with a hidden head", "this course; such heads: "
        "Nøkland & Eidnes 2019, Belilovsky et al. 2020",
        "every layer its own block, a small convolution before the goodness; SFF − bp; "
        + FOUR_LAYERS,
        as_good, _hidden_head, _command("closing_the_gap"), "closing_the_gap.jsonl",
    ),
    Claim(
        "as good as backprop, in blocks", f"{PAPER} (\"tends to outperform\")",
        "two blocks of layers with 3×3 heads, or one per residual block with 1×1; SFF − bp; "
        + FOUR_LAYERS,
        as_good, _in_blocks, _command("fashion_rules"),
        "fashion_rules.jsonl, cifar_rules.jsonl, laptop_cifar10.jsonl, residual_blocks.jsonl",
    ),
    Claim(
        "better than backprop on little data", PAPER,
        "two blocks, 3×3 heads; SFF − bp; control: backprop with the goodness head; " + FOUR_LAYERS,
        better, _little_data, _command("fashion_rules"), "fashion_rules.jsonl",
    ),
    Claim(
        "similar training speed", f"{PAPER}, abstract; the author's later page: 1.5–3× slower "
        "for many classes",
        f"seconds of a step over backprop's, timed in turn; similar: at most {SIMILAR:g} ×",
        similar, _speed, _command("speed_rules"), "speed_rules.jsonl, cost_resnet18.jsonl",
    ),
    Claim(
        "less memory", f"{PAPER} (\"architecture-dependent\")",
        "peak of bytes saved for backward over backprop's, batch 32, nine blocks",
        less, _memory, _command("cost_resnet18"), "cost_resnet18.jsonl",
    ),
    Claim(
        "needs no negatives", PAPER,
        "none are made, by construction; does accuracy suffer? SFF (1×1, four blocks) − "
        "Forward-Forward with a label overlay; " + FOUR_LAYERS,
        as_good, _negatives, _command("fashion_rules"), "fashion_rules.jsonl",
    ),
    Claim(
        "needs no channel partitioning", PAPER,
        "1×1 head − goodness of one group of channels per class, same CNN and loss, every layer "
        "its own block, rates tuned",
        as_good, _partitioning, _command("partitioning"), "partitioning.jsonl",
    ),
    Claim(
        "its weights fine-tune by backprop", PAPER,
        "Fashion, 1,000 images: half the epochs by SFF, half by backprop of the joined network, "
        "against the same number of epochs of backprop; rates tuned per row",
        as_good, _fine_tuning, _command("transfer"), "transfer.jsonl",
    ),
    Claim(
        "gains from pre-training", PAPER, "pre-trained on 2,000 Fashion images, then 100 "
        "digits of the same size, against digits alone; rates tuned per row",
        better, _pre_training, _command("transfer"), "transfer.jsonl",
    ),
    Claim(
        "feature hierarchies like backprop's", PAPER,
        "Fashion, 9,000 images, one layer per block: accuracy of a linear probe of each layer, SFF "
        "− bp; and linear CKA with a backprop network of another seed",
        as_good, _features, _command("features"), "features.jsonl",
    ),
    Claim(
        "use in medicine and language", f"{PAPER}; its data and networks are not public",
        "a medical table (five folds, 569 patients, all rows or 40 to learn from) and sentences of "
        "five libraries by their letters; one layer per block, plain head; SFF − bp; rates tuned "
        "per row with equal budget",
        as_good, _beyond_images, _command("beyond_images"), "beyond_images.jsonl",
    ),
    Claim(
        "averaging blocks beats the last block", f"{PAPER} predicts by the mean",
        "accuracy of the mean of all blocks minus the last block's, same runs",
        better, _averaging, _command("fashion_rules"), "fashion_rules.jsonl",
    ),
)  # fmt: skip


# ---------------------------------------------------------------- pages


def page(folder: Path) -> str:
    """results/claims.md."""
    lines = [
        "# What is claimed, what was measured, what follows",
        "",
        "Generated by `make claims` from the stored runs; do not edit. Intervals are 95 %, "
        "by Student's t over differences paired by seed (accuracy, in points) or by order "
        "statistics over paired rounds (seconds). The verdict follows from the effects: "
        f"*as good* asks that the interval reaches zero and stays above −{MARGIN:g} point; "
        f"*better* that it lies above zero; *similar speed* that it ends at {SIMILAR:g} × or "
        "below; *less* that it ends below 1 ×. Controls are shown and decide nothing.",
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
            f"| {'<br>'.join(map(str, effects)) or '–'} | **{claim.verdict(effects)}** "
            f"| `{claim.command}` | {claim.file} |"
        )
    return "\n".join(lines) + "\n"


def short_table(folder: Path) -> str:
    """The README's table: claim, effects that decide, verdict."""
    lines = ["| claim | measured here | verdict |", "|---|---|---|"]
    for claim in CLAIMS:
        effects = claim.effects(folder)
        deciding = [effect for effect in effects if effect.decides]
        shown = "<br>".join(map(str, deciding)) or "–"
        passed = sum(claim.test(effect) for effect in deciding)
        verdict = claim.verdict(effects)
        if verdict.startswith("only"):
            verdict = f"only in {passed} of {len(deciding)} cases"
        lines.append(f"| {claim.title} | {shown} | {verdict} |")
    return "\n".join(lines) + "\n"


START, END = "<!-- claims: written by `make claims` -->", "<!-- end of claims -->"


def in_readme(text: str, table: str) -> str:
    """The README's text with the table between its two markers.

    Raises:
        ValueError: a marker is missing.
    """
    if START not in text or END not in text:
        raise ValueError(f"README.md lacks the line {START} or {END}; put both where it belongs.")
    return re.sub(
        f"(?s){re.escape(START)}.*{re.escape(END)}", lambda _: f"{START}\n{table}{END}", text
    )


def write(root: Path, check: bool = False) -> list[str]:
    """Write both pages, or with ``check`` only compare; the names of those that were stale."""
    folder, readme = root / "results", root / "README.md"
    wanted = {
        folder / "claims.md": page(folder),
        readme: in_readme(readme.read_text(encoding="utf-8"), short_table(folder)),
    }
    stale = [p for p, text in wanted.items() if not p.exists() or p.read_text("utf-8") != text]
    if not check:
        for path in stale:
            path.write_text(wanted[path], encoding="utf-8")
    return [str(path.relative_to(root)) for path in stale]


def main() -> int:
    """Write both pages; with ``--check`` change nothing, and exit with 1 if one is stale."""
    check = "--check" in sys.argv[1:]
    stale = write(Path(__file__).resolve().parents[1], check)
    print(f"{'Stale' if check else 'Written'}: {', '.join(stale) or 'nothing'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
