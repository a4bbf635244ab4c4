"""The commands that turn data into manifests."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter


def dataset(
    name: Literal[
        "neobrains12",
        "mrbrains13",
        "mindboggle101",
        "oasis1",
        "oai-knees",
        "malc",
        "haa",
        "ukb-first",
        "dhcp",
        "bcp",
    ],
    download: Path,
    *,
    out: Path,
    experiment: Literal["exp1", "exp2", "exp3"] = "exp1",
    protocol: str = "neobrains7",
) -> None:
    """Write the manifest of a public data set, and say what is missing in the download.

    bcp is the Baby Connectome Project, laid out as BIDS; dhcp the third release.

    Args:
        name: Which data set.
        download: Folder in which its archives were unpacked.
        out: Manifest to write.
        experiment: For neobrains12: which images train and which test (xu2017, table 1).
        protocol: For neobrains12: what the numbers in its label maps stand for.
    """
    from fewlabel.cohort import write_cohort
    from fewlabel.datasets.baby_connectome import baby_connectome
    from fewlabel.datasets.dai2019 import haa, malc, ukb_first
    from fewlabel.datasets.dhcp import dhcp
    from fewlabel.datasets.mindboggle101 import mindboggle101
    from fewlabel.datasets.mrbrains13 import mrbrains13
    from fewlabel.datasets.neobrains12 import neobrains12
    from fewlabel.datasets.oai_knees import oai_knees
    from fewlabel.datasets.oasis1 import oasis1

    others = {
        "mrbrains13": mrbrains13,
        "mindboggle101": mindboggle101,
        "oasis1": oasis1,
        "oai-knees": oai_knees,
        "malc": malc,
        "haa": haa,
    }
    telling = {"ukb-first": ukb_first, "dhcp": dhcp, "bcp": baby_connectome}
    odd: tuple[str, ...] = ()
    if name == "neobrains12":
        cohort = neobrains12(download, experiment, protocol)
    elif name in telling:
        found = telling[name](download)
        cohort, odd = found.cohort, found.odd
    else:
        cohort = others[name](download)
    write_cohort(cohort, out)
    parts = {split: cohort.part(split) for split in ("train", "val", "test")}
    counts = ", ".join(f"{len(part)} {split}" for split, part in parts.items() if part)
    print(f"{out}: {counts or f'{len(cohort.cases)} cases, not split yet'}")
    for sentence in odd:
        print(f"  odd: {sentence}")


def cohort(
    data: Path,
    *,
    out: Path,
    protocol: str = "",
    desc: str = "",
    hold_out: int = 0,
    quick: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Index a data set into a manifest, and say what is odd about it.

    Args:
        data: A BIDS data set, one of nnU-Net, or a folder with `images` and `labels`.
        out: Manifest to write (TSV).
        protocol: Name or TSV file of the protocol of the label maps, if the data do not say.
        desc: BIDS: which label maps, if a session has several.
        hold_out: Labeled people to hold out: their split is test, that of others train.
        quick: Do not open images and label maps to check them.
    """
    from fewlabel.cohort import write_cohort
    from fewlabel.conformed import check_files
    from fewlabel.datasets import index_folder
    from fewlabel.splits import hold_out as without
    from fewlabel.splits import leaks

    found = index_folder(data, protocol, desc)
    indexed = without(found.cohort, hold_out) if hold_out > 0 else found.cohort
    write_cohort(indexed, out)
    cases = indexed.cases
    parts = {split: indexed.part(split) for split in ("train", "val", "test")}
    splits = ", ".join(f"{len(part)} {split}" for split, part in parts.items() if part)
    people = len({case.person for case in cases})
    labeled = sum(case.labels is not None for case in cases)
    print(
        f"{out}: {len(cases)} cases of {people} people, {labeled} with labels"
        f" ({splits or 'not split yet'})."
    )
    odd = [*found.odd, *leaks(parts), *([] if quick else check_files(cases))]
    for sentence in odd:
        print(f"  odd: {sentence}")
