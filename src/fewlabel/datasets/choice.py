"""Which cases a recipe learns from, as settings."""

import shutil
from pathlib import Path

from pydantic import Field, model_validator

from fewlabel.cohort import SPLITS, Case, Cohort, read_cohort
from fewlabel.datasets import index_folder
from fewlabel.datasets.phantom import PhantomConfig, are_written, write_phantoms
from fewlabel.errors import CohortError
from fewlabel.settings import Settings
from fewlabel.splits import leaks, require_no_leak, split_cohort


class DataConfig(Settings):
    """A manifest, a data set, or made-up brains."""

    cohort: Path | None = None
    """A manifest (TSV), or the folder of a data set, which is indexed on the spot."""
    phantom: PhantomConfig | None = None
    """Brains that are made up in the run folder."""
    protocol: str = ""
    """Of the label maps of a folder, if it does not say so itself."""
    desc: str = ""
    """BIDS: which label maps, if a session has several."""
    validation: float = Field(default=0.15, ge=0, lt=1)
    """Share of cases to validate on, where the data are not split yet."""
    test: float = Field(default=0.15, ge=0, lt=1)
    """Share of cases to leave alone, where the data are not split yet."""
    allow_leak: bool = False
    """Go on although a person or a family is in more than one split."""

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if (self.cohort is None) == (self.phantom is None):
            raise ValueError("`data` needs either `cohort` or `phantom`")
        return self

    def load(self, run: Path) -> Cohort:
        """The cases, split.

        Args:
            run: Run folder, where phantoms go.

        Raises:
            CohortError: If the data cannot be used, a person or family is in more than one
                split, or there is no case to train on.
        """
        cohort = self._read(run)
        if not any(case.split for case in cohort.cases):
            shares = {"val": self.validation, "test": self.test}
            shares = {name: share for name, share in shares.items() if share}
            cohort = split_cohort(cohort, {"train": 1 - sum(shares.values())} | shares)
        parts = _parts(cohort)
        require_no_leak(parts, allowed=self.allow_leak)
        if not parts["train"]:
            raise CohortError(
                f"None of {len(cohort.cases)} cases is in the split 'train'.",
                fix="fill in the column `split` of the manifest.",
            )
        return cohort

    def allowed_leaks(self) -> tuple[str, ...]:
        """The people and families that are in more than one split, if that was allowed."""
        if not self.allow_leak or self.cohort is None:
            return ()
        return tuple(leaks(_parts(self._read(self.cohort.parent))))

    def _read(self, run: Path) -> Cohort:
        if self.phantom is not None:
            folder = run / "phantoms"
            if not are_written(folder, self.phantom):
                shutil.rmtree(folder, ignore_errors=True)  # others, or a part of them
                write_phantoms(folder, self.phantom)
            return index_folder(folder).cohort
        assert self.cohort is not None
        if self.cohort.is_dir():
            return index_folder(self.cohort, self.protocol, self.desc).cohort
        return read_cohort(self.cohort)


def _parts(cohort: Cohort) -> dict[str, tuple[Case, ...]]:
    return {split: cohort.part(split) for split in SPLITS}
