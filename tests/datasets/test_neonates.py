"""Empty files where dHCP and the Baby Connectome Project lie."""

import pytest

from fewlabel.cli_datasets import dataset
from fewlabel.cohort import read_cohort
from fewlabel.datasets.baby_connectome import baby_connectome
from fewlabel.datasets.dhcp import dhcp
from fewlabel.errors import CohortError

T2W, T1W, LABELS = "desc-restore_T2w", "desc-restore_T1w", "desc-drawem9_dseg"


def infant(release, name, sessions, files=(T2W, T1W, LABELS)):
    """One infant; sessions by name with their ages, as text."""
    folder = release / f"sub-{name}"
    for session in sessions:
        anat = folder / f"ses-{session}" / "anat"
        anat.mkdir(parents=True)
        for file in files:
            (anat / f"sub-{name}_ses-{session}_{file}.nii.gz").touch()
    lines = [f"{session}\t{age}\t35.2\t1\t1\t0" for session, age in sessions.items()]
    head = "session_id\tscan_age\tscan_head_circumference\tscan_number\tradiology_score\tsedation"
    (folder / f"sub-{name}_sessions.tsv").write_text("\n".join([head, *lines]) + "\n")
    return folder


@pytest.fixture
def release(tmp_path):
    """Twins, one of whom was scanned twice, and a single child without T1w."""
    folder = tmp_path / "rel3_dhcp_anat_pipeline"
    infant(folder, "CC00135AN12", {"44704": "32.71", "57700": "41.0"})
    infant(folder, "CC00135BN12", {"44705": "32.71"})
    infant(folder, "CC00067XX10", {"20200": "40.42"}, files=(T2W, LABELS))
    names = ("CC00135AN12", "CC00135BN12", "CC00067XX10")
    lines = "\n".join(f"{name}\tmale\t31.0\t1.5\tM" for name in names)
    head = "participant_id\tsex\tbirth_age\tbirth_weight\tsingleton"
    (folder / "participants.tsv").write_text(f"{head}\n{lines}\n")
    return folder


def test_dhcp_has_ages_at_the_scan_and_twins_are_a_family(release, tmp_path, capsys):
    dataset("dhcp", release.parent, out=tmp_path / "dhcp.tsv")
    cases = {case.id: case for case in read_cohort(tmp_path / "dhcp.tsv").cases}
    assert list(cases) == [
        "sub-CC00067XX10_ses-20200",
        "sub-CC00135AN12_ses-44704",
        "sub-CC00135AN12_ses-57700",
        "sub-CC00135BN12_ses-44705",
    ]
    first, again, twin = list(cases.values())[1:]
    assert (first.age_weeks, again.age_weeks) == (32.71, 41.0)
    assert (first.person, again.person, twin.person) == (*["CC00135AN12"] * 2, "CC00135BN12")
    assert {first.family, again.family, twin.family} == {"CC00135"}
    assert cases["sub-CC00067XX10_ses-20200"].family == "CC00067"
    assert list(first.scans) == ["T2w", "T1w"]
    assert (first.protocol, first.split) == ("drawem9", "")
    told = capsys.readouterr().out
    assert "4 cases, not split yet" in told
    assert "1 scans have no T1w scan: sub-CC00067XX10_ses-20200" in told


def test_the_folder_of_the_release_may_be_given_itself(release):
    found = dhcp(release)
    assert len(found.cohort.cases) == 4
    assert len(found.odd) == 1


def test_a_session_of_dhcp_without_its_t2w_scan_or_labels_is_named(release):
    (
        release / "sub-CC00067XX10/ses-20200/anat" / f"sub-CC00067XX10_ses-20200_{T2W}.nii.gz"
    ).unlink()
    for path in (release / "sub-CC00135BN12/ses-44705/anat").iterdir():
        path.unlink()
    with pytest.raises(CohortError) as refusal:
        dhcp(release)
    said = str(refusal.value)
    assert "sub-CC00067XX10_ses-20200 has no T2w scan." in said
    assert "sub-CC00135BN12_ses-44705 has no T2w scan, no desc-drawem9_dseg.nii.gz." in said


