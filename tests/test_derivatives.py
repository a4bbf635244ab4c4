"""What of a data set is to be segmented, where to, and what is finished."""

import json
import os

import pytest

from fewlabel import derivatives
from fewlabel.cohort_tables import gather_failures, write_failures, write_volumes
from fewlabel.derivatives import (
    Choice,
    Job,
    open_derivatives,
    plan,
    remove_drafts,
    sort_out,
)
from fewlabel.engine import Compute
from fewlabel.errors import CohortError, OutputError
from fewlabel.results import ResultPaths
from tests.band_model import band_model
from tests.commands import command

SCANS = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_T2w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii.gz",
    "sub-02/ses-a/anat/sub-02_ses-a_run-2_T1w.nii.gz",
)


@pytest.fixture
def data(tmp_path):
    for name in SCANS:
        scan = tmp_path / "data" / name
        scan.parent.mkdir(parents=True, exist_ok=True)
        scan.touch()
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path):
    return band_model(tmp_path / "bands")


def finished(scan, folder, scan_name=None):
    """A whole result, as far as its names go."""
    paths = ResultPaths.of(scan, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths.all():
        path.write_text("")
    paths.volumes.write_text("structure\tvolume_mm3\nBall\t12.00\nTotal-Brain\t30.00\n")
    paths.record.write_text(json.dumps({"fewlabel": "1", "scan": scan_name or scan.name}))
    return Job(scan, paths)


def test_all_runs_and_sessions_of_one_modality_are_planned_in_the_layout_of_the_data(
    data, tmp_path
):
    jobs = plan(data, tmp_path / "out")

    assert [str(job.scan.relative_to(data)) for job in jobs] == [SCANS[0], *SCANS[2:]]
    assert [str(job.paths.labels.relative_to(tmp_path / "out")) for job in jobs] == [
        "sub-01/anat/sub-01_dseg.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_dseg.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-2_dseg.nii.gz",
    ]


def test_of_several_modalities_a_session_gives_the_first_of_each_together(data, tmp_path):
    both = Choice(("T2w", "T1w"))

    first, second = plan(data, tmp_path / "out", both)

    assert first.scan == data / SCANS[1]
    assert first.others == {"T1w": data / SCANS[0]}
    assert first.paths.labels.name == "sub-01_dseg.nii.gz"
    assert first.left_out == ()
    assert second.scan == data / SCANS[2]
    assert second.others == {}
    assert second.left_out == (data / SCANS[3],)
    assert second.images.files() == {"sub-02_ses-a_run-1_T1w.nii.gz"}
    with pytest.raises(CohortError, match="has no T2w or FLAIR image of 02: looked for"):
        plan(data, tmp_path / "out", Choice(("T2w", "FLAIR"), ("02",)))


def test_a_result_of_one_image_is_told_as_a_failure_where_two_are_wanted(data, tmp_path):
    (alone, *_) = plan(data, tmp_path / "out")
    finished(alone.scan, alone.paths.labels.parent)

    ((told,), _) = sort_out(plan(data, tmp_path / "out", Choice(("T1w", "T2w"))))

    assert told.status == "failed"
    assert "is the result of sub-01_T1w.nii.gz" in told.what


def test_linked_files_and_folders_are_found_and_loops_end(data, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "anat"
    elsewhere.mkdir(parents=True)
    (elsewhere / "sub-03_ses-1_T1w.nii.gz").symlink_to("not-fetched-yet")
    session = data / "sub-03" / "ses-1"
    session.mkdir(parents=True)
    (session / "anat").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(session)

    scans = [job.scan for job in plan(data, tmp_path / "out", Choice(participants=("03",)))]

    assert scans == [session / "anat" / "sub-03_ses-1_T1w.nii.gz"]


def test_a_folder_that_cannot_be_read_is_named(data, tmp_path, monkeypatch):
    def scandir(folder):
        if folder.name == "ses-a":
            raise PermissionError(13, "Permission denied", str(folder))
        return read(folder)

    read = os.scandir
    monkeypatch.setattr("fewlabel.datasets.bids.os.scandir", scandir)

    with pytest.raises(CohortError, match=r"Cannot read .*sub-02/ses-a: Permission denied"):
        plan(data, tmp_path / "out")


@pytest.mark.parametrize("name", ["02", "sub-02"])
def test_participants_are_named_with_or_without_their_prefix(data, tmp_path, name):
    jobs = plan(data, tmp_path / "out", Choice(participants=(name,)))

    assert len(jobs) == 2


def test_who_is_not_there_is_named(data, tmp_path):
    with pytest.raises(CohortError, match="has no T1w image of 07, 9: looked for"):
        plan(data, tmp_path / "out", Choice(participants=("01", "07", "9")))
    with pytest.raises(CohortError, match="has no FLAIR image of anybody"):
        plan(data, tmp_path / "out", Choice(("FLAIR",)))


def test_what_has_a_record_is_finished_and_what_lacks_one_is_done_again(data, tmp_path):
    jobs = plan(data, tmp_path / "out")
    for job in jobs[:2]:
        finished(job.scan, job.paths.labels.parent)
    jobs[1].paths.record.unlink()  # cut off between the first file and the last

    told, left = sort_out(jobs)

    assert [(one.scan, one.status) for one in told] == [(jobs[0].scan, "kept")]
    assert left == [jobs[1], jobs[2]]
    assert sort_out(jobs, overwrite=True) == ([], list(jobs))


def test_the_result_of_another_scan_is_told_as_a_failure(data, tmp_path):
    (job, *_) = plan(data, tmp_path / "out")
    finished(job.scan, job.paths.labels.parent, "sub-01_T2w.nii.gz")

    ((told,), left) = sort_out([job])

    assert told.status == "failed"
    assert "is the result of sub-01_T2w.nii.gz" in told.what
    assert left == []


def test_the_description_names_the_model_and_another_one_is_refused(data, model, tmp_path):
    out = tmp_path / "out"
    open_derivatives(out, data, model, Compute())
    open_derivatives(out, data, model, Compute(threads=1))  # the same results, only slower

    said = json.loads((out / "dataset_description.json").read_text())
    assert said["DatasetType"] == "derivative"
    assert said["GeneratedBy"][0]["ModelSHA256"] == model.card.sha256["model.onnx"]
    assert "volumes.tsv" in (out / ".bidsignore").read_text().split()
    exact = Compute(precision="exact")
    with pytest.raises(OutputError, match=r"precision fast .*; now it is .* precision exact"):
        open_derivatives(out, data, model, exact)
    open_derivatives(out, data, model, exact, overwrite=True)


def test_a_folder_with_something_else_in_it_is_refused(data, model):
    with pytest.raises(OutputError, match="holds no derivatives of fewlabel"):
        open_derivatives(data, data, model, Compute())
    (data / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "other"}]}')
    with pytest.raises(OutputError, match="was made by another program"):
        open_derivatives(data, data, model, Compute())


