"""Runs are kept as JSON lines, whole, and found again."""

import pytest

from sff_teach.study import append_run, cached_run, read_runs


def test_a_half_written_line_is_passed_over_and_mended(tmp_path):
    path = tmp_path / "runs.jsonl"
    append_run(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "b"')  # killed while writing
    assert read_runs(path) == [{"a": 1}]
    append_run(path, {"a": 3})
    assert read_runs(path) == [{"a": 1}, {"a": 3}]
    path.write_text('{"a": 1}\nnonsense\n{"a": 3}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_runs(path)
    assert read_runs(tmp_path / "none.jsonl") == []


def test_a_whole_last_line_without_its_newline_stays(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text('{"a": 1}')
    append_run(path, {"a": 2})
    assert read_runs(path) == [{"a": 1}, {"a": 2}]
    assert append_run(path, {"a": 3}, same=lambda run: run["a"] == 1) == {"a": 1}
    assert len(read_runs(path)) == 2


def test_a_run_that_cannot_be_written_is_printed(tmp_path, capsys):
    with pytest.raises(OSError):
        append_run(tmp_path, {"a": 1})  # a folder
    assert '{"a": 1}' in capsys.readouterr().out


def test_a_cached_run_is_made_once(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"accuracy": 0.123456789}

    path = tmp_path / "runs.jsonl"
    first = cached_run(path, {"row": "a", "seed": 0}, make)
    assert first == cached_run(path, {"row": "a", "seed": 0}, make)
    assert first == {"row": "a", "seed": 0, "accuracy": 0.123457}
    cached_run(path, {"row": "a", "seed": 1}, make)
    assert len(made) == 2 == len(path.read_text().splitlines())
    for _ in range(2):  # a key is stored in full, however many decimals it has
        cached_run(path, {"row": "a", "share": 1 / 3}, make)
    assert len(made) == 3
