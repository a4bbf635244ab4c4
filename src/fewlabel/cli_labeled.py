"""The commands by which a model that is trained learns something from a few labeled scans."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from fewlabel.errors import ConfigError

if TYPE_CHECKING:
    from fewlabel.cohort import Case
    from fewlabel.engine import Compute


@Parameter(name="*")
@dataclass(frozen=True)
class Looking:
    """Which model looks at which scans.

    Attributes:
        model: A name from `fewlabel models`, or a model folder.
        split: Cases of these splits only.
        threads: CPU threads.
        max_memory: Limit in GB.
    """

    model: str | None = None
    split: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None
    threads: int | None = None
    max_memory: float | None = None

    def cases(self, cohort: Path, without: str) -> "list[Case]":
        """Those of the splits; by default all but those of one."""
        from fewlabel.cohort import read_cohort

        cases = read_cohort(cohort).cases
        splits = sorted({case.split for case in cases if case.split})
        unknown = sorted(set(self.split or ()) - set(splits))
        if unknown:
            there = " and ".join(splits) or "none"
            raise ConfigError(
                f"{cohort} has no cases in the split {unknown[0]!r}; its splits are {there}.",
                fix="correct --split, or leave it out.",
            )
        return [case for case in cases
                if (case.split in self.split if self.split else case.split != without)]  # fmt: skip

    def compute(self) -> "Compute":
        """What it is run on."""
        from fewlabel.engine import compute_of

        return compute_of(self.threads, "cpu", "fast", self.max_memory)


def adapt(cohort: Path, *, out: Path, looking: Looking = Looking()) -> None:
    """Adapt a model to how your labels are drawn, on a few labeled scans and in a minute or two.

    No weights are trained: each structure gets an offset, which makes it larger or smaller where
    the network is in doubt, and a slope, which moves it. People are left out in turn to tell what
    that is worth; if it is worth nothing, no model is written. Cases of the split test are left
    out, unless --split names it.

    Args:
        cohort: Manifest of labeled scans, as `fewlabel cohort` writes it.
        out: Model folder to write; its name becomes the model's.
        looking: The model and the scans.
    """
    from fewlabel.adapt import adapt as choose
    from fewlabel.adapt import write_adapted
    from fewlabel.model import find_model, require_place
    from fewlabel.show import adapted_as_lines

    require_place(out)
    cases, before = looking.cases(cohort, without="test"), find_model(looking.model)
    found = choose(before, cases, looking.compute(), _tell)
    for line in adapted_as_lines(found):
        print(line)
    if not (found.offsets or found.slopes) or (found.gain is not None and found.gain <= 0):
        print(f"Not written: these labels give no reason to change {before.card.name}.")
        sys.exit(1)
    print(write_adapted(before, found, out).as_text())


def calibrate(cohort: Path, *, out: Path, looking: Looking = Looking()) -> None:
    """Teach a model how good its results are, on labeled scans that it did not learn from.

    Scans are segmented, as they are and mildly damaged, and compared with their labels. The model
    that is written tells of every result which Dice is to be expected for each structure; if there
    are eight scans or more, also what is unusual: volumes, places, contrast, noise. Three people
    are enough to begin with. It takes three times as long as segmenting the scans. Cases of the
    split train are left out, unless --split names it.

    Args:
        cohort: Manifest of labeled scans, as `fewlabel cohort` writes it.
        out: Model folder to write; its name becomes the model's.
        looking: The model and the scans.
    """
    from fewlabel.calibrate import calibrate as measure
    from fewlabel.calibrate import write_calibrated
    from fewlabel.model import find_model, require_place
    from fewlabel.show import calibrated_as_lines

    require_place(out)
    cases, before = looking.cases(cohort, without="train"), find_model(looking.model)
    if not any(case.split for case in cases):
        _tell(
            f"{cohort} has no splits. If {before.card.name} learned from any of these scans, it"
            " will promise too much: calibrate it on scans of other people."
        )
    found = measure(before, cases, cohort.stem, looking.compute(), _tell)
    for line in calibrated_as_lines(found):
        print(line)
    print(write_calibrated(before, found.norms, out).as_text())


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