def test_what_a_process_leaves_that_was_killed_at_the_start_stops_nobody(data, model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".bidsignore").touch()
    (out / ".0a1b2c3d.dataset_description.json").touch()

    open_derivatives(out, data, model, Compute())

    assert (out / "dataset_description.json").is_file()


def test_a_process_that_began_at_the_same_time_stops_nobody(data, model, tmp_path, monkeypatch):
    out, read = tmp_path / "out", derivatives.read_json
    open_derivatives(out, data, model, Compute())
    answers = iter([None])  # at first sight there was no description
    monkeypatch.setattr(derivatives, "read_json", lambda path: next(answers, read(path)))

    open_derivatives(out, data, model, Compute())


def test_drafts_of_killed_processes_are_removed_and_nothing_else(data, tmp_path):
    job = finished(data / SCANS[0], tmp_path / "out")
    draft = job.paths.labels.with_name(f".0a1b2c3d.{job.paths.labels.name}")
    other = job.paths.labels.with_name(".0a1b2c3d.sub-07_dseg.nii.gz")
    draft.touch(), other.touch()

    remove_drafts(job.paths)

    assert not draft.exists()
    assert other.exists()
    assert all(path.exists() for path in job.paths.all())


def test_the_table_of_volumes_has_a_line_for_each_finished_scan(data, tmp_path):
    out = tmp_path / "out"
    for job in plan(data, out)[:2]:
        finished(job.scan, job.paths.labels.parent)

    record = out / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_run-1_dseg.json"
    said = json.loads(record.read_text())
    record.write_text(json.dumps(said | {"warnings": ["odd", "odder"]}))

    assert write_volumes(out) == (2, 1, ())
    assert (out / "volumes.tsv").read_text().splitlines() == [
        "participant_id\tsession_id\tscan\twarnings\tBall\tTotal-Brain",
        "sub-01\tn/a\tsub-01_T1w.nii.gz\t0\t12.00\t30.00",
        "sub-02\tses-a\tsub-02_ses-a_run-1_T1w.nii.gz\t2\t12.00\t30.00",
    ]


