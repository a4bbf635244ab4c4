"""Plain folders: images beside labels, by equal names, or as nnU-Net lays them out."""

import json
import re
from collections import defaultdict
from pathlib import Path

from fewlabel.cohort import Case, Cohort, person_in
from fewlabel.datasets.found import Found, and_more, shipped_as, stem_of
from fewlabel.errors import CohortError
from fewlabel.labels import Label, LabelProtocol

_LAYOUTS = (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test"))
_PLAIN = ("images", "labels", "")
_LABEL_ENDING = re.compile(r"[_-](dseg|seg|segmentation|labels?|mask|gt)$", re.IGNORECASE)
_CHANNEL = re.compile(r"(.+)_(\d{4})$")


def index_folders(folder: Path, protocol: str = "") -> Found:
    """Index `images` and `labels`, or the folders of an nnU-Net data set.

    Files that are named after a person as in BIDS (`sub-01_ses-2`) are that person's; others are
    of a person each. Images and labels meet by name; a label map may have `_seg`, `_dseg`,
    `_label` or `_mask` at its end.
    nnU-Net's test folder becomes the split "test", and its channels become modalities.

    Args:
        folder: Holds the folders.
        protocol: Of the label maps.

    Raises:
        CohortError: If there is nothing to index.
    """
    is_nnunet = (folder / "imagesTr").is_dir()
    names = _channel_names(folder) if is_nnunet else {}
    odd: list[str] = []
    cases: list[Case] = []
    for images, labels, split in _LAYOUTS if is_nnunet else (_PLAIN,):
        cases += _pairs(folder, (images, labels), split, names, odd)
    if not cases:
        raise CohortError(
            f"{folder} holds no images: neither sub-* (BIDS), imagesTr (nnU-Net) nor images.",
            fix="put volumes into `images` and label maps of the same names into `labels`.",
        )
    if not protocol:
        protocol = shipped_as(folder.name) or ""
    if not protocol and any(case.labels for case in cases):
        odd.append(_how_to_name_the_protocol(folder))
    cases = [Case(**{**vars(c), "protocol": protocol if c.labels else ""}) for c in cases]
    unlabeled = [case.id for case in cases if case.labels is None]
    if unlabeled:
        odd.append(f"{len(unlabeled)} cases have no labels: {and_more(unlabeled)}.")
    return Found(Cohort(tuple(cases)), tuple(odd))


def protocol_of_dataset_json(file: Path) -> LabelProtocol | None:
    """The protocol that nnU-Net's dataset.json gives, or None if it has none of single values."""
    try:
        labels = json.loads(file.read_text(encoding="utf-8"))["labels"]
        pairs = {str(k): v for k, v in labels.items()}
        if all(key.isdigit() for key in pairs):  # the older layout: number to name
            pairs = {str(name): int(number) for number, name in pairs.items()}
        found = tuple(Label(int(v), k) for k, v in pairs.items() if int(v) > 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return LabelProtocol(file.parent.name, found) if found else None


def _pairs(
    folder: Path, layout: tuple[str, str], split: str, channels: dict[str, str], odd: list[str]
) -> list[Case]:
    images = _volumes(folder / layout[0])
    labels = {_LABEL_ENDING.sub("", stem): path for stem, path in _volumes(folder / layout[1])}
    scans: dict[str, dict[str, Path]] = defaultdict(dict)
    for stem, path in images:
        match = _CHANNEL.match(stem) if channels else None
        name, modality = (match[1], channels.get(match[2], match[2])) if match else (stem, "image")
        scans[name][modality] = path
    strays = sorted(set(labels) - set(scans))
    if strays:
        odd.append(f"{len(strays)} label maps in {layout[1]} have no image: {and_more(strays)}.")
    prefix = folder.resolve().name
    people = {name: f"{prefix}/{person_in(name)}" for name in scans}
    return [
        Case(name, people[name], people[name], found, labels.get(name), split=split)
        for name, found in sorted(scans.items())
    ]


def _volumes(folder: Path) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        return []
    stems = ((stem_of(path.name), path) for path in sorted(folder.iterdir()))
    return [(stem, path) for stem, path in stems if stem and not stem.startswith(".")]


def _channel_names(folder: Path) -> dict[str, str]:
    """Such as {"0000": "T1"}."""
    try:
        content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        names = content.get("channel_names") or content.get("modality") or {}
        return {f"{int(number):04d}": str(name) for number, name in names.items()}
    except (OSError, ValueError, AttributeError):
        return {"0000": "image"}


def _how_to_name_the_protocol(folder: Path) -> str:
    found = protocol_of_dataset_json(folder / "dataset.json")
    if found is None:
        return "Nothing says what the numbers in the label maps mean: give --protocol."
    names = and_more([f"{label.value} {label.name}" for label in found.labels])
    return (
        f"dataset.json names the labels {names}: write them to a TSV file with the columns index"
        " and name, and give it as --protocol."
    )
