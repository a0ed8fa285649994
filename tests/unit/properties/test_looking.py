"""Costs, memory, probes, plots and diagrams: whatever is given to them."""

import torch
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

from sff_teach import diagrams, localize, measure, memory, plots, probes
from sff_teach import models as networks
from sff_teach.history import History
from sff_teach.train import Evaluation

from .hostile import (
    anything,
    arrays,
    call,
    explore,
    images,
    labels,
    models,
    network,
    numbers,
    several,
    words,
)
from .test_training import FEW

pairs = st.one_of(
    st.tuples(arrays, arrays),
    st.tuples(arrays, st.just(labels())),
    st.tuples(st.just(images()), arrays),
    anything,
)
variants = st.one_of(st.sampled_from(list(memory.VARIANTS)), words)
steps = st.one_of(
    st.sampled_from([lambda: None, lambda: torch.ones(3).sum()]),
    anything.filter(lambda v: not callable(v)),
)
traced = lambda: localize(networks.cnn(1, (2, 3), ()), 3, cut=1, input_shape=(1, 6, 6))  # noqa: E731

test_measure = explore(
    "measure and memory",
    [
        call(
            measure.cost,
            model=(network, models),
            rule=("sff", variants),
            batch=(lambda: (images(), labels()), pairs),
        ),
        call(
            measure.TrainingStep,
            model=(network, models),
            rule=("sff", variants),
            batch=(lambda: (images(), labels()), pairs),
        ),
        call(
            lambda model, rule, batch: measure.count_step(measure.TrainingStep(model, rule, batch)),
            model=(network, models),
            rule=("bp", variants),
            batch=(lambda: (images(), labels()), pairs),
            named="count_step",
        ),
        call(
            measure.count_step,
            step=(lambda: measure.TrainingStep(network(), "bp", (images(), labels())), anything),
        ),
        call(measure.flops, step=(lambda: lambda: None, steps)),
        call(
            measure.live_bytes, step=(lambda: lambda: None, steps), ignore=((), several(arrays, 2))
        ),
        call(
            measure.saved_bytes, step=(lambda: lambda: None, steps), ignore=((), several(arrays, 2))
        ),
        call(measure.cuda_peak, step=(lambda: lambda: None, steps)),
        call(
            measure.seconds,
            step_a=(lambda: lambda: None, steps),
            step_b=(lambda: lambda: None, steps),
            rounds=(1, FEW),
            clock=(lambda: iter(range(99)).__next__, anything.filter(lambda v: not callable(v))),
        ),
        call(
            measure.median_interval,
            values=((1.0, 2.0), several(numbers)),
            confidence=(0.95, numbers),
        ),
        call(
            measure.table,
            costs=(lambda: [measure.Cost("bp", 3, 4, 1, 1, [1], 1)], several(anything, 2)),
            times=(None, anything),
        ),
        call(memory.choose_cuts, model=(traced, models), x=(lambda: images(2), arrays)),
        call(
            lambda model, x: memory.recompute(model, x).__enter__(),
            model=(traced, models),
            x=(lambda: images(2), arrays),
            named="recompute",
        ),
        call(memory.forget, model=(traced, models), names=(("",), several(words))),
        call(
            memory.forget_until,
            body=(lambda: traced().blocks[0].body, models),
            name=(lambda: "layer1_0", words),
        ),
        call(
            lambda x: memory.Forgetful(nn.Linear(6, 2))(x),
            x=(lambda: torch.ones(2, 6), arrays),
            named="Forgetful",
        ),
    ],
)

deep = lambda: [torch.randn(6, 2, 4, 4), torch.randn(6, 3)]  # noqa: E731
many = lambda: (torch.randn(9, 4), torch.arange(9) % 3)  # noqa: E731
test_probes = explore(
    "probes",
    [
        call(
            probes.block_features,
            model=(network, models),
            images=(images, arrays),
            batch_size=(2, numbers),
        ),
        call(probes.pooled, features=(images, arrays), side=(2, numbers)),
        call(
            probes.linear_probe,
            train=(many, pairs),
            valid=(many, pairs),
            test=(many, pairs),
            penalties=((1.0,), several(numbers)),
        ),
        call(probes.cka, a=(images, arrays), b=(images, arrays), unbiased=(True, anything)),
        call(
            probes.cka_matrix,
            a=(deep, several(arrays, 2)),
            b=(deep, several(arrays, 2)),
            unbiased=(True, anything),
        ),
        call(probes.goodness_maps, model=(network, models), images=(images, arrays)),
        call(probes.block_votes, model=(network, models), images=(images, arrays)),
        call(probes.disagreement, votes=(lambda: torch.ones(4, 2), arrays)),
        call(
            probes.reliability,
            goodness=(lambda: torch.randn(4, 3), arrays),
            y=(labels, arrays),
            bins=(5, FEW),
        ),
        call(
            probes.expected_calibration_error,
            goodness=(lambda: torch.randn(4, 3), arrays),
            y=(labels, arrays),
            bins=(5, FEW),
        ),
    ],
)