def test_the_dice_to_expect_gets_a_column_and_no_value_where_it_does_not_hold(data, tmp_path):
    out, each = tmp_path / "out", {"Ball": {"dice": 0.9, "low": 0.8, "high": 1.0}}
    known = ({"mean_expected_dice": 0.8765, "expected_dice": each},
             {"mean_expected_dice": None, "expected_dice": each},
             {"mean_expected_dice": None, "expected_dice": {}})  # fmt: skip
    for scan, quality in zip((SCANS[0], SCANS[2], SCANS[3]), known, strict=True):
        job = finished(data / scan, (out / scan).parent)
        said = json.loads(job.paths.record.read_text())
        job.paths.record.write_text(json.dumps(said | {"quality": quality}))

    write_volumes(out)

    rows = [line.split("\t") for line in (out / "volumes.tsv").read_text().splitlines()]
    assert rows[0][3:6] == ["warnings", "expected_dice", "Ball"]
    assert [row[4] for row in rows[1:]] == ["0.876", "n/a", "n/a"]


def test_an_age_that_was_told_gets_a_column(data, tmp_path):
    out = tmp_path / "out"
    for scan, age in ((SCANS[0], {"weeks": 38.456}), (SCANS[2], {"weeks": None}), (SCANS[3], None)):
        job = finished(data / scan, (out / scan).parent)
        said = json.loads(job.paths.record.read_text())
        job.paths.record.write_text(json.dumps(said | ({"age": age} if age else {})))

    write_volumes(out)

    rows = [line.split("\t") for line in (out / "volumes.tsv").read_text().splitlines()]
    assert rows[0][3:6] == ["warnings", "age_weeks", "Ball"]
    assert [row[4] for row in rows[1:]] == ["38.46", "n/a", "n/a"]


def failure(scan):
    return {"scan": scan, "reason": "It is empty.", "to_fix": "copy it again."}


def told_failures(out):
    lines = (out / "failures.tsv").read_text().splitlines()
    assert lines[0] == "scan\treason\tto_fix"
    return [line.split("\t")[0] for line in lines[1:]]


def test_runs_of_some_people_leave_what_failed_of_others(tmp_path):
    write_failures(tmp_path, {"sub-01": [failure("a")], "sub-02": []}, everybody=True)
    write_failures(tmp_path, {"sub-02": [failure("b"), failure("c")]}, everybody=False)
    assert told_failures(tmp_path) == ["a", "b", "c"]

    write_failures(tmp_path, {"sub-01": []}, everybody=False)
    assert told_failures(tmp_path) == ["b", "c"]

    write_failures(tmp_path, {"sub-01": [failure("a")]}, everybody=True)
    assert told_failures(tmp_path) == ["a"]


def test_a_table_that_missed_what_failed_at_the_same_time_is_gathered_again(tmp_path):
    write_failures(tmp_path, {"sub-01": [failure("a")]}, everybody=False)
    late = (tmp_path / "failures.tsv").read_text()
    write_failures(tmp_path, {"sub-02": [failure("b")]}, everybody=False)
    (tmp_path / "failures.tsv").write_text(late)

    gather_failures(tmp_path)

    assert told_failures(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("content", ["", "structure\tvolume_mm3\nBall 12.00\n"])
def test_a_damaged_table_is_left_out_and_named(data, model, tmp_path, capsys, content):
    out = tmp_path / "out"
    open_derivatives(out, data, model, Compute())
    first, second, _ = plan(data, out)
    for job in (first, second):
        finished(job.scan, job.paths.labels.parent)
    first.paths.volumes.write_text(content)

    assert command("segment-cohort", data, out, "group") == 0

    said = capsys.readouterr()
    assert "volumes.tsv: 1 scans" in said.out
    assert f"{first.paths.volumes} is damaged and was left out" in said.err


def test_the_tables_of_no_derivatives_are_not_written(data, tmp_path):
    with pytest.raises(OutputError, match="gone does not exist and so holds no derivatives"):
        command("segment-cohort", data, tmp_path / "gone", "group")
    with pytest.raises(OutputError, match="data exists and holds no derivatives"):
        command("segment-cohort", data, data, "group")

    assert not (tmp_path / "gone").exists()
    assert not (data / "volumes.tsv").exists()


def test_a_run_for_one_person_tells_what_failed_and_keeps_what_failed_of_others(
    data, model, tmp_path
):
    out = tmp_path / "out"
    open_derivatives(out, data, model, Compute())
    for job in plan(data, out):
        finished(job.scan, job.paths.labels.parent)
    first, *_ = plan(data, out)
    finished(first.scan, first.paths.labels.parent, "another.nii.gz")
    run = "segment-cohort", data, "--out", out, "--model", model.folder

    assert command(*run, "--participant-label", "01") == 1
    assert command(*run, "--participant-label", "02") == 0
    assert told_failures(out) == [SCANS[0]]
    assert command(*run) == 1
    finished(first.scan, first.paths.labels.parent)
    assert command(*run, "--participant-label", "01") == 0
    assert told_failures(out) == []
