"""Training, evaluation, cutting and models: whatever is given to them."""

from pathlib import Path

from hypothesis import strategies as st
from torch import nn

from sff_teach import history, localize, pipeline, split, train
from sff_teach import models as networks

from .hostile import (
    anything,
    arrays,
    call,
    data,
    datasets,
    explore,
    ff_network,
    images,
    labels,
    models,
    network,
    numbers,
    several,
    words,
)
from .test_idea import generators

FEW = st.one_of(  # whole numbers that would take forever are left to the checks of their own
    st.sampled_from(
        [0, 1, 2, -1, 10**18, 10**30, True, 1.0, 1.5, float("nan"), float("inf"), "2", None, [1]]
    ),
    anything,
).filter(lambda n: not (isinstance(n, int) and 2 < n < 10**18))
rates = st.one_of(st.sampled_from([1e-3, 0.0, -1.0, 1e30]), numbers)
devices = st.one_of(
    st.sampled_from(["cpu", "meta", "cuda", "cuda:7", "mps", "xla", "CPU", "gpu"]), words
)
rule_names = st.one_of(
    st.sampled_from(["bp", "bp-goodness", "deepsup", "sff", "sff-overlap", "ff", "SFF"]), words
)
paths = st.one_of(
    st.sampled_from(
        [
            "",
            ".",
            "/",
            "/dev/null/at/all",
            "/dev/null/x",
            "x" * 300,
            "a\0b",
            "\n",
            Path("/proc/nowhere/x"),
        ]
    ),
    anything.filter(
        lambda v: v not in ("a", "sff", "1", "\n", "ä" * 500) if isinstance(v, str) else True
    ).filter(lambda v: v != Path("nowhere") if isinstance(v, Path) else True),
)


def fit_quietly(
    model, data, valid, rule, epochs, batch_size, lr, weight_decay, schedule, label_smoothing,
    augment, device, seed, on_epoch, stop, checkpoint, precision, channels_last, compile, pipeline,
):  # fmt: skip
    """``fit`` with every option, without a bar."""
    options = locals()
    model, data, valid = (options.pop(name) for name in ("model", "data", "valid"))
    return train.fit(model, data, valid, progress=False, **options)


test_fit_and_evaluate = explore(
    "fit and evaluate",
    [
        call(
            fit_quietly,
            model=(network, models),
            data=(data, datasets),
            valid=(None, datasets),
            rule=("sff", rule_names),
            epochs=(1, FEW),
            batch_size=(2, numbers),
            lr=(1e-3, rates),
            weight_decay=(0.01, rates),
            schedule=("constant", words),
            label_smoothing=(0.0, rates),
            augment=(None, words),
            device=("cpu", devices),
            seed=(0, numbers),
            on_epoch=(None, anything.filter(lambda v: not callable(v))),
            stop=(None, anything),
            checkpoint=(None, paths),
            precision=("float32", words),
            channels_last=(False, anything),
            compile=(False, anything.filter(lambda v: v is not True)),
            pipeline=(
                None,
                anything.filter(lambda v: v not in (1, 2) if isinstance(v, int) else True),
            ),
            named="fit",
        ),
        call(
            train.evaluate,
            model=(network, models),
            data=(data, datasets),
            vote=(None, words),
            batch_size=(2, numbers),
        ),
        call(
            train.evaluate_votes,
            model=(network, models),
            data=(data, datasets),
            votes=((None, "last"), several(words)),
            batch_size=(2, numbers),
        ),
        call(history.one_cycle, done=(0.3, numbers), warm_up=(0.3, numbers), start=(0.04, numbers)),
        call(
            history.learning_rate,
            done=(0.3, numbers),
            lr=(0.1, numbers),
            schedule=("constant", words),
        ),
        call(history.pick_device, name=("cpu", devices)),
        call(history.as_data_set, data=(data, datasets), argument=("data", st.just("train"))),
        call(
            lambda train, batch_size, generator, augment, smallest: list(
                history.training_batches(train, batch_size, generator, augment, smallest)
            ),
            train=(data, datasets),
            batch_size=(2, numbers),
            generator=(None, generators),
            augment=(None, words),
            smallest=(2, numbers),
            named="training_batches",
        ),
        call(
            history.check_batches,
            model=(network, models),
            images=(2, numbers),
            batch_size=(2, numbers),
        ),
        call(
            history.check_image_options,
            x=(images, arrays),
            augment=(None, words),
            channels_last=(False, anything),
        ),
        call(
            history.checked_settings,
            epochs=(1, numbers),
            batch_size=(1, numbers),
            lr=(0.1, numbers),
            weight_decay=(0.1, numbers),
            schedule=("constant", words),
            label_smoothing=(0.0, numbers),
            augment=(None, words),
            seed=(0, numbers),
        ),
        call(
            pipeline.balance,
            seconds=(
                (1.0, 2.0, 3.0),
                st.one_of(st.lists(numbers, max_size=5), st.just([1.0] * 60), arrays),
            ),
            processes=(2, st.one_of(numbers, st.just(30))),
        ),
        call(
            pipeline.best_ratio,
            seconds=((1.0, 2.0, 3.0), several(numbers)),
            plan=((0, 1, 3), several(numbers)),
        ),
        call(
            pipeline.block_seconds,
            model=(network, models),
            x=(images, arrays),
            y=(labels, arrays),
            rounds=(1, FEW),
            limit=(0.01, numbers),
            threads=(1, FEW),
        ),
    ],
)

