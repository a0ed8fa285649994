"""Cut an unmodified model into ordered stages and give each its own goodness head.

One rule serves every architecture: a cut is legal exactly where one tensor is live, that is where
everything still to be computed needs that tensor and nothing else. Inside a residual block the
shortcut is live too, so no cut falls there. The model is traced with ``torch.fx`` (``graph``);
the stages run the original's own modules on the original's own parameters.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby

import torch
from torch import fx, nn

from ..core import SFF, GoodnessHead, LocalBlock
from ..heads import HEADS, HiddenHead
from ..util.checks import SFFError, check_count, check_known, short_repr
from .export import export
from .graph import (
    check_traceable,
    closure,
    common_prefix,
    cut_points,
    error_text,
    is_overwritten,
    matching_nodes,
    modules_of,
    share_pre_hooks,
    stage_graph,
    stage_module,
    trace,
)
from .measure import EXAMPLES, channel_dim, feature_points, measure, positions, runs_on
from .verify import find_classifier, verify, verify_listed

CUTS = ("layer", "block", "stage", "memory")
SIZES = (224, 32, 28, 64, 96, 128, 299)  # image sizes to measure with if none is given


def localize(
    model: nn.Module,
    num_classes: int,
    *,
    cut: str | int = "block",
    kernel_size: int = 1,
    filters: int = 1,
    hidden: int = 0,
    head: str = "plain",
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
    in place. If it classifies the mean of its last features, it predicts after ``rule="bp"``, and
    after ``heads.learn_classifier``. Tokens (B, N, C) and channels-last maps are supported.

    Args:
        model: any torchvision classifier, any Sequential, any model that torch.fx can trace or
            torch.export capture; the latter then takes samples of ``input_shape`` only.
        num_classes: K.
        cut: ``"layer"``, ``"block"``, ``"stage"``, ``"memory"`` or a number of blocks; see
            ``split_stages``.
        kernel_size: of the heads, see ``GoodnessHead``.
        filters: of the heads, see ``GoodnessHead``.
        hidden: 0 for the paper's plain head, or the channels of a ``heads.HiddenHead``.
        head: ``"accurate"`` for a hidden head with settings of its own, see ``heads.HEADS``.
        form: of the heads, see ``GoodnessHead``.
        normalise: between blocks, see ``SFF``.
        vote: of the blocks, see ``SFF``.
        stages: instead of ``cut``, the features' parts in order: modules, names of modules,
            functions between them, or lists of these.
        input_shape: (C, H, W) of an image, (C, L) of a sequence or (C,) of a table's row, to
            measure with; by default usual sizes are tried.
        stem: ``"small"`` changes the model's first layer in place, see ``small_stem``.

    Returns:
        The blocks. On an example they agreed with ``model`` in outputs, buffers and gradients, in
        both modes.

    Raises:
        SFFError: the model cannot be traced, run on ``input_shape``, or cut that way. It is then
            unchanged.
    """
    if isinstance(model, SFF):
        raise SFFError("model is cut already; cut the model inside again with model.original")
    check_traceable(model)
    check_count(num_classes, "num_classes", minimum=2)
    check_count(hidden, "hidden", minimum=0)
    check_known(stem, (None, "small"), "stem")
    if stages is not None and cut != "block":
        raise SFFError(f"cut={short_repr(cut)} and stages were both given; give one of them")
    heads = _head_options(head, hidden=hidden, kernel_size=kernel_size, filters=filters, form=form)
    replaced = small_stem(model) if stem else {}
    try:
        found, classifier = _find_stages(model, cut, stages, input_shape)
        blocks = [
            LocalBlock(stage.body, _make_head(number, stage, num_classes, **heads))
            for number, stage in enumerate(found, 1)
        ]
        weight = next(model.parameters(), torch.empty(0))
        for block in blocks:
            block.head.to(weight.device, weight.dtype)
        return SFF(blocks, normalise=normalise, vote=vote, original=model, classifier=classifier)
    except BaseException:  # leave the model unchanged
        for name, module in replaced.items():
            model.set_submodule(name, module)
        raise


