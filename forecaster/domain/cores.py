"""The number of cores that this process may use."""

import os


def usable_cores() -> int:
    """Return the number of cores that this process may use; on macOS, which has no affinity, all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
