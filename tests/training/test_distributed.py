"""Several processes: the weights of one, overlap for real, and a sentence when one of them dies."""

import os
import re
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import spawn

from sff_teach import rules
from sff_teach.cli import main
from sff_teach.cut.localize import localize
from sff_teach.data import load
from sff_teach.forward_forward import FFNetwork
from sff_teach.models import cnn, mlp
from sff_teach.training import distributed
from sff_teach.training.fit import fit
from tests._helpers import descendants

PROCESSES = 2
CPU = torch.device("cpu")


def network():
    torch.manual_seed(0)
    return localize(cnn(1, (8, 12, 16), pool_after=(1,)), 10, cut="layer", hidden=4)


def train(rule):
    """387 images in batches of 25: parts of 13 and 12, and a last batch of 12."""
    digits = load("digits", fraction=0.3)
    model = network()
    history = fit(
        model, digits.train, digits.valid, rule=rule, epochs=2, batch_size=25, lr=3e-3,
        augment="flip-crop", device="cpu", progress=False,
    )  # fmt: skip
    return {name: value.clone() for name, value in model.state_dict().items()}, history.rows


def learner(model, rule="sff"):
    return rules.get_rule(rule)(model, lambda p: torch.optim.SGD(p, lr=0.0))


def gradients():
    """Of one batch of 11, cut into 6 and 5, against the same batch in one process; in float64."""
    digits = load("digits", fraction=0.1).train
    x, y = digits.x[:11].double(), digits.y[:11]
    alone, shared = network().double().train(), network().double().train()
    learner(alone).step(x, y)
    group, rule = distributed.DataParallel(CPU), learner(shared)
    with group.synchronized(rule):
        result = group.step(rule, *group.shard(x, y), 0.0)
    assert all(type(block) is type(alone.blocks[0]) for block in shared.blocks)
    return {
        "alone": [p.grad for p in alone.parameters()],
        "shared": [p.grad.clone() for p in shared.parameters()],
        "statistics": [(a.clone(), b.clone()) for a, b in zip(alone.buffers(), shared.buffers())],
        "losses": result.losses,
    }


def worker(rank, folder, rules):
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "meet"), PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    report = {rule: train(rule) for rule in rules} | {"gradients": gradients()}
    torch.save(report, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes did together; started once for these rules, because it takes seconds."""

    @cache
    def reports(*rules):
        folder = tmp_path_factory.mktemp("group")
        spawn(worker, (str(folder), rules), nprocs=PROCESSES)
        return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]

    return reports


@pytest.mark.parametrize(
    "rules, rule",
    [
        (("sff",), "sff"),
        pytest.param(("deepsup", "bp"), "deepsup", marks=pytest.mark.nightly),
        pytest.param(("deepsup", "bp"), "bp", marks=pytest.mark.nightly),
    ],
)
def test_two_processes_train_like_one_on_the_joined_batch(together, rules, rule):
    (state, rows), (other, _) = (report[rule] for report in together(*rules))
    for name, value in state.items():
        assert torch.equal(value, other[name]), name
    alone, alone_rows = train(rule)
    for name, value in alone.items():
        # 32 steps of AdamW on sums taken in another order
        torch.testing.assert_close(state[name], value, rtol=2e-2, atol=2e-3, msg=name)
    for row, same in zip(rows, alone_rows, strict=True):
        assert row["steps"] == same["steps"] == 16
        assert row["train_loss"] == pytest.approx(same["train_loss"], rel=1e-3)
        assert row["train_accuracy"] == pytest.approx(same["train_accuracy"], abs=0.01)
        assert row["valid_loss"] == pytest.approx(same["valid_loss"], rel=1e-2)


def test_gradients_are_those_of_the_joined_batch(together):
    for report in together("sff"):
        found = report["gradients"]
        for alone, shared in zip(found["alone"], found["shared"], strict=True):
            torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-12)  # float64 rounding
        for alone, shared in found["statistics"]:
            torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-12)


# ---------------------------------------------------------------- torchrun


def torchrun(folder, *command):
    """Two processes; what torch leaves behind lies in the folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
         str(PROCESSES), "-m", "sff_teach", *command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
    )  # fmt: skip


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
def test_a_dead_worker_ends_the_run_and_leaves_a_checkpoint_to_go_on_from(tmp_path):
    file, out = tmp_path / "run.pt", tmp_path / "run.jsonl"
    command = ("train", "digits", "--epochs", "400", "--checkpoint", str(file))
    run = torchrun(tmp_path, *command)
    try:
        deadline = time.monotonic() + 300
        while not file.exists() and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.1)
        assert file.exists(), run.communicate(timeout=60)[0]
        os.kill(max(descendants(run.pid)), signal.SIGKILL)
        printed, _ = run.communicate(timeout=120)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode != 0
    assert "sff-teach: another process of this training ended" in printed
    reached = len(torch.load(file, weights_only=True)["rows"])
    assert 1 <= reached < 400
    # a single process goes on from the checkpoint of two; not 400 epochs, this is a test
    state = torch.load(file, weights_only=True)
    state["settings"]["epochs"] = reached + 1
    torch.save(state, file)
    command = ["train", "digits", "--epochs", str(reached + 1), "--checkpoint", str(file)]
    assert main([*command, "--out", str(out)]) == 0
    assert re.search(r'"epochs": \[\{"epoch": 1, ', out.read_text())


@pytest.mark.nightly
def test_torchrun_prints_once_and_stores_once(tmp_path):
    out = tmp_path / "run.jsonl"
    run = torchrun(tmp_path, "train", "digits", "--epochs", "1", "--out", str(out))
    printed, _ = run.communicate(timeout=300)
    assert run.returncode == 0, printed
    assert printed.count("test accuracy") == 1
    (line,) = out.read_text().splitlines()
    assert f'"processes": {PROCESSES}' in line


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def group(tmp_path):
    """A process group of one, enough to look at."""
    store = dist.FileStore(str(tmp_path / "meet"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("rule", ["ff", "ff-greedy", "sff-overlap", "sff-lookahead"])
def test_rules_for_one_process_are_refused(group, rule):
    layers = FFNetwork(mlp(64, (20, 20)).children(), 10)
    rule = learner(layers if rule.startswith("ff") else network(), rule)
    with (
        pytest.raises(ValueError, match="one process only"),
        distributed.DataParallel(CPU).synchronized(rule),
    ):
        pass


def test_a_batch_must_have_an_image_for_each(group, monkeypatch):
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 8)
    digits = load("digits", fraction=0.1)
    with pytest.raises(ValueError, match="batch_size=7"):
        fit(network(), digits.train, batch_size=7, epochs=1, device="cpu")


def test_a_broken_connection_is_a_sentence_and_other_errors_stay_themselves():
    with (
        pytest.raises(distributed.LostProcess, match="the same command resumes"),
        distributed._translate_connection_errors(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        distributed._translate_connection_errors(),
    ):
        raise RuntimeError("out of memory")
