"""Recipes, studies, claims, checkpoints: whatever is given to them, or stands in their files."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from hypothesis import strategies as st

from sff_teach import checkpoint, claims, recipes, study
from sff_teach.recipes import Recipe

from .hostile import anything, call, data, explore, network, new_folder, numbers, several, words
from .test_looking import odd, record, records
from .test_training import paths, rule_names

FOLDER = new_folder()
damage = st.sampled_from(["cut", "flipped", "empty", "text", "zeros", "json", "pickle"])


def damaged(content: bytes, where: int, what: str) -> bytes:
    """A file that somebody or something has spoilt."""
    if what == "cut":
        return content[: where % len(content)]
    if what == "flipped":
        where %= len(content)
        return content[:where] + bytes([content[where] ^ 0xFF]) + content[where + 1 :]
    kinds = {
        "empty": b"",
        "text": b"not this",
        "zeros": bytes(5000),
        "json": b"{}\n",
        "pickle": b"\x80\x04N.",
    }
    return kinds[what]


def file_of(content: bytes, name: str = "file") -> Path:
    path = FOLDER / name
    path.write_bytes(content)
    return path


def fresh(name: str) -> Path:
    """A file that is not there yet: what a call finds must not depend on the calls before it."""
    (FOLDER / name).unlink(missing_ok=True)
    return FOLDER / name


# ---------------------------------------------------------------- recipes, studies and claims


def recipe_of(**settings) -> Recipe:
    return Recipe(**{"network": "cnn3", "data": "digits", **settings})


recipe_fields = st.fixed_dictionaries(
    {},
    optional={
        "rule": rule_names,
        "cut": odd,
        "kernel_size": numbers,
        "filters": numbers,
        "hidden": numbers,
        "normalise": words,
        "vote": words,
        "network": st.one_of(st.sampled_from(["cnn3", "mlp", "nothing", "resnet999", ""]), words),
        "stem": words,
        "seed": numbers,
    },
)
good_record = lambda: record(recipe=asdict(recipe_of()), on="test", row="a")  # noqa: E731
lines = st.one_of(
    st.builds(
        lambda rows: "\n".join(
            json.dumps(r, default=str) for r in rows if isinstance(r, dict)
        ).encode(),
        records.filter(
            lambda r: (
                isinstance(r, list)
                and all(isinstance(k, str) for one in r if isinstance(one, dict) for k in one)
            )
        ),
    ),
    st.sampled_from(
        [
            b"",
            b"[]",
            b"3\n4",
            b"null\n{}",
            b'{"a": ',
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"recipe": {"x": 1}}',
            b'{"recipe": 1, "on": "test", "row": []}',
        ]
    ),
)


def from_file(function, **more):
    """A function of a path, called with a file of hostile lines."""

    def run(content):
        return function(file_of(content, "runs.jsonl"), **more)

    good = json.dumps(good_record()).encode()
    return call(run, content=(good, lines), named=f"{function.__name__} of a file")


def in_folder(name, function):
    """A function of a folder of results, in which one file holds hostile lines."""

    def run(content):
        folder = FOLDER / "results"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        (folder / name).write_bytes(content)
        return function(folder)

    return call(run, content=(b"", lines), named=f"{function.__name__}, {name}")


test_study = explore(
    "study, recipes, claims",
    [
        call(recipes.get_recipe, name=("digits-sff", words)),
        call(recipes.expected, name=("digits-sff", words)),
        call(
            lambda settings: study.build(recipe_of(**settings), data()),
            settings=({}, recipe_fields),
            named="build",
        ),
        call(study.interval, values=((1.0, 2.0), several(numbers))),
        call(
            study.summarise,
            records=(lambda: [record()], records),
            figure=("accuracy", words),
            name=(lambda: lambda r: r["rule"], anything),
        ),
        call(study.table, summaries=(lambda: study.summarise([record()]), several(anything, 2))),
        call(
            lambda rows, one: study.row_name(rows)(one),
            rows=(
                {"a": {"rule": "sff"}},
                st.one_of(st.just({}), st.just({"a": {"rulez": 1}}), st.just({"a": 3}), anything),
            ),
            one=(good_record, records),
            named="row_name",
        ),
        call(
            study.tables_by_vote,
            records=(lambda: [good_record()], records),
            rows=({"a": {}}, anything),
        ),
        call(study.read_runs, path=(FOLDER / "none.jsonl", paths)),
        call(
            study.append_run,
            path=(lambda: fresh("appended.jsonl"), paths),
            same=(None, st.sampled_from([3, "a", {}, []])),
            record=({}, st.one_of(anything, records)),
        ),
        call(
            study.once,
            path=(lambda: fresh("once.jsonl"), paths),
            key=({"a": 1}, anything),
            make=(lambda: dict, anything),
        ),
        call(
            study.compare,
            base=(recipe_of, anything),
            rules=((), several(words, 2)),
            fractions=((0.5,), several(numbers, 2)),
            seeds=(0, st.sampled_from([0, -1, 10**9, 10**30, "2", None, 1.5])),
            path=(None, paths),
            progress=(False, anything),
        ),
        call(
            study.study,
            recipes=((), several(anything, 2)),
            path=(None, paths),
            on=("test", words),
            progress=(False, anything),
        ),
        call(study.quicken_batch_norm, network=(network, anything), momentum=(0.1, numbers)),
        from_file(study.read_runs),
        from_file(claims.by_row),
        from_file(study.once, key={"rule": "sff"}, make=dict),
        call(
            claims.best_rate,
            tuning=(lambda: [{"lr": 0.1, "accuracy": 0.5}], st.one_of(records, several(odd, 2))),
        ),
        call(claims.pick, folder=(FOLDER, paths), name=("nothing", words), row=({}, anything)),
        call(claims.by_row, path=(FOLDER / "nothing", paths)),
        call(
            claims.difference,
            condition=("a", words),
            runs=({0: record(), 1: record()}, anything),
            base=({0: record(), 1: record()}, anything),
            figure=("accuracy", words),
            base_figure=(None, words),
            decides=(True, anything),
        ),
        call(claims.in_readme, text=(claims.START + claims.END, words), table=("", words)),
        call(claims.page, folder=(FOLDER, paths)),
        call(claims.short_table, folder=(FOLDER, paths)),
        call(claims.write, root=(lambda: _project(), paths), check=(True, anything)),
        *[
            in_folder(name, claims.page)
            for name in (
                "fashion_rules.jsonl",
                "speed_rules.jsonl",
                "cost_resnet18.jsonl",
                "transfer.jsonl",
                "features.jsonl",
                "partitioning.jsonl",
            )
        ],
    ],
)


def _project() -> Path:
    """A folder that looks like the project's."""
    (FOLDER / "results").mkdir(exist_ok=True)
    (FOLDER / "README.md").write_text(claims.START + claims.END)
    return FOLDER


