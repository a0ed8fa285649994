"""Tables of a study whose rows are settings, by the vote of all blocks and by the last block."""

from collections.abc import Callable, Mapping, Sequence

from sff_teach.study import stored_recipe, summarise, table
from sff_teach.study.summary import has_settings


def row_name(rows: Mapping[str, Mapping]) -> Callable[[dict], str]:
    """For ``summarise``: the name of the first row (name → fields of ``Recipe``) that fits."""

    def name(record: dict) -> str:
        recipe = stored_recipe(record)
        return next(row for row, settings in rows.items() if has_settings(recipe, settings))

    return name


def tables_by_vote(records: Sequence[dict], rows: Mapping[str, Mapping]) -> list[str]:
    """Lines of Markdown: ``table`` for the vote of all blocks, then for the last block's.

    Args:
        records: of ``study``.
        rows: as for ``row_name``.
    """
    lines = []
    for vote, voters in (("mean", "mean of all blocks"), ("last", "last block")):
        summaries = summarise(records, f"accuracy_{vote}", row_name(rows))
        lines += ["", f"## Prediction by the {voters}", "", table(summaries)]
    return lines
