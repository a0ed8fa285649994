"""The graph, by torch.export, of a model that torch.fx cannot trace: for samples of one shape."""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import fx, nn

from ..util.checks import SFFError
from ..util.modes import random_state
from .graph import error_text, is_free, weights
from .measure import EXAMPLES, example
from .state import draws_since, preserve_model, quiet


def export(model: nn.Module, shape: Sequence[int], training: bool = False) -> fx.GraphModule:
    """The model's graph in one mode, like that of ``graph.trace``; the model does not change.

    ``forward`` may branch on shapes, not on values. The batch may have any size, a sample only this
    shape.
    """
    with preserve_model(model), torch.enable_grad(), quiet():
        model.train(training)
        x = example(model, (EXAMPLES + 1, *shape))
        attributes, rng, batch = _attributes(model), random_state(), {0: torch.export.Dim.AUTO}
        try:
            traced = torch.export.export(
                model, (x,), dynamic_shapes=(batch,), strict=False
            ).module()
        except Exception as error:  # any exception of the model's own code
            reason = "its forward branches on values" if "data-dependent" in str(error) else error
            raise SFFError(error_text(error, f"torch.export: {reason}")) from error
        if _attributes(model) != attributes:
            raise SFFError("torch.export: its forward assigns to its attributes")
        if draws_since(rng):
            raise SFFError("torch.export: its forward draws random numbers in Python")
    if any(isinstance(n.target, torch._ops.HigherOrderOperator) for n in traced.graph.nodes):
        raise SFFError("torch.export: its forward works under torch.no_grad or autocast")
    _tidy(traced, shape)
    _fold_layers(traced, model)
    traced = fx.GraphModule(traced, traced.graph)  # what torch.export returns has no eval()
    traced.meta["opaque"] = {}
    return traced


def _attributes(model: nn.Module) -> list[dict[str, int]]:
    """The attributes of all modules, to compare; torch.export replaces containers by copies."""

    def mark(value: object) -> int:
        return len(value) if isinstance(value, tuple | list | dict) else id(value)

    own = [vars(module).items() for module in model.modules()]
    return [{name: mark(value) for name, value in items if name[0] != "_"} for items in own]


def _tidy(traced: fx.GraphModule, shape: Sequence[int]) -> None:
    """Let the graph check the shape of samples, and mark nodes that need no sample."""
    graph = traced.graph
    graph.set_codegen(fx.graph.CodeGen())  # takes and returns plain tensors
    for node in graph.find_nodes(op="call_module", target="_guards_fn"):
        graph.erase_node(node)
    (x,) = graph.find_nodes(op="placeholder")
    with graph.inserting_after(x):
        checked = graph.call_method("expand", (x, -1, *shape))  # fails on another shape
    x.replace_all_uses_with(checked, lambda user: user is not checked)
    for node in graph.nodes:
        if node.target is torch.ops.aten.sym_size.int:
            node.meta = {"free": node.args == (checked, 0)}
        elif node.op == "call_function" and not weights(traced, node):
            node.meta["free"] = all(map(is_free, node.all_input_nodes))


def _fold_layers(traced: fx.GraphModule, model: nn.Module) -> None:
    """Call the model's own layers instead of the operations they consist of.

    Layers then keep their modes and hooks, and BatchNorm can be synchronised over processes.
    """
    graph, modules = traced.graph, dict(model.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_function"]
    runs = [(path, list(run)) for (_, path), run in groupby(calls, _innermost_module)]
    for path, nodes in runs:
        module = modules.get(path)
        if not path or module is None or next(module.children(), None) is not None:
            continue
        needs = {need for node in nodes for need in node.all_input_nodes if not is_free(need)}
        given = needs - set(nodes)
        made = [node for node in nodes if set(node.users) - set(nodes)]
        if len(given) != 1 or len(made) != 1:
            continue
        traced.add_submodule(path, module)
        with graph.inserting_after(nodes[-1]):
            call = graph.call_module(path, tuple(given))
        call.meta = dict(made[0].meta)
        made[0].replace_all_uses_with(call)
        for node in reversed(nodes):
            graph.erase_node(node)


def _innermost_module(node: fx.Node) -> tuple[str, str]:
    """The innermost module call that a node belongs to, and the module's name."""
    stack = node.meta.get("nn_module_stack", {})
    return (call := next(reversed(stack), "")), stack[call][0] if call else ""