small = lambda: networks.cnn(1, (2, 3), (1,))  # noqa: E731
cuts = st.one_of(
    st.sampled_from(["layer", "block", "stage", 1, 2, 3, 10**9, 0, -1]), words, numbers
)
input_shapes = st.one_of(
    st.sampled_from(
        [
            (1, 6, 6),
            (1, 1, 1),
            (3, 6, 6),
            (1, 10**6, 10**6),
            (36,),
            (1, 6),
            (),
            (0, 6, 6),
            (1, -6, 6),
            "166",
        ]
    ),
    several(numbers),
)
originals = st.one_of(
    st.sampled_from(
        [
            small,
            network,
            ff_network,
            lambda: nn.Linear(36, 3),
            nn.Sequential,
            nn.ReLU,
            lambda: networks.mlp(6, (4, 4)),
            lambda: nn.LSTM(3, 3),
            lambda: small().to("meta"),
            lambda: small().half(),
            lambda: small().double(),
            lambda: nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4)),
        ]
    ).map(lambda make: make()),
    anything,
)

test_split = explore(
    "split and localize",
    [
        call(
            localize,
            model=(small, originals),
            num_classes=(3, numbers),
            cut=("layer", cuts),
            kernel_size=(1, numbers),
            filters=(1, numbers),
            hidden=(0, numbers),
            form=("auto", words),
            normalise=("all", words),
            vote=("mean", words),
            stages=(None, several(st.one_of(words, models))),
            input_shape=((1, 6, 6), input_shapes),
            stem=(None, words),
        ),
        call(
            split.split_stages,
            model=(small, originals),
            cut=("layer", cuts),
            input_shape=((1, 6, 6), input_shapes),
        ),
        call(split.small_stem, model=(lambda: nn.Sequential(nn.Conv2d(3, 4, 7, 2)), originals)),
        call(split.describe, model=(network, models), input_shape=((1, 6, 6), input_shapes)),
        call(split.trace, model=(small, originals), whole=((), several(models, 2))),
        call(
            networks.cnn,
            channels=(1, numbers),
            widths=((2, 3), several(numbers)),
            pool_after=((1,), several(numbers)),
        ),
        call(
            networks.cnn1d,
            channels=(1, numbers),
            widths=((2, 3), several(numbers)),
            pool_after=((1,), several(numbers)),
            kernel_size=(3, numbers),
        ),
        call(networks.mlp, inputs=(3, numbers), widths=((2, 3), several(numbers))),
    ],
)
