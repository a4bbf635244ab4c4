"""Baby Connectome Project: children from birth to five years, several sessions each, as BIDS.

The project shares scans through the NIMH Data Archive (collection 2848), each with an age in
months; there is no release with labels. What is indexed here is a BIDS folder that was made from
them: `sub-*/ses-*/anat/*_T1w.nii.gz` and `*_T2w.nii.gz`, with label maps under `derivatives`, if
any. Ages come from `sub-*_sessions.tsv` (`age_weeks` or `age_months`) or from the names of
sessions such as `ses-08mo`.

Source: Howell et al. 2019, doi 10.1016/j.neuroimage.2018.03.049.
"""

import csv
import re
from dataclasses import replace
from pathlib import Path

from fewlabel.cohort import Case, Cohort, refuse
from fewlabel.datasets.bids import index_bids
from fewlabel.datasets.found import Found, and_more

WEEKS_PER_MONTH = 365.25 / 12 / 7
_MONTHS = re.compile(r"(\d+)mo(nths?)?", re.IGNORECASE)


def baby_connectome(download: Path, protocol: str = "", desc: str = "") -> Found:
    """All sessions, not split; those of one child are one person.

    Ages are weeks after birth. Nothing in BIDS names tells siblings; a column `family_id` of
    `participants.tsv` does.

    Args:
        download: The BIDS folder.
        protocol: Of label maps, if there are any and nothing beside them says it.
        desc: Which label maps, if a session has several: the part after `desc-`.

    Raises:
        CohortError: If there are no sessions, or naming those with neither a T1w nor a T2w scan.
    """
    if not any(download.glob("sub-*/ses-*")):
        refuse(
            f"The Baby Connectome data in {download}",
            ["there is no folder sub-*/ses-*."],
            fix="lay the scans out as BIDS: sub-ID/ses-08mo/anat/sub-ID_ses-08mo_T1w.nii.gz.",
        )
    found = index_bids(download, protocol, desc)
    wanted = found.cohort.seen_in(("T1w", "T2w"))
    refuse(
        f"The Baby Connectome data in {download}",
        [f"{case.id} has neither a T1w nor a T2w scan." for case in wanted.cases if not case.scans],
        fix="download these sessions again, or delete their folders.",
    )
    cases = tuple(replace(case, age_weeks=_age_weeks(download, case)) for case in wanted.cases)
    ageless = [case.id for case in cases if case.age_weeks is None]
    odd = list(found.odd)
    if ageless:
        odd.append(f"{len(ageless)} sessions do not tell an age: {and_more(ageless)}.")
    return Found(Cohort(cases), tuple(odd))


def _age_weeks(download: Path, case: Case) -> float | None:
    person = case.id.split("_")[0]
    table = download / person / f"{person}_sessions.tsv"
    if table.is_file():
        lines = table.read_text(encoding="utf-8-sig").splitlines()
        for row in csv.DictReader(lines, delimiter="\t"):
            if (row.get("session_id") or "").removeprefix("ses-") == case.session:
                return _weeks_in(row)
    match = _MONTHS.fullmatch(case.session)
    return int(match[1]) * WEEKS_PER_MONTH if match else None


def _weeks_in(row: dict[str, str]) -> float | None:
    for column, weeks in (("age_weeks", 1.0), ("age_months", WEEKS_PER_MONTH)):
        try:
            return float(row[column]) * weeks
        except (KeyError, TypeError, ValueError):
            continue
    return None
