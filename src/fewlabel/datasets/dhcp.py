"""dHCP, third release: neonates of 26 to 45 weeks with Draw-EM's nine tissues.

`rel3_dhcp_anat_pipeline` holds `participants.tsv` and for each infant `sub-CC00135AN12/` with
`sub-CC00135AN12_sessions.tsv` and for each scan `ses-44704/anat/`, in which are, after the names
of both, `_desc-restore_T2w.nii.gz`, `_desc-restore_T1w.nii.gz` (not for all) and
`_desc-drawem9_dseg.nii.gz`; before bias correction `_T2w.nii.gz` and `_T1w.nii.gz`.

Source: Edwards et al. 2022, doi 10.3389/fnins.2022.886772; biomedia.github.io/dHCP-release-notes.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fewlabel.cohort import Case, Cohort, refuse
from fewlabel.datasets.found import Found, and_more

_INFANT = re.compile(r"sub-(CC\d{5})([A-Z]{2})\d{2}")
_LABELS, _FORMER_LABELS = "desc-drawem9_dseg", "desc-drawem9_space-T2w_dseg"
_FIX = (
    "download rel3_dhcp_anat_pipeline again: of each session anat/*_desc-restore_T2w.nii.gz,"
    " anat/*_desc-restore_T1w.nii.gz, anat/*_desc-drawem9_dseg.nii.gz, and the infants'"
    " *_sessions.tsv; or delete the folders of sessions that you do not want."
)


@dataclass(frozen=True)
class _Session:
    """One scan of one infant: its folder, and what its names begin with."""

    folder: Path
    family: str
    ages_weeks: dict[str, float]

    @property
    def infant(self) -> str:
        return self.folder.parent.name

    @property
    def name(self) -> str:
        return f"{self.infant}_{self.folder.name}"

    def file(self, rest: str) -> Path | None:
        path = self.folder / "anat" / f"{self.name}_{rest}.nii.gz"
        return path if path.is_file() else None


def dhcp(download: Path) -> Found:
    """All scans with labels, not split; twins are a family.

    Ages are postmenstrual, at the scan. The shared number of `CC00135AN12` and
    `CC00135BN12` makes a family; siblings who were born apart cannot be told.

    Args:
        download: Folder in which the release, or a part of it, lies.

    Raises:
        CohortError: Naming every session that lacks its T2w scan or its labels, and files of
            another release.
    """
    sessions = list(_sessions(download))
    problems = [] if sessions else ["there is no folder sub-CC*/ses-*/anat."]
    cases = []
    for one in sessions:
        gone = _lacking(one)
        if gone:
            problems.append(f"{one.name} {gone}.")
        else:
            cases.append(_case(one))
    refuse(f"The download of dHCP in {download}", problems, fix=_FIX)
    return Found(Cohort(tuple(cases)), tuple(_oddities(download, sessions, cases)))


def _sessions(download: Path) -> Iterator[_Session]:
    for infant in _in(download, "sub-CC*"):
        match = _INFANT.fullmatch(infant.name)
        if match is None or "rawdata" in infant.parts:
            continue
        ages = _ages_weeks(infant / f"{infant.name}_sessions.tsv")
        for folder in sorted(infant.glob("ses-*")):
            if (folder / "anat").is_dir():
                yield _Session(folder, match[1], ages)


def _in(download: Path, pattern: str) -> list[Path]:
    """In a folder of the release, or one or two above it; the release is too large to search."""
    return sorted(path for above in ("", "*/", "*/*/") for path in download.glob(above + pattern))


def _ages_weeks(table: Path) -> dict[str, float]:
    """Postmenstrual age at each session; nothing if the table is missing."""
    if not table.is_file():
        return {}
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    found = {}
    for row in csv.DictReader(lines, delimiter="\t"):
        session = (row.get("session_id") or "").removeprefix("ses-")
        try:
            found[session] = float(row.get("scan_age") or "")
        except ValueError:
            continue
    return found


def _lacking(one: _Session) -> str:
    """What a session lacks, or what is wrong with it."""
    if one.file(_FORMER_LABELS) and not one.file(_LABELS):
        return (
            f"has {_FORMER_LABELS}.nii.gz, as in the second release; needed is the third, with"
            f" {_LABELS}.nii.gz"
        )
    needed = {"T2w scan": _scan(one, "T2w"), f"{_LABELS}.nii.gz": one.file(_LABELS)}
    gone = [name for name, path in needed.items() if path is None]
    return f"has no {', no '.join(gone)}" if gone else ""


def _scan(one: _Session, modality: str) -> Path | None:
    """The bias-corrected scan, or the scan before."""
    return one.file(f"desc-restore_{modality}") or one.file(modality)


def _case(one: _Session) -> Case:
    scans = {modality: _scan(one, modality) for modality in ("T2w", "T1w")}
    session = one.folder.name.removeprefix("ses-")
    return Case(
        id=one.name,
        person=one.infant.removeprefix("sub-"),
        family=one.family,
        scans={modality: path for modality, path in scans.items() if path is not None},
        labels=one.file(_LABELS),
        protocol="drawem9",
        session=session,
        age_weeks=one.ages_weeks.get(session),
        site="dHCP",
    )


def _oddities(download: Path, sessions: list[_Session], cases: list[Case]) -> list[str]:
    here = {(one.infant, one.folder.name.removeprefix("ses-")) for one in sessions}
    listed = {(one.infant, session) for one in sessions for session in one.ages_weeks}
    told = {
        "have no T1w scan": [case.id for case in cases if "T1w" not in case.scans],
        "have no age in sessions.tsv": [case.id for case in cases if case.age_weeks is None],
        "are not bias-corrected": [case.id for case in cases if _is_raw(case)],
        "are in sessions.tsv and have no folder": [
            f"{infant}_ses-{session}" for infant, session in sorted(listed - here)
        ],
    }
    odd = [
        f"{len(names)} scans {what}: {and_more(names)}." for what, names in told.items() if names
    ]
    gone = sorted(_participants(download) - {one.infant for one in sessions})
    if gone:
        odd.append(f"{len(gone)} infants of participants.tsv have no folder: {and_more(gone)}.")
    return odd


def _is_raw(case: Case) -> bool:
    return any("_desc-restore_" not in path.name for path in case.scans.values())


def _participants(download: Path) -> set[str]:
    found = set()
    for table in _in(download, "participants.tsv"):
        lines = table.read_text(encoding="utf-8-sig").splitlines()
        for row in csv.DictReader(lines, delimiter="\t"):
            name = (row.get("participant_id") or "").removeprefix("sub-")
            found |= {f"sub-{name}"} if name else set()
    return found
