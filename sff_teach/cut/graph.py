"""The graph of a model: tracing it, measuring it, and the points where it may be cut.

``split`` chooses among these points. A cut is legal where one tensor is alive.
"""

import logging
import math
import re
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from operator import attrgetter

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ..util.checks import first_line, root_cause, short_repr
from ..util.modes import preserve_training_mode

EXAMPLES = 2  # images in the batch that measures shapes


# --- tracing -------------------------------------------------------------------------------------


class _Mode(nn.Module):
    """Says whether the stage it sits in is training: what functional dropout needs to know."""

    def forward(self) -> bool:
        return self.training


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # else what is computed from a buffer is baked in

    def __init__(self, whole: Collection[nn.Module] = ()):
        super().__init__()
        self.whole = whole

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        leaf = super().is_leaf_module(m, module_qualified_name)
        return leaf or m in self.whole or isinstance(m, torch.jit.ScriptModule)


def trace(model: nn.Module, whole: Collection[nn.Module] = ()) -> fx.GraphModule:
    """The model's graph in evaluation mode, on its own modules, made to obey ``train()``.

    Tracing bakes ``self.training`` in. So the model is traced in both modes: a flag in which the
    two graphs differ (functional dropout, stochastic depth) is read when the graph runs, and what
    only training computes for itself (auxiliary classifiers) is left out. Nodes that differ in any
    other way carry ``meta["depends_on_mode"]``. The model is left as it was.

    Args:
        whole: submodules not to look into.

    Raises:
        ValueError: torch.fx cannot trace the model.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, not {short_repr(model)}; build it first."
        )
    attributes = set(vars(model))
    graphs = []
    try:
        with preserve_training_mode(model):
            for training in (False, True):
                model.train(training)
                graphs.append(_Tracer(whole).trace(model))
                if not training:
                    traced = fx.GraphModule(model, graphs[0])
                for constant in set(vars(model)) - attributes:  # the tracer leaves them there
                    delattr(model, constant)
    except Exception as error:
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx ({reason(error)}); "
            "give its parts in order, stages=[...]."
        ) from None
    traced.training = model.training
    traced.add_module("_mode", _Mode())
    twin, others, start = {}, list(graphs[1].nodes), 0  # twin: node when training → in evaluation
    for node in list(traced.graph.nodes):
        for i in range(start, len(others)):
            if _matches(node, others[i], twin):
                twin[others[i]], start = node, i + 1
                _read_mode(traced.graph, node, others[i])
                break
        else:
            node.meta["depends_on_mode"] = True
    traced.recompile()
    return traced


def _matches(node: fx.Node, other: fx.Node, twin: dict[fx.Node, fx.Node]) -> bool:
    """Whether two nodes do the same to the same, but for flags that say "training"."""
    if (node.op, node.target, len(node.args)) != (other.op, other.target, len(other.args)):
        return False
    if node.kwargs.keys() != other.kwargs.keys() or not twin.keys() >= set(other.all_input_nodes):
        return False
    args, kwargs = fx.map_arg((other.args, other.kwargs), twin.__getitem__)
    pairs = [*zip(node.args, args), *((node.kwargs[k], kwargs[k]) for k in kwargs)]
    return all(a == b or (a is False and b is True) for a, b in pairs)


def _read_mode(graph: fx.Graph, node: fx.Node, other: fx.Node) -> None:
    flags = [i for i, a in enumerate(node.args) if a is False and other.args[i] is True]
    names = [k for k, a in node.kwargs.items() if a is False and other.kwargs[k] is True]
    if flags or names:
        with graph.inserting_before(node):
            mode = graph.call_module("_mode")
        mode.meta = dict(node.meta)
        for i in flags:
            node.update_arg(i, mode)
        for k in names:
            node.update_kwarg(k, mode)


def stage_module(traced: fx.GraphModule, start: fx.Node, end: fx.Node) -> fx.GraphModule:
    """The piece of the graph after ``start`` up to ``end``, as a module on the same parameters."""
    graph = fx.Graph()
    new = {start: graph.placeholder("x")}
    nodes = list(traced.graph.nodes)
    for node in nodes[nodes.index(start) + 1 : nodes.index(end) + 1]:
        for need in node.all_input_nodes:
            if need.op == "get_attr" and need not in new:
                new[need] = graph.node_copy(need)
        if node.op.startswith("call") and all(need in new for need in node.all_input_nodes):
            new[node] = graph.node_copy(node, new.__getitem__)
    graph.output(new[end])
    stage = fx.GraphModule(traced, graph, "Stage")
    if any(node.target == "_mode" for node in graph.nodes):
        stage.add_module("_mode", _Mode().train(traced.training))  # each stage has its own
    return stage


# --- where a cut is legal ------------------------------------------------------------------------


def cut_points(traced: fx.GraphModule, ignore: Collection[fx.Node] = ()) -> list[fx.Node]:
    """The nodes after which a cut is legal: their output is the only tensor still needed.

    Parameters and buffers may be fetched anywhere; but a parameter that is used on both sides of a
    cut (tied weights) forbids it, as it would belong to two stages.

    Args:
        ignore: nodes whose values and needs do not count.
    """
    nodes = [node for node in traced.graph.nodes if node not in ignore]
    last = {}  # what is needed → where it is needed last
    for i, node in enumerate(nodes):
        last |= dict.fromkeys([*node.all_input_nodes, *_weights(traced, node)], i)
    points, reach = [], 0  # reach: the last need of anything made before this node
    for i, node in enumerate(nodes):
        reach = max([reach, *(last[weight] for weight in _weights(traced, node))])
        if node.op.startswith("call") and reach <= i < last.get(node, 0):
            points.append(node)
        if node.op != "get_attr":
            reach = max(reach, last.get(node, 0))
    return points


def _weights(traced: fx.GraphModule, node: fx.Node) -> list[int]:
    """The identities of the parameters that a node uses."""
    if node.op == "call_module":
        return [id(p) for p in traced.get_submodule(node.target).parameters()]
    fetched = [attrgetter(n.target)(traced) for n in node.all_input_nodes if n.op == "get_attr"]
    return [id(p) for p in fetched if isinstance(p, nn.Parameter)]


def feature_points(traced: fx.GraphModule) -> list[fx.Node]:
    """Where a measured graph's features may be cut; the last point is where they end.

    Notes at each point ``meta["segment"]``, the nodes since the point before; ``meta["cost"]``,
    their FLOPs; and ``meta["depth"]``, how many modules both this node and the next one lie in.

    Raises:
        ValueError: there is no such point, or the features depend on the mode.
    """
    nodes, candidates = list(traced.graph.nodes), _measured(traced)
    ends = candidates[: _tail(traced, candidates)]
    if not ends:
        raise ValueError("cannot be cut: nowhere before its classifier is a single tensor alive")
    end = ends[-1]
    needed = {end}
    for node in reversed(nodes[: nodes.index(end) + 1]):
        unused = not node.users and node.meta["shape"]  # it may write in place
        if node in needed or unused:
            needed |= {node, *node.all_input_nodes}
    if any("depends_on_mode" in node.meta for node in needed):
        raise ValueError("computes other features in training than in evaluation")
    legal = cut_points(traced, set(nodes) - needed)
    points = [p for p in ends[:-1] if p in legal and not _overwritten(traced, p)] + [end]
    start = 0
    for point in points:
        stop = nodes.index(point) + 1
        point.meta["segment"] = [n for n in nodes[start:stop] if n.op.startswith("call")]
        point.meta["cost"] = sum(n.meta["flops"] for n in point.meta["segment"])
        following = next(n for n in nodes[stop:] if n.op != "get_attr")
        point.meta["depth"] = len(shared([modules_of(point), modules_of(following)]))
        start = stop
    return points


def _measured(traced: fx.GraphModule) -> list[fx.Node]:
    """The cut points that give (B, ...) with channels in one dimension.

    Numbers such as a batch size do not count as alive here; only the classifier may need them.
    """
    numbers = {n for n in traced.graph.nodes if n.meta.get("shape", ()) is None}
    points = [node for node in cut_points(traced, numbers) if node.meta.get("shape")]
    return [p for p in points if p.meta["shape"][0] == EXAMPLES and len(p.meta["channels"]) == 1]


def _tail(traced: fx.GraphModule, points: list[fx.Node]) -> int:
    """How many of the points are features; what follows is pooling and classifier."""
    nodes = list(traced.graph.nodes)
    weighted = [i for i, n in enumerate(nodes) if _weights(traced, n)] or [0]
    place = [nodes.index(p) for p in points]
    flat = [i for i, p in enumerate(points) if len(p.meta["shape"]) < 3 and place[i] >= weighted[0]]
    if not flat:
        return len(points)  # positions to the end: features all through
    if place[flat[0]] == weighted[0]:  # no positions from the first layer on
        return len(points) - (len(points) > 1 and place[-1] == weighted[-1])
    end = _before_pooling(traced, points, flat[0])
    for name, _ in modules_of(points[end]):
        inside = [i for i, n in enumerate(nodes) if name in dict(modules_of(n))]
        if weighted[-1] in inside and weighted[0] not in inside:  # a classifier that pools last
            first = next(i for i, p in enumerate(place) if p >= inside[0])
            return _before_pooling(traced, points, min(end, first))
    return end


def _before_pooling(traced: fx.GraphModule, points: list[fx.Node], end: int) -> int:
    """Step back over global pooling and dropout that stand right before ``points[end]``."""
    while end > 1:
        kind = _kind(traced, points[end - 1])
        average = ("avg" in kind or kind == "mean") and positions(points[end - 1]) == 1
        if not (average or "adaptive" in kind or "dropout" in kind):
            break
        end -= 1
    return end


def _overwritten(traced: fx.GraphModule, point: fx.Node) -> bool:
    """Whether the next stage would work in place on this one's output."""
    for user in point.users:
        if user.op == "call_module":
            if vars(traced.get_submodule(user.target)).get("inplace"):
                return True
        elif user.kwargs.get("inplace") is True or _kind(traced, user).endswith("_"):
            return True
    return False


