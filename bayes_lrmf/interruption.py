"""Ctrl-C is answered at once, whatever the main thread is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic

__all__ = ["EXIT_CODE", "answered"]

EXIT_CODE = 130
_PATIENCE = 0.3
_WAITING = "interrupted; waiting for the step in flight (Ctrl-C again: end at once)"
_ENDED = "ended at once; what was not yet written is lost"


@contextlib.contextmanager
def answered(say: Callable[[str], None]) -> Iterator[None]:
    """Answer Ctrl-C within a second; the second one ends the process.

    `KeyboardInterrupt` is raised between two instructions of the main thread, which compiled code,
    or the compiler, holds up for seconds. The signal itself reaches a thread that waits for it:
    where the context is not left soon after, that thread says so, and after a second Ctrl-C it ends
    the process, whatever it is doing. Files are written whole or not at all, so that nothing is
    damaged by it.

    Outside the main thread, to which signals go, it does nothing.

    Parameters
    ----------
    say : callable
        Shows a line to the user.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = socket.socketpair()
    write.setblocking(False)
    before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(read, say), name="Ctrl-C", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        write.close()
        watch.join()
        read.close()


def _watch(read: socket.socket, say: Callable[[str], None]) -> None:
    is_said = False
    while number := read.recv(1):
        # One keystroke may come twice, by way of a parent process.
        if number[0] != signal.SIGINT or _is_left(read):
            continue
        if is_said:
            _end(say)
            return
        say(_WAITING)
        is_said = True


def _is_left(read: socket.socket) -> bool:
    """Wait for the end of the context; return whether it came."""
    deadline = monotonic() + _PATIENCE
    while (rest := deadline - monotonic()) > 0:
        read.settimeout(rest)
        try:
            if not read.recv(1):
                return True
        except TimeoutError:
            break
    read.settimeout(None)
    return False


def _end(say: Callable[[str], None]) -> None:
    if sys.stderr.isatty():
        # A bar hides the cursor.
        sys.stderr.write("\x1b[?25h\n")
    say(_ENDED)
    os._exit(EXIT_CODE)
