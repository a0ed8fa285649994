"""Compare stages with the model they were cut from: outputs, buffers, and where gradients go."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..util.checks import SFFError
from ..util.modes import preserve_training_mode
from .graph import share_pre_hooks, where
from .measure import EXAMPLES, example
from .state import preserve_model, set_torch_seed

TOLERANCE = 1e-4  # relative; the same kernels run, but a graph may fuse or order them otherwise


def verify(
    model: nn.Module,
    stages: list[nn.Module],
    graphs: dict[bool, tuple[fx.GraphModule, fx.Node]],
    shape: tuple[int, ...],
) -> None:
    """Raise SFFError unless the stages do in both modes what the model does.

    An example goes through the model, through its graph, and through the stages, each with the same
    random numbers and buffers. The graph has to end in what the model returns, and the stages in
    what the graph holds where the features end.

    Args:
        model: the original.
        stages: in order.
        graphs: by mode, the graph and its node where the features end.
        shape: of one sample.
    """
    name = type(model).__name__
    for training, (graph, end) in graphs.items():
        mode = "training" if training else "evaluation"
        batch = EXAMPLES + 1  # another one than the shapes were measured with
        whole = _Run(model, model, training, (batch, *shape))
        traced = _Run(model, _ReturnsBoth(model, graph, end), training, (batch, *shape))
        if whole.error and traced.error:
            only_end = _ReturnsBoth(model, graph, end, only_end=True)
            traced = _Run(model, only_end, training, (batch, *shape))
        elif difference := _differ(whole, traced, len(whole.outputs)):
            raise SFFError(f"{name} does in {mode} what its traced graph does not: {difference}")
        composed = _Run(model, nn.Sequential(*stages), training, (batch, *shape))
        if composed.error:
            raise SFFError(f"{name}'s stages cannot run in {mode}: {where(composed.error)}")
        if traced.error or not _close(composed.outputs[0], traced.outputs[-1]):
            raise SFFError(f"{name}'s stages compute something else than the model in {mode}")


def has_no_data(model: nn.Module) -> bool:
    """Whether the model is on the device "meta", where only shapes can be compared."""
    return any(parameter.is_meta for parameter in model.parameters())


def smallest_shape(model: nn.Module, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The smallest sample that the model can run on in both modes, as small ones are fast.

    Args:
        model: the original.
        shapes: to try, each without the batch.

    Returns:
        One of them; None if the model runs on none, or there is no choice.
    """
    for shape in sorted(shapes) if len(shapes) > 1 else []:
        try:
            for training in (False, True):
                with preserve_model(model), torch.no_grad():
                    model.train(training)(example(model, (EXAMPLES + 1, *shape)))
            return shape
        except Exception:  # whatever the model's own code raises
            continue
    return None


def find_classifier(
    model: nn.Module,
    bodies: list[nn.Module],
    channel_dim: int,
    shapes: Sequence[tuple[int, ...]],
) -> str | None:
    """The name of the module that makes the model's output of the mean of its last features.

    Args:
        model: the original.
        bodies: of the stages, in order.
        channel_dim: the dimension of the last features that holds the channels.
        shapes: of a sample, to try.

    Returns:
        The innermost such module; None if the model ends in another way.
    """
    if has_no_data(model):
        return None
    shape = smallest_shape(model, shapes) or shapes[0]
    shared = {id(p) for body in bodies for p in body.parameters()}
    seen: dict[str, tuple] = {}

    def watch(name: str):
        return lambda module, args, output: seen.update({name: (*args, output)})

    with preserve_model(model), preserve_training_mode(nn.ModuleList(bodies)), torch.no_grad():
        model.eval()
        x = example(model, (EXAMPLES, *shape)) + torch.randn(EXAMPLES, *shape).to(
            example(model, (1,))
        )
        features = nn.Sequential(*bodies).eval()(x)
        if features.dim() < 2:
            return None
        features = features.movedim(channel_dim, 1)
        mean = features.reshape(*features.shape[:2], -1).mean(2)
        hooks = []
        for name, module in model.named_modules():
            own = {id(p) for p in module.parameters()}
            if name and own and not own & shared:
                hooks.append(module.register_forward_hook(watch(name)))
        try:
            output = model(x)
        finally:
            for hook in hooks:
                hook.remove()
        for name, (given, *_, made) in seen.items():
            is_mean = isinstance(given, Tensor) and given.shape == mean.shape
            if made is output and is_mean and torch.allclose(given, mean, rtol=1e-4, atol=1e-5):
                return name
    return None


