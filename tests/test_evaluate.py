import json
import math

import nibabel
import numpy as np
import pytest

from fewlabel.cli import app
from fewlabel.errors import CohortError, ConfigError, GridMismatch, ProtocolError, ScanError
from fewlabel.evaluate import (
    Protocols,
    case_of,
    label_files,
    score_files,
    score_folders,
    score_pair,
)
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol, load_protocol
from fewlabel.scores import Score, ScoreTable, plot_boxes
from fewlabel.volume import LabelMap

ASEG = load_protocol("aseg32")
DKT = load_protocol("dktaseg")


def row_of(protocol, *names, cls=LabelMap):
    """One voxel per name; None is background."""
    data = np.array([[[protocol.class_of(n) if n else 0 for n in names]]], np.int16)
    return cls(data, Grid(data.shape, np.eye(4)), protocol)


def scores_of(table, metric="dice"):
    return {r.structure: r.value for r in table.rows if r.metric == metric}


def save(path, values, affine=None):
    """A scan that holds every value in equal parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.repeat(values, 4).astype(np.int16)[:, None, None] * np.ones((1, 4, 4), np.int16)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def tissues(tmp_path):
    path = tmp_path / "tissues.tsv"
    path.write_text("index\tname\tscored\n1\tCSF\tyes\n2\tGM\tyes\n3\tstuff\tno\n")
    return Protocols.named(str(path), None, None)


def test_a_pair_gives_one_row_per_structure_and_metric(labels_of):
    table = score_pair(labels_of([[1, 1]]), labels_of([[1, 2]]), case="a", metrics=["dice"])

    assert table.rows[0] == Score("a", "CSF", "dice", 2 / 3, "")
    assert [row.structure for row in table.rows] == ["CSF", "GM", "WM"]


def test_a_structure_that_the_truth_does_not_draw_is_left_out_not_missed():
    """The truth draws no white matter; where we do, it counts as nothing at all."""
    wm, cortex = "Left-Cerebral-White-Matter", "Left-Cerebral-Cortex"
    predicted = row_of(ASEG, wm, wm, cortex, cortex)
    truth = row_of(DKT, None, "ctx-lh-cuneus", "ctx-lh-insula", "ctx-lh-cuneus")

    scores = scores_of(score_pair(predicted, truth, case="a", metrics=["dice"]))

    assert wm not in scores
    assert scores[cortex] == pytest.approx(2 * 2 / (2 + 3))  # the white matter was a miss


def test_voxels_that_could_be_either_of_two_structures_do_not_count():
    left, right = "Left-Cerebellum-Cortex", "Right-Cerebellum-Cortex"
    predicted = row_of(ASEG, left, left, right)
    truth = row_of(DKT, "Left-Cerebellum-Exterior", "Cerebellar-Vermal-Lobules-I-V", None)

    scores = scores_of(score_pair(predicted, truth, case="a", metrics=["dice"]))

    assert scores[left] == 1.0
    assert scores[right] == 0.0


def test_a_finer_prediction_is_brought_to_the_coarser_truth():
    predicted = row_of(DKT, "ctx-lh-cuneus", "ctx-lh-insula")
    truth = row_of(ASEG, "Left-Cerebral-Cortex", "Left-Cerebral-Cortex")

    table = score_pair(predicted, truth, case="a", metrics=["dice"])

    assert scores_of(table)["Left-Cerebral-Cortex"] == 1.0
    assert "CSF" not in scores_of(table)


def test_both_sides_can_be_brought_to_a_third_protocol():
    predicted = row_of(ASEG, "Left-Caudate", "Left-Cerebral-Cortex")
    truth = row_of(DKT, "Left-Caudate", "ctx-lh-cuneus")

    table = score_pair(
        predicted, truth, case="a", metrics=["dice"], score_in=load_protocol("fsl15")
    )

    assert len(table.rows) == 15
    assert scores_of(table)["Left-Caudate"] == 1.0


def test_what_a_protocol_does_not_score_is_not_scored():
    fine = load_protocol("neuromorphometrics138")
    labels = row_of(fine, "CSF", "Left vessel")

    table = score_pair(labels, labels, case="a", metrics=["dice"])

    assert len(table.rows) == 134
    assert "Left vessel" not in scores_of(table)


def test_protocols_without_a_common_structure_are_refused():
    other = LabelProtocol("other", (Label(1, "liver"),))

    with pytest.raises(ProtocolError, match="have no structure in common"):
        score_pair(row_of(ASEG, None), row_of(other, None), case="a")


def test_a_pair_on_different_grids_is_refused(labels_of):
    with pytest.raises(GridMismatch, match="do not share voxels"):
        score_pair(labels_of([[1, 1]]), labels_of([[1, 1]], spacing=(1.0, 2.0, 1.0)), case="a")


def test_the_protocol_of_the_truth_is_that_of_the_predictions_unless_told():
    same = Protocols.named("aseg32", None, None)
    both = Protocols.named("aseg32", "dktaseg", "fsl15")

    assert same.reference.name == "aseg32"
    assert (both.reference.name, both.score_in.name) == ("dktaseg", "fsl15")


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("sub-01_desc-aseg_dseg.nii.gz", "sub-01"),
        ("sub-01_ses-a2_run-1_dseg.nii", "sub-01_ses-a2"),
        ("anna_dseg.mgz", "anna"),
        ("1003_3.nii.gz", "1003_3"),
        ("sub-01.nii", "sub-01"),
    ],
)
def test_the_case_of_a_file(tmp_path, name, case):
    assert case_of(tmp_path / name) == case


def test_only_label_maps_count_where_files_say_what_they_are(tmp_path):
    for name in ("sub-1/anat/sub-1_T1w.nii.gz", "derivatives/sub-1_dseg.nii.gz", ".x_dseg.nii"):
        save(tmp_path / name, [0, 1])

    found = label_files(tmp_path, ASEG)

    assert [path.name for path in found.values()] == ["sub-1_dseg.nii.gz"]


def test_of_several_label_maps_the_one_of_the_protocol_is_taken(tmp_path):
    for desc in ("dkt31", "dktaseg"):
        save(tmp_path / f"sub-1_desc-{desc}_dseg.nii.gz", [0, 1])

    assert label_files(tmp_path, DKT)["sub-1"].name == "sub-1_desc-dktaseg_dseg.nii.gz"
    with pytest.raises(CohortError, match=r"Case sub-1 has 2 label files: .*dkt31_dseg"):
        label_files(tmp_path, ASEG)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ScanError, match="There is no folder"):
        label_files(tmp_path / "none", ASEG)


def test_files_are_scored_by_their_values(tmp_path, tissues):
    ours = save(tmp_path / "p/a_dseg.nii", [1, 1, 2, 3])
    theirs = save(tmp_path / "t/a_dseg.nii", [1, 2, 2, 3])

    scores = scores_of(score_files(ours, theirs, tissues))

    assert scores == {"CSF": pytest.approx(2 / 3), "GM": pytest.approx(2 / 3)}


def test_folders_are_matched_and_what_is_left_over_is_named(tmp_path, tissues):
    save(tmp_path / "p/sub-1_dseg.nii", [1, 1])
    save(tmp_path / "p/sub-2_dseg.nii", [1, 1], np.diag([2.0, 1, 1, 1]))
    save(tmp_path / "p/sub-3_dseg.nii", [1, 1])
    for case in (1, 2, 4):
        save(tmp_path / f"t/sub-{case}/anat/sub-{case}_desc-x_dseg.nii", [1, 1])

    table = score_folders(tmp_path / "p", tmp_path / "t", tissues, metrics=["dice"])

    assert {row.case for row in table.rows} == {"sub-1"}
    assert list(table.unscored) == ["sub-2", "sub-3", "sub-4"]
    assert "do not share voxels" in table.unscored["sub-2"]
    assert table.unscored["sub-3"] == "has a prediction but no truth"
    assert table.unscored["sub-4"] == "has a truth but no prediction"


def test_folders_that_share_no_case_are_refused(tmp_path, tissues):
    save(tmp_path / "p/sub-1_dseg.nii", [1, 1])
    (tmp_path / "t").mkdir()

    with pytest.raises(CohortError, match=r"\(sub-1\) and .*\(no label files\) share no case"):
        score_folders(tmp_path / "p", tmp_path / "t", tissues)


def test_a_misspelled_metric_stops_everything(tmp_path, tissues):
    for side in "pt":
        save(tmp_path / side / "sub-1_dseg.nii", [1, 1])

    with pytest.raises(ConfigError, match="no metric 'dise'"):
        score_folders(tmp_path / "p", tmp_path / "t", tissues, metrics=["dise"])


def table_of(values, metric="dice"):
    """{case: [score of A, score of B]} as a table."""
    return ScoreTable(
        tuple(
            Score(case, name, metric, value, "")
            for case, scores in values.items()
            for name, value in zip("AB", scores, strict=True)
        )
    )


def test_summaries_count_the_absent_and_the_infinite_and_average_the_rest():
    table = table_of({"1": [0.5, math.nan], "2": [1.0, 2.0], "3": [0.0, math.inf]})

    first, second = table.summaries("dice")

    assert (first.n, first.mean, first.sd, first.median) == (3, 0.5, 0.5, 0.5)
    assert (first.lowest, first.highest) == (0.0, 1.0)
    assert (second.n, second.mean, second.absent, second.infinite) == (1, 2.0, 1, 1)
    assert math.isnan(second.sd)


def test_a_case_is_the_mean_of_its_structures():
    table = table_of({"1": [0.5, math.nan], "2": [1.0, 0.0], "3": [math.nan, math.inf]})

    means = table.per_case("dice")

    assert (means["1"], means["2"]) == (0.5, 0.5)
    assert math.isnan(means["3"])


def test_volumes_of_both_sides_give_an_intraclass_correlation():
    rows = [
        Score(str(case), "A", metric, value, "mm3")
        for case, value in enumerate([1.0, 2.0, 3.0])
        for metric, value in (("volume", value + 1), ("reference_volume", value))
    ]

    assert ScoreTable(tuple(rows)).intraclass_correlations() == {"A": pytest.approx(2 / 3)}


def test_a_metric_that_was_not_scored_is_refused():
    with pytest.raises(ConfigError, match="hold no metric 'volume', but dice"):
        table_of({"1": [0.0, 0.0]}).of("volume")


def test_scores_survive_being_written_and_read(tmp_path):
    rows = table_of({"1": [0.5, math.inf]}).rows
    ScoreTable(rows, {"2": "has a truth but no prediction"}).write_csv(tmp_path / "s.csv")

    read = ScoreTable.read_csv(tmp_path / "s.csv")

    assert read.rows == rows
    assert list(read.unscored) == ["2"]
    assert (tmp_path / "s.csv").read_text().splitlines() == [
        "case,structure,metric,value,unit",
        "1,A,dice,0.5,",
        "1,B,dice,inf,",
        "2,,unscored,nan,",
    ]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "case,structure,metric,value,unit\n1,A,dice,x,\n"])
def test_a_file_that_is_no_table_of_scores_is_refused(tmp_path, text):
    (tmp_path / "s.csv").write_text(text)

    with pytest.raises(CohortError, match=r"s\.csv is no table of scores"):
        ScoreTable.read_csv(tmp_path / "s.csv")


def test_boxes_are_drawn_as_png(tmp_path):
    pytest.importorskip("matplotlib")

    plot_boxes(table_of({"1": [0.5, math.nan], "2": [1.0, 0.0]}), "dice", tmp_path / "b.png")

    assert (tmp_path / "b.png").read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_a_plot_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("fewlabel.scores.find_spec", lambda _: None)

    with pytest.raises(ConfigError, match=r"Plots need matplotlib.*\n.*fewlabel\[train\]"):
        plot_boxes(table_of({"1": [0.5, 0.5]}), "dice", tmp_path / "b.png")

    assert not list(tmp_path.iterdir())


@pytest.fixture
def two_folders(tmp_path):
    """Two cases on both sides: 4 of 8 slices CSF against 4, and 8 against 4."""
    (tmp_path / "own.tsv").write_text("index\tname\n1\tCSF\n2\tGM\n")
    for case, ours, theirs in (("sub-1", [1, 2], [1, 2]), ("sub-2", [1, 1], [1, 2])):
        save(tmp_path / f"p/{case}_dseg.nii", ours)
        save(tmp_path / f"t/{case}_dseg.nii", theirs)
    return tmp_path


def run(*words):
    """Exit code of the command, as a shell would see it."""
    try:
        app([str(word) for word in words], exit_on_error=False)
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_the_command_prints_tables_and_writes_the_scores(two_folders, capsys):
    here = two_folders
    words = ("--protocol", here / "own.tsv", "--out", here / "s.csv")

    code = run("evaluate", here / "p", here / "t", *words)

    said = capsys.readouterr().out
    assert code == 0
    assert "dice: 0.667 ± 0.471 over 2 cases" in said  # 1 and (2/3 + 0) / 2
    assert "volume ICC" in said
    assert len(ScoreTable.read_csv(here / "s.csv").rows) == 2 * 2 * 6


def test_the_command_prints_json_that_any_program_reads(two_folders, capsys):
    here = two_folders
    words = ("--protocol", here / "own.tsv", "--json", "--metrics", "dice,hausdorff95")

    run("evaluate", here / "p", here / "t", *words)

    said = json.loads(capsys.readouterr().out)
    assert said["cases"]["dice"] == {"sub-1": 1.0, "sub-2": pytest.approx(1 / 3)}
    assert said["structures"][3]["infinite"] == 1


def test_the_command_names_a_missing_prediction_and_fails_on_a_refused_one(two_folders, capsys):
    here = two_folders
    words = ("evaluate", here / "p", here / "t", "--protocol", here / "own.tsv")
    (here / "p/sub-1_dseg.nii").unlink()
    missing = run(*words)
    save(here / "p/sub-1_dseg.nii", [1, 9])
    refused = run(*words)

    said = capsys.readouterr().out
    assert (missing, refused) == (0, 1)
    assert "No score for sub-1: has a truth but no prediction" in said
    assert "sub-1_dseg.nii holds 1 values that protocol 'own' lacks: 9" in said


def test_a_file_and_a_folder_are_refused(two_folders):
    here = two_folders

    with pytest.raises(ScanError, match="only one is a folder"):
        run("evaluate", here / "p", here / "t/sub-1_dseg.nii", "--protocol", here / "own.tsv")


def test_the_command_draws_boxes(two_folders):
    pytest.importorskip("matplotlib")
    here = two_folders

    run(
        "evaluate", here / "p", here / "t", "--protocol", here / "own.tsv", "--plot", here / "b.png"
    )

    assert (here / "b.png").stat().st_size > 1000
