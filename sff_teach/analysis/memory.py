"""The bytes that a training step saves for backward, and ways to reduce them.

SFF saves one block's activations at a time, so its peak is its largest block. ``recompute`` lowers
that peak without changing the update: parts of the largest blocks are computed again during
backward. Backprop's ways to save memory are here as rules to compare with.
"""

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, fx, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.fx.passes.split_module import split_module
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from ..core import SFF, LocalBlock
from ..cut.graph import source, trace
from ..cut.measure import FlopInterpreter
from ..losses import class_loss
from ..rules import RULES, Backprop, Rule, ScalableForwardForward, StepResult, summarise
from ..util.checks import SFFError

# --- counting ------------------------------------------------------------------------------------


def address(storage: torch.UntypedStorage) -> int:
    """The address of a storage's data, or of the storage itself on "meta"."""
    return storage.data_ptr() or storage._cdata


class StorageTracker:
    """Counts the bytes of storages in use, each once, and their peak.

    Args:
        ignore: tensors whose storages do not count.
    """

    def __init__(self, ignore: Iterable[Tensor] = ()):
        self.now = 0
        self.peak = 0
        self.history = [0]  # all values of ``now``
        self.holders = Counter()  # address of a storage → number of holders
        self.ignore = {address(t.untyped_storage()) for t in ignore}

    def retain(self, tensor: Tensor, holder: object) -> None:
        """Count the tensor's storage for as long as ``holder`` lives."""
        storage = tensor.untyped_storage()
        where, size = address(storage), storage.nbytes()
        if where in self.ignore or not size:
            return
        if not self.holders[where]:
            self._change(size)
        self.holders[where] += 1
        weakref.finalize(holder, self._release, where, size)

    def retain_storage(self, tensor: Tensor) -> None:
        """Count the tensor's storage for as long as it exists."""
        storage = tensor.untyped_storage()
        if not self.holders[address(storage)]:
            self.retain(tensor, storage)

    def _release(self, where: int, size: int) -> None:
        self.holders[where] -= 1
        if not self.holders[where]:
            self._change(-size)

    def _change(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)
        self.history.append(self.now)


class _SavedTensor:
    """A tensor that autograd has saved, freed together with the graph."""

    def __init__(self, tensor: Tensor):
        self.tensor = tensor.detach()


_WATCHING: list[StorageTracker] = []  # trackers that a CheckpointedModule reports to


@contextmanager
def watch_saved(tracker: StorageTracker) -> Iterator[None]:
    """Track the tensors that autograd saves inside the ``with``, until they are freed.

    Inputs and recomputed tensors of a ``CheckpointedModule`` count as well.
    """

    def pack(tensor: Tensor) -> _SavedTensor:
        packed = _SavedTensor(tensor)
        tracker.retain(tensor, packed)
        return packed

    _WATCHING.append(tracker)
    try:
        with saved_tensors_hooks(pack, lambda packed: packed.tensor):
            yield
    finally:
        _WATCHING.remove(tracker)


def saved_bytes(step: Callable[[], object], ignore: Iterable[Tensor] = ()) -> int:
    """Peak bytes that autograd saved for backward while ``step()`` ran.

    Every storage counts once; gradients and optimiser state do not.

    Args:
        step: runs forward and backward, once or many times.
        ignore: tensors that do not count: parameters, buffers, the batch.
    """
    tracker = StorageTracker(ignore)
    with watch_saved(tracker):
        step()
    return tracker.peak


# --- recomputing ---------------------------------------------------------------------------------


