"""Which image of a head is which: a network of several channels wants each in its place."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import realpath, relpath
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from fewlabel.card import ModelCard
from fewlabel.checks import check_intensities, clean
from fewlabel.cohort import Case, refuse
from fewlabel.errors import CohortError, ConfigError, ScanError
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import LabelProtocol, shared_protocol
from fewlabel.volume import LabelMap, Scan

Image = Scan | Path
_ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh.gz", ".mgh")


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one head in one space, which are looked at together.

    Attributes:
        scan: Gives the result its grid and its name.
        modality: What it is, such as "T2w"; None: the end of its name says it.
        others: By modality.
        read: The scan, if its file was read before.
    """

    scan: Image
    modality: str | None = None
    others: Mapping[str, Image] = field(default_factory=dict)
    read: Scan | None = None

    @property
    def file(self) -> Path:
        """The scan's own file."""
        assert isinstance(self.scan, Path)
        return self.scan

    def files(self) -> set[str]:
        """Names of all that are files or folders."""
        paths = (image for image in (self.scan, *self.others.values()) if isinstance(image, Path))
        return {path.absolute().name for path in paths}


def sorted_in(images: Images, card: ModelCard) -> dict[str, Image]:
    """Each image by the modality that the model looks at, the scan first.

    A model of one modality takes any scan, whatever it is called.

    Raises:
        ConfigError: If the modality of an image is unknown, or not one of the model's; if there
            are two of one modality; or if one is lacking that the model cannot do without.
    """
    known = card.looks_at
    if len(known) == 1:
        if images.others:
            raise ConfigError(
                f"The model {card.name} looks at one scan alone; {' and '.join(images.others)}"
                " would not be used.",
                fix="leave out --with, or choose a model that looks at several"
                " (`fewlabel models`).",
            )
        return {known[0]: images.scan}
    first = images.modality or modality_of(images.scan, known)
    if first is None:
        raise ConfigError(
            f"{_called(images.scan)} does not say by its name which modality it is; the model"
            f" {card.name} looks at {_and(known)}, as in sub-01_{known[0]}.nii.gz.",
            fix=f"say it: {' or '.join(f'--modality {name}' for name in known)}.",
        )
    if first in images.others:
        raise ConfigError(
            f"There are two {first} images: {_called(images.scan)} and"
            f" {_called(images.others[first])}.",
            fix="give each modality once; say with --modality what the scan is if its name"
            " misleads.",
        )
    found = {first: images.scan, **images.others}
    require_enough(found, card)
    return found


def require_enough(there: Iterable[str], card: ModelCard) -> None:
    """Refuse images that the model cannot look at together.

    Raises:
        ConfigError: If one is not of its modalities, or one is lacking that it needs.
    """
    known, given = card.looks_at, list(there)
    foreign = [name for name in given if name not in known]
    if foreign:
        raise ConfigError(
            f"The model {card.name} looks at {_and(known)}, and not at {_and(foreign)}.",
            fix=f"give {' or '.join(known)}, or choose a model for {foreign[0]}"
            " (`fewlabel models`).",
        )
    lacking = [name for name in known if name not in given]
    if lacking and not card.any_modality:
        options = " ".join(f"--with {name}=PATH" for name in lacking)
        raise ConfigError(
            f"The model {card.name} looks at {_and(known)} together; {_and(lacking)} of the same"
            " head is lacking.",
            fix=f"add `{options}` (in Python others={{{lacking[0]!r}: PATH}}), or choose a model"
            " that does without.",
        )


def images_of(case: Case, card: ModelCard) -> Images | None:
    """The scans of a case that a model looks at; a model of one modality looks at any."""
    known = card.looks_at
    there = {name: case.scans[name] for name in known if name in case.scans}
    if not there and len(known) == 1:
        there = dict(list(case.scans.items())[:1])
    if not there:
        return None
    first, *others = there
    return Images(there[first], first, {name: there[name] for name in others})


def labeled(cases: Sequence[Case], card: ModelCard) -> list[Case]:
    """The cases with labels, each with a scan that the model looks at.

    Raises:
        CohortError: If there are none, or naming those that lack such a scan.
    """
    found = [case for case in cases if case.labels is not None and case.protocol]
    if not found:
        raise CohortError(
            "None of the cases has labels whose protocol is known.",
            fix="fill in the columns `labels` and `protocol` of the manifest, and choose splits"
            " that have some.",
        )
    problems = [f"{case.id} has no scan that the model looks at." for case in found
                if images_of(case, card) is None]  # fmt: skip
    refuse("The cohort", problems, fix="leave these cases out, or name their modality.")
    return found


def truth_of(case: Case, protocol: LabelProtocol) -> LabelMap:
    """The labels of a case, in the structures that it was looked for and a protocol shares.

    Raises:
        FewlabelError: If they cannot be read, or have nothing in common with the protocol.
    """
    assert case.labels is not None
    drawn = case.drawn_in()
    wanted = drawn if case.looked_for is None else drawn.restrict(case.looked_for)
    return read_labels(case.labels, drawn).to(shared_protocol(protocol, wanted))