def split_stages(
    model: nn.Module, cut: str | int = "block", *, input_shape: Sequence[int] | None = None
) -> list[nn.Module]:
    """The model's features as an ordered list of stages; composed they equal the original exactly.

    Features end before global pooling, flattening or the choice of the class token, the dropout
    before these, and the classifier. Only ``localize`` compares the stages with the original. They
    hold the original's parameters under the original's names.

    Args:
        model: as for ``localize``.
        cut: where to cut, always at points where one tensor is live:

            - ``"layer"``: every layer that multiplies (convolution, linear, attention), with the
              normalisation, activation and pooling after it. A part without a legal cut inside (a
              residual block) is one layer. The layers of a Sequential are its children.
            - ``"block"``: every residual, inverted-residual, encoder, dense, fire or inception
              block: the repeated modules that branch inside. Layers between them (stem, transition)
              form blocks too. A plain chain (VGG) is cut into its layers.
            - ``"stage"``: neighbouring blocks of one resolution; the number of positions changes
              by a factor of two or more between stages. ResNet18: stem and four. ViT: one.
            - ``"memory"``: as few blocks as keep the peak of ``"layer"``: neighbouring layers are
              merged while together they compute no more values than the largest layer alone.
            - n: n blocks of about equal cost: of all ways to merge the layers, the one with the
              least sum of squared FLOPs.
        input_shape: as for ``localize``.

    Raises:
        SFFError: the model cannot be traced, run on ``input_shape``, or cut that way.
    """
    stages, _ = _cut_model(model, cut, input_shape)
    return [stage.body for stage in stages]


def small_stem(model: nn.Module) -> dict[str, nn.Module]:
    """Adapt a model for 224×224 images to 32×32 ones, in place: its first layer keeps the size.

    A first convolution wider than 3×3 becomes 3×3 with stride 1 and fresh weights (ResNet's 7×7); a
    narrower one with a stride keeps its weights and gets stride 1 (MobileNet). A max-pool module
    before the second convolution becomes the identity. Returns what was replaced, by name.
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
        raise SFFError('stem="small": no first convolution here makes the image smaller')
    changes = {name: new}
    for name, module in listed[convs[0] : convs[1] if len(convs) > 1 else None]:
        if isinstance(module, nn.MaxPool2d):
            changes[name] = nn.Identity()
    old = {name: model.get_submodule(name) for name in changes}
    for name, module in changes.items():
        model.set_submodule(name, module)
    return old


@dataclass(frozen=True)
class Stage:
    """A part of the model; its output's shape (B, ...) and dimension of channels."""

    body: nn.Module
    shape: tuple[int, ...]
    channel_dim: int


def _head_options(head: str, **options) -> dict:
    """The options of all heads, with those that ``head`` sets."""
    check_known(head, HEADS, "head")
    if HEADS[head] and (options["hidden"] or options["kernel_size"] > 1):
        raise SFFError(f'head="{head}" sets hidden and kernel_size itself; leave these two out')
    return options | HEADS[head]


def _make_head(
    number: int, stage: Stage, num_classes: int, hidden: int, kernel_size: int, **options
) -> GoodnessHead:
    """The head of block ``number``."""
    dims = len(stage.shape) - 2
    sequence = dims == 1 and stage.channel_dim == 1  # tokens have their channels last
    if (kernel_size > 1 or hidden) and not (dims == 2 or sequence):
        shape = ", ".join(map(str, stage.shape[1:]))
        raise SFFError(f"block {number} gives (B, {shape}): use kernel_size=1 and hidden=0")
    options |= {"kernel_size": kernel_size, "channel_dim": stage.channel_dim}
    options["dims"] = 1 if sequence else 2
    channels = stage.shape[stage.channel_dim]
    if hidden:
        return HiddenHead(channels, num_classes, hidden, **options)
    return GoodnessHead(channels, num_classes, **options)


# --- from a model to stages ----------------------------------------------------------------------