class CheckpointedModule(nn.Module):
    """``torch.utils.checkpoint`` as a module: saves its inputs only and runs again in backward.

    The second run does not update BatchNorm's running statistics.

    Args:
        module: takes tensors and returns one.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        return checkpoint(
            self.module,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _Reentered(self._preserve_and_count)),
        )

    @contextmanager
    def _preserve_and_count(self) -> Iterator[None]:
        """Count the recomputed tensors, and restore the buffers."""
        # only checkpoint's own hooks see the tensors that are saved here
        pack, unpack = torch._C._autograd._top_saved_tensors_default_hooks(True)

        def counted(tensor: Tensor) -> Tensor:
            for tracker in _WATCHING:
                tracker.retain_storage(tensor)
            return pack(tensor)

        with _preserve_buffers(self.module), saved_tensors_hooks(counted, unpack):
            yield


class _Reentered:
    """A context that is new each time: checkpoint enters it once for every backward pass."""

    def __init__(self, make: Callable[[], AbstractContextManager]):
        self.make = make
        self.entered = []

    def __enter__(self) -> None:
        context = self.make()
        context.__enter__()
        self.entered.append(context)

    def __exit__(self, *error) -> bool | None:
        return self.entered.pop().__exit__(*error)


@contextmanager
def _preserve_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the values of the module's buffers on leaving."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def checkpoint_nodes(body: fx.GraphModule, names: Container[str]) -> fx.GraphModule:
    """The same body, on the same parameters, with some nodes of its graph checkpointed.

    Args:
        body: of a block.
        names: of nodes. Neighbours are checkpointed together: what goes into them is saved, what
            they would save themselves is computed again in backward.
    """
    parts, number = {}, 0
    for node in body.graph.nodes:
        if node.op.startswith("call") and (node.name in names) != number % 2:
            number += 1
        parts[node.name] = number  # odd: checkpointed
    split = split_module(body, body, lambda node: parts[node.name], keep_original_order=True)
    for odd in range(1, number + 1, 2):
        name = f"submod_{odd}"
        setattr(split, name, CheckpointedModule(split.get_submodule(name)))
    return split


@contextmanager
def recompute(model: SFF, x: Tensor) -> Iterator[list[list[str]]]:
    """Within the ``with``, the model's largest blocks compute part of their activations twice.

    Updates are the same up to rounding; parts of those blocks run forward once more. Yields the
    result of ``choose_recomputed``.

    Args:
        model: its blocks' bodies are replaced, on the same parameters, and restored on leaving.
        x: (B, C, H, W) a few images to measure with, two or more.
    """
    names = choose_recomputed(model, x)
    bodies = [block.body for block in model.blocks]
    checkpoint_bodies(model, names)
    replaced = {block.body: body for block, body in zip(model.blocks, bodies, strict=True)}
    modes = {lean: lean.training for lean in replaced}
    try:
        yield names
    finally:
        for parent in list(model.modules()):  # a rule such as "bp" has put them elsewhere
            for name, lean in list(parent.named_children()):
                if lean in replaced:
                    setattr(parent, name, replaced[lean])
        for lean, body in replaced.items():
            if lean.training != modes[lean]:
                for module in set(body.modules()) - set(lean.modules()):
                    module.training = lean.training


def checkpoint_bodies(model: SFF, names: Iterable[Sequence[str]]) -> None:
    """Replace bodies in place by ``checkpoint_nodes``.

    Args:
        model: changed in place.
        names: per block the nodes that are computed again.
    """
    for block, nodes in zip(model.blocks, names, strict=True):
        if nodes:
            block.body = checkpoint_nodes(_graph(block.body), nodes)


def _graph(body: nn.Module) -> fx.GraphModule:
    """The body's graph; an error if a body with this graph would not be the same body."""
    before, after = body._forward_pre_hooks, body._forward_hooks
    if before or after or body._backward_pre_hooks or body._backward_hooks:
        raise SFFError("the block has hooks")
    graph = body
    if not isinstance(body, fx.GraphModule):
        graph = trace(body)
        if source(graph.graph) != source(trace(body, training=True).graph):
            raise SFFError("the block has different graphs in training and in evaluation")
    targets = {node.target for node in graph.graph.nodes if isinstance(node.target, str)}
    names = {target.replace(".", "_") for target in targets}
    if len(names) < len(targets) or any(name.startswith("submod_") for name in names):
        raise SFFError("split_module would give two parts of the block one name")
    return graph


def choose_recomputed(model: SFF, x: Tensor) -> list[list[str]]:
    """What to compute again to lower the peak: per block the names of nodes, or none.

    The block with the most saved bytes gets the choice of ``_choices`` that leaves the fewest. Then
    the next largest gets the first choice that brings it to that size or below; and so on, until
    the largest block is one that was changed.

    Args:
        model: not changed; a copy is measured.
        x: (B, C, H, W) a few images, two or more.
    """
    blocks = copy.deepcopy(model.blocks).train()
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        inputs, sizes = [], []
        for block in blocks:
            inputs.append(x)
            sizes.append(_block_saved_bytes(block, x, first=not sizes))
            with torch.no_grad():
                x = model.hand_over(block, block.body(x.clone()))
        names, tried, reached = [[] for _ in blocks], set(), 0
        while (largest := max(range(len(sizes)), key=sizes.__getitem__)) not in tried:
            tried.add(largest)
            block = blocks[largest]
            try:
                body = _graph(block.body)
            except SFFError:  # without a graph it cannot be split
                continue
            for choice in _choices(body, inputs[largest]):
                block.body = checkpoint_nodes(body, choice)
                size = _block_saved_bytes(block, inputs[largest], first=largest == 0)
                if size < sizes[largest]:
                    sizes[largest], names[largest] = size, choice
                if sizes[largest] <= reached:
                    break
            reached = max(reached, sizes[largest])
    return names


