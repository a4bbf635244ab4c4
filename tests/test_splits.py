from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewlabel.cohort import SPLITS, Case, Cohort
from fewlabel.errors import CohortError
from fewlabel.splits import (
    hold_out,
    kin,
    leaks,
    relatives_as_one,
    require_no_leak,
    split_cohort,
)


def case(name, person="", family="", **rest):
    person = person or name
    return Case(id=name, person=person, family=family or person, scans={}, **rest)


def test_repeat_scans_of_a_person_are_one_group():
    groups = kin([case("a1", "a"), case("b1", "b"), case("a2", "a")])

    assert sorted(len(group) for group in groups) == [1, 2]


def test_somebody_in_two_families_joins_them():
    groups = kin([case("a", "a", "x"), case("b", "b", "y"), case("b2", "b", "x")])

    assert len(groups) == 1


@given(
    people=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5)), min_size=1, max_size=25),
    seed=st.integers(0, 9),
)
def test_no_split_ever_parts_a_person_or_a_family(people, seed):
    cases = tuple(case(f"c{n}", f"p{p}", f"f{f}") for n, (p, f) in enumerate(people))

    parts = split_cohort(Cohort(cases), {"train": 0.6, "val": 0.2, "test": 0.2}, seed)

    assert leaks({split: parts.part(split) for split in ("train", "val", "test")}) == []
    assert len(parts.cases) == len(cases)


def test_splits_have_the_shares_asked_for():
    cohort = Cohort(tuple(case(f"c{n}") for n in range(10)))

    parts = split_cohort(cohort, {"train": 0.7, "val": 0.1, "test": 0.2})

    assert [len(parts.part(split)) for split in ("train", "val", "test")] == [7, 1, 2]


def test_a_split_depends_on_the_seed_alone():
    cohort = Cohort(tuple(case(f"c{n}") for n in range(10)))
    shares = {"train": 0.5, "test": 0.5}

    assert split_cohort(cohort, shares, 1) == split_cohort(cohort, shares, 1)
    assert split_cohort(cohort, shares, 1) != split_cohort(cohort, shares, 2)


def test_a_person_in_training_and_test_is_refused_by_name():
    parts = {"train": [case("malc-1", "OAS1_0061")], "test": [case("trt-1", "OAS1_0061")]}

    with pytest.raises(
        CohortError, match=r"Person OAS1_0061 is in train \(malc-1\) and test \(trt-1\)"
    ):
        require_no_leak(parts)


def test_twins_in_training_and_validation_are_refused_by_family():
    parts = {"train": [case("a", "anna", "f7")], "val": [case("b", "berta", "f7")]}

    with pytest.raises(
        CohortError, match=r"Family f7 \(anna, berta\) is in train \(a\) and val \(b\)"
    ):
        require_no_leak(parts)


def test_a_person_behind_the_weights_one_starts_from_may_not_be_tested():
    same = case("a")

    with pytest.raises(CohortError, match=r"Person a is in source \(a\) and test \(a\)"):
        require_no_leak({"source": [same], "test": [same]})


def test_an_allowed_leak_is_told():
    told = require_no_leak({"train": [case("a", "x")], "test": [case("b", "x")]}, allowed=True)

    assert told == ("Person x is in train (a) and test (b).",)


def labeled(n, **rest):
    return case(f"c{n}", f"p{n}", labels=Path(f"drawn-{n}.nii.gz"), **rest)


def test_so_many_labeled_people_are_held_out_and_the_others_teach():
    cohort = Cohort((*(labeled(n, split="val") for n in range(5)), case("bare", split="train")))
    held = hold_out(cohort, 3)

    assert [len(held.part(split)) for split in ("train", "test", "")] == [2, 3, 1]
    assert held == hold_out(cohort, 3)
    tested = {tuple(c.id for c in hold_out(cohort, 3, seed).part("test")) for seed in range(5)}
    assert len(tested) > 1


def test_a_family_is_held_out_as_a_whole():
    cohort = Cohort(tuple(labeled(n, family="all" if n < 4 else f"f{n}") for n in range(6)))
    for seed in range(6):
        held = hold_out(cohort, 2, seed)
        assert leaks({split: held.part(split) for split in ("train", "test")}) == []
        assert 2 <= len(held.part("test")) <= 5


def test_somebody_must_be_left_to_learn_from():
    with pytest.raises(CohortError, match="3 people are labeled, in 3 families: with 3 held out"):
        hold_out(Cohort(tuple(labeled(n) for n in range(3))), 3)


def test_a_scan_under_two_names_may_not_be_learned_from_and_tested():
    file = Path("one_T1w.nii.gz")
    cases = [replace(case(name), scans={"T1w": file}) for name in "ab"]

    (said,) = leaks({"train": cases[:1], "test": cases[1:]})

    assert said == "A group that shares a family or a file (a, b) is in train (a) and test (b)."


@pytest.mark.parametrize("seed", range(5))
def test_scarce_labels_are_dealt_out_before_the_rest(seed):
    cases = (*(labeled(n) for n in range(5)), *(case(f"bare{n}") for n in range(10)))

    parts = split_cohort(Cohort(cases), {"train": 0.7, "val": 0.15, "test": 0.15}, seed)

    count = {split: sum(c.labels is not None for c in parts.part(split)) for split in SPLITS}
    assert count == {"train": 3, "val": 1, "test": 1}


def test_relatives_count_as_one_person():
    twins = [case("a", "anna", "f7"), case("b", "berta", "f7"), case("c", "carl")]

    assert [one.person for one in relatives_as_one(twins)] == ["anna", "anna", "carl"]
