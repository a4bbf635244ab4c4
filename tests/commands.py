"""The `fewlabel` command, called from tests."""

import socket
from contextlib import suppress

import numpy as np

from fewlabel.cli import app


def command(*words: object) -> int:
    """Exit code of the command, as a shell would see it."""
    try:
        app([str(word) for word in words], exit_on_error=False)
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def free_port() -> int:
    """One below those that systems give to connections, so that nobody takes it meanwhile."""
    for port in np.random.default_rng().permutation(np.arange(20_000, 30_000)):
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", int(port)))
            return int(port)
    raise AssertionError("all ports are taken")
