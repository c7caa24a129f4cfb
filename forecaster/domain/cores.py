"""The number of cores that this process may use, and how a process is limited to one."""

import os

# environment variables of a process that uses one core, set before the libraries that read them are imported
ONE_CORE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
    "TF_CPP_MIN_LOG_LEVEL": "2",
    # progress bars of many workers at once are unreadable
    "TQDM_DISABLE": "1",
}


def usable_cores() -> int:
    """Return the number of cores that this process may use; on macOS, which has no affinity, all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