# ---------------------------------------------------------------- checkpoints


class _Keeps:
    """A rule as a checkpoint sees it."""

    def __init__(self):
        self.model = network()
        self.optimizers = [torch.optim.AdamW(self.model.parameters())]

    def modules(self):
        return {"model": self.model}


def _follow(path, **settings) -> checkpoint.Checkpoint:
    from sff_teach.history import History

    history = History("sff", {"epochs": 1, "lr": 0.1, **settings}, 1, [{"epoch": 1}])
    return checkpoint.Checkpoint(path, _Keeps(), history, torch.Generator(), data())


def _written() -> bytes:
    path = FOLDER / "whole.pt"
    _follow(path).save()
    return path.read_bytes()


WHOLE = _written()
CONTENT = checkpoint.read(FOLDER / "whole.pt")


def resume(where, what, settings):
    """Go on from a damaged file, or with other settings."""
    file = file_of(damaged(WHOLE, where, what) if what else WHOLE, "damaged.pt")
    return _follow(file, **settings).resume()


def resume_other(part, value):
    """Go on from a file that torch reads, and in which one part is something else."""
    torch.save({**CONTENT, part: value}, FOLDER / "other.pt")
    return _follow(FOLDER / "other.pt").resume()


plain = st.one_of(  # what weights_only reads
    st.sampled_from(
        [
            None,
            0,
            -1,
            1.5,
            "",
            "a",
            [],
            [1, 2],
            {},
            {"a": 1},
            {"model": {}},
            {"model": 3},
            [{}],
            [{"state": 3}],
            torch.ones(2),
            torch.zeros(0, dtype=torch.uint8),
            {"model": {"blocks.0.body.weight": torch.ones(1)}},
        ]
    )
)

test_checkpoint = explore(
    "checkpoint",
    [
        call(
            resume,
            where=(0, st.integers(0, 10**6)),
            what=("", damage),
            settings=(
                {},
                st.sampled_from([{}, {"lr": 1}, {"lr": float("nan")}, {"epochs": 2}, {"more": 1}]),
            ),
        ),
        call(
            resume_other,
            part=("rule", st.sampled_from([*CONTENT, "format", "more"])),
            value=("sff", plain),
        ),
        call(checkpoint.read, path=(FOLDER / "whole.pt", paths)),
        call(lambda path: _follow(path), path=(FOLDER / "new.pt", paths), named="Checkpoint"),
        call(lambda path: _follow(path).resume(), path=(FOLDER / "new.pt", paths), named="resume"),
    ],
)