def test_the_second_release_of_dhcp_is_told_from_the_third(tmp_path):
    former = ("desc-restore_T2w", "desc-drawem9_space-T2w_dseg")
    infant(tmp_path, "CC00067XX10", {"20200": "40.42"}, files=former)
    with pytest.raises(CohortError, match="as in the second release; needed is the third"):
        dhcp(tmp_path)


def test_raw_scans_of_dhcp_alone_are_no_release_with_labels(tmp_path):
    infant(tmp_path / "rawdata", "CC00067XX10", {"20200": "40.42"}, files=("rec-SVR_T2w",))
    with pytest.raises(CohortError, match=r"there is no folder sub-CC\*/ses-\*/anat"):
        dhcp(tmp_path)


def test_a_part_of_dhcp_is_taken_and_what_is_not_there_is_told(release):
    table = release / "participants.tsv"
    table.write_text(table.read_text() + "CC00999XX18\tfemale\t39.0\t3.1\tS\n")
    sessions = release / "sub-CC00135BN12" / "sub-CC00135BN12_sessions.tsv"
    sessions.write_text(sessions.read_text() + "61000\t42.0\t36\t2\t1\t0\n")
    (release / "sub-CC00067XX10" / "sub-CC00067XX10_sessions.tsv").unlink()
    odd = dhcp(release).odd
    assert "1 infants of participants.tsv have no folder: sub-CC00999XX18." in odd
    assert "1 scans are in sessions.tsv and have no folder: sub-CC00135BN12_ses-61000." in odd
    assert "1 scans have no age in sessions.tsv: sub-CC00067XX10_ses-20200." in odd


def test_scans_before_bias_correction_serve_and_that_is_told(tmp_path):
    infant(tmp_path, "CC00067XX10", {"20200": "40.42"}, files=("T2w", "T1w", LABELS))
    found = dhcp(tmp_path)
    assert found.cohort.cases[0].scans["T2w"].name == "sub-CC00067XX10_ses-20200_T2w.nii.gz"
    assert "1 scans are not bias-corrected: sub-CC00067XX10_ses-20200." in found.odd


def visit(folder, child, session, suffixes=("T1w", "T2w")):
    anat = folder / f"sub-{child}" / f"ses-{session}" / "anat"
    anat.mkdir(parents=True)
    for suffix in suffixes:
        (anat / f"sub-{child}_ses-{session}_{suffix}.nii.gz").touch()


def test_baby_connectome_ages_come_from_sessions_and_visits_share_a_person(tmp_path, capsys):
    visit(tmp_path / "bcp", "1001", "03mo")
    visit(tmp_path / "bcp", "1001", "12mo", suffixes=("T1w",))
    visit(tmp_path / "bcp", "1002", "a")
    (tmp_path / "bcp/sub-1002/sub-1002_sessions.tsv").write_text(
        "session_id\tage_months\nses-a\t6\n"
    )
    dataset("bcp", tmp_path / "bcp", out=tmp_path / "bcp.tsv")
    first, second, other = read_cohort(tmp_path / "bcp.tsv").cases
    assert first.person == second.person != other.person
    # a month has 365.25 / 12 / 7 = 4.348 weeks
    assert first.age_weeks == pytest.approx(13.04, abs=0.01)
    assert second.age_weeks == pytest.approx(52.18, abs=0.01)
    assert other.age_weeks == pytest.approx(26.09, abs=0.01)
    assert "1 cases have no T2w" in capsys.readouterr().out


def test_baby_connectome_without_an_age_or_a_scan_is_told(tmp_path):
    visit(tmp_path, "1001", "first")
    assert "1 sessions do not tell an age: sub-1001_ses-first." in baby_connectome(tmp_path).odd
    visit(tmp_path, "1002", "03mo", suffixes=("bold",))
    with pytest.raises(CohortError, match="sub-1002_ses-03mo has neither a T1w nor a T2w scan"):
        baby_connectome(tmp_path)
    with pytest.raises(CohortError, match=r"there is no folder sub-\*/ses-\*"):
        baby_connectome(tmp_path / "none")