def _kind(traced: fx.GraphModule, node: fx.Node) -> str:
    """What a node does, in lower case: the name of its module's class, function or method."""
    if node.op == "call_module":
        return type(traced.get_submodule(node.target)).__name__.lower()
    return (getattr(node.target, "__name__", None) or str(node.target)).lower()


def modules_of(node: fx.Node) -> list[tuple[str, type]]:
    """The names and classes of the modules that a node is computed in, outermost first."""
    return list(node.meta.get("nn_module_stack", {}).values())


def shared(paths: list[list]) -> list:
    """What all paths begin with."""
    return [step[0] for step in takewhile(lambda step: len(set(step)) == 1, zip(*paths))]


def positions(point: fx.Node) -> int:
    """H·W, or the number of tokens."""
    return math.prod(point.meta["shape"][1:]) // point.meta["shape"][channel_dim(point)]


def channel_dim(point: fx.Node) -> int:
    """Which dimension holds the channels: 1 for maps, -1 for tokens."""
    (dim,) = point.meta["channels"]
    rank = len(point.meta["shape"])
    return -1 if rank > 2 and dim == rank - 1 else dim


# --- measuring -----------------------------------------------------------------------------------


def measure(traced: fx.GraphModule, shape: Sequence[int], dim: int = 1) -> None:
    """Note each node's output ``shape``, ``channels`` (their dimensions) and ``flops`` in its meta.

    A classifier that wants inputs of another size may fail; then its nodes have no shape.

    Args:
        shape: of the input, with the batch. dim: where it has its channels.
    """

    def run(x: Tensor, counter: FlopCounterMode) -> None:
        for node in traced.graph.nodes:
            node.meta.pop("shape", None)
        try:
            _Ruler(traced, counter, dim).run(x)
        except Exception:
            if _tail(traced, points := _measured(traced)) == len(points):
                raise

    dry_run(traced, shape, run)


