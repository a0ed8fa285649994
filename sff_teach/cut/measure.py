"""Shapes, channels and FLOPs at every node of a graph, and the end of its features."""

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ..util.checks import SFFError
from .graph import closure, common_prefix, cut_points, is_overwritten, modules_of, op_name, weights
from .state import preserve_model, quiet

EXAMPLES = 2  # images in the batch that measures shapes

# --- shapes and FLOPs ----------------------------------------------------------------------------


def measure(traced: fx.GraphModule, shape: Sequence[int], dim: int = 1) -> None:
    """Set each node's output ``shape``, ``channels`` (dimensions) and ``flops`` in its meta.

    ``shape`` is the input's, with the batch; ``dim`` is its dimension of channels. A classifier for
    inputs of another size may fail; its nodes then have no shape.
    """

    def run(x: Tensor, counter: FlopCounterMode) -> None:
        for node in traced.graph.nodes:
            node.meta.pop("shape", None)
        try:
            _ShapeFlopInterpreter(traced, counter, dim).run(x)
        except Exception:  # any exception of the model's own code
            if _count_features(traced, points := _measured(traced)) == len(points):
                raise

    dry_run(traced, shape, run)


def example(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """A batch of artificial values, on the model's device and of its dtype."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    x = torch.linspace(-1, 1, math.prod(shape), device=weight.device, dtype=weight.dtype)
    return x.reshape(*shape)


def dry_run(
    model: nn.Module, shape: Sequence[int], run: Callable[[Tensor, FlopCounterMode], None]
) -> None:
    """Call ``run`` on an example of ``shape``, in evaluation mode; nothing in the model changes.

    First with fake tensors, which have shapes but no values; if the model reads values, once more
    with real ones.
    """
    counter = FlopCounterMode(display=False)
    with preserve_model(model), torch.enable_grad(), counter:
        model.eval()
        # With a gradient: without, attention takes a fast path whose FLOPs are not counted.
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), quiet():
                run(example(model, shape).requires_grad_().clone(), counter)
        except Exception:  # any exception of the model's own code
            run(example(model, shape).requires_grad_().clone(), counter)


def runs_on(model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether the model takes samples of a shape, in both modes."""
    with preserve_model(model), torch.no_grad():
        try:
            for training in (False, True):
                model.train(training)(example(model, (EXAMPLES, *shape)))
        except Exception:  # any exception of the model's own code
            return False
    return True


class FlopInterpreter(fx.Interpreter):
    """Runs a graph and sets each node's ``flops`` in its meta; ``counter`` must be active."""

    def __init__(self, traced: fx.GraphModule, counter: FlopCounterMode, **options):
        super().__init__(traced, **options)
        self.counter = counter

    def run_node(self, n: fx.Node):
        before = self.counter.get_total_flops()
        value = super().run_node(n)
        n.meta["flops"] = self.counter.get_total_flops() - before
        return value


class _ShapeFlopInterpreter(FlopInterpreter):
    """Sets all of the meta of ``measure``."""

    def __init__(self, traced: fx.GraphModule, counter: FlopCounterMode, dim: int):
        super().__init__(traced, counter)
        self.dim = dim

    def run_node(self, n: fx.Node):
        value = super().run_node(n)
        tensor = value if isinstance(value, Tensor) else None
        n.meta["shape"] = None if tensor is None else tuple(tensor.shape)
        n.meta["holds_tensors"] = tensor is not None or isinstance(value, tuple | list | dict)
        n.meta["channels"] = set() if tensor is None else self.find_channels(n, tensor)
        return value

    def find_channels(self, node: fx.Node, h: Tensor) -> set[int]:
        """The dimensions of ``h`` that hold channels, more than one if they were split.

        An image has them in dimension 1. Convolution and batch norm put them there, linear and
        layer norm put them last; a view or reshape moves them; other operations keep them.
        """
        if node.op == "placeholder":
            return {self.dim % h.dim()}
        what = op_name(self.module, node)
        module = self.module.get_submodule(node.target) if node.op == "call_module" else None
        composite = module is not None and next(module.children(), None) is not None
        if not composite and h.dim() > 1 and re.search("conv|batch_?norm", what):
            return {1}
        if type(module) in (nn.Linear, nn.LayerNorm) or what in ("linear", "layer_norm"):
            return {h.dim() - 1}
        if composite and h.dim() == 3:
            return {2}  # attention
        sources = [n for n in node.all_input_nodes if n.meta.get("channels")]
        if not sources:
            return set()
        x, channels = self.env[sources[0]], sources[0].meta["channels"]
        if h._is_view() or what in ("reshape", "flatten"):
            return _reshaped_dims(x, h, channels)
        return {min(dim, h.dim() - 1) for dim in channels}


def _reshaped_dims(x: Tensor, h: Tensor, channels: set[int]) -> set[int]:
    """The dimensions of ``h``, a view or reshape of ``x``, that hold the channels of ``x``."""
    places = list(zip(h.shape, h.stride()))
    wanted = [(x.shape[dim], x.stride(dim)) for dim in channels]
    if sorted(x.shape) == sorted(h.shape) and all(place in places for place in wanted):
        return {places.index(place) for place in wanted}  # permuted
    if x.numel() != h.numel():
        return {min(dim, h.dim() - 1) for dim in channels}  # indexed or repeated
    found, i, j = set(), 0, 0
    while i < x.dim() and j < h.dim():  # the shortest runs of dimensions with equal sizes
        m, n = next(
            (m, n)
            for m in range(i + 1, x.dim() + 1)
            for n in range(j + 1, h.dim() + 1)
            if math.prod(x.shape[i:m]) == math.prod(h.shape[j:n])
        )
        if channels & set(range(i, m)):
            found |= set(range(j, n))
        i, j = m, n
    return found


# --- cut points of the features ------------------------------------------------------------------


def feature_points(traced: fx.GraphModule) -> list[fx.Node]:
    """The cut points of a measured graph's features, the last one at their end.

    Sets at each point ``meta["segment"]``, the nodes since the point before; ``meta["cost"]``,
    their FLOPs; and ``meta["depth"]``, the number of modules around both this node and the next.

    Raises:
        SFFError: there is no such point.
    """
    nodes = list(traced.graph.nodes)
    candidates = _measured(traced)
    end = _end(traced, candidates)
    legal = set(cut_points(traced, set(nodes) - closure(traced, end)))
    before = candidates[: candidates.index(end)]
    points = [p for p in before if p in legal and not is_overwritten(traced, p)] + [end]
    start = 0
    for point in points:
        stop = nodes.index(point) + 1
        point.meta["segment"] = [n for n in nodes[start:stop] if n.op.startswith("call")]
        point.meta["cost"] = sum(n.meta["flops"] for n in point.meta["segment"])
        following = next(n for n in nodes[stop:] if n.op != "get_attr")
        point.meta["depth"] = len(common_prefix([modules_of(point), modules_of(following)]))
        start = stop
    return points


def _measured(traced: fx.GraphModule) -> list[fx.Node]:
    """The cut points with an output (B, ...) and channels in one dimension.

    Numbers such as a batch size do not count as live: only the classifier may need them.
    """
    nodes = traced.graph.nodes
    numbers = {n for n in nodes if n.meta.get("shape", ()) is None and not n.meta["holds_tensors"]}
    points = [node for node in cut_points(traced, numbers) if node.meta.get("shape")]
    return [p for p in points if p.meta["shape"][0] == EXAMPLES and len(p.meta["channels"]) == 1]


def _end(traced: fx.GraphModule, candidates: list[fx.Node]) -> fx.Node:
    """The end of the features: before the classifier, and after most layers with weights.

    A model that concatenates early activations at its end has its last cut point after pooling;
    everything up to there is one block.
    """
    weighted = [n for n in traced.graph.nodes if weights(traced, n)]
    count = _count_features(traced, candidates)

    def behind(end: fx.Node) -> list[fx.Node]:
        return [n for n in weighted if end < n]  # in the graph's order

    last = [p for p in candidates[count:] if behind(p)][-1:]
    for end in [*candidates[max(count - 1, 0) : count], *last]:
        left_out = behind(end)
        few = len(left_out) <= 3 and all(map(_is_vector, left_out))
        if 2 * len(left_out) <= len(weighted) or few:
            return end
    raise SFFError("early activations are needed at the end: nowhere is a single tensor alive")


def _is_vector(node: fx.Node) -> bool:
    """Whether a node outputs one vector per sample, as a classifier's layers do."""
    if "shape" not in node.meta:
        return True  # not run: a classifier for images of another size
    shape = node.meta["shape"] or ()
    return len(shape) > 1 and math.prod(shape[1:]) == max(shape[1:])


def _count_features(traced: fx.GraphModule, points: list[fx.Node]) -> int:
    """How many of the points are features; pooling and classifier follow."""
    nodes = list(traced.graph.nodes)
    weighted = [i for i, n in enumerate(nodes) if weights(traced, n)] or [0]
    place = [nodes.index(p) for p in points]
    flat = [i for i, p in enumerate(points) if len(p.meta["shape"]) < 3 and place[i] >= weighted[0]]
    if not flat:
        return len(points)  # positions up to the end
    if place[flat[0]] == weighted[0]:  # no positions after the first layer
        return len(points) - (len(points) > 1 and place[-1] == weighted[-1])
    end = _before_pooling(traced, points, flat[0])
    for name, _ in modules_of(points[end]):
        inside = [i for i, n in enumerate(nodes) if name in dict(modules_of(n))]
        if weighted[-1] in inside and weighted[0] not in inside:  # a classifier that pools
            first = next(i for i, p in enumerate(place) if p >= inside[0])
            return _before_pooling(traced, points, min(end, first))
    return end


def _before_pooling(traced: fx.GraphModule, points: list[fx.Node], end: int) -> int:
    """Step back over global pooling and dropout right before ``points[end]``."""
    while end > 1:
        what = op_name(traced, points[end - 1])
        average = ("avg" in what or what == "mean") and positions(points[end - 1]) == 1
        if not (average or "adaptive" in what or "dropout" in what):
            break
        end -= 1
    return end


def positions(point: fx.Node) -> int:
    """H·W, or the number of tokens."""
    return math.prod(point.meta["shape"][1:]) // point.meta["shape"][channel_dim(point)]


def channel_dim(point: fx.Node) -> int:
    """The dimension that holds the channels: 1 for maps, -1 for tokens."""
    (dim,) = point.meta["channels"]
    rank = len(point.meta["shape"])
    return -1 if rank > 2 and dim == rank - 1 else dim
