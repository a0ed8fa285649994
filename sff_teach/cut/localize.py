"""Cut an unmodified model into ordered stages and give each its own goodness head.

One rule serves every architecture: a cut is legal exactly where one tensor is alive, that is where
everything still to be computed needs that tensor and nothing else. Inside a residual block the
shortcut is alive too, so no cut falls there. The model is traced with ``torch.fx`` (``_graph``);
the stages run the original's own modules on the original's own parameters.
"""

import copy
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import fx, nn

from ..core import SFF, GoodnessHead, LocalBlock
from ..heads import HiddenHead
from ..util.checks import check_count, explained, nearest, short_repr
from .graph import (
    EXAMPLES,
    channel_dim,
    cut_points,
    feature_points,
    measure,
    modules_of,
    positions,
    reason,
    shared,
    stage_module,
    trace,
)
from .table import BlockRow, BlockTable, describe

__all__ = [
    "BlockRow",
    "BlockTable",
    "cut_points",
    "describe",
    "localize",
    "small_stem",
    "split_stages",
    "trace",
]

CUTS = ("layer", "block", "stage")
_SIZES = (224, 32, 28, 64, 96, 128, 299)  # image sizes to measure with if none is given


@explained()
def localize(
    model: nn.Module,
    num_classes: int,
    *,
    cut: str | int = "block",
    kernel_size: int = 1,
    filters: int = 1,
    hidden: int = 0,
    form: str = "auto",
    normalise: str = "all",
    vote: str = "mean",
    stages: Sequence | None = None,
    input_shape: Sequence[int] | None = None,
    stem: str | None = None,
) -> SFF:
    """Turn an unmodified model into locally trained blocks that share its parameters.

    The features are cut as ``split_stages`` says; each stage gets a ``GoodnessHead``. Pooling and
    classifier stay in ``result.original``, which is ``model`` itself: training the blocks trains it
    in place. Tokens (B, N, C) and channels-last maps (B, H, W, C) are positions × channels.

    Args:
        model: any torchvision classifier, any Sequential, any model that torch.fx can trace.
        num_classes: the number K.
        cut: ``"layer"``, ``"block"``, ``"stage"`` or a number of blocks; see ``split_stages``.
        kernel_size, filters, form: of the heads, see ``GoodnessHead``.
        hidden: 0 for the paper's plain head, or the channels of a small convolution before it, see
            ``heads.HiddenHead``: nearer to backprop's accuracy, at a price.
        normalise, vote: see ``SFF``.
        stages: instead of ``cut``, the parts in order: modules, names, or lists of them. The output
            of one is the input of the next; leave pooling and classifier out.
        input_shape: (C, H, W) of an image, (C, L) of a sequence or (C,) of a table's row, only to
            measure shapes and costs; without it, ImageNet's size is tried first and then smaller
            ones.
        stem: ``"small"`` changes the model's first layer in place for small images; see
            ``small_stem``.

    Raises:
        ValueError: the model cannot be traced, run on ``input_shape``, or cut that way.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, not {short_repr(model)}; build it first."
        )
    check_count(num_classes, "num_classes", minimum=2)
    check_count(hidden, "hidden", minimum=0)
    if stem not in (None, "small"):
        nearest(stem, ["small"], "stem")
    if stages is not None and cut != "block":
        raise ValueError(f"cut={short_repr(cut)} and stages were both given; give one of them.")
    replaced = small_stem(model) if stem else {}
    try:
        plan = (
            _cut(model, cut, input_shape) if stages is None else _given(model, stages, input_shape)
        )
        blocks = _with_heads(model, plan, num_classes, hidden, kernel_size, filters, form)
        return SFF(blocks, normalise=normalise, vote=vote, original=model)
    except BaseException:  # the model stays as it was
        for name, module in replaced.items():
            model.set_submodule(name, module)
        raise


@explained()
def split_stages(
    model: nn.Module, cut: str | int = "block", *, input_shape: Sequence[int] | None = None
) -> list[nn.Module]:
    """The model's features as an ordered list of stages; composed they equal the original exactly.

    Features end before global pooling, flattening or picking the class token, before the dropout
    that precedes these, and before the classifier. A model whose output still has positions is
    features all through.

    Args:
        cut: where to cut, always at points where one tensor is alive:

            - ``"layer"``: every layer that multiplies (convolution, linear, attention), with the
              normalisation, activation and pooling after it. What cannot be cut inside (a residual
              block) is one layer. The layers of a Sequential are its children.
            - ``"block"``: every residual, inverted-residual, encoder, dense, fire or inception
              block: the repeated modules that branch inside. What multiplies between them (stem,
              transition) is a block of its own. A plain chain (VGG) has none: its layers are taken.
            - ``"stage"``: the blocks that work at one resolution together (positions change by a
              factor of two or more). ResNet18: stem and four stages. A ViT is a single stage.
            - n: n blocks of about equal cost: of all ways to join the layers, the one with the
              least sum of squared FLOPs.
        input_shape: (C, H, W) of an image, only to measure; see ``localize``.

    Returns:
        ``fx.GraphModule`` objects, with the original's parameters under the original's names.

    Raises:
        ValueError: the model cannot be traced, run on ``input_shape``, or cut that way.
    """
    return [stage.body for stage in _cut(model, cut, input_shape)]


@explained()
def small_stem(model: nn.Module) -> dict[str, nn.Module]:
    """Adapt a model for 224×224 pictures to 32×32 ones, in place: its first layer keeps the size.

    A first convolution wider than 3×3 becomes 3×3 with stride 1 and fresh weights (ResNet's 7×7); a
    narrower one with a stride keeps its weights and gets stride 1 (MobileNet). A max-pool module
    before the second convolution becomes the identity. First is as ``model.modules()`` lists them.

    Returns:
        The modules that were replaced, by name.

    Raises:
        ValueError: the first convolution keeps the size already, or there is none.
    """
    listed = list(model.named_modules())
    convs = [i for i, (_, module) in enumerate(listed) if isinstance(module, nn.Conv2d)]
    name, conv = listed[convs[0]] if convs else ("", None)
    if conv is not None and max(conv.kernel_size) > 3:
        new = nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, groups=conv.groups)
        if conv.bias is None:
            new.bias = None
        new = new.to(conv.weight.device, conv.weight.dtype).train(conv.training)
    elif conv is not None and max(conv.stride) > 1:
        new = copy.copy(conv)  # the same parameters
        new.stride = (1, 1)
    else:
        raise ValueError(
            f'stem="small" finds nothing to change in {type(model).__name__}: it has no first '
            "convolution that makes the image smaller; leave stem out."
        )
    changes = {name: new}
    for name, module in listed[convs[0] : convs[1] if len(convs) > 1 else None]:
        if isinstance(module, nn.MaxPool2d):
            changes[name] = nn.Identity()
    old = {name: model.get_submodule(name) for name in changes}
    for name, module in changes.items():
        model.set_submodule(name, module)
    return old


@dataclass(frozen=True)
class _Stage:
    """A piece of the model, and its output: the shape (B, ...) and where that has its channels."""

    body: nn.Module
    shape: tuple[int, ...]
    channel_dim: int


def _with_heads(
    model: nn.Module, plan: list[_Stage], num_classes: int, hidden: int, kernel_size: int,
    filters: int, form: str,
) -> list[LocalBlock]:  # fmt: skip
    """Every stage with a head of its own."""
    weight = next(model.parameters(), torch.empty(0))
    blocks = []
    for number, stage in enumerate(plan, 1):
        dims = len(stage.shape) - 2
        sequence = dims == 1 and stage.channel_dim == 1  # tokens have their channels last
        if (kernel_size > 1 or hidden) and not (dims == 2 or sequence):
            name, plain = (f"hidden={hidden}", 0) if hidden else (f"kernel_size={kernel_size}", 1)
            raise ValueError(
                f"{name} needs maps (B, C, H, W) or sequences (B, C, L), but block {number} gives "
                f"(B, {', '.join(map(str, stage.shape[1:]))}); use {name.split('=')[0]}={plain}."
            )
        size = (stage.shape[stage.channel_dim], num_classes)
        options = (kernel_size, filters, form, stage.channel_dim, 1 if sequence else 2)
        head = HiddenHead(*size, hidden, *options) if hidden else GoodnessHead(*size, *options)
        blocks.append(LocalBlock(stage.body, head.to(weight.device, weight.dtype)))
    return blocks


def _cut(model: nn.Module, cut: str | int, input_shape: Sequence[int] | None) -> list[_Stage]:
    if not isinstance(cut, str):
        check_count(cut, "cut")
    elif cut not in CUTS:
        nearest(cut, CUTS, "cut")
    name, sequential = type(model).__name__, isinstance(model, nn.Sequential)
    try:
        traced = trace(model)
    except ValueError:
        if not sequential:
            raise
        traced = trace(model, whole=list(model))
    problem = ""
    for shape in _example_shapes(model, input_shape):
        try:
            measure(traced, (EXAMPLES, *shape))
            break
        except Exception as error:  # whatever the model's own code raises
            what = "an image" if len(shape) == 3 else "a sample"
            problem = problem or f"{what} of shape {shape} ({reason(error)})"
    else:
        raise ValueError(
            f"{name} cannot run on {problem}; give the shape that it takes, input_shape=(C, H, W)."
        )
    try:
        points = feature_points(traced)
    except ValueError as error:
        raise ValueError(f"{name} {error}; give its parts in order, stages=[...].") from None
    layers = _layers(points, children_only=sequential and isinstance(cut, str))
    if isinstance(cut, str):
        ends = layers if cut == "layer" else _blocks(points) or layers
        ends = _one_resolution(points, ends) if cut == "stage" else ends
    elif cut > len(layers):
        raise ValueError(
            f"cut={cut} is more than the {len(layers)} blocks that {name} can be cut into; "
            f"use at most {len(layers)}."
        )
    else:
        ends = _equal_cost(points, layers, cut)
    ends = [points[i] for i in ends]
    starts = [next(n for n in traced.graph.nodes if n.op == "placeholder"), *ends[:-1]]
    return [
        _Stage(stage_module(traced, start, end), end.meta["shape"], channel_dim(end))
        for start, end in zip(starts, ends)
    ]


def _given(model: nn.Module, stages: Sequence, input_shape: Sequence[int] | None) -> list[_Stage]:
    """The stages that the user listed, measured one after the other."""
    bodies = [_part(model, part) for part in stages]
    if not bodies:
        raise ValueError("stages is empty; list the model's parts in order.")
    owners = Counter(id(p) for body in bodies for p in set(body.parameters()))
    if max(owners.values(), default=0) > 1:
        raise ValueError("stages share parameters; let every module belong to one stage only.")
    if not owners.keys() <= {id(p) for p in model.parameters()}:
        raise ValueError("stages hold parameters that model does not; list the model's own parts.")
    problem = ""
    for image in _example_shapes(model, input_shape):
        plan, shape, dim = [], (EXAMPLES, *image), 1
        try:
            for body in bodies:
                try:
                    traced = trace(body)
                except ValueError:
                    traced = trace(nn.Sequential(body), whole=[body])
                measure(traced, shape, dim)
                output = next(iter(reversed(traced.graph.nodes)))
                shape, dim = output.meta["shape"], channel_dim(output)
                plan.append(_Stage(body, shape, dim))
            return plan
        except Exception as error:  # whatever the model's own code raises
            problem = problem or f"stages[{len(plan)}] cannot run on {shape} ({reason(error)})"
    raise ValueError(f"{problem}; list the parts in order, and give input_shape=(C, H, W).")


def _part(model: nn.Module, part: nn.Module | str | Sequence) -> nn.Module:
    if isinstance(part, nn.Module):
        return part
    if isinstance(part, list | tuple):
        return nn.Sequential(*(_part(model, p) for p in part))
    modules = dict(model.named_modules())
    if part not in modules:
        nearest(part, [name for name in modules if name], "module in stages:")
    return modules[part]


def _example_shapes(model: nn.Module, input_shape: Sequence[int] | None) -> list[tuple[int, ...]]:
    if input_shape is not None:
        for size in input_shape:
            check_count(size, "input_shape")
        return [tuple(input_shape)]
    maps = [p.shape[1] for p in model.parameters() if p.dim() == 4]
    if not maps:
        for module in model.modules():
            if isinstance(module, nn.Conv1d):
                return [(module.in_channels, size) for size in _SIZES]
            if isinstance(module, nn.Linear):
                return [(module.in_features,)]
    channels = maps[0] if maps else 3
    return [(channels, size, size) for size in _SIZES]


# --- choosing among the points; each function returns the indices of the points it cuts at --------


def _layers(points: list[fx.Node], children_only: bool) -> list[int]:
    """One layer per segment that multiplies, cut where modules nest least, or else last."""
    heavy = [i for i, point in enumerate(points) if point.meta["cost"]]
    depth = [point.meta["depth"] for point in points]
    ends = []
    for this, following in zip(heavy, heavy[1:]):
        between = [i for i in range(this, following) if not (children_only and depth[i])]
        if between:
            ends.append(min(between, key=lambda i: (depth[i], -i)))
    return [*ends, len(points) - 1]


def _blocks(points: list[fx.Node]) -> list[int]:
    """Cut around the repeated modules that branch inside; empty if there are none."""
    stacks = [[modules_of(node) for node in point.meta["segment"]] for point in points]
    number = Counter(
        dict(module for segment in stacks for stack in segment for module in stack).values()
    )
    branching = set()  # classes whose inside cannot be cut
    for point, segment in zip(points, stacks):
        if len(segment) > 1 and point.meta["cost"] and shared(segment):
            branching.add(shared(segment)[-1][1])
    branching = {kind for kind in branching if number[kind] > 1 and kind is not nn.Sequential}

    def block(i: int) -> str | None:  # the outermost block that holds the whole segment
        return next((name for name, kind in shared(stacks[i]) if kind in branching), None)

    ends = []
    for _, run in groupby(range(len(points)), key=block):
        run = list(run)
        if any(points[i].meta["cost"] for i in run):
            ends.append(run[-1])
        elif ends:
            ends[-1] = run[-1]  # pooling and the like stay with the block before
    return ends if branching else []


def _one_resolution(points: list[fx.Node], ends: list[int]) -> list[int]:
    """Join neighbouring blocks until the number of positions changes by a factor of two."""
    kept, start, previous = [], 0, None
    for end in ends:
        heavy = [i for i in range(start, end + 1) if points[i].meta["cost"]]
        here = positions(points[heavy[-1] if heavy else end])  # where it last multiplies
        if previous and max(here, previous) < 2 * min(here, previous):
            kept.pop()
        kept.append(end)
        start, previous = end + 1, here
    return kept


def _equal_cost(points: list[fx.Node], layers: list[int], count: int) -> list[int]:
    """The ``count`` blocks with the least sum of squared costs, by dynamic programming."""
    cost = list(accumulate(point.meta["cost"] for point in points))
    total = [0, *(cost[end] for end in layers)]  # FLOPs up to the end of each layer
    best = [(0, []), *[(math.inf, [])] * len(layers)]  # of the first j layers: loss, ends
    for _ in range(count):
        best = [(math.inf, [])] + [
            min(
                (loss + (total[j] - total[i]) ** 2, [*ends, layers[j - 1]])
                for i, (loss, ends) in enumerate(best[:j])
            )
            for j in range(1, len(layers) + 1)
        ]
    return best[-1][1]
