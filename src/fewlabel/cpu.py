"""The processor that a process runs on."""

import os


def cores() -> int:
    """Cores that this process may use; fewer than there are where a scheduler says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