def modality_of(image: Image, known: Sequence[str]) -> str | None:
    """Which of some modalities a file is by the end of its name, in any case; None: unknown.

    >>> modality_of(Path("sub-01_acq-x_T2w.nii.gz"), ("T1w", "T2w"))
    'T2w'
    """
    if isinstance(image, Scan):
        return None
    name = image.absolute().name
    ending = next((e for e in _ENDINGS if name.lower().endswith(e)), "")
    said = name[: len(name) - len(ending)].rpartition("_")[2].lower()
    return next((modality for modality in known if modality.lower() == said), None)


def heads_of(
    scans: Sequence[Path], known: Sequence[str], modality: str | None, others: Sequence[str]
) -> list[Images]:
    """What a command asks for.

    Args:
        scans: A head each.
        known: Modalities that the model looks at, or that any may.
        modality: Of the scans, if it is said.
        others: More images of the only head: "T1w=PATH", or a path whose end says what it is.

    Raises:
        ConfigError: If there are others of several heads, or it is not clear what they are.
    """
    if others and len(scans) > 1:
        raise ConfigError(
            f"--with belongs to one scan, and {len(scans)} are given.",
            fix="segment them one at a time, or a BIDS data set with `fewlabel segment-cohort`.",
        )
    named = _others_of(others, known)
    return [Images(scan, modality, named) for scan in scans]


def _others_of(words: Sequence[str], known: Sequence[str]) -> dict[str, Path]:
    """By modality."""
    found: dict[str, Path] = {}
    for word in words:
        said, equals, rest = word.partition("=")
        named = bool(equals) and said.isalnum() and not Path(word).exists()
        path = Path(rest if named else word)
        modality = said if named else modality_of(path, known)
        if modality is None:
            raise ConfigError(
                f"{path} does not say by its name which modality it is.",
                fix=f"say it: --with {known[0]}={path}, for instance.",
            )
        if modality in found:
            raise ConfigError(
                f"There are two {modality} images: {found[modality]} and {path}.",
                fix="give each modality once.",
            )
        found[modality] = path
    return found


def notes_of(scans: Mapping[str, Scan]) -> list[str]:
    """What was odd in the files; of which modality, if there are several."""
    if len(scans) == 1:
        return list(next(iter(scans.values())).notes)
    return [f"{name}: {note}" for name, scan in scans.items() for note in scan.notes]


def read_images(images: Images, card: ModelCard) -> dict[str, Scan]:
    """Read all images of a head, the scan first.

    Raises:
        ConfigError: See `sorted_in`.
        ScanError: If one cannot be read or is no picture, or lies elsewhere than the scan.
    """
    files = sorted_in(images, card)
    there = {} if images.read is None else {next(iter(files)): images.read}
    read = {name: there.get(name) or read_image(image) for name, image in files.items()}
    (first, scan), *others = read.items()
    for name, other in others:
        _require_overlap(first, scan, name, other)
    return read


def read_image(image: Image) -> Scan:
    """Read a file, or look at a scan in memory as at those from files; its array stays as it is.

    Raises:
        ScanError: If it cannot be read, or is no picture.
    """
    if isinstance(image, Path):
        return read_scan(image)
    data = image.data if np.isfinite(image.data).all() else image.data.copy()
    notes = clean(data, "The scan in memory")
    check_intensities(data, "The scan in memory")
    return replace(image, data=data, notes=(*image.notes, *notes))


def path_from(folder: Path, image: Path) -> str:
    """The way from a folder to a file, also where links lead to either; for the record."""
    place = image.absolute()
    real = Path(realpath(place.parent), place.name)
    return Path(relpath(real, realpath(folder))).as_posix()


def as_files(images: Images, card: ModelCard, beside: Path) -> dict[str, str]:
    """Path of each image that is a file, relative to a folder, by modality; for the record."""
    return {
        name: path_from(beside, image)
        for name, image in sorted_in(images, card).items()
        if isinstance(image, Path)
    }


def _require_overlap(first: str, scan: Scan, name: str, other: Scan) -> None:
    corners = (scan.grid.corners_mm(), other.grid.corners_mm())
    (low, high), (other_low, other_high) = ends = [(c.min(axis=0), c.max(axis=0)) for c in corners]
    if ((low < other_high) & (other_low < high)).all():
        return
    places = [f"from {_mm(low)} to {_mm(high)} mm" for low, high in ends]
    raise ScanError(
        f"The {name} image shows nothing of what the {first} image shows: it reaches"
        f" {places[1]}, the other {places[0]}.",
        fix="give images of the same head whose headers agree, or register one to the other"
        " first (`fewlabel register`).",
    )


def _mm(place: Float64[np.ndarray, "3"]) -> str:
    return f"({', '.join(f'{mm:.0f}' for mm in place)})"


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)


def _called(image: Image) -> str:
    return "A scan in memory" if isinstance(image, Scan) else str(image)
