"""Ages from the table of a BIDS data set."""

import pytest

from fewlabel.people import age_years


@pytest.fixture
def scan(tmp_path):
    def place(table):
        (tmp_path / "participants.tsv").write_text(table)
        return tmp_path / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz"

    return place


def test_the_nearest_table_above_a_scan_gives_the_age(scan):
    assert age_years(scan("participant_id\tage\nsub-02\t70\nsub-01\t4.5\n")) == 4.5


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
    assert age_years(scan(table)) is None


def test_a_scan_of_nobody_has_no_age(tmp_path):
    assert age_years(tmp_path / "brain.nii.gz") is None