def dry_run(
    model: nn.Module, shape: Sequence[int], run: Callable[[Tensor, FlopCounterMode], None]
) -> None:
    """Call ``run`` on an example of ``shape``, in evaluation mode; nothing in the model changes.

    First with fake tensors, which have shapes and no values, so that nothing is computed; if the
    model looks at values, once more with real ones.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    log = logging.getLogger("torch._subclasses.fake_tensor")  # it reports what is caught here

    def example() -> Tensor:
        x = torch.linspace(-1, 1, math.prod(shape), device=weight.device, dtype=weight.dtype)
        # With a gradient: attention has a fast path without, whose FLOPs are not counted.
        return x.reshape(*shape).requires_grad_().clone()

    counter = FlopCounterMode(display=False)
    try:
        with preserve_training_mode(model), torch.enable_grad(), counter:
            model.eval()
            try:
                log.disabled = True
                with FakeTensorMode(allow_non_fake_inputs=True):
                    run(example(), counter)
            except Exception:
                run(example(), counter)
    finally:
        log.disabled = False


class _Ruler(fx.Interpreter):
    """Runs a graph and writes down what ``measure`` notes."""

    def __init__(self, traced: fx.GraphModule, counter: FlopCounterMode, dim: int):
        super().__init__(traced)
        self.counter, self.dim = counter, dim

    def run_node(self, n: fx.Node):
        before = self.counter.get_total_flops()
        value = super().run_node(n)
        tensor = _first_tensor(value)
        n.meta["flops"] = self.counter.get_total_flops() - before
        n.meta["shape"] = None if tensor is None else tuple(tensor.shape)
        n.meta["channels"] = set() if tensor is None else self._follow(n, tensor)
        return value

    def _follow(self, node: fx.Node, h: Tensor) -> set[int]:
        """The dimensions of ``h`` that hold channels, more than one if they were split.

        An image has them in dimension 1. Convolution and batch norm put them there, linear and
        layer norm put them last; a view or reshape takes them along; all else leaves them in place.
        """
        if node.op == "placeholder":
            return {self.dim % h.dim()}
        if node.op == "call_module":
            module = self.module.get_submodule(node.target)
            if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm):
                return {1}
            if type(module) in (nn.Linear, nn.LayerNorm) or (h.dim() == 3 and [*module.children()]):
                return {h.dim() - 1}
        sources = [n for n in node.all_input_nodes if n.meta["channels"]]
        if not sources:
            return set()
        x, channels = _first_tensor(self.env[sources[0]]), sources[0].meta["channels"]
        if h._is_view() or _kind(self.module, node) in ("reshape", "flatten"):
            return _carried(x, h, channels)
        return {min(dim, h.dim() - 1) for dim in channels}


def _carried(x: Tensor, h: Tensor, channels: set[int]) -> set[int]:
    """Where some dimensions of ``x`` are in its view or reshape ``h``."""
    places = list(zip(h.shape, h.stride()))
    wanted = [(x.shape[dim], x.stride(dim)) for dim in channels]
    if sorted(x.shape) == sorted(h.shape) and all(place in places for place in wanted):
        return {places.index(place) for place in wanted}  # permuted
    if x.numel() != h.numel():
        return {min(dim, h.dim() - 1) for dim in channels}  # picked or repeated
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


def _first_tensor(value: object) -> Tensor | None:
    values = value if isinstance(value, tuple | list) else [value]
    return next((v for v in values if isinstance(v, Tensor)), None)


def reason(error: Exception) -> str:
    """The first line of an error, without the names that tracing gives to sizes."""
    return re.sub(r",? but got Proxy\(\w+\)", "", first_line(root_cause(error)))
