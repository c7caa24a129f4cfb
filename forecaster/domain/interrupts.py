"""Ctrl-C that waits for the end of a write."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a block, or the function that this decorates, finish before Ctrl-C interrupts it.

    SQLAlchemy may leave a transaction open if an exception interrupts a commit, and SQLite then refuses every other
    write of the process. A second Ctrl-C interrupts at once, since a write over the network may take long.
    """
    if threading.current_thread() is not threading.main_thread():
        # only the main thread is ever interrupted
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    was_interrupted = False

    def handle(*_: Any) -> None:
        nonlocal was_interrupted
        was_interrupted = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if was_interrupted:
            signal.raise_signal(signal.SIGINT)
