"""What the explorers compute and draw, and what is uploaded to them: whatever is given."""

import io
import random

import torch
from hypothesis import strategies as st
from PIL import Image

from sff_teach import load, widgets
from sff_teach.history import History
from sff_teach.widgets import _fraction, _layers, _panel

from .hostile import (
    anything,
    arrays,
    call,
    data,
    datasets,
    explore,
    models,
    network,
    numbers,
    several,
    words,
)
from .test_looking import laid_out, row, trained

quiet = st.one_of(st.just(None), anything.filter(lambda v: not callable(v)))
FEWER = [0, -1, 1.5, True, "2", None, 10**9, 10**30, float("nan"), [1]]
few = st.sampled_from(FEWER)
NOT_RULES = st.one_of(
    st.sampled_from(["SFF", "ff", "sff-overlap", ""]),
    words.filter(lambda v: v not in _layers.RULES if isinstance(v, str) else True),
)
stopped = lambda: type("Stop", (), {"is_set": lambda self: True})()  # noqa: E731  # a run ends at its first step


def layers_result(**more):
    settings = {
        "rule": "sff",
        "layers": 2,
        "blocks": 2,
        "kernel_size": 1,
        "images": 200,
        "epochs": 1,
        "seed": 0,
        "shapes": ((1, 8, 8), (16, 4, 4), (32, 2, 2)),
        "cuts": (1,),
        "history": trained(row()),
    }
    return widgets.LayersResult(**settings | more)


def fraction_result(**more):
    from sff_teach.recipes import Recipe

    return widgets.FractionResult(
        **{
            "recipe": Recipe(),
            "images": 200,
            "blocks": 2,
            "accuracy": 0.5,
            "history": trained(row()),
        }
        | more
    )


def seen():
    return widgets.run_inspector({"a": network()}, data())


activations = lambda: torch.rand(4, 3) + 0.1  # noqa: E731
histories = st.one_of(
    st.just(None), st.builds(trained), st.just(History("sff", {"epochs": 1}, 1)), anything
)

test_run_and_draw = explore(
    "widgets",
    [
        call(
            widgets.run_layers,
            layers=(2, few),
            blocks=(2, few),
            kernel_size=(1, few),
            rule=("sff", NOT_RULES),
            images=(20, few),
            epochs=(1, few),
            seed=(0, few),
            data=("digits", words),
            on_epoch=(None, quiet),
            stop=(stopped, st.builds(stopped)),
        ),
        call(
            widgets.run_fraction,
            fraction=(
                0.02,
                st.one_of(st.sampled_from([0, -1, 2, "1", None, float("nan"), 1e-9]), few),
            ),
            rule=("sff", NOT_RULES),
            blocks=(2, few),
            kernel_size=(1, few),
            seed=(0, few),
            on_epoch=(None, quiet),
            stop=(stopped, st.builds(stopped)),
        ),
        call(
            widgets.plan_layers,
            layers=(2, numbers),
            blocks=(2, numbers),
            channels=(1, numbers),
            size=((8, 8), several(numbers)),
        ),
        call(
            widgets.run_cost,
            network=("cnn", words),
            width=(1, few),
            resolution=(8, st.one_of(few, st.just(9))),
            classes=(3, few),
            cut=("layer", words),
            hidden=(0, few),
            batch=(2, few),
        ),
        call(
            widgets.goodness_split,
            positive_h=(activations, arrays),
            negative_h=(activations, arrays),
            kind=("mean", words),
            theta=(None, numbers),
        ),
        call(
            widgets.run_inspector,
            models=(
                lambda: {"a": network()},
                st.one_of(
                    st.dictionaries(words.filter(lambda w: isinstance(w, str)), models, max_size=2),
                    anything,
                ),
            ),
            data=(data, datasets),
            number=(0, numbers),
            evidence=("the true class", words),
            pixels=(None, arrays),
            name=("upload", words),
        ),
        call(
            widgets.draw_layers,
            results=(lambda: [layers_result()], several(anything, 2)),
            history=(None, histories),
            judge=("last", words),
        ),
        call(widgets.draw_layers_network, result=(layers_result, anything)),
        call(
            widgets.describe_layers,
            results=(lambda: [layers_result()], several(anything, 2)),
            judge=("last", words),
        ),
        call(
            widgets.draw_fraction,
            results=(lambda: [fraction_result()], several(anything, 2)),
            curves=({}, anything),
            history=(None, histories),
        ),
        call(_fraction.epochs_for, images=(200, numbers)),
        call(
            _fraction.rate_for,
            rule=("sff", words),
            blocks=(2, numbers),
            images=(200, numbers),
            folder=(_fraction.RESULTS, st.just(_fraction.RESULTS)),
        ),
        call(
            widgets.stored_curves,
            folder=(_fraction.RESULTS, st.sampled_from(["", "/nowhere", None, 3, b"x"])),
        ),
        call(
            widgets.draw_goodness_split,
            split=(lambda: widgets.goodness_split(activations(), activations()), anything),
            kept=((), several(anything, 2)),
            span=(None, several(numbers)),
        ),
        call(
            widgets.draw_goodness_grid,
            splits=(
                lambda: [[widgets.goodness_split(activations(), activations())]],
                several(anything, 2),
            ),
        ),
        call(
            widgets.draw_cost,
            result=(lambda: widgets.run_cost(resolution=8, batch=2, classes=3), anything),
            kept=((), several(anything, 2)),
        ),
        call(widgets.draw_inspector, result=(seen, anything)),
        call(
            _panel.trials_csv,
            rows=(
                lambda: [{"a": 1}],
                several(
                    st.one_of(anything, st.dictionaries(st.text(max_size=2), anything, max_size=2)),
                    2,
                ),
            ),
        ),
        call(
            _panel.trials_html,
            rows=(lambda: [{"a": 1}], several(anything, 2)),
            title=("Trials", words),
        ),
    ],
    after=laid_out,
)

