"""Ages from the tables of a BIDS data set."""

import json

import pytest

from fewlabel.people import UNKNOWN, Age, age_of


@pytest.fixture
def scan(tmp_path):
    def place(table):
        (tmp_path / "participants.tsv").write_text(table)
        return tmp_path / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz"

    return place


def test_the_nearest_table_above_a_scan_gives_the_age(scan):
    age = age_of(scan("participant_id\tage\nsub-02\t70\nsub-01\t4.5\n"))

    assert age.years == 4.5
    assert age.weeks == pytest.approx(4.5 * 365.25 / 7)


@pytest.mark.parametrize(
    "table",
    [
        "participant_id\tage\nsub-02\t70\n",
        "participant_id\tage\nsub-01\tn/a\n",
        "participant_id\tage\nsub-01\t1900\n",
        "participant_id\tsex\nsub-01\tF\n",
        "",
    ],
)
def test_what_is_no_age_in_years_is_none(scan, table):
    assert age_of(scan(table)) == UNKNOWN


def test_a_scan_of_nobody_has_no_age(tmp_path):
    assert age_of(tmp_path / "brain.nii.gz") == UNKNOWN


@pytest.mark.parametrize("column", ["age_weeks", "scan_age", "postmenstrual_age_weeks"])
def test_newborns_have_their_age_in_weeks(scan, column):
    age = age_of(scan(f"participant_id\t{column}\nsub-01\t38.5\n"))

    assert age == Age(years=38.5 / (365.25 / 7), weeks=38.5)


def test_a_fraction_of_a_year_is_not_made_weeks_as_nothing_says_since_when(scan):
    assert age_of(scan("participant_id\tage\nsub-01\t0.1\n")) == Age(years=0.1, weeks=None)


def test_weeks_count_more_than_years(scan):
    table = "participant_id\tage\tscan_age\nsub-01\t0.1\t44.0\n"

    assert age_of(scan(table)) == Age(years=0.1, weeks=44.0)


@pytest.mark.parametrize("session", ["ses-1", "1"])  # the developing Connectome has no prefix
def test_the_table_of_sessions_counts_more_than_that_of_people(scan, tmp_path, session):
    place = scan("participant_id\tscan_age\nsub-01\t30\n")
    (tmp_path / "sub-01").mkdir()
    rows = f"session_id\tscan_age\nses-2\t44\n{session}\t41.5\n"
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_text(rows)

    assert age_of(place).weeks == 41.5
    assert age_of(tmp_path / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_T1w.nii").weeks == 44
    assert age_of(tmp_path / "sub-01" / "ses-3" / "anat" / "sub-01_ses-3_T1w.nii").weeks == 30


@pytest.mark.parametrize(
    ("units", "age"),
    [
        ("weeks", Age(40 / (365.25 / 7), 40.0)),
        ("Week", Age(40 / (365.25 / 7), 40.0)),
        ("months", Age(40 / 12, 40 / 12 * (365.25 / 7))),
        ("DAYS", Age(40 / 365.25)),
        ("years", Age(40.0, 40 * 365.25 / 7)),
        ("", Age(40.0, 40 * 365.25 / 7)),
        ("fortnights", UNKNOWN),
    ],
)
def test_the_json_beside_a_table_gives_the_unit_of_the_age(scan, tmp_path, units, age):
    place = scan("participant_id\tage\nsub-01\t40\n")
    (tmp_path / "participants.json").write_text(json.dumps({"age": {"Units": units}}))

    assert age_of(place) == age


@pytest.mark.parametrize("name", ["sub-01/sub-01_sessions.json", "sessions.json"])
def test_each_table_has_its_own_unit(scan, tmp_path, name):
    place = scan("participant_id\tage\nsub-01\t30\n")
    (tmp_path / "sub-01").mkdir()
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\tage\nses-1\t6\n")
    (tmp_path / name).write_text('{"age": {"Units": "months"}}')

    assert age_of(place).years == 0.5
    (tmp_path / name).write_text("[]")
    assert age_of(place).years == 6
