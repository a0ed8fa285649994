"""Predictions are kept, answers are checked, and nothing that is wrong stops a notebook."""

import pytest
import torch
from torch import nn

from sff_teach.classroom import check_equal, checked, predict

X = torch.arange(6.0).reshape(2, 3)


def course(x):
    return x.square().mean(1)


def without_mean(x):
    return x.square().sum(1)


def probe(function):
    return function(X)


MISTAKES = {"you added; take the mean.": without_mean}


def test_a_right_answer_is_kept(capsys):
    def mine(x):
        return (x * x).sum(1) / x.shape[1]

    assert checked(mine, course, probe, MISTAKES) is mine
    assert "✓ mine is right" in capsys.readouterr().out


def test_a_usual_mistake_is_named(capsys):
    assert checked(lambda x: (x * x).sum(1), course, probe, MISTAKES) is course
    assert "you added; take the mean." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: x.sum(1), "largest difference"),
        (lambda x: x, "shape (2, 3)"),
        (lambda x: "a", "not str"),
        (lambda x: x.square().mean(1) * float("nan"), "largest difference"),
    ],
)
def test_another_wrong_answer_is_described(wrong, words, capsys):
    assert checked(wrong, course, probe, MISTAKES) is course
    assert words in capsys.readouterr().out


def test_an_error_is_shown_with_its_line(capsys):
    def mine(x):
        return x @ x  # shapes do not fit

    assert checked(mine, course, probe) is course
    said = capsys.readouterr().out
    assert "return x @ x" in said and "RuntimeError" in said


def test_of_an_error_only_the_own_lines_are_shown(capsys):
    layer = nn.Linear(4, 2)
    namespace = {"layer": layer}
    exec(compile("def mine(x):\n    return layer(x)", "the student's cell", "exec"), namespace)
    assert checked(namespace["mine"], course, probe) is course
    said = capsys.readouterr().out
    assert "the student's cell" in said and "site-packages" not in said and "probe" not in said


def test_a_forgotten_return_is_named(capsys):
    namespace = {}
    exec(compile("def mine(x):\n    x.square()", "the student's cell", "exec"), namespace)
    assert checked(namespace["mine"], course, lambda f: f(X) * 1.0) is course
    said = capsys.readouterr().out
    assert "does not return what is asked for. (Is a return missing?)" in said


def test_what_is_not_written_is_said_to_be_so(capsys):
    def empty(x): ...

    def documented(x):
        """What it should do."""

    def half(x):
        squares = x.square()
        return squares.mean(...)

    @torch.no_grad()
    def decorated(x): ...

    class Block(nn.Module):
        def __init__(self):
            super().__init__()

        def forward(self, x): ...

    for stub in (empty, documented, half, decorated):
        assert checked(stub, course, probe) is course

    class CourseBlock(nn.Module):
        def forward(self, x):
            return course(x)

    assert checked(Block, CourseBlock, lambda make: make()(X)) is CourseBlock
    said = capsys.readouterr().out
    assert said.count("is not written yet") == 5 and "✗" not in said


def test_dots_in_an_index_are_an_answer():
    def mine(x):
        return x[..., : x.shape[1]].square().mean(1)

    assert checked(mine, course, probe) is mine


def test_nothing_returned_is_named(capsys):
    def mine(x):
        x.square()

    assert checked(mine, course, probe) is course
    assert "nothing is returned. Is a return missing?" in capsys.readouterr().out


def test_lists_are_compared_piece_by_piece(capsys):
    def pair(x):
        return [course(x), 2.0]

    assert checked(lambda x: [course(x), 3.0], pair, probe) is pair
    assert checked(lambda x: [course(x)], pair, probe) is pair
    assert "2 values are expected" in capsys.readouterr().out


def test_a_mistake_that_cannot_be_seen_is_an_error_of_the_course():
    def empty(x): ...

    with pytest.raises(AssertionError, match="cannot see this mistake"):
        checked(empty, course, probe, {"this is no mistake": lambda x: (x * x).mean(1)})


def test_an_error_of_the_course_is_not_hidden():
    def broken(x):
        raise KeyError("the course's own fault")

    with pytest.raises(KeyError):
        checked(course, broken, probe)


def test_a_prediction_is_shown_beside_the_result(capsys):
    predict("Accuracy of block 1, in %", 40).compare(52.345)
    said = capsys.readouterr().out
    assert "Kept: 40" in said and "your prediction: 40" in said and "52.34" in said


def test_without_a_guess_the_notebook_goes_on(capsys):
    predict("Accuracy of block 1, in %").compare(52.345)
    said = capsys.readouterr().out
    assert "three dots" in said and "none was written" in said


def test_check_equal_fails_on_a_difference(capsys):
    check_equal("sum", X.sum(), 15.0)
    with pytest.raises(AssertionError, match="shape"):
        check_equal("shape", X, X.T)
    with pytest.raises(AssertionError, match="difference"):
        check_equal("value", X, X + 1e-3)
