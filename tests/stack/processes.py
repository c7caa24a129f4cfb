"""Processes known by a variable that they were started with, whoever their parent is by now."""

from collections.abc import Iterator

import psutil


def processes_with(name: str, value: str) -> Iterator[psutil.Process]:
    """Return the processes that have a variable of that value; one that has ended is none, waited for or not."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            # ended meanwhile, or somebody else's
            continue


def end_all(name: str, value: str) -> None:
    """Kill them, and those that they start meanwhile."""
    found = True
    while found:
        found = False
        for process in processes_with(name, value):
            found = True
            try:
                process.kill()
                process.wait(5)
            except psutil.NoSuchProcess:
                continue
