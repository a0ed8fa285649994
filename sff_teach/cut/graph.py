"""Trace a model, find the legal cut points, and make stages between them.

A cut is legal where one tensor is live. ``localize`` chooses among these points.
"""

import inspect
import operator
import traceback
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile

import torch
from torch import Tensor, fx, nn
from torch.fx.graph_module import _copy_attr, _format_import_block
from torch.fx.proxy import TraceError
from torch.package import sys_importer

from ..util.checks import SFFError
from ..util.modes import random_state, set_random_state
from .state import draws_since, preserve_model

IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)

# --- tracing -------------------------------------------------------------------------------------


class _Proxy(fx.Proxy):
    """Records ``x += y`` as an in-place operation; fx would record ``x = x + y``."""


def _record_in_place(operation: Callable) -> Callable:
    name = operation.__name__.removeprefix("i")
    return lambda self, other: self.tracer.create_proxy(
        "call_function", operation, (self, other), {}, name
    )


for _operation in IN_PLACE:
    setattr(_Proxy, f"__{_operation.__name__}__", _record_in_place(_operation))


class Tracer(fx.Tracer):
    """Traces modules that have children, and keeps as leaves those that cannot be traced.

    A module is a leaf if it has no children or has hooks, if its forward raises under tracing (it
    branches on values), draws random numbers outside of layers, assigns to ``self``, or works under
    ``no_grad`` or ``autocast``.
    """

    proxy_buffer_attributes = True  # else values computed from a buffer become constants

    def __init__(self):
        super().__init__()
        self.opaque: dict[nn.Module, Exception] = {}  # with the error of its tracing
        self.context = _context()

    def create_args_for_root(self, root_fn: Callable, is_module: bool, concrete_args=None):
        """One placeholder, for the first argument; the others keep their defaults."""
        names = [name for name in inspect.signature(root_fn).parameters if name != "self"]
        x = self.create_proxy("placeholder", names[0] if names else "x", (), {})
        return root_fn, [self.root, x]

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        hooks = m._forward_hooks or m._forward_pre_hooks or m._backward_hooks
        if m in self.opaque or hooks or next(m.children(), None) is None:
            return True
        # A norm that contains an activation (timm) is still one layer.
        whole = isinstance(m, torch.jit.ScriptModule | nn.modules.batchnorm._NormBase)
        return whole or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *args, **kwargs) -> fx.Node:
        if _context() != self.context:
            raise TraceError("its forward works under torch.no_grad or autocast")
        return super().create_node(*args, **kwargs)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict):
        if self.is_leaf_module(m, self.path_of_module(m)):
            return super().call_module(m, forward, args, kwargs)
        count, stack, attributes = len(self.graph.nodes), dict(self.module_stack), dict(vars(m))
        rng = random_state()
        try:
            value = super().call_module(m, forward, args, kwargs)
            _check_side_effects(m, attributes, rng)
            return value
        except Exception as error:  # any exception of the model's own code
            for node in reversed(list(self.graph.nodes)[count:]):
                self.graph.erase_node(node)
            for table, was in ((self.module_stack, stack), (vars(m), attributes)):
                table.clear()
                table.update(was)
            set_random_state(rng)
            self.opaque[m] = error
            return super().call_module(m, forward, args, kwargs)


def _check_side_effects(m: nn.Module, attributes: dict, rng: dict) -> None:
    """Raise TraceError if tracing m changed its attributes or drew random numbers."""
    for name, value in vars(m).items():
        new = name not in attributes or attributes[name] is not value
        if new and not name.startswith("_tensor_constant"):
            raise TraceError(f"its forward assigns to self.{name}")
    if draws_since(rng):
        raise TraceError("its forward draws random numbers outside of its layers")


