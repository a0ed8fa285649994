"""The table of a model's blocks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..core import SFF, GoodnessHead
from ..goodness import cheaper_form
from ..heads import HiddenHead
from ..util.checks import SFFError
from .graph import error_text
from .measure import dry_run


@dataclass(frozen=True)
class BlockRow:
    """One block; output shape without the batch, FLOPs of the forward pass of one sample."""

    name: str
    parameters: int
    head_parameters: int
    output_shape: tuple[int, ...]
    flops: int
    head_flops: int
    head_form: str


class BlockTable(list[BlockRow]):
    """The rows that ``describe`` returns; prints as a table with a line of totals."""

    def __str__(self) -> str:
        columns = ("parameters", "head_parameters", "flops", "head_flops")
        counts = [[getattr(row, column) for column in columns] for row in self]
        lines = [("block", "output", "parameters", "of head", "MFLOPs", "of head", "head form")]
        for row, numbers in zip(self, counts):
            output = " × ".join(map(str, row.output_shape))
            lines.append((row.name, output, *_printed(numbers), row.head_form))
        lines.append(("total", "", *_printed([sum(column) for column in zip(*counts)]), ""))
        widths = [max(map(len, column)) for column in zip(*lines)]
        align = ("<", ">", ">", ">", ">", ">", "<")
        return "\n".join(
            "  ".join(f"{text:{a}{w}}" for text, a, w in zip(line, align, widths)).rstrip()
            for line in lines
        )

    __repr__ = __str__


def _printed(counts: Sequence[int]) -> list[str]:
    return [f"{n:,}" for n in counts[:2]] + [f"{n / 1e6:,.2f}" for n in counts[2:]]


def describe(model: SFF, input_shape: Sequence[int]) -> BlockTable:
    """A table of the model's blocks: name, output shape, parameters and forward FLOPs per sample.

    FLOPs are torch's: two per multiply-add; normalisation, activation and pooling count nothing.
    The head's form is ``"direct"`` or ``"moments"``.

    Args:
        model: from ``localize`` or built from blocks.
        input_shape: of one sample, (C, H, W) for an image.
    """
    table = BlockTable()
    names = _names(model)

    def run(x: Tensor, counter: FlopCounterMode) -> None:
        table.clear()
        for name, block in zip(names, model.blocks):
            start = counter.get_total_flops()
            h = block.body(x)
            middle = counter.get_total_flops()
            block.head(h)
            table.append(
                BlockRow(
                    name=name,
                    parameters=sum(p.numel() for p in block.body.parameters()),
                    head_parameters=sum(p.numel() for p in block.head.parameters()),
                    output_shape=tuple(h.shape[1:]),
                    flops=middle - start,
                    head_flops=counter.get_total_flops() - middle,
                    head_form=_form(block.head, h),
                )
            )
            x = model.hand_over(block, h)

    try:
        dry_run(model, (1, *input_shape), run)
    except Exception as error:  # any exception of the model's own code
        text = f"the model cannot run on input_shape={tuple(input_shape)}: {error_text(error)}"
        raise SFFError(text) from error
    return table


def _form(head: nn.Module, h: Tensor) -> str:
    if not isinstance(head, GoodnessHead):
        return "linear"
    if head.form != "auto":
        return head.form
    if head.weight.shape[-1] > 1:
        return "direct"
    h = head.features(h) if isinstance(head, HiddenHead) else h
    channels = head.weight.shape[1]
    return cheaper_form(channels, head.weight.shape[0], h[0].numel() // channels)


def _names(model: SFF) -> list[str]:
    """Each block's name by the shortest unique module names: ``layer1.0``, ``conv1…bn1``."""
    original = model if model.original is None else model.original
    path = {id(p): tuple(name.split(".")) for name, p in original.named_parameters()}
    paths = [[path[id(p)] for p in block.body.parameters()] for block in model.blocks]
    blocks_under = Counter()  # prefix of a path → number of blocks with parameters there
    for own in paths:
        blocks_under.update({p[:n] for p in own for n in range(1, len(p) + 1)})

    def shortest(p: tuple[str, ...]) -> str:
        return ".".join(next(p[:n] for n in range(1, len(p) + 1) if blocks_under[p[:n]] == 1))

    ends = [(shortest(own[0]), shortest(own[-1])) if own else ("–", "–") for own in paths]
    return [first if first == last else f"{first}…{last}" for first, last in ends]
