"""The comparison of gradient noise: its statistic against closed forms, its entries unbiased, its intervals honest."""

import numpy as np
import pytest
import torch
from torch import nn

from problems.rod import CASES, StrongForm
from problems.rod.variance import EVALUATIONS, Entry, Study, _intervals, _squared_deviations, make_entries, measure

BIASED = {"weak sines"}  # the batch stands inside the square


def test_relative_variance_of_a_gradient_known_in_closed_form() -> None:
    """Loss t * mean(z) + t^2 / 2 at t = 1 with z ~ N(2, 9): gradient 3, variance 9 / 64 per batch of 64."""

    class Number(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t = nn.Parameter(torch.ones(1, dtype=torch.float64))

    model = Number()
    entry = Entry(
        "known",
        "draws",
        draw=lambda g: 2 + 3 * torch.randn(64, 1, generator=g, dtype=torch.float64),
        loss=lambda _, batch: (model.t * batch.mean() + model.t**2 / 2).sum(),
        exact=torch.full((1, 1), 2.0, dtype=torch.float64),
    )
    values = _squared_deviations(entry, model, Study(batches=2000), ("known", "state"))
    assert values.mean() == pytest.approx(9 / 64 / 9, rel=4 * np.sqrt(2 / 2000))


@pytest.fixture(scope="module")
def smooth() -> tuple[list[Entry], nn.Module]:
    rod = CASES["smooth"].rod
    return make_entries(rod), StrongForm(rod).network((8, 8))


def gradient(entry: Entry, model: nn.Module, batch) -> torch.Tensor:
    parts = torch.autograd.grad(entry.loss(model, batch), list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in parts])


def test_every_batch_costs_the_same_number_of_evaluations(smooth) -> None:
    for entry in smooth[0]:
        batch = entry.draw(torch.Generator().manual_seed(0))
        x = batch[0] if isinstance(batch, tuple) else batch.x
        assert x.numel() == EVALUATIONS, (entry.form, entry.sampling)


def test_stochastic_gradients_are_unbiased_where_they_claim_to_be(smooth) -> None:
    entries, model = smooth
    for entry in entries:
        exact = gradient(entry, model, entry.exact)
        generator = torch.Generator().manual_seed(1)
        drawn = torch.stack([gradient(entry, model, entry.draw(generator)) for _ in range(300)])
        off = float((drawn.mean(0) - exact).square().sum())
        expected = float(drawn.var(0).sum()) / 300  # squared error of the mean if it is unbiased
        if entry.form in BIASED:
            continue
        assert off < 4 * expected, (entry.form, entry.sampling)


def test_intervals_cover_the_true_ratio_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    inside = 0
    for seed in range(150):
        row = _intervals(2 * random.exponential(size=100), random.exponential(size=100), seed=seed)
        assert row["variance_low"] < row["relative_variance"] < row["variance_high"]
        inside += row["ci_low"] < 2 < row["ci_high"]
    assert 0.88 <= inside / 150 <= 0.99  # nominal 0.95; two standard errors are 0.036


def test_intervals_shrink_with_more_batches_and_a_form_has_ratio_one_to_itself() -> None:
    random = np.random.default_rng(1)
    rows = [_intervals(random.exponential(size=n), random.exponential(size=n), seed=0) for n in (50, 5000)]
    widths = [row["ci_high"] - row["ci_low"] for row in rows]
    assert widths[1] < 0.2 * widths[0]
    base = random.exponential(size=50)
    same = _intervals(base, base, seed=0)
    assert (same["ratio_to_strong"], same["ci_low"], same["ci_high"]) == (1.0, 1.0, 1.0)


@pytest.mark.slow
def test_points_of_the_energy_are_noisier_near_the_solution_and_test_functions_are_not() -> None:
    study = Study(("smooth",), batches=30, adam=(100, 0), finisher=(60, 150))
    rows = {(row["state"], row["form"], row["sampling"]): row for row in measure(study)}
    assert {state for state, _, _ in rows} == {"init", "mid", "late", "end"}
    assert rows["end", "strong", "points uniform"]["relative_l2"] < 1e-3
    energy = [rows[state, "energy", "points uniform"]["relative_variance"] for state in ("init", "late", "end")]
    assert energy[0] < energy[1] < energy[2]
    assert rows["end", "energy", "points uniform"]["ci_low"] > 1e3
    for state in ("init", "late", "end"):
        assert 0.1 < rows[state, "weak hats", "test functions"]["relative_variance"] < 100
    again = measure(Study(("smooth",), batches=30, adam=(100, 0), finisher=(60, 150)))
    assert [row["relative_variance"] for row in again] == [row["relative_variance"] for row in rows.values()]
