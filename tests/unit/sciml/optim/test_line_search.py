"""The line search: strong Wolfe conditions, rounding, roughness."""

import math

import pytest
import torch

from sciml.optim.line_search import Search, SearchEnding, Trial, Wolfe, line_minimum, search


def test_minimum_of_a_line_is_exact_for_cubics_and_trusts_slopes_alone_where_values_are_rounded():
    value, slope = (lambda a: a**3 - 3 * a), (lambda a: 3 * a * a - 3)  # minimum at 1
    trial, start = Trial(1.4, value(1.4), slope(1.4)), Trial(0.0, value(0.0), slope(0.0))
    assert line_minimum(start, Search(trial, 1, SearchEnding.WOLFE)) == pytest.approx(1.0)
    rounded = Trial(0.8, 0.1, -0.5)  # higher than the start, by rounding only
    found = Search(rounded, 1, SearchEnding.APPROXIMATE)
    assert line_minimum(Trial(0.0, 0.0, -1.0), found) == pytest.approx(1.6)
    assert line_minimum(Trial(0.0, 0.0, -1.0), Search(Trial(0.5, -0.5, -1.0), 1, SearchEnding.WOLFE)) == math.inf


def line(function, slope):
    def trial(step):
        return Trial(step, function(step), slope(step), torch.zeros(1))

    return trial


def test_line_search_meets_strong_wolfe_on_a_hard_line():
    """More and Thuente's function 2 (1994, eq. 5.2) from steps of very different length."""
    beta = 0.004

    def f(a):
        return (a + beta) ** 5 - 2 * (a + beta) ** 4

    def df(a):
        return 5 * (a + beta) ** 4 - 8 * (a + beta) ** 3

    for first in (1e-3, 1e-1, 10.0, 1e3):
        start = Trial(0.0, f(0), df(0))
        found = search(line(f, df), start, first, Wolfe(c1=0.1, c2=0.1, max_evaluations=60))
        assert found.ending is SearchEnding.WOLFE and found.trial is not None
        assert f(found.trial.step) <= f(0) + 0.1 * found.trial.step * df(0)
        assert abs(df(found.trial.step)) <= 0.1 * abs(df(0))


def test_line_search_accepts_by_slopes_when_rounding_hides_the_decrease():
    def f(a):
        return 1.0 + (2.3e-16 if a > 0 else 0.0)  # true values fall by 1e-17; rounding makes them rise by one unit

    found = search(line(f, lambda a: 2e-17 * (a - 1)), Trial(0.0, f(0), -2e-17), 0.9, Wolfe())
    assert found.ending is SearchEnding.APPROXIMATE


def test_line_search_sees_a_loss_rougher_than_its_rounding():
    """Values jump by 1e-9, far above the rounding of 1; the slopes still tell the minimum at 1."""

    def f(a):
        return 1.0 + 1e-12 * (a - 1) ** 2 + (1e-9 * (1 + math.sin(1e6 * a)) if a else 0.0)

    found = search(line(f, lambda a: 2e-12 * (a - 1)), Trial(0.0, f(0), -2e-12), 1.2, Wolfe())
    assert found.ending is SearchEnding.APPROXIMATE and found.trial is not None
    assert 0.1 <= found.trial.step <= 2.0
    assert found.evaluations < 20