@dataclass(frozen=True)
class Graphs:
    """A model's graphs of both modes, and their cut points."""

    evaluation: fx.GraphModule  # measured
    training: fx.GraphModule
    pairs: dict[fx.Node, fx.Node]  # see matching_nodes
    points: list[fx.Node]  # cut points of the features, the last one at their end
    shape: tuple[int, ...]  # of the measured sample, without the batch
    shapes: list[tuple[int, ...]]  # other samples that may suit the model


def _find_stages(
    model: nn.Module, cut: str | int, listed: Sequence | None, input_shape: Sequence[int] | None
) -> tuple[list[Stage], str | None]:
    """The model's stages, by ``cut`` or as listed, and the name of its classifier."""
    if listed is not None:
        return _stages_from_list(model, listed, input_shape)
    stages, graphs = _cut_model(model, cut, input_shape)
    return stages, _compare(model, stages, graphs)


def _cut_model(
    model: nn.Module, cut: str | int, input_shape: Sequence[int] | None
) -> tuple[list[Stage], Graphs]:
    """The model's stages, and the graphs that they are parts of."""
    if isinstance(cut, str):
        check_known(cut, CUTS, "cut")
    else:
        check_count(cut, "cut")
    check_traceable(model)
    graphs = _find_graphs(model, _example_shapes(model, input_shape))
    ends = [graphs.points[i] for i in _choose_ends(graphs.points, cut, model)]
    starts = [next(n for n in graphs.evaluation.graph.nodes if n.op == "placeholder"), *ends[:-1]]
    stages = []
    for start, end in zip(starts, ends):
        graph = stage_graph(graphs.evaluation, start, end)
        when_training = stage_graph(graphs.training, graphs.pairs[start], graphs.pairs[end])
        body = stage_module((graphs.evaluation, graphs.training), graph, when_training)
        body.training = model.training  # the modules inside keep their modes
        stages.append(Stage(body, end.meta["shape"], channel_dim(end)))
    share_pre_hooks(model, stages[0].body)
    return stages, graphs


def _find_graphs(model: nn.Module, shapes: list[tuple[int, ...]]) -> Graphs:
    """The graphs by torch.fx, or by torch.export where fx cannot trace most of the model."""
    found, problem = None, None
    try:
        found = _measured_graphs(model, trace(model), trace(model, training=True), shapes)
        if not _mostly_opaque(found.evaluation, model):
            return found
    except SFFError as error:
        problem = error
    shape = next((shape for shape in shapes if runs_on(model, shape)), None)
    if shape is not None:
        try:
            both = (export(model, shape, training) for training in (False, True))
            return _measured_graphs(model, *both, [shape])
        except SFFError as error:
            problem = SFFError(f"{problem}; {error}")
    if found is not None:
        return found
    raise problem


def _measured_graphs(
    model: nn.Module,
    evaluation: fx.GraphModule,
    training: fx.GraphModule,
    shapes: list[tuple[int, ...]],
) -> Graphs:
    name = type(model).__name__
    try:
        shape, _ = _first_that_works(shapes, lambda s: measure(evaluation, (EXAMPLES, *s)))
    except Exception as error:  # any exception of the model's own code
        text = f"{name} cannot run on a sample of shape {shapes[0]}: {error_text(error)}"
        raise SFFError(f"{text}; give input_shape=(C, H, W)") from error
    try:
        points = feature_points(evaluation)
    except SFFError as error:
        opaque = [(type(m).__name__, error_text(e)) for m, e in evaluation.meta["opaque"].items()]
        inside = "; its module {} cannot be traced: {}".format(*opaque[0]) if opaque else ""
        raise SFFError(f"{name} cannot be cut: {error}{inside}") from None
    pairs = matching_nodes(evaluation, training)
    points = _legal_in_training(points, training, pairs, name)
    return Graphs(evaluation, training, pairs, points, shape, shapes)


def _mostly_opaque(traced: fx.GraphModule, model: nn.Module) -> bool:
    """Whether modules that cannot be traced hold more than half of the weights."""
    inside = {id(p) for module in traced.meta["opaque"] for p in module.parameters()}
    sizes = {id(p): p.numel() for p in model.parameters()}
    return 2 * sum(sizes[key] for key in inside) > sum(sizes.values())


