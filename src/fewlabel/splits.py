"""Splits that keep people and families whole, and refusing those that do not."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fewlabel.cohort import Case, Cohort, refuse
from fewlabel.errors import CohortError

_Key = tuple[str, str]


def kin(cases: Iterable[Case]) -> list[list[Case]]:
    """Cases in groups that share no person, no family and no file with each other.

    Somebody who is in two families joins them.
    """
    groups: dict[_Key, list[tuple[Case, list[_Key]]]] = {}
    for case in cases:
        keys = _keys(case)
        joined = {id(groups[key]): groups[key] for key in keys if key in groups}
        merged = [*(member for group in joined.values() for member in group), (case, keys)]
        groups |= {key: merged for _, own in merged for key in own}
    found = {id(group): group for group in groups.values()}.values()
    return [[case for case, _ in group] for group in found]


def _keys(case: Case) -> list[_Key]:
    """What cases must not share with those of another group."""
    own = [("person", case.person), ("family", case.family)]
    return own + [("file", os.path.realpath(file)) for file in case.files.values()]


def relatives_as_one(cases: Iterable[Case]) -> list[Case]:
    """The same cases, in which all people of a group that is kin have one name."""
    cases = list(cases)
    person = {case.person: group[0].person for group in kin(cases) for case in group}
    return [replace(case, person=person[case.person]) for case in cases]


def in_turn(people: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """Who is left out together when people are left out in turn, so many times at most.

    >>> in_turn(["a", "b", "c"], 2)
    [('a', 'c'), ('b',)]
    """
    n = min(len(people), most)
    return [tuple(people[start::n]) for start in range(n)]


def split_cohort(cohort: Cohort, shares: Mapping[str, float], seed: int = 0) -> Cohort:
    """Deal cases into splits; people and families stay whole.

    Groups are dealt in random order, larger ones first, each to the split that lacks most; those
    with labels before the others, so that every split gets its share of labels.

    Args:
        cohort: Its splits are replaced.
        shares: Such as {"train": 0.7, "val": 0.1, "test": 0.2}.
        seed: Decides the order.
    """
    groups = kin(cohort.cases)
    order = np.random.default_rng(seed).permutation(len(groups))
    by_size = [groups[number] for number in sorted(order, key=lambda n: -len(groups[n]))]
    split_of: dict[str, str] = {}
    for labeled in (True, False):
        dealt = [group for group in by_size if labeled == any(case.labels for case in group)]
        total = sum(map(len, dealt)) / sum(shares.values())
        wanted = {split: share * total for split, share in shares.items()}
        for group in dealt:
            split = max(wanted, key=lambda name: wanted[name])
            wanted[split] -= len(group)
            split_of |= {case.id: split for case in group}
    return Cohort(tuple(replace(case, split=split_of[case.id]) for case in cohort.cases))


def hold_out(cohort: Cohort, people: int, seed: int = 0) -> Cohort:
    """Give so many labeled people the split test, and the others train; families stay whole.

    Args:
        cohort: Splits of its labeled cases are replaced; others have none.
        people: More if a family has to come along.
        seed: Decides who.

    Raises:
        CohortError: If nobody is left to learn from.
    """
    labeled = [case for case in cohort.cases if case.labels is not None]
    groups = kin(labeled)
    kept: dict[str, None] = {}
    held: set[str] = set()
    for number in np.random.default_rng(seed).permutation(len(groups)):
        if len(kept) < people:
            kept |= dict.fromkeys(case.person for case in groups[number])
            held |= {case.id for case in groups[number]}
    if len(held) == len(labeled):
        n = len({case.person for case in labeled})
        raise CohortError(
            f"{n} people are labeled, in {len(groups)} families: with {people} held out nobody is"
            " left to learn from.",
            fix="hold out fewer, or label scans of more people.",
        )
    split = {case.id: "test" if case.id in held else "train" for case in labeled}
    return Cohort(tuple(replace(case, split=split.get(case.id, "")) for case in cohort.cases))


def leaks(parts: Mapping[str, Iterable[Case]]) -> list[str]:
    """People, families and files that are in more than one part of a study, as sentences.

    Args:
        parts: Such as "source" (what weights come from), "train", "val" and "test".
    """
    own = _held(parts)
    part_of = {id(case): name for name, cases in own.items() for case in cases}
    found = []
    for group in kin(case for cases in own.values() for case in cases):
        names = {part_of[id(case)] for case in group}
        if len(names) > 1:
            found.append(_leak(group, part_of))
    return found


def _held(parts: Mapping[str, Iterable[Case]]) -> dict[str, list[Case]]:
    """The same parts with a copy of each case, so that one that is in two counts as two."""
    return {name: [replace(case) for case in cases] for name, cases in parts.items()}


def _leak(group: Sequence[Case], part_of: Mapping[int, str]) -> str:
    people = list(dict.fromkeys(case.person for case in group))
    who = f"Person {people[0]}"
    if len(people) > 1 and len({case.family for case in group}) == 1:
        who = f"Family {group[0].family} ({', '.join(people)})"
    elif len(people) > 1:
        who = f"A group that shares a family or a file ({', '.join(people)})"
    where = " and ".join(
        f"{name} ({', '.join(case.id for case in group if part_of[id(case)] == name)})"
        for name in dict.fromkeys(part_of[id(case)] for case in group)
    )
    return f"{who} is in {where}."


def require_no_leak(
    parts: Mapping[str, Iterable[Case]], *, allowed: bool = False
) -> tuple[str, ...]:
    """Refuse a study in which a person or a family is in more than one part.

    Args:
        parts: See `leaks`.
        allowed: Do not refuse.

    Returns:
        The leaks, for the card of the model.

    Raises:
        CohortError: Naming every person and family.
    """
    found = leaks(parts)
    if not allowed:
        refuse(
            "The split",
            found,
            fix="put all scans of a person and a family into one part, or allow the leak, which"
            " is then told in the model's card.",
        )
    return tuple(found)
