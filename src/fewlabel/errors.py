"""What can go wrong because of an input, as one family.

FewlabelError
├── ScanError         a file or array cannot serve as an image
│   └── GridMismatch  two volumes that should share voxels do not
├── ProtocolError     label numbers or names do not fit the protocol
├── CohortError       cases, people or splits contradict each other
├── ConfigError       a setting is unknown, missing or out of range
├── ModelFolderError  a trained model folder is incomplete or foreign
└── OutputError       a result cannot be written where it was asked for
"""


class FewlabelError(Exception):
    """An input we refuse, with the way out.

    Args:
        what: What was found and what was needed, with the actual values.
        fix: The next thing the reader should do.
    """

    def __init__(self, what: str, *, fix: str) -> None:
        super().__init__(f"{what}\n  To fix: {fix}")
        self.what = what
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (type(self), self.what, self.fix)  # it may cross between processes


def _again(kind: type[FewlabelError], what: str, fix: str) -> FewlabelError:
    return kind(what, fix=fix)


class ScanError(FewlabelError):
    """A file or array cannot serve as an image."""


class GridMismatch(ScanError):  # noqa: N818  (reads better where it is raised)
    """Two volumes that should share voxels do not."""


class ProtocolError(FewlabelError):
    """Label numbers or names do not fit the protocol."""


class CohortError(FewlabelError):
    """Cases, people or splits contradict each other."""


class ConfigError(FewlabelError):
    """A setting is unknown, missing or out of range."""


class ModelFolderError(FewlabelError):
    """A trained model folder is incomplete or foreign."""


class OutputError(FewlabelError):
    """A result cannot be written where it was asked for."""
