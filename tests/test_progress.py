"""Tests of progress: few plain lines, a bar on a terminal, silence when asked."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from bayes_lrmf import progress
from bayes_lrmf.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose one entry is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def test_lines_are_the_first_ever_rarer_ones_and_the_last(clock):
    stream = io.StringIO()
    with Progress("svi", 6000, stream=stream) as shown:
        for step in range(1, 6001):
            clock[0] += 0.1
            shown.update(step, elbo=-123456.789 + step)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "svi: 1 of 6,000, elbo -123,456, 0 s"
    assert lines[-1] == "svi: 6,000 of 6,000, elbo -117,457, 600 s"
    seconds = [float(line.rsplit(", ", 1)[1].removesuffix(" s")) for line in lines]
    gaps = np.diff(seconds)[:-1]
    assert (gaps >= 3).all()
    assert (np.diff(gaps) >= -1).all()
    assert gaps.max() == pytest.approx(60, abs=1)
    assert 10 < len(lines) < 20


def test_a_last_update_that_was_written_is_not_written_twice(clock):
    stream = io.StringIO()
    with Progress("map", stream=stream) as shown:
        shown.update(1)
    assert stream.getvalue() == "map: 1, 0 s\n"


def test_the_last_update_is_written_when_the_work_fails(clock):
    stream = io.StringIO()

    def fail():
        with Progress("map", stream=stream) as shown:
            shown.update(1)
            shown.update(2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert stream.getvalue().splitlines() == ["map: 1, 0 s", "map: 2, 0 s"]


def test_figures_may_be_numbers_of_any_kind_or_words(clock):
    stream = io.StringIO()
    Progress("nuts", stream=stream).update(3, chain="a", step=np.float32(0.125), bad=float("nan"))
    assert stream.getvalue() == "nuts: 3, chain a, step 0.125, bad nan, 0 s\n"


def test_say_writes_at_once(clock):
    stream = io.StringIO()
    with Progress("svi", stream=stream) as shown:
        shown.update(1)
        shown.say("mode found")
        assert stream.getvalue().splitlines() == ["svi: 1, 0 s", "mode found"]


def test_a_stream_is_standard_error_by_default(capsys):
    Progress("svi").say("here")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "here\n")


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_nothing_is_written_when_not_enabled(kind):
    stream = kind()
    with Progress("svi", 10, stream=stream, enabled=False) as shown:
        shown.update(1, elbo=1.0)
        shown.say("hello")
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_and_lines_above_it(terminal, capsys):
    with Progress("svi [rank 6]", 40, stream=terminal) as shown:
        shown.update(7, elbo=-1234.5)
        shown.say("mode [found] after a line that is " + "long " * 40)
        sys.stdout.write("a table\n")
        shown.update(40, elbo=-1000.25)
    text = terminal.getvalue()
    assert "svi [rank 6]" in text
    assert "40/40" in text
    assert "elbo -1,000.25" in text
    assert "mode [found] after a line that is " + "long " * 40 in text
    # Standard output stays what the program prints, even under a bar.
    assert capsys.readouterr().out == "a table\n"


def test_a_terminal_without_cursor_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress("svi", stream=stream) as shown:
        shown.update(1)
    assert stream.getvalue() == "svi: 1, 0 s\n"
