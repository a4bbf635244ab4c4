"""Sheets that are written, painted and collected."""

import json

import nibabel
import numpy as np
import pytest

from fewlabel.budget import Slice
from fewlabel.budget_make import Wish, make_plan
from fewlabel.budget_plan import Plan, Planned, read_plan, write_plan
from fewlabel.cohort import Case, Cohort, read_cohort, write_cohort
from fewlabel.collect import collect
from fewlabel.conform import turned, upright
from fewlabel.conformed import labels_on
from fewlabel.errors import CohortError, OutputError
from fewlabel.io import read_labels, read_scan
from fewlabel.labels import Label, LabelProtocol, load_protocol
from fewlabel.sheets import SheetPaths, sheet_protocol, write_sheets
from fewlabel.volume import LabelMap

SHAPE, PHANTOM = (10, 12, 14), load_protocol("phantom8")
AXIAL = tuple(Slice("axial", 2, index) for index in (3, 6, 9))


@pytest.fixture
def scan(tmp_path):
    """A scan stored from back to front, with an sform of its own."""
    data = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    affine = np.array([[0, -2.0, 0, 7], [3.0, 0, 0, 5], [0, 0, 2.5, -9], [0, 0, 0, 1]])
    path = tmp_path / "sub-1_T1w.nii.gz"
    image = nibabel.Nifti1Image(data, affine)
    image.set_sform(affine, 4)
    nibabel.save(image, path)
    return path


@pytest.fixture
def plan(scan, tmp_path):
    """Three axial slices of one scan; another scan tests."""
    cases = (
        Case("sub-1", "p", "f", {"T1w": scan}, protocol="phantom8", split="train"),
        Case("sub-2", "q", "q", {"T1w": scan}, split="test"),
    )
    write_cohort(Cohort(cases), tmp_path / "cohort.tsv")
    planned = tuple(Planned(one, 14, 0.0, 10.0) for one in AXIAL)
    return Plan(tmp_path / "cohort.tsv", "T1w", "phantom8", "by hand", {"sub-1": planned})


@pytest.fixture
def sheets(plan, tmp_path):
    write_sheets(plan, tmp_path / "sheets")
    return tmp_path / "sheets"


def paint(sheets, strokes, dtype=np.uint16):
    """What an annotator saves; `strokes` are (index, value)."""
    path = SheetPaths.of(sheets, "sub-1").labels
    image = nibabel.load(path)
    data = np.asarray(image.dataobj).astype(dtype)
    for at, value in strokes:
        data[at] = value
    nibabel.save(nibabel.Nifti1Image(data, image.affine), path)


ALL = [(np.s_[2:8, 2:9, one.index], 3) for one in AXIAL]


def test_a_sheet_is_clear_in_planned_slices_and_marked_elsewhere(sheets, scan):
    image = nibabel.load(sheets / "sub-1" / "sub-1_dseg.nii.gz")
    data = np.asarray(image.dataobj)
    assert data.dtype == np.uint8  # ITK-SNAP has no -1
    assert (data[:, :, [3, 6, 9]] == 0).all()
    others = [n for n in range(14) if n not in (3, 6, 9)]
    assert (data[:, :, others] == 255).all()
    assert (image.get_sform() == nibabel.load(scan).get_sform()).all()
    assert int(image.header["sform_code"]) == 4


def test_the_scan_lies_beside_its_sheet_unchanged(sheets, scan):
    assert (sheets / "sub-1" / "sub-1_T1w.nii.gz").read_bytes() == scan.read_bytes()
    names = sorted(path.name for path in sheets.iterdir())
    assert names == [
        "colors_slicer.csv", "colors_slicer.ctbl", "labels_itksnap.txt", "sheets.json", "sub-1",
    ]  # fmt: skip
    assert (
        '255    70   70   90      0.3  1  0    "Not-annotated"'
        in (sheets / "labels_itksnap.txt").read_text()
    )
    assert "255 Not-annotated 70 70 90 76" in (sheets / "colors_slicer.ctbl").read_text()


def test_scans_that_are_no_nifti_files_become_some(plan, tmp_path, scan):
    data = np.asarray(nibabel.load(scan).dataobj).astype(np.float32)
    mgh = tmp_path / "sub-1.mgz"
    nibabel.save(nibabel.MGHImage(data, np.diag([2.0, 2.0, 2.0, 1.0])), mgh)
    cohort = read_cohort(plan.cohort)
    first = Case("sub-1", "p", "f", {"T1w": mgh}, split="train")
    write_cohort(Cohort((first, cohort.cases[1])), plan.cohort)
    write_sheets(plan, tmp_path / "sheets")
    copy = read_scan(tmp_path / "sheets" / "sub-1" / "sub-1_T1w.nii.gz")
    assert (copy.data == read_scan(mgh).data).all()


def test_what_is_not_annotated_gets_the_highest_number_up_to_255_that_is_free():
    used = LabelProtocol("used", (Label(254, "A"), Label(2035, "B")), strays=(255,))
    assert sheet_protocol(used).labels[-1] == Label(253, "Not-annotated", (70, 70, 90), False)
    full = LabelProtocol("full", tuple(Label(n, str(n)) for n in range(1, 256)))
    with pytest.raises(OutputError, match="none is left"):
        sheet_protocol(full)


