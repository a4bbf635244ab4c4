"""A budget from plan to segmentation: plan, sheets, paint, collect, train, export, segment."""

import nibabel
import numpy as np
import pytest
import yaml

from fewlabel import predict
from fewlabel.budget import hide
from fewlabel.budget_plan import read_plan
from fewlabel.cli_budget import Spent, collect, plan, sheets
from fewlabel.cohort import read_cohort
from fewlabel.datasets.phantom import PhantomConfig, write_phantoms
from fewlabel.export import export_run
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import load_protocol
from fewlabel.train.history import History
from fewlabel.train_run import Means, train_run

PHANTOM = load_protocol("phantom8")
SETTINGS = {
    "recipe": "supervised",
    "protocols": ["phantom8"],
    "working": {"spacing_mm": 5.0},
    "patches": {"size": [16, 16, 16], "batch": 1},
    "augment": {"margin_voxels": 2, "elastic_voxels": 0.5},
    "channels": [4, 8],
    "steps": 40,
    "validate_every": 40,
    "optimizer": {"kind": "adamw", "learning_rate": 0.02},
}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Six people: four to train on, one to validate on, one to test on."""
    monkeypatch.chdir(tmp_path)
    config = PhantomConfig(cases=6, spacing_mm=5.0, validation=1, test=1)
    return write_phantoms(tmp_path / "data", config)


def truth_of(data, case):
    folder = data / "derivatives" / "manual" / case / "anat"
    return read_labels(folder / f"{case}_desc-phantom8_dseg.nii.gz", PHANTOM)


def paint(folder, planned, data):
    """A scripted annotator, who knows all labels and paints the planned slices."""
    for case, slices in planned.slices.items():
        path = folder / case / f"{case}_dseg.nii.gz"
        image = nibabel.load(path)
        values, truth = np.asarray(image.dataobj).copy(), truth_of(data, case)
        for one in slices:
            values[one.slice.cut()] = PHANTOM.values[truth.data[one.slice.cut()]]
        nibabel.save(nibabel.Nifti1Image(values, image.affine, image.header), path)


def test_a_budget_is_planned_painted_collected_learned_from_and_used(data, tmp_path, capsys):
    plan(data, slices=32, out=tmp_path / "plan.tsv", how=Spent(seed=1))
    sheets(tmp_path / "plan.tsv", out=tmp_path / "sheets")
    planned = read_plan(tmp_path / "plan.tsv")
    paint(tmp_path / "sheets", planned, data)
    collect(tmp_path / "plan.tsv", tmp_path / "sheets")

    told = capsys.readouterr().out
    assert "plan.tsv: 32 slices of 4 scans, 8 a scan (" in told
    assert "32 slices of 4 scans to train on, 2 held-out cases" in told
    manifest = tmp_path / "sheets" / "collected" / "cohort.tsv"
    for case in read_cohort(manifest).part("train"):
        slices = [one.slice for one in planned.slices[case.id]]
        found = read_labels(case.labels, PHANTOM)
        assert (found.data == hide(truth_of(data, case.id), slices).data).all()

    settings = SETTINGS | {"data": {"cohort": str(manifest)}}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    means = Means(device="cpu", workers=1, cache=tmp_path / "cache")
    train_run(tmp_path / "settings.yaml", tmp_path / "run", means=means)
    rows = History(tmp_path / "run" / "history.csv").rows()
    losses = [value for _, _, name, value in rows if name.endswith("total")]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])

    model = export_run(tmp_path / "run", tmp_path / "model").model
    scan = data / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    found = predict.segment(scan, model=model.folder, threads=1)
    assert found.labels.grid.matches(read_scan(scan).grid)
    assert found.labels.protocol == PHANTOM