def _context() -> tuple[bool, ...]:
    autocast = (torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    return torch.is_grad_enabled(), *autocast


def trace(model: nn.Module, training: bool = False) -> fx.GraphModule:
    """The model's graph in one mode, on the model's own modules; the model does not change.

    ``meta["opaque"]`` holds the modules that have children but could not be traced, each with its
    error. A graph is for one mode, because ``self.training`` becomes a constant.
    """
    check_traceable(model)
    with preserve_model(model), torch.enable_grad():
        model.train(training)
        attributes, rng, tracer = dict(vars(model)), random_state(), Tracer()
        try:
            graph = tracer.trace(model)
            _check_side_effects(model, attributes, rng)
        except Exception as error:  # any exception of the model's own code
            name = type(model).__name__
            raise SFFError(f"{name} cannot be traced by torch.fx: {error_text(error)}") from error
        traced = fx.GraphModule(model, graph)
    traced.meta["opaque"] = tracer.opaque
    return traced


def check_traceable(model: nn.Module) -> None:
    """Raise for models that must be unwrapped or initialised before tracing."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    name = type(model).__name__
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise SFFError(f"model is wrapped in {name}; give model.module")
    if hasattr(model, "_orig_mod"):
        raise SFFError("model is compiled; give the model itself, model._orig_mod")
    if any(isinstance(p, nn.parameter.UninitializedTensorMixin) for p in model.parameters()):
        raise SFFError(f"{name} has lazy layers without values; run model(x) on a batch first")


def error_text(error: Exception, text: str = "") -> str:
    """The text of an error, or another one, and its last source line outside of torch."""
    text = (text or str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    outside = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in frame.filename and "/sff_teach/cut/" not in frame.filename
    ]
    if not outside:
        return text
    return f"{text} ({outside[-1].filename.rpartition('/')[2]}, line {outside[-1].lineno})"


# --- stages --------------------------------------------------------------------------------------


def stage_graph(traced: fx.GraphModule, start: fx.Node, end: fx.Node) -> fx.Graph:
    """The piece of the graph after ``start`` that leads to ``end``; ``start`` becomes its input."""
    graph, needed = fx.Graph(), closure(traced, end)
    x = graph.placeholder("x")
    new = {start: x}

    def fetch(node: fx.Node) -> None:
        if is_free(node) and node not in new:
            for need in node.all_input_nodes:
                fetch(need)
            # The batch size is read from this stage's input.
            new[node] = graph.node_copy(node, lambda need: new.get(need, x))

    nodes = list(traced.graph.nodes)
    for node in nodes[nodes.index(start) + 1 : nodes.index(end) + 1]:
        for need in node.all_input_nodes:
            fetch(need)
        called = node.op.startswith("call") and node in needed
        if called and all(need in new for need in node.all_input_nodes):
            new[node] = graph.node_copy(node, new.__getitem__)
    graph.output(new[end])
    return graph


def closure(traced: fx.GraphModule, end: fx.Node) -> set[fx.Node]:
    """All nodes that ``end`` needs, and those before it that have only a side effect."""
    nodes, needed = list(traced.graph.nodes), {end}
    for node in reversed(nodes[: nodes.index(end) + 1]):
        side_effect = not node.users and node.op.startswith("call")
        if node in needed or side_effect:
            needed |= {node, *node.all_input_nodes}
    return needed


class ModeStage(nn.Module):
    """A stage with one graph for evaluation and another for training, on the same modules."""

    def __init__(
        self, roots: tuple[nn.Module, nn.Module], evaluation: fx.Graph, training: fx.Graph
    ):
        super().__init__()
        for op in ("call_module", "get_attr"):  # a whole module before its parameters
            for root, graph in zip(roots, (evaluation, training)):
                for node in graph.nodes:
                    if node.op == op:
                        _copy_attr(root, self, node.target)
        self._sources = {}  # by mode; source text, which can be pickled
        for mode, graph in ((False, evaluation), (True, training)):
            code = graph.python_code("self")
            self._sources[mode] = _format_import_block(code.globals, sys_importer) + code.src
        self.training = roots[0].training
        self._compile()

    def _compile(self) -> None:
        self._forwards = {}
        for mode, source in self._sources.items():
            scope = {}
            exec(source, scope)
            self._forwards[mode] = scope["forward"]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) → (B, C', ...)."""
        return self._forwards[self.training](self, x)

    def __getstate__(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "_forwards"}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._compile()


def stage_module(
    roots: tuple[nn.Module, nn.Module], evaluation: fx.Graph, training: fx.Graph
) -> nn.Module:
    """A module for these graphs on the model's parameters; a ``ModeStage`` if they differ."""
    if source(evaluation) != source(training):
        return ModeStage(roots, evaluation, training)
    return fx.GraphModule(roots[0], evaluation, "Stage")


def source(graph: fx.Graph) -> str:
    """The graph as Python code; equal for equal graphs."""
    return graph.python_code("self").src


def share_pre_hooks(model: nn.Module, first: nn.Module) -> None:
    """Let the first stage run the forward pre-hooks of the model.

    Both share one dictionary, so that a hook's handle removes it from both.
    """
    first._forward_pre_hooks = model._forward_pre_hooks
    first._forward_pre_hooks_with_kwargs = model._forward_pre_hooks_with_kwargs


# --- legal cut points ----------------------------------------------------------------------------


def cut_points(traced: fx.GraphModule, ignore: Collection[fx.Node] = ()) -> list[fx.Node]:
    """The nodes after which a cut is legal: their output is the only live tensor.

    A parameter that is used on both sides of a cut (tied weights) forbids it; other parameters and
    buffers do not. The nodes to ``ignore`` do not count.
    """
    nodes = [node for node in traced.graph.nodes if node not in ignore]
    last = {}  # node or weight → index of its last use
    for i, node in enumerate(nodes):
        last |= dict.fromkeys([*node.all_input_nodes, *weights(traced, node)], i)
    points, reach = [], 0  # reach: last use of anything computed before this node
    for i, node in enumerate(nodes):
        reach = max([reach, *(last[weight] for weight in weights(traced, node))])
        if is_free(node):
            continue
        if node.op.startswith("call") and reach <= i < last.get(node, 0):
            points.append(node)
        reach = max(reach, last.get(node, 0))
    return points


def is_free(node: fx.Node) -> bool:
    """Whether any stage can compute it: a parameter, or a value of the batch size alone."""
    return node.op == "get_attr" or node.meta.get("free", False)


def weights(traced: fx.GraphModule, node: fx.Node) -> list[int]:
    """The ids of the parameters that a node uses."""
    if node.op == "call_module":
        return [id(p) for p in traced.get_submodule(node.target).parameters()]
    fetched = [n for n in node.all_input_nodes if n.op == "get_attr"]
    fetched = [operator.attrgetter(n.target)(traced) for n in fetched]
    return [id(p) for p in fetched if isinstance(p, nn.Parameter)]


def is_overwritten(traced: fx.GraphModule, point: fx.Node) -> bool:
    """Whether a stage that starts after the point would change its output in place."""

    def in_place(user: fx.Node) -> bool:
        if user.op == "call_module":
            return bool(vars(traced.get_submodule(user.target)).get("inplace"))
        changed = user.args[0] if user.args else next(iter(user.kwargs.values()))
        named = user.kwargs.get("inplace") is True or op_name(traced, user).endswith("_")
        return changed is point and (named or user.target in IN_PLACE)

    return any(map(in_place, point.users))


def matching_nodes(evaluation: fx.GraphModule, training: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Nodes of the evaluation graph → the corresponding nodes of the training graph.

    Two nodes correspond if they are the n-th with the same operation after the same parameters. A
    wrong pair is harmless: each stage has the same parameters in both modes.
    """
    if source(evaluation.graph) == source(training.graph):
        return dict(zip(evaluation.graph.nodes, training.graph.nodes))
    first, second = _keys(evaluation), _keys(training)
    return {node: second[key] for key, node in first.items() if key in second}


def _keys(traced: fx.GraphModule) -> dict[tuple, fx.Node]:
    keys, used = {}, {}
    for node in traced.graph.nodes:
        own = frozenset(weights(traced, node))
        used[node] = own.union(*(used[n] for n in node.all_input_nodes))
        occurrence = 0
        while (key := (used[node], op_name(traced, node), occurrence)) in keys:
            occurrence += 1
        keys[key] = node
    return keys


def op_name(traced: fx.GraphModule, node: fx.Node) -> str:
    """The name of a node's module class, function or method, in lower case."""
    if node.op == "call_module":
        return type(traced.get_submodule(node.target)).__name__.lower()
    name = getattr(node.target, "__name__", None) or str(node.target)
    return name.lower().partition(".")[0]  # without the overload: relu_.default


def modules_of(node: fx.Node) -> list[tuple[str, str]]:
    """The names and classes of the modules around a node, outermost first."""
    stack = node.meta.get("nn_module_stack", {}).values()
    named = [(name, getattr(kind, "__qualname__", str(kind))) for name, kind in stack]
    return [(name, kind.rpartition(".")[2]) for name, kind in named if name]


def common_prefix(paths: Sequence[list]) -> list:
    """The longest common beginning of all paths."""
    return [step[0] for step in takewhile(lambda step: len(set(step)) == 1, zip(*paths))]
