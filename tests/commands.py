"""The `fewlabel` command, called from tests."""

from fewlabel.cli import app


def command(*words: object) -> int:
    """Exit code of the command, as a shell would see it."""
    try:
        app([str(word) for word in words], exit_on_error=False)
    except SystemExit as left:
        return int(left.code or 0)
    return 0
