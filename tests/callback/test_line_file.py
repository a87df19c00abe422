import os

import pytest

from r1lab.callback.line_file import append_lines, complete_lines, replace_lines


def test_lines_round_trip(tmp_path):
    path = tmp_path / "deep/file"
    assert complete_lines(path) == []
    replace_lines(path, ["a", "b\u2028c"])
    append_lines(path, ["d"])
    assert complete_lines(path) == ["a", "b\u2028c", "d"]


def test_a_line_that_was_being_written_is_left_out(tmp_path):
    (tmp_path / "file").write_text("a\nb\nhal")
    assert complete_lines(tmp_path / "file") == ["a", "b"]


def test_a_failed_replacement_leaves_the_old_lines(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace_lines(path, ["old"])

    def die(*_):
        raise OSError

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(OSError):
        replace_lines(path, ["new"])
    assert complete_lines(path) == ["old"]
