"""Combinations of devices, layout, mask, heads, numbers and dropout, pair by pair.

All of them are run by `exactness_matrix.py`.
"""

import itertools

import pytest

from .matrix import FACTORS, judge, pairwise_cover, program

COVER = pairwise_cover()
# Each of the programs after these adds a pair of values and no more.
QUICK = list(dict.fromkeys(map(program, COVER)))[:16]


def _pairs(cases):
    return {pair for case in cases for pair in itertools.combinations(case, 2)}


def test_every_pair_of_values_occurs_and_every_value_among_the_quick():
    everything = {
        pair
        for one, other in itertools.combinations(FACTORS, 2)
        for pair in itertools.product(one, other)
    }
    assert _pairs(COVER) == everything
    quick = [case for case in COVER if program(case) in QUICK]
    for values, of_cases in zip(FACTORS, zip(*quick, strict=True), strict=True):
        assert set(of_cases) == set(values)
    assert len(_pairs(quick)) >= 0.95 * len(everything)


def _marks(case):
    return [] if program(case) in QUICK else [pytest.mark.slow]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case), marks=_marks(case)) for case in COVER]
)
def test_a_case_is_off_by_its_roundings_alone(case):
    verdict = judge(case)
    assert verdict.good, verdict
