"""Goodness, losses, blocks and heads, Forward-Forward, rules: whatever is given to them."""

import torch
from hypothesis import strategies as st
from torch import nn

from sff_teach import forward_forward, goodness, heads, losses, rules
from sff_teach.core import SFF, GoodnessHead, LinearHead, LocalBlock, hand_over

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
    sgd,
    words,
)

generators = st.one_of(st.builds(torch.Generator), anything)
optimizers = st.one_of(
    st.just([]),
    st.builds(lambda: [sgd(nn.Linear(2, 2))] * 2),
    st.builds(lambda: sgd(nn.Linear(2, 2))),
    anything,
)

test_goodness = explore(
    "goodness",
    [
        call(goodness.sum_squares, h=(images, arrays)),
        call(goodness.mean_squares, h=(images, arrays)),
        call(
            goodness.head_activation,
            h=(images, arrays),
            weight=(lambda: torch.ones(3, 1, 1, 1), arrays),
            bias=(None, arrays),
            channel_dim=(1, numbers),
        ),
        call(
            goodness.cheaper_form,
            channels=(4, numbers),
            num_filters=(3, numbers),
            positions=(9, numbers),
        ),
        call(
            goodness.class_goodness,
            h=(images, arrays),
            weight=(lambda: torch.ones(3, 1, 1, 1), arrays),
            bias=(lambda: torch.ones(3), arrays),
            filters=(1, numbers),
            form=("auto", words),
            channel_dim=(1, numbers),
        ),
    ],
)

test_losses = explore(
    "losses",
    [
        call(
            losses.logistic_loss,
            positive=(lambda: torch.ones(4), arrays),
            negative=(lambda: torch.ones(3), arrays),
            theta=(1.0, numbers),
        ),
        call(
            losses.symba_loss,
            positive=(lambda: torch.ones(4), arrays),
            negative=(lambda: torch.ones(4), arrays),
            alpha=(1.0, numbers),
        ),
        call(
            losses.class_loss,
            g=(lambda: torch.ones(4, 3), arrays),
            y=(labels, arrays),
            label_smoothing=(0.1, numbers),
        ),
        call(losses.scale_gradient, g=(lambda: torch.ones(4), arrays), by=(2.0, numbers)),
    ],
)

blocks = st.one_of(
    st.builds(lambda n: list(network().blocks)[:n], st.integers(0, 2)),
    st.just([nn.ReLU()]),
    st.builds(network),
    anything,
)


def on(make, method):
    """A method as a function of an object made anew, so that it is called by its own arguments."""

    def function(**arguments):
        return getattr(make(), method)(**arguments)

    function.__qualname__ = method
    return function


def method(make, name: str, **arguments):
    """``call`` of a method; ``make`` makes its object."""
    one = call(getattr(type(make()), name), self=(None, anything), **arguments)
    good, hostile = dict(one.good), dict(one.hostile)
    del good["self"], hostile["self"]
    return type(one)(on(make, name), good, hostile, one.name)


def head():
    return GoodnessHead(1, 3)


test_blocks_and_heads = explore(
    "blocks and heads",
    [
        call(
            hand_over,
            h=(images, arrays),
            normalise=("all", words),
            local=(True, anything),
            channel_dim=(1, numbers),
        ),
        call(
            GoodnessHead,
            channels=(2, numbers),
            num_classes=(3, numbers),
            kernel_size=(1, numbers),
            filters=(1, numbers),
            form=("auto", words),
            channel_dim=(1, numbers),
            dims=(2, numbers),
        ),
        call(LinearHead, channels=(2, numbers), num_classes=(3, numbers), channel_dim=(1, numbers)),
        call(LocalBlock, body=(nn.ReLU, models), head=(head, models)),
        call(
            SFF,
            blocks=(lambda: network().blocks, blocks),
            normalise=("all", words),
            vote=("mean", words),
            original=(None, models),
        ),
        method(head, "forward", h=(images, arrays)),
        method(head, "activation", h=(images, arrays)),
        method(lambda: LinearHead(1, 3), "forward", h=(images, arrays)),
        method(lambda: network().blocks[0], "forward", x=(images, arrays)),
        method(network, "forward", x=(images, arrays)),
        method(network, "predict", x=(images, arrays)),
        method(network, "block_goodness", x=(images, arrays)),
        method(
            network, "combine", goodness=(lambda: torch.ones(4, 2, 3), arrays), vote=(None, words)
        ),
        method(
            network,
            "hand_over",
            block=(lambda: network().blocks[0], models),
            h=(images, arrays),
            local=(True, anything),
        ),
        call(
            heads.HiddenHead,
            channels=(2, numbers),
            num_classes=(3, numbers),
            hidden=(4, numbers),
            kernel_size=(1, numbers),
            filters=(1, numbers),
            form=("auto", words),
            channel_dim=(1, numbers),
            dims=(2, numbers),
        ),
        method(lambda: heads.HiddenHead(1, 3, 2), "forward", h=(images, arrays)),
        method(lambda: heads.HiddenHead(1, 3, 2), "before", h=(images, arrays)),
        method(lambda: heads.HiddenHead(1, 3, 2), "activation", h=(images, arrays)),
        call(heads.ChannelGroups, channels=(6, numbers), num_classes=(3, numbers)),
        method(
            lambda: heads.ChannelGroups(3, 3), "forward", h=(lambda: torch.ones(2, 3, 4, 4), arrays)
        ),
        call(
            heads.learn_vote,
            model=(network, models),
            data=(data, datasets),
            batch_size=(2, numbers),
        ),
    ],
)