def test_a_folder_that_holds_something_is_left_alone(plan, sheets):
    before = SheetPaths.of(sheets, "sub-1").labels.read_bytes()
    with pytest.raises(OutputError, match="somebody may have painted there"):
        write_sheets(plan, sheets)
    assert SheetPaths.of(sheets, "sub-1").labels.read_bytes() == before


def test_sheets_are_written_whole_or_not_at_all(plan, tmp_path):
    def fails(_):
        raise CohortError("No proposal.", fix="-")

    with pytest.raises(CohortError, match="No proposal"):
        write_sheets(plan, tmp_path / "new", fails)
    assert [path.name for path in tmp_path.iterdir() if "new" in path.name] == []


def test_a_case_cannot_lead_out_of_the_folder(plan, tmp_path):
    cohort = read_cohort(plan.cohort)
    odd = Case("../sub-1", "p", "p", cohort.cases[0].scans)
    write_cohort(Cohort((odd,)), plan.cohort)
    out = Plan(plan.cohort, "T1w", "phantom8", "", {"../sub-1": plan.slices["sub-1"]})
    with pytest.raises(CohortError, match="cannot be part of a file's name"):
        write_sheets(out, tmp_path / "sheets")


def test_painted_slices_become_labels_and_all_else_is_unannotated(plan, sheets, scan):
    paint(sheets, ALL)
    before = {path: path.read_bytes() for path in sheets.rglob("*") if path.is_file()}

    done = collect(plan, sheets)

    assert done.notes == ()
    assert done.slices == 3
    file = sheets / "collected" / "sub-1_dseg.nii.gz"
    labels = read_labels(file, PHANTOM)
    assert (labels.data[:, :, [0, 1, 2, 4, 5]] == -1).all()
    assert (labels.data[2:8, 2:9, [3, 6, 9]] == 3).all()
    assert (labels.data[0, :, 3] == 0).all()  # looked at, and no structure
    assert labels.grid.matches(read_scan(scan).grid)
    assert {path: path.read_bytes() for path in before} == before
    # Training sees the same: -1 stays -1 on the upright working grid.
    working = turned(labels)[0]
    assert sorted(np.unique(labels_on(labels, working).data)) == [-1, 0, 3]


def test_slices_outlast_voxels_of_twice_their_thickness_and_no_larger_ones(plan, sheets):
    paint(sheets, ALL)
    done = collect(plan, sheets)
    assert done.coarsest_mm == 5.0  # slices of 2.5 mm
    labels = read_labels(sheets / "collected/sub-1_dseg.nii.gz", PHANTOM)
    for spacing_mm, kept in ((5.0, True), (7.5, False)):
        coarse = labels_on(labels, upright(labels.grid, spacing_mm))
        assert (coarse.data == 3).any() == kept


def test_the_manifest_has_the_annotated_scan_to_train_on_and_those_held_out(plan, sheets):
    paint(sheets, ALL)
    collect(plan, sheets)
    trained, tested = read_cohort(sheets / "collected" / "cohort.tsv").cases
    assert (trained.id, trained.split, trained.protocol, trained.family) == (
        "sub-1", "train", "phantom8", "f",
    )  # fmt: skip
    assert trained.labels.name == "sub-1_dseg.nii.gz"
    assert (tested.id, tested.split, tested.labels) == ("sub-2", "test", None)


def test_forgotten_slices_are_refused_by_the_numbers_that_itk_snap_shows(plan, sheets):
    paint(sheets, ALL[:1])
    with pytest.raises(CohortError, match=r"sub-1: axial slices 7, 10: nothing is painted there"):
        collect(plan, sheets)
    assert not (sheets / "collected").exists()

    done = collect(plan, sheets, allow_missing=True)

    assert [note.says for note in done.notes] == ["axial slices 7, 10: forgotten; not annotated."]
    labels = read_labels(sheets / "collected" / "sub-1_dseg.nii.gz", PHANTOM)
    assert (labels.data[:, :, [6, 9]] == -1).all()
    assert "sub-1\taxial slices 7, 10: forgotten" in (sheets / "collected/notes.tsv").read_text()


def test_what_was_left_marked_in_a_planned_slice_is_named_and_stays_unannotated(plan, sheets):
    paint(sheets, [*ALL, (np.s_[0:5, :, 6], 255)])  # half of its 10 rows
    done = collect(plan, sheets)
    assert done.notes[0].says == "axial slice 7: 50.0 % is left as not annotated."
    assert (
        read_labels(sheets / "collected/sub-1_dseg.nii.gz", PHANTOM).data[0:5, :, 6] == -1
    ).all()


def test_a_slice_with_much_less_than_its_neighbors_may_be_half_done(plan, sheets):
    paint(sheets, [ALL[0], (np.s_[2:8, 2:5, 6], 3), ALL[2]])  # 18 voxels between 42 and 42
    (note,) = collect(plan, sheets).notes
    assert note.says == (
        "axial slice 7: 18 voxels are painted, where the planned slices beside it let expect 42;"
        " half done?"
    )


