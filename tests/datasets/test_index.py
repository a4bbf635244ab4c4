import json

import nibabel
import numpy as np
import pytest

from fewlabel import cli
from fewlabel.cohort import read_cohort
from fewlabel.datasets import index_folder
from fewlabel.errors import CohortError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_bids_sessions_become_cases_with_what_participants_tsv_says(tmp_path):
    touch(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a_desc-aseg32_dseg.nii.gz",
    )
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\tfamily_id\tsplit\tsite\nsub-01\t10\tf3\tvalidation\tnorth\n"
    )

    first, second = index_folder(tmp_path).cohort.cases

    assert (first.id, second.id) == ("sub-01_ses-a", "sub-01_ses-b")
    assert first.person == second.person == f"{tmp_path.name}/01"
    assert first.family == "f3"
    assert first.split == "val"
    assert first.site == "north"
    assert first.age_weeks == pytest.approx(10 * 365.25 / 7)
    assert first.protocol == "aseg32"
    assert second.labels is None
    assert second.protocol == ""


def test_people_keep_their_name_across_data_sets_if_there_is_one(tmp_path):
    for name in ("one", "two"):
        touch(tmp_path / name, f"sub-{name}/anat/sub-{name}_T1w.nii")
        (tmp_path / name / "participants.tsv").write_text(
            f"participant_id\tperson_id\nsub-{name}\tOAS1_0061\n"
        )

    people = [index_folder(tmp_path / n).cohort.cases[0].person for n in ("one", "two")]

    assert people == ["OAS1_0061", "OAS1_0061"]


def test_the_legend_beside_the_labels_says_their_protocol(tmp_path):
    touch(
        tmp_path,
        "sub-1/anat/sub-1_T1w.nii",
        "sub-2/anat/sub-2_T1w.nii",
        "derivatives/a/sub-1/anat/sub-1_desc-mine_dseg.nii",
        "derivatives/a/sub-2/anat/sub-2_desc-tissue_dseg.nii",
    )
    own = tmp_path / "derivatives" / "a" / "desc-mine_dseg.tsv"
    own.write_text("index\tname\n1\tThing\n")
    (tmp_path / "derivatives" / "a" / "desc-tissue_dseg.tsv").write_text(
        "index\tname\n1\tcerebrospinal fluid\n2\tgray matter\n3\twhite matter\n"
    )

    first, second = index_folder(tmp_path).cohort.cases

    assert first.protocol == str(own)
    assert first.drawn_in().names == ("Thing",)
    assert second.protocol == "tissue3"


def test_several_label_maps_a_session_need_a_choice(tmp_path):
    touch(
        tmp_path,
        "sub-1/anat/sub-1_T1w.nii",
        "derivatives/a/sub-1/anat/sub-1_desc-aseg32_dseg.nii",
        "derivatives/a/sub-1/anat/sub-1_desc-fsl15_dseg.nii",
    )

    with pytest.raises(CohortError, match=r"aseg32 \(1 files\), fsl15 \(1 files\)"):
        index_folder(tmp_path)
    assert index_folder(tmp_path, desc="fsl15").cohort.cases[0].protocol == "fsl15"


def test_what_is_odd_about_a_data_set_is_said(tmp_path):
    touch(
        tmp_path,
        "sub-1/anat/sub-1_T1w.nii",
        "sub-1/anat/sub-1_run-2_T1w.nii",
        "sub-2/anat/sub-2_T1w.nii",
        "sub-2/anat/sub-2_T2w.nii",
        "derivatives/a/sub-3/anat/sub-3_desc-odd_dseg.nii",
        "derivatives/a/sub-1/anat/sub-1_desc-odd_dseg.nii",
    )
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-1\nsub-2\nsub-9\n")

    said = " ".join(index_folder(tmp_path).odd)

    assert "further T1w of its session and was left out" in said
    assert "Nothing says what the numbers in label maps like sub-1_desc-odd_dseg.nii mean" in said
    assert "1 cases have no labels: sub-2" in said
    assert "1 cases have labels but no image: sub-3" in said
    assert "1 cases have no T2w: sub-1" in said
    assert "1 lines of participants.tsv have no files: 9" in said
    assert "1 are not in participants.tsv: 3" in said