layers = st.one_of(
    st.builds(lambda: [nn.Linear(36, 3)]),
    st.just([nn.ReLU()]),
    st.builds(network),
    several(models, 2),
)
test_forward_forward = explore(
    "forward-forward",
    [
        call(
            forward_forward.embed_label,
            x=(images, arrays),
            y=(labels, arrays),
            num_classes=(3, numbers),
            high=(1.0, numbers),
        ),
        call(
            forward_forward.neutral_label,
            x=(images, arrays),
            num_classes=(3, numbers),
            high=(1.0, numbers),
        ),
        call(
            forward_forward.wrong_labels,
            y=(labels, arrays),
            num_classes=(3, numbers),
            generator=(None, generators),
        ),
        call(
            forward_forward.hard_labels,
            g=(lambda: torch.ones(4, 3), arrays),
            y=(labels, arrays),
            generator=(None, generators),
        ),
        call(
            forward_forward.FFNetwork,
            layers=(lambda: [nn.Sequential(nn.Flatten(), nn.Linear(36, 3))], layers),
            num_classes=(3, numbers),
            goodness=("mean", words),
            theta=(None, numbers),
            slope=(None, numbers),
            loss=("logistic", words),
            negatives=("random", words),
            vote=("mean", words),
            high=(1.0, numbers),
        ),
        method(
            ff_network,
            "layer_loss",
            positive=(lambda: torch.ones(4), arrays),
            negative=(lambda: torch.ones(4), arrays),
            activations=(5, numbers),
        ),
        method(ff_network, "features", x=(images, arrays)),
        method(ff_network, "block_goodness", x=(images, arrays)),
        method(
            ff_network,
            "combine",
            goodness=(lambda: torch.ones(4, 2, 3), arrays),
            vote=(None, words),
        ),
        method(ff_network, "forward", x=(images, arrays)),
        method(ff_network, "predict", x=(images, arrays)),
        method(ff_network, "neutral_features", x=(images, arrays)),
        method(ff_network, "predict_one_pass", x=(images, arrays)),
        method(
            ff_network,
            "negative_labels",
            x=(images, arrays),
            y=(labels, arrays),
            generator=(None, generators),
        ),
        call(
            lambda x, y, optimizers, generator, only: (
                n := ff_network(),
                forward_forward.ff_step(
                    n,
                    x,
                    y,
                    [sgd(one) for one in n.layers]
                    if isinstance(optimizers, str) and optimizers == "good"
                    else optimizers,
                    generator,
                    None,
                    only,
                ),
            ),
            x=(images, arrays),
            y=(labels, arrays),
            optimizers=("good", optimizers),
            generator=(None, generators),
            only=(None, numbers),
            named="ff_step",
        ),
        call(
            forward_forward.readout_step,
            network=(ff_network, models),
            x=(images, arrays),
            y=(labels, arrays),
            optimizer=(lambda: sgd(nn.Linear(2, 2)), optimizers),
        ),
    ],
)


def step(function, joined: bool):
    """A step on a network made anew, with optimisers of its own unless others are given."""

    def run(x, y, optimizers, label_smoothing):
        model = network()
        if isinstance(optimizers, str) and optimizers == "good":
            optimizers = sgd(model) if joined else [sgd(block) for block in model.blocks]
        return function(model, x, y, optimizers, label_smoothing)

    return call(
        run,
        x=(images, arrays),
        y=(labels, arrays),
        optimizers=("good", optimizers),
        label_smoothing=(0.0, numbers),
        named=function.__name__,
    )


def rule_step(name: str):
    """A step of a rule object."""

    def run(x, y, done):
        model = ff_network() if name.startswith("ff") else network()
        rule = rules.get_rule(name)(model, lambda p: torch.optim.SGD(p, lr=1e-6))
        return rule.step(x, y, done)

    return call(
        run, x=(images, arrays), y=(labels, arrays), done=(0.5, numbers), named=f"{name}.step"
    )


def rule_object(name, model, label_smoothing):
    """A rule made for a model."""
    return rules.get_rule(name)(
        model, lambda p: torch.optim.SGD(p, lr=1e-6), label_smoothing=label_smoothing
    )


test_rules = explore(
    "rules",
    [
        step(rules.sff_step, False),
        step(rules.overlap_step, False),
        step(rules.deepsup_step, True),
        *map(rule_step, rules.RULES),
        call(
            rule_object,
            name=("sff", st.one_of(st.sampled_from(list(rules.RULES)), words)),
            model=(network, models),
            label_smoothing=(0.0, numbers),
        ),
        call(
            rules.sff_step,
            model=(network, models),
            x=(images, arrays),
            y=(labels, arrays),
            optimizers=(lambda: [sgd(nn.Linear(2, 2))] * 2, optimizers),
            label_smoothing=(0.0, numbers),
        ),
        call(rules.join_blocks, model=(network, models), head=(head, models)),
        call(rules.whole, model=(network, models), num_classes=(3, numbers)),
        call(rules.get_rule, name=("sff", words)),
    ],
)