def _compare(model: nn.Module, stages: list[Stage], graphs: Graphs) -> str | None:
    """Verify the stages, on the smallest samples for speed; return the classifier's name."""
    if _has_no_data(model):
        return None
    smaller = sorted(shape for shape in graphs.shapes if shape < graphs.shape)
    shape = next((s for s in smaller if runs_on(model, s)), graphs.shape)
    end = graphs.points[-1]
    ends = {True: (graphs.training, graphs.pairs[end]), False: (graphs.evaluation, end)}
    composed = nn.Sequential(*(stage.body for stage in stages))
    verify(model, composed, ends, shape)
    return find_classifier(model, composed, stages[-1].channel_dim, shape)


def _has_no_data(model: nn.Module) -> bool:
    """Whether the model is on the device "meta", where only shapes can be compared."""
    return any(parameter.is_meta for parameter in model.parameters())


def _first_that_works(shapes: list[tuple[int, ...]], attempt: Callable) -> tuple:
    """The first shape with which the attempt succeeds, and its result."""
    problem = None
    for shape in shapes:
        try:
            return shape, attempt(shape)
        except Exception as error:  # any exception of the model's own code
            problem = problem or error
    raise problem


def _legal_in_training(
    points: list[fx.Node], training: fx.GraphModule, pairs: dict[fx.Node, fx.Node], name: str
) -> list[fx.Node]:
    """The points that are legal in the training graph as well; the segments are merged."""
    end = points[-1]
    if end not in pairs:
        raise SFFError(f"{name} computes other features in training than in evaluation")
    ignored = set(training.graph.nodes) - closure(training, pairs[end])
    legal = {*cut_points(training, ignored), pairs[end]}
    legal_points, segment = [], []
    for point in points:
        segment += point.meta["segment"]
        twin = pairs.get(point)
        if twin in legal and (point is end or not is_overwritten(training, twin)):
            point.meta["segment"] = segment
            point.meta["cost"] = sum(n.meta["flops"] for n in segment)
            legal_points.append(point)
            segment = []
    return legal_points


def _stages_from_list(
    model: nn.Module, listed: Sequence, input_shape: Sequence[int] | None
) -> tuple[list[Stage], str | None]:
    """The stages that the user listed, compared with the model, and its classifier's name."""
    bodies = [_resolve_stage(model, part) for part in listed]
    if not bodies:
        raise SFFError("stages is empty; list the model's parts in order")
    owners = Counter(id(p) for body in bodies for p in set(body.parameters()))
    if max(owners.values(), default=0) > 1:
        raise SFFError("stages share parameters; let every module belong to one stage only")
    if not owners.keys() <= {id(p) for p in model.parameters()}:
        raise SFFError("stages hold parameters that model does not; list the model's own parts")
    shapes = _example_shapes(model, input_shape)
    shape, stages = _first_that_works(shapes, partial(_measured_stages, bodies))
    if _has_no_data(model):
        return stages, None
    composed = nn.Sequential(*bodies)
    verify_listed(model, composed, shape)
    return stages, find_classifier(model, composed, stages[-1].channel_dim, shape)


def _measured_stages(bodies: list[nn.Module], shape: tuple[int, ...]) -> list[Stage]:
    stages, x, dim = [], (EXAMPLES, *shape), 1
    for number, body in enumerate(bodies):
        try:
            traced = trace(nn.Sequential(body))  # untraceable modules become leaves
            measure(traced, x, dim)
        except Exception as error:  # any exception of the model's own code
            raise SFFError(f"stages[{number}] cannot run on {x}: {error_text(error)}") from error
        output = next(iter(reversed(traced.graph.nodes))).all_input_nodes[0]
        if len(output.meta["channels"]) != 1:
            raise SFFError(f"what stages[{number}] returns has no dimension of channels")
        x, dim = output.meta["shape"], channel_dim(output)
        stages.append(Stage(body, x, dim))
    return stages


class _FunctionStage(nn.Module):
    """A function between parts of a model, as a module."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the function returns for x."""
        return self.function(x)


