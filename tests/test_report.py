"""One page from files: what it holds, how large it is, and that nothing in it can do harm."""

import base64
import gzip
import json
import re
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from fewlabel.engine import Compute
from fewlabel.errors import CohortError, ConfigError
from fewlabel.grid import Grid
from fewlabel.labels import Label, LabelProtocol
from fewlabel.notebook import plot, view
from fewlabel.predict import segment, segment_files
from fewlabel.report.cases import find_cases, read_volume_norms
from fewlabel.report.page import labels_beside, safe_json, write_report, write_view
from fewlabel.report.runs import read_run
from fewlabel.report.volumes import nearest, packed
from fewlabel.report.words import methods
from fewlabel.volume import LabelMap, Scan
from tests.band_model import BANDS, band_model, box_grid, head_at
from tests.commands import command

EVIL = "</script><script>alert(1)</script> \"quotes\" 'ticks' & \u2028 \u202e 脳 🧠"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two segmented heads, the second cut off."""
    folder = tmp_path_factory.mktemp("results")
    model = band_model(folder / "model")
    head = head_at(box_grid((4.0, 4.0, 4.0), 192.0))
    for name, data in (("sub-01", head.data), ("sub-02", head.data[:, :, 20:])):
        image = nibabel.Nifti1Image(data.astype(np.int16), head.grid.affine)
        nibabel.save(image, folder / f"{name}_T1w.nii.gz")
    scans = sorted(folder.glob("*_T1w.nii.gz"))
    for outcome in segment_files(scans, model, out=folder / "out", compute=Compute(threads=1)):
        assert outcome.error is None
    return folder


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "settings.yaml").write_text(f"recipe: {json.dumps(EVIL)}\n", encoding="utf-8")
    (folder / "history.csv").write_text(
        "stage,step,quantity,value\ntrain,1,total,2.0\ntrain,2,total,1.0\ntrain,3,tot"
    )
    (folder / "validation.csv").write_text(
        "case,head,structure,dice\nsub-01,toy,Ball,0.9\nsub-02,toy,Ball,0.5\n"
    )
    (folder / "confusion.csv").write_text(
        "head,truth,predicted,voxels\ntoy,Ball,Ball,90\ntoy,Ball,CSF,10\ntoy,CSF,CSF,5\n"
    )
    return folder


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(found[1])


def test_cases_are_sorted_by_doubt_and_carry_pictures_volumes_and_warnings(results, tmp_path):
    page = write_report([results / "out"], tmp_path / "report.html").read_text("utf-8")

    first, second = data_of(page)["cases"]
    assert (first["id"], second["id"]) == ("sub-02", "sub-01")
    assert "The scan ends inside the brain (bottom)." in first["warnings"]
    assert first["findings"][0]["rule"] == "field of view"
    assert second["warnings"] == []
    assert second["picture"].startswith("data:image/webp;base64,")
    assert set(second["volumes"]) == {"Ball", "Right-Lump", "CSF", "Total-Brain"}


def test_scan_and_labels_travel_in_the_page_on_one_grid(results, tmp_path):
    page = write_report([results / "out"], tmp_path / "report.html").read_text("utf-8")

    volumes = []
    for name in ("scan-0", "labels-0"):
        found = re.search(f'<script type="text/plain" id="{name}">(.*?)</script>', page)
        content = gzip.decompress(base64.b64decode(found[1]))
        volumes.append(nibabel.Nifti1Image.from_bytes(content))
    scan, labels = volumes
    assert np.array_equal(scan.affine, labels.affine)
    assert set(np.unique(np.asarray(labels.dataobj))) == {0, 1, 2, 3}
    assert np.asarray(scan.dataobj).max() == 255


def test_a_page_asks_for_nothing_from_outside(results, tmp_path):
    page = write_report([results / "out"], tmp_path / "report.html").read_text("utf-8")

    assert "default-src 'none'" in page
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_evil_names_paths_and_notes_stay_text(results, run_folder, tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    for file in (results / "out").glob("sub-01*"):
        (folder / file.name).write_bytes(file.read_bytes())
    record = folder / "sub-01_dseg.json"
    said = json.loads(record.read_text())
    said["warnings"], said["scan"], said["protocol"] = [EVIL], EVIL, EVIL
    record.write_text(json.dumps(said))
    legend = folder / "sub-01_dseg.tsv"
    legend.write_text(legend.read_text("utf-8").replace("Ball", "Ball<script>alert(1)"), "utf-8")
    run_folder.rename(tmp_path / "run'\"<b>")

    page = write_report([folder, tmp_path / "run'\"<b>"], tmp_path / "report.html")

    text = page.read_text("utf-8")
    assert "alert(1)</script>" not in text
    assert "<script>alert" not in text
    assert data_of(text)["cases"][0]["warnings"] == [EVIL]
    assert data_of(text)["runs"][0]["name"] == "run'\"<b>"
    assert data_of(text)["protocols"][0]["structures"][0]["name"] == "Ball<script>alert(1)"


def test_json_in_a_page_cannot_end_its_element():
    assert safe_json({"a": "</script>&<!--"}) == ('{"a": "\\u003c/script\\u003e\\u0026\\u003c!--"}')
    assert safe_json([float("nan"), float("inf"), 1.5]) == "[null, null, 1.5]"


def test_the_script_never_writes_html():
    from importlib.resources import files

    scripts = [f for f in (files("fewlabel.report") / "assets").iterdir() if f.name.endswith("js")]
    for script in scripts:
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in script.read_text("utf-8"), (script.name, word)


def test_volumes_are_made_coarser_until_they_fit():
    grid = Grid((64, 64, 64), np.eye(4))
    noise = np.random.default_rng(0).random((64, 64, 64)).astype(np.float32)
    labels = LabelMap((noise > 0.5).astype(np.int16), grid, BANDS)

    image, drawn = packed(Scan(noise, grid), labels, 100_000)

    assert len(image) + len(drawn) <= 100_000


def test_labels_are_taken_from_the_nearest_voxel():
    protocol = LabelProtocol("two", (Label(5, "a"), Label(9, "b")))
    labels = LabelMap(
        np.array([1, 2, -1], np.int16).reshape(3, 1, 1), Grid((3, 1, 1), np.eye(4)), protocol
    )
    affine = np.diag([0.5, 1.0, 1.0, 1.0])
    affine[0, 3] = -1.0

    found = nearest(labels, Grid((9, 1, 1), affine))

    # At -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3; halves go to the even voxel.
    assert found.ravel().tolist() == [0, 1, 1, 1, 2, 0, 0, 0, 0]


def test_runs_are_read_up_to_the_last_whole_row(run_folder):
    run = read_run(run_folder)

    assert run["curves"] == [
        {"stage": "train", "quantity": "total", "points": [(1, 2.0), (2, 1.0)]}
    ]
    assert run["dice"][1] == ("sub-02", "toy", "Ball", 0.5)
    assert run["confusion"] == [("toy", "Ball", "CSF", 10, 0.1)]


def test_long_curves_are_thinned_to_means(run_folder):
    rows = [f"train,{n},total,{n % 2}" for n in range(1, 4001)]
    (run_folder / "history.csv").write_text("stage,step,quantity,value\n" + "\n".join(rows) + "\n")

    (curve,) = read_run(run_folder)["curves"]

    assert len(curve["points"]) == 400
    assert curve["points"][0] == (10, 0.5)


def test_a_folder_with_nothing_to_report_is_refused(tmp_path):
    with pytest.raises(CohortError, match="neither a training run nor results"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(CohortError, match="There is no folder"):
        write_report([tmp_path / "missing"], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_half_a_result_is_refused_with_its_name(tmp_path):
    (tmp_path / "sub-01_dseg.json").write_text('{"fewlabel": "1"}')

    with pytest.raises(CohortError, match=r"sub-01_dseg\.json is not a whole result"):
        find_cases(tmp_path)


def test_what_is_damaged_is_left_out_and_named_and_what_is_foreign_passed_over(
    results, tmp_path, capsys
):
    folder = tmp_path / "out"
    for number in (1, 2, 3, 4):
        for file in (results / "out").glob("sub-01*"):
            folder.mkdir(exist_ok=True)
            name = file.name.replace("sub-01", f"sub-0{number}")
            (folder / name).write_bytes(file.read_bytes())
    (folder / "sub-02_dseg.json").write_text('{"fewlabel": ')
    (folder / "sub-03_volumes.tsv").unlink()
    (folder / "sub-04_dseg.tsv").unlink()
    (folder / ".0a1b2c3d.sub-07_dseg.json").touch()
    (folder / "sub-05_dseg.json").write_text('{"Sources": ["bids:raw:sub-05"]}')
    carried = {"fewlabel": "1", "scan": "sub-06_T1w.nii.gz", "registrations": []}
    (folder / "sub-06_dseg.json").write_text(json.dumps(carried))

    assert command("report", folder, "--out", tmp_path / "r.html") == 0

    told = capsys.readouterr().err
    assert [case["id"] for case in data_of((tmp_path / "r.html").read_text())["cases"]] == [
        "sub-01"
    ]
    assert told.count("is not a whole result of fewlabel") == 3
    assert all(f"sub-0{n}_dseg.json is not" in told for n in (2, 3, 4))


def test_usual_volumes_come_from_a_table(tmp_path, results):
    table = tmp_path / "norms.tsv"
    table.write_text("structure\tlow_mm3\thigh_mm3\nBall\t1\t2\n")

    page = write_report([results / "out"], tmp_path / "r.html", norms=table).read_text("utf-8")

    assert data_of(page)["norms"] == {"Ball": [1.0, 2.0]}
    table.write_text("structure\tlow\nBall\t1\n")
    with pytest.raises(CohortError, match="no table of usual volumes"):
        read_volume_norms(table)


def test_the_methods_paragraph_names_model_protocol_and_warnings(results):
    records = [case.record for case in find_cases(results / "out")]

    text = methods(records)["text"]

    assert text.startswith("2 scans were segmented with fewlabel, version ")
    assert "model bands 1.0" in text
    assert "warnings for 1 of 2 results" in text


def test_a_view_needs_no_protocol_where_a_legend_lies_beside(results, tmp_path):
    labels = results / "out" / "sub-01_dseg.nii.gz"
    known = labels_beside(labels, None)

    page = write_view(results / "sub-01_T1w.nii.gz", tmp_path / "v.html", (labels, known))

    names = [s["name"] for s in data_of(page.read_text("utf-8"))["protocols"][0]["structures"]]
    assert names == ["Ball", "Right-Lump", "CSF"]
    with pytest.raises(ConfigError, match="Nothing says what the numbers"):
        labels_beside(results / "sub-01_T1w.nii.gz", None)


def test_plots_are_pictures_and_views_are_frames_without_access(results):
    scan = results / "sub-01_T1w.nii.gz"

    image = plot(scan)

    assert image.width > 1000
    shown = view(scan)._repr_html_()
    assert 'sandbox="allow-scripts"' in shown
    assert "<script" not in shown.replace("&lt;script", "")


def test_a_result_shows_itself_in_a_notebook_as_a_table(results):
    model = band_model(results / "model")
    head = head_at(box_grid((4.0, 4.0, 4.0), 192.0))

    shown = segment(head, model=model, threads=1)._repr_html_()

    assert "<tr><td>Right-Lump</td><td>" in shown
    assert shown.count("<tr>") == 5


def test_the_command_writes_a_page_and_needs_no_torch(results, tmp_path):
    code = (
        "import sys; sys.argv = ['fewlabel', 'report', *sys.argv[1:]]\n"
        "from fewlabel.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'monai', 'matplotlib'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(results / "out"), "--out", str(tmp_path / "r.html")]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "MB; open it in a browser." in done.stdout