def _choices(body: fx.GraphModule, x: Tensor) -> Iterator[list[str]]:
    """Nodes to compute again, from few FLOPs to many.

    From the block's input up to a node, alone or with all operations that have no FLOPs of their
    own: norms, activations, pooling (the cheap ones of Chen et al. 2016, arXiv:1604.06174). What
    computing starts from a second time must still be what it was the first time.
    """
    with FlopCounterMode(display=False) as counter:
        watched = _VersionInterpreter(body, counter)
        watched.run(x.clone())
    nodes = [node for node in body.graph.nodes if node.op.startswith("call")]
    given = ("placeholder", "get_attr")  # input, parameters, buffers
    if any(n.op in given and watched.overwrites(node, n) for node, n in watched.read):
        return
    cheap, run = [], set()  # run: the neighbours so far
    for node in nodes:
        kept = (n in run or not watched.overwrites(node, n) for n in node.all_input_nodes)
        if node.meta["flops"] == 0 and all(kept):
            run.add(node)
            cheap.append(node)
        else:
            run = set()
    for end in range(len(nodes)):
        for choice in (nodes[:end], sorted({*nodes[:end], *cheap}, key=nodes.index)):
            if choice:
                yield [node.name for node in choice]


class _VersionInterpreter(FlopInterpreter):
    """Also records which values a later operation changed in place, through a view as well."""

    def __init__(self, traced: fx.GraphModule, counter: FlopCounterMode):
        super().__init__(traced, counter, garbage_collect_values=False)
        self.read = {}  # (node, its input) → the input's versions before the node ran

    def run_node(self, n: fx.Node):
        self.read |= {(n, source): self._versions(source) for source in n.all_input_nodes}
        return super().run_node(n)

    def overwrites(self, node: fx.Node, source: fx.Node) -> bool:
        """Whether ``node``, or one after it, changed the value that ``node`` read."""
        return self.read[node, source] != self._versions(source)

    def _versions(self, node: fx.Node) -> list[int]:
        parts = tree_leaves(self.env[node])
        return [part._version for part in parts if isinstance(part, Tensor)]


def _block_saved_bytes(block: LocalBlock, x: Tensor, first: bool) -> int:
    """Peak bytes that one block saves; its input counts unless it is the batch."""
    x = x.clone()  # a body may overwrite it
    y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    ignore = [*block.parameters(), *block.buffers(), y, *([x] if first else [])]
    return saved_bytes(lambda: class_loss(block(x)[1], y).backward(), ignore)


# --- rules to compare with -----------------------------------------------------------------------


class Recomputing(Rule):
    """A rule with ``recompute``; what is computed again is chosen at the first step."""

    recomputed: list[list[str]] | None = None

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        if self.recomputed is None:
            self.recomputed = choose_recomputed(self.model, x[:2])
            checkpoint_bodies(self.model, self.recomputed)
        return super().step(x, y, progress)


class RecomputingSFF(Recomputing, ScalableForwardForward):
    """``sff-recompute``: SFF that computes parts of its largest blocks twice."""


class RecomputingBackprop(Recomputing, Backprop):
    """``bp-recompute``: backprop that computes parts of the network twice."""


class SummedLosses(ScalableForwardForward):
    """``sff-summed``: SFF with one backward at the end, over the sum of all blocks' losses.

    The gradients are those of SFF, but all blocks' graphs live until the end, as in backprop.
    """

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        losses, goodness = [], []
        for block in self.model.blocks:
            h, g = block(x)
            losses.append(self.loss(g, y))
            goodness.append(g)
            x = self.model.hand_over(block, h)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        for optimizer in self.optimizers:
            optimizer.step()
        return summarise(losses, goodness, y)


class CheckpointedBackprop(Backprop):
    """``bp-checkpoint``: backprop with gradient checkpointing, one segment per block.

    The update is backprop's; each segment is computed once more in the backward pass.
    """

    def prepare(self, model: nn.Module) -> SFF:
        bodies = [block.body for block in Rule.prepare(self, model).blocks]
        model = super().prepare(model)
        model.blocks[0].body = nn.Sequential(*map(CheckpointedModule, bodies))
        return model


class AccumulatedBackprop(Backprop):
    """``bp-accumulate``: backprop in ``parts`` smaller batches with summed gradients.

    The update is backprop's, except that BatchNorm normalises each part by its own statistics.
    """

    parts = 4

    def step(self, x: Tensor, y: Tensor, progress: float = 0.0) -> StepResult:
        (optimizer,) = self.optimizers
        optimizer.zero_grad()
        parts = []
        for x_part, y_part in zip(x.chunk(self.parts), y.chunk(self.parts), strict=True):
            _, g = self.model.blocks[0](x_part)
            loss = self.loss(g, y_part) * (len(y_part) / len(y))
            loss.backward()
            parts.append(summarise([loss], [g], y_part))
        optimizer.step()
        return StepResult(sum(p.losses for p in parts), sum(p.correct for p in parts))


# All rules, and the variants whose cost is compared.
VARIANTS: dict[str, type[Rule]] = RULES | {
    "sff-recompute": RecomputingSFF,
    "bp-recompute": RecomputingBackprop,
    "sff-summed": SummedLosses,
    "bp-checkpoint": CheckpointedBackprop,
    "bp-accumulate": AccumulatedBackprop,
}