# ---------------------------------------------------------------- uploads


def picture(kind: str, mode: str, size: tuple[int, int], frames: int) -> bytes:
    """An image file of a kind, whatever the upload's name says it is."""
    file = io.BytesIO()
    one = Image.new(mode, size)
    options = (
        {"save_all": True, "append_images": [one.copy() for _ in range(frames - 1)]}
        if frames > 1
        else {}
    )
    try:
        one.save(file, kind, **options)
    except (OSError, ValueError, KeyError):  # this kind has no such mode
        file = io.BytesIO()
        Image.new("RGB", size).save(file, kind)
    return file.getvalue()


contents = st.one_of(
    st.builds(
        picture,
        st.sampled_from(["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "TGA"]),
        st.sampled_from(
            ["L", "RGB", "RGBA", "CMYK", "P", "1", "I", "F", "LA", "I;16", "YCbCr", "HSV", "LAB"]
        ),
        st.sampled_from([(1, 1), (6, 6), (1, 300), (300, 1), (33, 7)]),
        st.sampled_from([1, 1, 3]),
    ),
    st.builds(
        lambda seed, cut: (
            picture("PNG", "L", (20, 20), 1)[:cut] + random.Random(seed).randbytes(20)
        ),
        st.integers(0, 99),
        st.integers(0, 90),
    ),
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            bytes(5_000_000),
            b"#!/bin/sh\nrm -rf /",
            b"\x80\x04N.",
        ]
    ),
    anything,
)
upload_names = st.one_of(
    st.sampled_from(
        ["a.png", "../../etc/passwd", "a" * 300, "", "/", "\0", "x.exe", "<script>.png", "a\nb.png"]
    ),
    words,
)
upload_data = st.one_of(st.builds(data), st.builds(lambda: load("digits").test), datasets)

test_uploads = explore(
    "uploads",
    [
        call(
            widgets.read_upload,
            content=(lambda: picture("PNG", "L", (9, 7), 1), contents),
            name=("a.png", upload_names),
            data=(data, upload_data),
            invert=(False, anything),
        ),
    ],
)