def test_plain_folders_meet_by_name(tmp_path):
    touch(tmp_path, "images/anna.nii.gz", "images/ben.nii.gz", "labels/anna_seg.nii.gz")

    anna, ben = index_folder(tmp_path, protocol="aseg32").cohort.cases

    assert anna.labels == tmp_path / "labels" / "anna_seg.nii.gz"
    assert anna.scans == {"image": tmp_path / "images" / "anna.nii.gz"}
    assert anna.protocol == "aseg32"
    assert ben.labels is None


def test_plain_files_that_are_named_after_a_person_are_that_persons(tmp_path):
    touch(tmp_path, "images/sub-01_ses-1.nii", "images/sub-01_ses-2.nii", "images/anna_2.nii")

    people = {case.id: case.person for case in index_folder(tmp_path).cohort.cases}

    assert people["sub-01_ses-1"] == people["sub-01_ses-2"] == f"{tmp_path.name}/sub-01"
    assert people["anna_2"] == f"{tmp_path.name}/anna_2"


def test_nnunet_folders_give_channels_and_splits(tmp_path):
    touch(
        tmp_path,
        "imagesTr/brain_1_0000.nii.gz",
        "imagesTr/brain_1_0001.nii.gz",
        "labelsTr/brain_1.nii.gz",
        "imagesTs/brain_2_0000.nii.gz",
    )
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "T1w", "1": "T2w"}, "labels": {"none": 0, "Thing": 1}})
    )

    found = index_folder(tmp_path)
    first, second = found.cohort.cases

    assert (first.id, first.split, set(first.scans)) == ("brain_1", "train", {"T1w", "T2w"})
    assert (second.id, second.split) == ("brain_2", "test")
    assert "dataset.json names the labels 1 Thing" in found.odd[0]


def test_a_folder_with_nothing_to_index_is_refused(tmp_path):
    with pytest.raises(CohortError, match="holds no images"):
        index_folder(tmp_path)
    with pytest.raises(CohortError, match="There is no folder"):
        index_folder(tmp_path / "nowhere")


def test_the_command_writes_a_manifest_and_tells_what_is_odd(tmp_path, capsys):
    touch(
        tmp_path / "data",
        "sub-1/anat/sub-1_T1w.nii",
        "sub-2/anat/sub-2_T1w.nii",
        "derivatives/a/sub-1/anat/sub-1_desc-aseg32_dseg.nii",
    )
    (tmp_path / "data" / "participants.tsv").write_text(
        "participant_id\tperson_id\tsplit\nsub-1\tp\ttrain\nsub-2\tp\ttest\n"
    )
    out = tmp_path / "cohort.tsv"

    cli.app(
        ["cohort", str(tmp_path / "data"), "--out", str(out), "--quick"],
        result_action="return_value",
    )

    said = capsys.readouterr().out
    assert "2 cases of 1 people, 1 with labels (1 train, 1 test)" in said
    assert "odd: 1 cases have no labels: sub-2" in said
    assert "odd: Person p is in train (sub-1) and test (sub-2)" in said
    assert len(read_cohort(out).cases) == 2


def test_the_command_opens_files_and_tells_what_is_wrong_with_them(tmp_path, capsys):
    anat, manual = tmp_path / "sub-1" / "anat", tmp_path / "derivatives" / "a" / "sub-1" / "anat"
    touch(tmp_path, "sub-2/anat/sub-2_T1w.nii")
    for folder in (anat, manual):
        folder.mkdir(parents=True)
    image = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), anat / "sub-1_T1w.nii")
    labels = (image > 20).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), manual / "sub-1_desc-tissue3_dseg.nii")

    arguments = ["cohort", str(tmp_path), "--out", str(tmp_path / "cohort.tsv")]
    cli.app(arguments, result_action="return_value")

    said = capsys.readouterr().out
    assert "odd: No case has gray matter, white matter (tissue3)" in said
    assert "odd: sub-2: " in said
