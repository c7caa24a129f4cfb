"""The peak memory of a process and its children."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def peak_memory(pid: int, seconds: float = 0.2) -> Iterator[list[int]]:
    """Yield a list with the peak memory of a process and its children in bytes; shared pages count for each process.

    Args:
        pid: the process.
        seconds: the time between two samples.
    """
    peak, is_done = [0], threading.Event()

    def watch() -> None:
        while True:
            try:
                processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
                peak[0] = max(peak[0], sum(process.memory_info().rss for process in processes))
            except psutil.NoSuchProcess:
                # a process ended during the sample
                pass
            if is_done.wait(seconds):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        is_done.set()
        thread.join()