def row(epoch=1, **more):
    return {
        "epoch": epoch,
        "complete": True,
        "seconds": 1.0,
        "steps": 1,
        "train_loss": [1.0, 0.5],
        "train_accuracy": [0.5, 0.6],
        "valid_accuracy": 0.5,
        "valid_loss": 1.0,
        "valid_block_accuracy": [0.4, 0.5],
        **more,
    }


def trained(*rows) -> History:
    return History("sff", {"epochs": 2}, 10, list(rows) or [row()])


def record(**more):
    return {
        "rule": "sff",
        "images": 200,
        "seed": 0,
        "accuracy": 0.5,
        "accuracy_mean": 0.5,
        "accuracy_last": 0.4,
        "block_accuracy": [0.3, 0.5],
        "parameters": 10,
        "seconds": 1.0,
        **more,
    }


odd = st.one_of(numbers, words, several(numbers, 2))
histories = st.one_of(
    st.builds(trained),
    st.builds(lambda **k: trained(row(**k)), epoch=odd),
    st.builds(lambda v: trained(row(train_loss=v)), odd),
    st.builds(lambda v: trained(row(valid_block_accuracy=v)), odd),
    st.builds(lambda v: trained(row(), v), anything),
    st.builds(
        lambda v: trained({k: x for k, x in row().items() if k != v}), st.sampled_from(list(row()))
    ),
    st.just(History("ff", {}, 0)),
    several(st.builds(trained), 2),
    anything,
)
records = st.one_of(
    st.lists(
        st.one_of(
            st.builds(record),
            st.builds(lambda v: record(accuracy=v), odd),
            st.builds(lambda v: record(images=v), odd),
            st.builds(lambda v: record(rule=v), words),
            st.builds(lambda v: record(block_accuracy=v), odd),
            st.builds(lambda v: record(seed=v), odd),
            st.builds(
                lambda v: {k: x for k, x in record().items() if k != v},
                st.sampled_from(list(record())),
            ),
            anything,
        ),
        max_size=3,
    ),
    anything,
)
evaluations = st.one_of(
    st.builds(Evaluation, odd, several(numbers, 3), odd, odd),
    histories,
    st.dictionaries(
        words.filter(lambda w: isinstance(w, str)),
        st.builds(Evaluation, numbers, several(numbers), numbers, numbers),
        max_size=2,
    ),
)
pixels = lambda n=2: torch.rand(n, 1, 6, 6)  # noqa: E731
marks = st.one_of(
    st.lists(
        st.tuples(numbers, numbers, words, st.sampled_from(["red", "#123456", "no colour", None])),
        max_size=3,
    ),
    anything,
)
one_mark = ((0.5, 0.5, "a", "red"),)
colours = st.one_of(st.sampled_from(["red", "#00000", "", "C0", (1, 0, 0), (9, 9, 9)]), anything)
texts = st.one_of(
    st.sampled_from(["", " ", "words", "$\\frac{1$", "$x", "\ud800", "a\nb"]), anything
)
shape_lists = st.one_of(several(st.one_of(several(numbers, 3), st.just((4, 6, 6))), 3), anything)
figure = lambda: plots.new_figure()[0]  # noqa: E731
axes = lambda: plots.new_figure()[1]  # noqa: E731


def times(**more):
    return [{"process": 0, "block": 0, "step": 0, "start": 0.0, "sent": 1.0, "stop": 2.0, **more}]


traces = st.one_of(
    st.builds(
        lambda k, v: times(**{k: v}),
        st.sampled_from(["process", "step", "start", "sent", "stop"]),
        numbers,
    ),
    several(anything, 2),
)


