"""Compare stages with the model they were cut from: outputs, buffers and gradients."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..util.checks import SFFError
from ..util.modes import preserve_training_mode
from .graph import error_text, share_pre_hooks, source, stage_graph
from .measure import EXAMPLES, example
from .state import preserve_model, set_torch_seed

TOLERANCE = 1e-4  # relative; a graph may fuse or order kernels differently


def verify(
    model: nn.Module,
    stages: nn.Sequential,
    graphs: dict[bool, tuple[fx.GraphModule, fx.Node]],
    shape: Sequence[int],
) -> None:
    """Raise SFFError unless the stages compute in both modes what the model computes.

    The model, its graph and the stages run on an example, each with the same random numbers and
    buffers. The graph's output must equal the model's, and the stages' output the graph's value at
    the end of the features. ``graphs``: by training mode a graph and that node.
    """
    name = type(model).__name__
    sources = {source(traced.graph) for traced, _ in graphs.values()}
    for training, (traced, end) in graphs.items():
        mode = "training" if training else "evaluation"
        learns = training or len(sources) > 1  # one graph: gradients are compared once
        run = partial(_run, model, training=training, shape=shape)
        whole = run(model, gradients=learns)
        graph = run(_with_features(model, traced, end), gradients=learns, features=True)
        if isinstance(whole, Exception) and isinstance(graph, Exception):
            # a classifier for images of another size
            start = next(iter(traced.graph.nodes))
            features = fx.GraphModule(traced, stage_graph(traced, start, end))
            share_pre_hooks(model, features)
            graph = run(features, features=True)
        elif difference := _difference(whole, graph):
            raise SFFError(f"{name} and its traced graph differ in {mode}: {difference}")
        composed = run(stages, features=True)
        if isinstance(composed, Exception):
            raise SFFError(f"{name}'s stages cannot run in {mode}: {error_text(composed)}")
        if isinstance(graph, Exception) or not _all_close(composed["features"], graph["features"]):
            raise SFFError(f"{name}'s stages and the model differ in {mode}")


def _run(
    model: nn.Module,
    module: nn.Module,
    training: bool,
    shape: Sequence[int],
    *,
    gradients: bool = False,
    features: bool = False,
) -> dict[str, list[Tensor]] | Exception:
    """A module's outputs for an example, the model's buffers after it, and gradients of the sum.

    With ``features`` the last tensor is returned apart from the outputs.
    """
    modes = preserve_training_mode(module)
    with preserve_model(model), modes, torch.set_grad_enabled(gradients):
        model.train(training)
        module.train(training)
        set_torch_seed(0)
        try:
            outputs = tensors_in(module(noisy_example(model, (EXAMPLES, *shape))))
        except Exception as error:  # any exception of the model's own code
            return error
        found = {"features": [outputs.pop()] if features else []}
        found |= {"outputs": outputs, "buffers": [*model.buffers()]}
        found["gradients"] = _gradients(outputs, [*model.parameters()])
        return {name: [t.detach().clone() for t in tensors] for name, tensors in found.items()}


def _difference(a: dict[str, list[Tensor]] | Exception, b: dict | Exception) -> str:
    """How two runs differ; "" if they agree."""
    for error in (a, b):
        if isinstance(error, Exception):
            return error_text(error)
    names = ("outputs", "buffers", "gradients")
    return next((f"the {name} differ" for name in names if not _all_close(a[name], b[name])), "")


def noisy_example(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """An example with random numbers, in which no two positions are equal."""
    x = example(model, shape)
    return x + torch.randn(*shape).to(x)


def _gradients(outputs: list[Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    """Of the outputs' sum, by trainable parameter; empty where there is none."""
    learning = [p for p in parameters if p.requires_grad]
    roots = [output.float().sum() for output in outputs if output.requires_grad]
    if not roots or not learning:
        return []
    found = torch.autograd.grad(sum(roots), learning, allow_unused=True)
    return [torch.empty(0) if g is None else g for g in found]