class _Run:
    """What a module returns for an example, its buffers then, and the gradients of the sum."""

    def __init__(self, model: nn.Module, module: nn.Module, training: bool, shape: Sequence[int]):
        self.error: Exception | None = None
        self.outputs: list[Tensor] = []
        with preserve_model(model), preserve_training_mode(module), torch.enable_grad():
            model.train(training)
            module.train(training)
            set_torch_seed(0)
            try:
                value = module(example(model, shape) + torch.randn(shape).to(example(model, (1,))))
            except Exception as error:  # whatever the model's own code raises
                self.error = error
                return
            self.outputs = tensors_in(value)
            self.buffers = [buffer.detach().clone() for buffer in model.buffers()]
            count = len(self.outputs) - isinstance(module, _ReturnsBoth)
            self.gradients = _gradients(self.outputs[:count], list(model.parameters()))
            self.outputs = [output.detach().clone() for output in self.outputs]


def _gradients(outputs: list[Tensor], parameters: list[nn.Parameter]) -> list[Tensor | None]:
    learning = [p for p in parameters if p.requires_grad]
    roots = [output.float().sum() for output in outputs if output.requires_grad]
    if not roots or not learning:
        return []
    return list(torch.autograd.grad(sum(roots), learning, allow_unused=True))


def tensors_in(value: object) -> list[Tensor]:
    """All floating tensors in what a model returns: a tensor, tuple, dict or object of them."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    elif not isinstance(value, tuple | list) and hasattr(value, "__dict__"):
        value = list(vars(value).values())
    return [t for v in value for t in tensors_in(v)] if isinstance(value, tuple | list) else []


def _differ(a: _Run, b: _Run, count: int) -> str:
    """In what two runs differ; "" if in nothing."""
    if a.error or b.error:
        return where(a.error or b.error)
    if not all(map(_close, a.outputs, b.outputs[:count])) or len(b.outputs) <= count - 1:
        return "the outputs differ"
    if not all(map(_close, a.buffers, b.buffers)):
        return "the buffers differ afterwards"
    if [g is None for g in a.gradients] != [g is None for g in b.gradients]:
        return "gradients reach other parameters"
    both = [(g, h) for g, h in zip(a.gradients, b.gradients) if g is not None]
    return "" if all(_close(g, h) for g, h in both) else "the gradients differ"


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    tolerance = max(TOLERANCE, 4 * torch.finfo(a.dtype).eps)  # half precision rounds more
    scale = tolerance * float(a.abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=scale, equal_nan=True)


class _ReturnsBoth(nn.Module):
    """Runs a graph and returns its output and the value of one node, or of that node only."""

    def __init__(
        self, model: nn.Module, traced: fx.GraphModule, node: fx.Node, only_end: bool = False
    ):
        super().__init__()
        self.traced = traced
        self.node = node
        self.only_end = only_end
        share_pre_hooks(model, self)

    def forward(self, x: Tensor) -> object:
        interpreter = _Stopping(self.traced, self.node, self.only_end)
        output = interpreter.run(x)
        return [output, interpreter.value]


class _Stopping(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule, node: fx.Node, stop: bool):
        super().__init__(traced)
        self.node = node
        self.stop = stop
        self.value = None

    def run_node(self, n: fx.Node):
        if self.stop and self.value is not None:
            return None
        value = super().run_node(n)
        if n is self.node:
            self.value = value.clone()  # the next operation may work in place
        return value


def verify_listed(model: nn.Module, stages: list[nn.Module], shape: tuple[int, ...]) -> None:
    """Raise SFFError unless every stage's output is a tensor that the model computes itself.

    Args:
        model: the original.
        stages: in order.
        shape: of one sample.
    """
    name = type(model).__name__
    for training in (False, True):
        computed = _Recorder()
        with preserve_model(model), torch.no_grad():
            model.train(training)
            set_torch_seed(0)
            x = example(model, (EXAMPLES, *shape)) + torch.randn(EXAMPLES, *shape).to(
                example(model, (1,))
            )
            set_torch_seed(1)
            with computed:
                try:
                    model(x.clone())
                except Exception as error:  # whatever the model's own code raises
                    raise SFFError(
                        f"{name} cannot run on a sample of shape {shape}: {where(error)}"
                    ) from error
        together = nn.ModuleList(stages)
        with preserve_model(model), preserve_training_mode(together), torch.no_grad():
            set_torch_seed(1)
            for number, stage in enumerate(stages):
                x = stage.train(training)(x)
                if not computed.holds(x):
                    raise SFFError(
                        f"what stages[{number}] computes is nowhere in {name}'s own forward; "
                        "something stands between the parts, such as an activation: put it into "
                        "the list as a module or function"
                    )


class _Recorder(TorchDispatchMode):
    """Keeps a copy of every tensor that is computed inside."""

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
