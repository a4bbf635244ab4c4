"""Scans and label maps on the grid that a network works on, made once and mapped into memory."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int16
from pydantic import Field, model_validator

from fewlabel import intensity
from fewlabel.cache import Cache
from fewlabel.cohort import Case, of_each
from fewlabel.conform import GridRule, conform, start_in, turned, upright
from fewlabel.errors import CohortError, FewlabelError
from fewlabel.field import first_look
from fewlabel.grid import Grid
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import UNLABELED, LabelProtocol
from fewlabel.patches import Index, Places, cut, find_places
from fewlabel.settings import Settings
from fewlabel.volume import LabelMap, Scan, require_same_grid

_VERSION = 2  # to be raised when the same files would be conformed differently


class WorkingRule(Settings):
    """What scans are made into before a network sees them."""

    spacing_mm: float = Field(default=1.0, ge=0.3, le=8)
    modalities: tuple[str, ...] = Field(default=("T1w",), min_length=1)
    """Channels of the network, in this order."""
    any_modality: bool = False
    """Whether cases may lack some of them: such a channel is zero everywhere."""
    intensity: Literal["robust_scale", "z_score", "equalize"] = "robust_scale"
    """Function of `fewlabel.intensity`."""

    @model_validator(mode="after")
    def _zero_is_dark(self) -> "WorkingRule":
        if self.any_modality and self.intensity != "robust_scale":
            raise ValueError(
                "`any_modality` needs `intensity: robust_scale`, where zero is the darkest"
            )
        return self


@dataclass(frozen=True, eq=False)
class Conformed:
    """A case on the working grid. Its arrays are mapped from files and cannot be written to.

    Attributes:
        case: Whose it is.
        grid: The working grid: upright, cubic voxels.
        image: Scaled intensities of each modality.
        classes: Classes of `protocol`; None if the case has no labels.
        places: Where its structures are; None if it has no labels.
        protocol: What the classes mean; None if it has no labels.
    """

    case: Case
    grid: Grid
    image: Float32[np.ndarray, "c i j k"]
    classes: Int16[np.ndarray, "i j k"] | None = None
    places: Places | None = None
    protocol: LabelProtocol | None = None

    @cached_property
    def darkest(self) -> tuple[float, ...]:
        """What lies beyond the scan, for each image: its darkest voxel, 0 but for z-scores."""
        return tuple(float(one[::3, ::3, ::3].min()) for one in self.image)

    @cached_property
    def there(self) -> Bool[np.ndarray, "c"]:
        """Whether the case has each modality: one that it lacks is zero everywhere."""
        return np.array([bool(one.any()) for one in self.image])

    def start_of(self, rule: GridRule) -> Index:
        """First voxel of the field that `segment` would look at first; it may lie beyond."""
        shown = np.asarray(self.image[int(self.there.argmax())])
        return start_in(self.grid, first_look(Scan(shown, self.grid), rule))

    def part(
        self, start: Index, shape: Index
    ) -> tuple[Float32[np.ndarray, "m x y z"], Int16[np.ndarray, "x y z"]]:
        """Images and labels of a part, which may lie beyond: dark, and unlabeled (-1)."""
        both = zip(self.image, self.darkest, strict=True)
        image = np.stack([cut(one, start, shape, dark) for one, dark in both])
        if self.classes is None:
            return image, np.full(shape, UNLABELED, dtype=np.int16)
        return image, cut(self.classes, start, shape, UNLABELED)

    @cached_property
    def is_complete(self) -> bool:
        """Whether all of it is labeled, but for edges that may reach beyond the label map."""
        inner = (slice(1, -1),) * 3
        return self.classes is not None and bool((self.classes[inner] != UNLABELED).all())


def conform_cases(cases: Sequence[Case], rule: WorkingRule, cache: Cache) -> list[Conformed]:
    """Conform cases, or find them in the cache.

    Raises:
        CohortError: Naming everything that is wrong with any of them: images that are missing
            or unreadable, labels on other grids, label values that the protocol lacks.
    """
    return of_each(lambda case: conform_case(case, rule, cache), cases)


def conform_case(case: Case, rule: WorkingRule, cache: Cache) -> Conformed:
    """Conform one case, or find it in the cache.

    Raises:
        CohortError: If it lacks a modality, or all of them, or has labels without a protocol.
        FewlabelError: If a file cannot be used.
        OutputError: If the cache cannot be written to.
    """
    lacking = [name for name in rule.modalities if name not in case.scans]
    if lacking and not (rule.any_modality and len(lacking) < len(rule.modalities)):
        raise CohortError(
            f"It has no {', '.join(lacking)}, only {', '.join(case.scans) or 'labels'}.",
            fix="leave the case out, or train on the modalities that all cases have.",
        )
    if case.labels and not case.protocol:
        raise CohortError(
            "It has labels, but nothing says in which protocol.",
            fix="fill in the column `protocol` of the manifest.",
        )
    protocol = case.drawn_in() if case.labels else None
    key = cache_key(case, rule, protocol)
    for _ in range(3):
        place = cache.entry(key, lambda folder: _make(folder, case, rule, protocol))
        try:
            return open_conformed(place, case, protocol)
        except FileNotFoundError:
            continue  # another run made room just now
    raise CohortError(
        f"{cache.folder} is too small: entries vanish before they are read.",
        fix="give fewer runs the same cache at once.",
    )


def check_files(cases: Sequence[Case]) -> list[str]:
    """Open every image and label map, and say what is wrong with them or odd about them.

    Returns:
        Sentences: files that cannot be used, labels on other grids, values that the protocol
        lacks, what was odd in a file, structures that no case has.
    """
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(_check_case, cases))
    sentences = [f"{case.id}: {said}" for case, (all_said, _) in zip(cases, found, strict=True)
                 for said in all_said]  # fmt: skip
    seen: dict[LabelProtocol, set[int]] = {}
    for case, (_, classes) in zip(cases, found, strict=True):
        if classes is not None:
            seen.setdefault(case.drawn_in(), set()).update(classes)
    for protocol, there in seen.items():
        never = [name for n, name in enumerate(protocol.names, start=1) if n not in there]
        if never:
            sentences.append(f"No case has {', '.join(never)} ({protocol.name}).")
    return sentences


def _check_case(case: Case) -> tuple[list[str], set[int] | None]:
    """What is to be said about one case, and the classes that its label map has."""
    said, classes, grids = [], None, []
    for name, path in case.scans.items():
        try:
            scan = read_scan(path)
            said += [f"{name}: {note}" for note in scan.notes]
            grids.append(scan)
        except FewlabelError as refusal:
            said.append(refusal.what)
    if case.labels and case.protocol:
        try:
            labels = read_labels(case.labels, case.drawn_in())
            classes = {int(n) for n in np.unique(labels.data)}
            for scan in grids:
                require_same_grid(scan, labels, doing="training")
        except FewlabelError as refusal:
            said.append(refusal.what)
    return said, classes


def labels_on(labels: LabelMap, target: Grid) -> LabelMap:
    """Labels on another grid: those of the nearest voxel, or of most voxels where it is coarser.

    A voxel is unlabeled (-1) if most of what it covers is, and beyond the map.
    """
    source, data = turned(labels)
    if source.matches(target):
        return LabelMap(np.ascontiguousarray(data), target, labels.protocol)
    from scipy.ndimage import affine_transform

    matrix = np.linalg.inv(source.affine) @ target.affine
    coarser = np.array(target.spacing_mm) / np.array(source.spacing_mm)
    count = np.maximum(1, np.ceil(coarser - 0.25)).astype(int)  # 1.2 times as large is nearest
    votes = []
    for index in np.ndindex(*count):
        shift = (np.array(index) + 0.5) / count - 0.5
        offset = np.round(matrix[:3, :3] @ shift + matrix[:3, 3], 6)
        votes.append(
            affine_transform(
                data, matrix[:3, :3], offset, target.shape,
                order=0, mode="grid-constant", cval=UNLABELED,
            )
        )  # fmt: skip
    return LabelMap(_majority(votes), target, labels.protocol)


def _majority(votes: list[Int16[np.ndarray, "i j k"]]) -> Int16[np.ndarray, "i j k"]:
    """The most frequent label of each voxel; -1 if more than half of the votes are."""
    best, winner = np.zeros(votes[0].shape, dtype=np.int32), np.full_like(votes[0], UNLABELED)
    known = sum((vote >= 0).astype(np.int32) for vote in votes)
    for vote in votes:
        count = sum((other == vote).astype(np.int32) for other in votes)
        better = (count > best) & (vote >= 0)
        winner[better], best[better] = vote[better], np.asarray(count)[better]
    winner[known * 2 < len(votes)] = UNLABELED
    return winner


def cache_key(case: Case, rule: WorkingRule, protocol: LabelProtocol | None) -> str:
    """Name of a conformed case in the cache: a hash of all that it is made from."""
    about = {
        "version": _VERSION,
        "rule": rule.model_dump(mode="json", exclude={"any_modality"}),  # makes no difference
        "scans": [_hash(path) if path else None for path in map(case.scans.get, rule.modalities)],
        "labels": _hash(case.labels) if case.labels else None,
        "protocol": repr((protocol.labels, protocol.strays)) if protocol else None,
    }
    return sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _hash(path: Path) -> str:
    """Of a file's content, or of all files in a DICOM folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    total = sha256()
    for file in files:
        try:
            total.update(file.read_bytes())
        except OSError as problem:
            raise CohortError(
                f"Cannot read {file}: {problem.strerror}.", fix="check the path."
            ) from None
    return total.hexdigest()