def _resolve_stage(model: nn.Module, part: nn.Module | str | Sequence | Callable) -> nn.Module:
    """The module for an entry of ``stages``: a module, a name, a function or a list of these."""
    if isinstance(part, nn.Module):
        return part
    if isinstance(part, list | tuple):
        return nn.Sequential(*(_resolve_stage(model, p) for p in part))
    if callable(part):
        return _FunctionStage(part)
    modules = {name: module for name, module in model.named_modules() if name}
    check_known(part, modules, "module in stages:")
    return modules[part]


def _example_shapes(model: nn.Module, input_shape: Sequence[int] | None) -> list[tuple[int, ...]]:
    """Shapes to try, without the batch: the given one, or what the first layer suggests."""
    if input_shape is not None:
        for size in input_shape:
            check_count(size, "input_shape")
        return [tuple(input_shape)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return [(module.in_channels, size, size) for size in SIZES]
        if isinstance(module, nn.Conv1d):
            return [(module.in_channels, size) for size in SIZES]
    linear = next((m for m in model.modules() if isinstance(m, nn.Linear)), None)
    return [(3, size, size) for size in SIZES] if linear is None else [(linear.in_features,)]


# --- choosing cut points; each function returns indices of points ---------------------------------


def _choose_ends(points: list[fx.Node], cut: str | int, model: nn.Module) -> list[int]:
    """The points where blocks end for a value of ``cut``; see ``split_stages``."""
    sequential = isinstance(model, nn.Sequential)
    layers = _layers(points, children_only=sequential and isinstance(cut, str))
    if not isinstance(cut, str):
        if cut > len(layers):
            raise SFFError(f"cut={cut}: {type(model).__name__} has at most {len(layers)} blocks")
        return _equal_cost(points, layers, cut)
    if cut == "memory":
        return _least_peak(points, layers)
    ends = layers if cut == "layer" else _blocks(points) or layers
    return _one_resolution(points, ends) if cut == "stage" else ends


def _layers(points: list[fx.Node], children_only: bool) -> list[int]:
    """One layer per segment with FLOPs, cut where modules nest least, or else last."""
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
        if len(segment) > 1 and point.meta["cost"] and common_prefix(segment):
            branching.add(common_prefix(segment)[-1][1])
    branching = {kind for kind in branching if number[kind] > 1 and kind != "Sequential"}

    def block(i: int) -> str | None:  # the outermost block around the whole segment
        return next((name for name, kind in common_prefix(stacks[i]) if kind in branching), None)

    ends = []
    for _, run in groupby(range(len(points)), key=block):
        run = list(run)
        if any(points[i].meta["cost"] for i in run):
            ends.append(run[-1])
        elif ends:
            ends[-1] = run[-1]  # pooling etc. belongs to the block before
    return ends if branching else []


def _one_resolution(points: list[fx.Node], ends: list[int]) -> list[int]:
    """Merge neighbouring blocks until the number of positions changes by a factor of two."""
    stage_ends, start, previous = [], 0, None
    for end in ends:
        heavy = [i for i in range(start, end + 1) if points[i].meta["cost"]]
        here = positions(points[heavy[-1] if heavy else end])  # at its last layer with FLOPs
        if previous and max(here, previous) < 2 * min(here, previous):
            stage_ends.pop()
        stage_ends.append(end)
        start, previous = end + 1, here
    return stage_ends


def _least_peak(points: list[fx.Node], layers: list[int]) -> list[int]:
    """The fewest blocks of which none computes more values than the largest layer."""
    values = [
        sum(math.prod(n.meta["shape"]) for n in point.meta["segment"] if n.meta.get("shape"))
        for point in points
    ]
    starts = [0, *(end + 1 for end in layers[:-1])]
    sizes = [sum(values[start : end + 1]) for start, end in zip(starts, layers)]
    ends, in_block = [], math.inf
    for size, end in zip(sizes, layers):
        if in_block + size > max(sizes):
            ends.append(end)
            in_block = 0
        ends[-1] = end
        in_block += size
    return ends


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