def point(**more):
    return {
        "row": "sff plain",
        "measured_as": "sff plain",
        "minus_bp": (0.0, -0.1, 0.1),
        "saved_ratio": 0.5,
        "flops_ratio": 1.0,
        **more,
    }


points = st.one_of(
    st.lists(
        st.builds(lambda k, v: point(**{k: v}), st.sampled_from(list(point())), odd), max_size=2
    ),
    anything,
)


def laid_out(result) -> None:
    """A figure can be laid out, which is where bad values show late."""
    if isinstance(result, Figure):
        plots.png(result, dpi=20)


test_plots = explore(
    "plots",
    [
        call(
            plots.draw_history,
            histories=(trained, histories),
            names=(None, several(words)),
            epochs=(None, numbers),
        ),
        call(plots.describe_history, history=(trained, histories)),
        call(
            lambda history: plots.LiveHistory()(history),
            history=(trained, histories),
            named="LiveHistory",
        ),
        call(plots.draw_block_accuracy, results=(trained, evaluations), chance=(None, numbers)),
        call(
            plots.draw_goodness,
            positive=((1.0, 2.0), arrays),
            negative=((1.0, 2.0), arrays),
            theta=(1.0, numbers),
            title=(None, texts),
            names=(("a", "b"), several(texts)),
            xlabel=("g", texts),
            ax=(None, anything),
        ),
        call(plots.draw_compare, rows=(lambda: [record()], records), measure=("accuracy", texts)),
        call(
            plots.draw_learning_curves,
            rows=(lambda: [record()], records),
            measure=("accuracy", texts),
        ),
        call(plots.draw_by_blocks, rows=(lambda: [record()], records), measure=("accuracy", texts)),
        call(plots.draw_frontier, points=(lambda: [point()], points)),
        call(
            plots.draw_images,
            pixels=(pixels, arrays),
            titles=(None, several(texts)),
            ncols=(2, numbers),
            width=(5.0, numbers),
        ),
        call(plots.draw_picture, ax=(axes, anything), pixels=(lambda: pixels()[0], arrays)),
        call(
            plots.draw_class_goodness,
            g=(lambda: torch.rand(2, 3), arrays),
            classes=(("a", "b", "c"), several(texts)),
            y=(None, numbers),
            image=(None, arrays),
            top=(3, numbers),
        ),
        call(
            plots.draw_goodness_maps,
            image=(lambda: pixels()[0], arrays),
            maps=(lambda: [torch.rand(3, 3)], several(arrays, 2)),
            titles=(None, several(texts)),
        ),
        call(
            plots.new_figure,
            width=(5.0, numbers),
            height=(3.0, numbers),
            nrows=(1, numbers),
            ncols=(1, numbers),
            title=(None, texts),
            xlabel=(None, texts),
            ylabel=(None, texts),
        ),
        call(plots.tint, colour=("red", colours), amount=(0.5, numbers)),
        call(plots.ink, colour=("red", colours)),
        call(plots.block_colours, count=(3, numbers)),
        call(plots.rule_style, name=("sff", words), position=(0, numbers)),
        call(plots.end_labels, ax=(axes, anything), labels=(one_mark, marks)),
        call(plots.number_marks, ax=(axes, anything), marks=(one_mark, marks)),
        call(
            plots.figure_html,
            fig=(figure, anything),
            alt=("words", texts),
            caption=("words", texts),
        ),
        call(plots.show, fig=(figure, anything), alt=("words", texts), caption=("words", texts)),
        call(plots.png, fig=(figure, anything), dpi=(50, numbers)),
        call(
            plots.image_html, picture=(b"x", anything), inches=(3.0, numbers), alt=("words", texts)
        ),
        call(diagrams.diagram_pipeline, devices=(3, numbers), batches=(4, numbers)),
        call(diagrams.draw_timeline, trace=(times, traces)),
        call(
            diagrams.draw_network,
            shapes=(((4, 6, 6), (8, 3, 3)), shape_lists),
            cuts=((1,), several(numbers)),
            rule=("sff", words),
            input_shape=(None, several(numbers)),
            notes=(None, several(texts)),
        ),
        *[
            call(draw)
            for draw in (
                diagrams.diagram_backprop,
                diagrams.diagram_ff,
                diagrams.diagram_sff,
                diagrams.diagram_block,
            )
        ],
    ],
    after=laid_out,
)