def _make(folder: Path, case: Case, rule: WorkingRule, protocol: LabelProtocol | None) -> None:
    scans = {name: read_scan(case.scans[name]) for name in rule.modalities if name in case.scans}
    first = next(iter(scans.values()))  # the others are put on its voxels
    target = upright(first.grid, rule.spacing_mm)
    scale = getattr(intensity, rule.intensity)
    image = np.zeros((len(rule.modalities), *target.shape), dtype=np.float32)
    for channel, name in zip(image, rule.modalities, strict=True):
        if name in scans:
            channel[:] = scale(conform(scans[name], target).data)
    np.save(folder / "image.npy", image)
    np.save(folder / "affine.npy", target.affine)
    if case.labels and protocol:
        labels = labels_of(case.labels, protocol, *scans.values())
        classes = labels_on(labels, target).data
        places = find_places(classes, protocol.n_classes)
        np.save(folder / "classes.npy", classes)
        np.save(folder / "places.npy", places.voxels)
        np.save(folder / "sizes.npy", places.sizes)


def labels_of(path: Path, protocol: LabelProtocol, *scans: Scan) -> LabelMap:
    """Read the labels of a session; refuse those on voxels that none of its scans has."""
    labels = read_labels(path, protocol)
    drawn_on = (scan for scan in scans if scan.grid.matches(labels.grid))
    require_same_grid(next(drawn_on, scans[0]), labels, doing=f"training on {path.name}")
    return labels


def open_conformed(place: Path, case: Case, protocol: LabelProtocol | None) -> Conformed:
    """A case from its folder in the cache."""
    image = np.load(place / "image.npy", mmap_mode="r")
    _, i, j, k = image.shape
    grid = Grid((i, j, k), np.load(place / "affine.npy"))
    if protocol is None:
        return Conformed(case, grid, image)
    classes = np.load(place / "classes.npy", mmap_mode="r")
    places = Places(np.load(place / "places.npy"), np.load(place / "sizes.npy"))
    return Conformed(case, grid, image, classes, places, protocol)
