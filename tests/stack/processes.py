"""Find processes by a variable of their environment, whatever their parent is by now."""

from collections.abc import Iterator

import psutil


def processes_with(name: str, value: str) -> Iterator[psutil.Process]:
    """Yield the running processes that have a variable with a value; zombies are left out."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.Error:
            # It has ended meanwhile, or belongs to another account.
            continue


def end_all(name: str, value: str) -> None:
    """Kill the processes that have a variable with a value, and the processes that they start meanwhile."""
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