def tensors_in(value: object) -> list[Tensor]:
    """All floating tensors in what a model returns: a tensor, tuple, dict or object of them."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, tuple | list) and hasattr(value, "__dict__"):
        value = list(vars(value).values())
    return [t for v in value for t in tensors_in(v)] if isinstance(value, tuple | list) else []


def _all_close(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(_close, first, second))


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    tolerance = max(TOLERANCE, 4 * torch.finfo(a.dtype).eps)  # half precision rounds more
    scale = tolerance * float(a.abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=scale, equal_nan=True)


def _with_features(model: nn.Module, traced: fx.GraphModule, end: fx.Node) -> fx.GraphModule:
    """The graph as a module that returns its output and what it computes at ``end``."""
    graph, copies = fx.Graph(), {}
    output = graph.graph_copy(traced.graph, copies)
    with graph.inserting_after(copies[end]):
        features = graph.call_method("clone", (copies[end],))  # the next operation may be in place
    graph.output((output, features))
    module = fx.GraphModule(traced, graph)
    share_pre_hooks(model, module)
    return module


def find_classifier(
    model: nn.Module, stages: nn.Sequential, dim: int, shape: Sequence[int]
) -> str | None:
    """The name of the innermost module from the features' mean to the model's output, if any.

    The mean is over positions; ``dim`` holds the channels.
    """
    own = {id(parameter) for parameter in stages.parameters()}
    seen: dict[str, tuple] = {}  # by module after the features: inputs and output
    hooks = []
    with preserve_model(model), preserve_training_mode(stages), torch.no_grad():
        model.eval()
        x = noisy_example(model, (EXAMPLES, *shape))
        features = stages.eval()(x).movedim(dim, 1)
        mean = features.reshape(*features.shape[:2], -1).mean(2)
        for name, module in model.named_modules():
            weights = {id(parameter) for parameter in module.parameters()}
            if name and weights and not weights & own:
                note = partial(_note, seen, name)
                hooks.append(module.register_forward_hook(note))
        try:
            output = model(x)
        except Exception:  # images of this size do not suit its classifier
            return None
        finally:
            for hook in hooks:
                hook.remove()
    for name, (given, *_, made) in seen.items():
        if made is output and isinstance(given, Tensor) and _close(given, mean):
            return name
    return None


def _note(seen: dict[str, tuple], name: str, module: nn.Module, args: tuple, output) -> None:
    seen[name] = (*args, output)


def verify_listed(model: nn.Module, stages: nn.Sequential, shape: Sequence[int]) -> None:
    """Raise SFFError unless every stage's output is a tensor that the model computes."""
    name = type(model).__name__
    for training in (False, True):
        computed = _Recorder()
        with preserve_model(model), preserve_training_mode(stages), torch.no_grad():
            set_torch_seed(0)
            x = noisy_example(model, (EXAMPLES, *shape))
            set_torch_seed(1)
            try:
                with computed:
                    model.train(training)(x.clone())
            except Exception as error:  # any exception of the model's own code
                text = f"{name} cannot run on a sample of shape {tuple(shape)}: {error_text(error)}"
                raise SFFError(text) from error
        with preserve_model(model), preserve_training_mode(stages), torch.no_grad():
            set_torch_seed(1)
            for number, stage in enumerate(stages.train(training)):
                x = stage(x)
                if not computed.holds(x):
                    raise SFFError(
                        f"{name}'s own forward does not compute the output of stages[{number}]; "
                        "list functions between the parts, such as an activation, as well"
                    )


class _Recorder(TorchDispatchMode):
    """Keeps a copy of every tensor computed inside the ``with``."""

    def __init__(self):
        super().__init__()
        self.seen: dict[tuple[int, ...], list[Tensor]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        value = func(*args, **(kwargs or {}))
        for tensor in tensors_in(value):
            self.seen.setdefault(tuple(tensor.shape), []).append(tensor.detach().clone())
        return value

    def holds(self, x: Tensor) -> bool:
        """Whether a tensor with these values was computed."""
        return any(_close(tensor, x) for tensor in self.seen.get(tuple(x.shape), []))