def test_more_than_was_planned_is_taken_and_named(plan, sheets):
    paint(sheets, [*ALL, (np.s_[4:6, 4, 7], 1)])
    done = collect(plan, sheets)
    assert done.notes[0].says == (
        "axial slice 8: 2 voxels are annotated that were not planned; taken."
    )
    labels = read_labels(sheets / "collected/sub-1_dseg.nii.gz", PHANTOM)
    assert (labels.data[:, :, 7] == 1).sum() == 2
    assert (labels.data[:, :, 7] == -1).sum() == 118


def test_painted_maps_are_never_overwritten_by_what_is_collected(plan, sheets):
    paint(sheets, ALL)
    painted = SheetPaths.of(sheets, "sub-1").labels.read_bytes()
    with pytest.raises(OutputError, match="holds something else"):
        collect(plan, sheets, sheets / "sub-1")
    assert SheetPaths.of(sheets, "sub-1").labels.read_bytes() == painted
    first = collect(plan, sheets)
    assert collect(plan, sheets).notes == first.notes  # again, after more was painted


def test_numbers_that_the_protocol_lacks_are_refused(plan, sheets):
    paint(sheets, [*ALL, (np.s_[0, 0, 3], 77)])
    with pytest.raises(CohortError, match=r"values that protocol 'phantom8' lacks: 77 \(1 voxels"):
        collect(plan, sheets)


def test_a_map_on_other_voxels_is_refused(plan, sheets):
    path = SheetPaths.of(sheets, "sub-1").labels
    image = nibabel.load(path)
    nibabel.save(image.slicer[:, :, 1:], path)
    with pytest.raises(CohortError, match="do not share voxels"):
        collect(plan, sheets)


def test_a_map_that_is_missing_is_named_and_left_out_if_that_is_allowed(plan, sheets):
    SheetPaths.of(sheets, "sub-1").labels.unlink()
    with pytest.raises(CohortError, match=r"sub-1: there is no .*sub-1_dseg.nii.gz"):
        collect(plan, sheets)
    with pytest.raises(CohortError, match=r"Nothing in .* was painted"):
        collect(plan, sheets, allow_missing=True)


def test_a_minus_one_that_a_program_could_save_is_understood(plan, sheets):
    paint(sheets, [*ALL, (np.s_[:, :, 0], -1)], dtype=np.int16)
    assert collect(plan, sheets).notes == ()


def test_proposals_fill_planned_slices_and_those_left_as_they_were_are_named(plan, tmp_path):
    def propose(case):
        grid = read_scan(case.scans["T1w"]).grid
        data = np.zeros(grid.shape, dtype=np.int16)
        data[2:8, 2:9] = 5
        return LabelMap(data, grid, PHANTOM)

    write_sheets(plan, tmp_path / "sheets", propose)
    data = np.asarray(nibabel.load(tmp_path / "sheets/sub-1/sub-1_dseg.nii.gz").dataobj)
    assert (data[2:8, 2:9, [3, 6, 9]] == 5).all()
    assert (data[:, :, 4] == 255).all()
    paint(tmp_path / "sheets", [(np.s_[2, 2, 6], 4)])
    (note,) = collect(plan, tmp_path / "sheets").notes
    assert note.says == "axial slices 4, 10: just as the model proposed; looked at?"


def test_a_folder_without_sheets_is_refused(plan, tmp_path):
    with pytest.raises(CohortError, match="holds no sheets"):
        collect(plan, tmp_path)


def test_a_plan_for_a_larger_scan_is_refused(plan, tmp_path):
    planned = (Planned(Slice("axial", 2, 14), 15, 0.0, 10.0),)
    larger = Plan(plan.cohort, "T1w", "phantom8", "", {"sub-1": planned})
    with pytest.raises(CohortError, match="slices k14 are outside"):
        write_sheets(larger, tmp_path / "sheets")


def test_a_protocol_of_ones_own_goes_from_plan_to_manifest(plan, tmp_path):
    table = tmp_path / "own.tsv"
    table.write_text("index\tname\n7\tVermis\n")
    made = make_plan(
        plan.cohort, Wish(slices=2, strategy="axial", protocol=str(table), modality="T1w")
    )
    write_plan(made, tmp_path / "elsewhere" / "plan.tsv")
    again = read_plan(tmp_path / "elsewhere" / "plan.tsv")
    assert again.drawn_in().names == ("Vermis",)
    write_sheets(again, tmp_path / "sheets")
    paint(tmp_path / "sheets", [(one.slice.cut(), 7) for one in again.slices["sub-1"]])
    collect(again, tmp_path / "sheets")
    cases = read_cohort(tmp_path / "sheets" / "collected" / "cohort.tsv").cases
    assert cases[0].drawn_in().names == ("Vermis",)
    record = json.loads((tmp_path / "sheets" / "sheets.json").read_text())
    assert record["Not-annotated"] == 255
