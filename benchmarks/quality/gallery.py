r"""A gallery of damaged inputs: does each raise a warning that fits, and do clean scans stay quiet?

Takes what `benchmarks.quality.calibrate --keep` measured, and judges every person by norms that
were fitted without that person. Writes one line per damage to
`benchmarks/results/quality_gallery.csv`; with `--pictures FOLDER` a picture of each.

    python -m benchmarks.quality.gallery --keep looks.jsonl \
        ../shared/data/malc ../shared/data/oasis-trt:dktaseg
"""

import argparse
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np

from benchmarks.common import RESULTS, add_rows, provenance
from benchmarks.quality.calibrate import Job, Measured, a_brain, about_of, jobs_from, measured
from benchmarks.quality.damage import BAD
from fewlabel.damage import facing_up
from fewlabel.engine import Compute
from fewlabel.io import read_scan
from fewlabel.model import find_model
from fewlabel.norms import Norms
from fewlabel.norms_fit import fit_norms
from fewlabel.picture import picture
from fewlabel.quality import judge
from fewlabel.segmenter import Segmenter
from fewlabel.volume import Scan

FITTING = {
    "cropped": {"field of view"},
    "mirrored header": {"header"},
    "rotated": {"turned", "arrangement"},
    "noise": {"noise"},
    "motion": {"noise", "doubt"},
    "half brain": {"asymmetry", "empty", "size"},
    "wrong spacing": {"stretch", "size", "arrangement"},
    "T2 given as T1": {"contrast"},
    "hole like a lesion": {"hole", "place", "asymmetry", "pieces"},
    "not a brain": {"no brain", "arrangement"},
    "blank half": {"abrupt end", "size"},
    "inverted": {"background", "contrast"},
}
"""Rules that say what is wrong; others may be broken besides."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="adult-aseg32")
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--every", type=int, default=6, help="damage every so manieth scan")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("data", nargs="+", help="FOLDER[:DESC of its labels]")
    options = parser.parse_args()
    model = find_model(options.model)
    looks = measured(jobs_from(options.data), model, options.keep, options.threads)
    clean = [one for one in looks if one.known.intact]
    norms = {person: norms_without(person, looks) for person in {x.known.person for x in looks}}
    rows = [quiet(clean, norms)]
    chosen = [one.job for one in clean[:: options.every]]
    segmenter = Segmenter(model, Compute(threads=options.threads))
    for damage, fitting in FITTING.items():
        rows.append(damaged(damage, fitting, chosen, (segmenter, norms, options.pictures)))
        print(rows[-1], flush=True)
    path = RESULTS / "quality_gallery.csv"
    path.unlink(missing_ok=True)
    add_rows(path, [row | provenance() for row in rows])


def norms_without(person: str, looks: list[Measured]) -> Norms:
    others = [one for one in looks if one.known.person != person]
    return fit_norms([one.known for one in others], about_of(others))


def quiet(clean: list[Measured], norms: dict[str, Norms]) -> dict[str, object]:
    """Scans that nothing was done to."""
    rules: Counter[str] = Counter()
    warned = 0
    for one in clean:
        traits = one.known.traits
        found = judge(a_brain(), traits, norms[one.known.person]).findings
        warned += bool(found)
        rules.update(finding.rule for finding in found)
    return {"damage": "none", "scans": len(clean), "warned": warned, "rightly": ""} | {
        "rules": told(rules)
    }


def damaged(
    damage: str,
    fitting: set[str],
    jobs: list[Job],
    means: tuple[Segmenter, dict[str, Norms], Path | None],
) -> dict[str, object]:
    segmenter, norms, pictures = means
    rules: Counter[str] = Counter()
    warned = rightly = 0
    for number, job in enumerate(jobs):
        scan = damaged_scan(job, damage)
        result = segmenter(scan)
        found = judge(result.labels, result.traits, norms[job.case.person]).findings
        names = {finding.rule for finding in found} | ({"header"} if scan.notes else set())
        rules.update(names)
        warned += bool(names)
        rightly += bool(names & fitting)
        if pictures and number == 0:
            lines = [damage, *scan.notes, *(finding.says for finding in found)]
            pictures.mkdir(parents=True, exist_ok=True)
            drawn = picture(scan, result.labels, title=job.key, lines=lines)
            (pictures / f"{damage.replace(' ', '_')}.png").write_bytes(drawn)
    counts = {"scans": len(jobs), "warned": warned, "rightly": rightly}
    return {"damage": damage} | counts | {"rules": told(rules)}


def damaged_scan(job: Job, damage: str) -> Scan:
    seed = zlib.crc32((damage + job.case.id).encode())
    (file,) = job.case.scans.values()
    if damage == "mirrored header":
        return mirrored_header(file)
    return BAD[damage](facing_up(read_scan(file)), np.random.default_rng(seed))


def mirrored_header(path: Path) -> Scan:
    """The sform says left where the qform says right, as careless tools leave it."""
    image = nibabel.load(path)
    affine = image.affine.copy()
    with tempfile.TemporaryDirectory() as folder:
        copy = nibabel.Nifti1Image(np.asanyarray(image.dataobj), affine)
        copy.set_qform(affine, 1)
        copy.set_sform(np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine, 1)
        nibabel.save(copy, Path(folder) / "mirrored.nii")
        return read_scan(Path(folder) / "mirrored.nii")


def told(rules: Counter[str]) -> str:
    return ", ".join(f"{rule} {count}" for rule, count in rules.most_common())


if __name__ == "__main__":
    main()
