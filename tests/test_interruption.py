"""Ctrl-C is answered while the main thread is held up."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from bayes_lrmf import interruption
from bayes_lrmf.interruption import answered

# Hashing holds up the main thread, not the others, and no signal ends it.
PROGRAM = """
import hashlib, signal, sys, threading
from bayes_lrmf.interruption import answered
# Tests that run in the background inherit that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with answered(lambda line: print(line, file=sys.stderr, flush=True)):
    threading.Timer(0.2, print, ["begun"], {"flush": True}).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", int(sys.argv[1]))
"""


@pytest.fixture
def begun():
    """Return what starts a program that is held up for so many rounds of a hash."""
    processes = []

    def start(rounds):
        command = [sys.executable, "-c", PROGRAM, str(rounds)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_first_interrupt_is_answered_and_a_second_one_ends(begun):
    process = begun(10**9)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("interrupted; waiting for the step")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read() == "ended at once; what was not yet written is lost\n"


def test_a_keystroke_that_comes_twice_counts_once(begun):
    process = begun(10**9)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("interrupted; waiting")
    time.sleep(1)
    assert process.poll() is None


def test_python_raises_once_the_step_has_ended(begun):
    process = begun(3_000_000)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode in (1, -signal.SIGINT)


@pytest.mark.slow
def test_signals_reach_a_thread_while_the_main_one_is_held_up(monkeypatch):
    said, ended = [], threading.Event()

    def end(say):
        say("the end")
        ended.set()

    monkeypatch.setattr(interruption, "_end", end)
    # Workers of pytest-xdist ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def twice():
        for wait in (0.2, 1.0):
            time.sleep(wait)
            os.kill(os.getpid(), signal.SIGINT)

    def held_up():
        keys.start()
        while not ended.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10_000_000)

    keys = threading.Thread(target=twice)
    try:
        with answered(said.append), pytest.raises(KeyboardInterrupt):
            held_up()
        assert [line.split(";")[0] for line in said] == ["interrupted", "the end"]
    finally:
        keys.join()
        signal.signal(signal.SIGINT, before)


def test_it_leaves_signals_as_they_were(capsys):
    before = signal.set_wakeup_fd(-1)
    try:
        with answered(print):
            pass
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.set_wakeup_fd(before)
    with answered(print), pytest.raises(KeyboardInterrupt):
        raise KeyboardInterrupt
    assert capsys.readouterr().out == ""
