"""Many networks at once against one at a time, and the losses of the estimators against the forms they belong to."""

import pytest
import torch
from sciml_rod import CASES, Displacement, PointLoad, Rod, StrongForm, Traction, WeakForm
from sciml_rod.forms.first_layer import MANY_WAVES, load_waves
from sciml_rod.forms.form import RodForm
from sciml_rod.noise_study.ensemble import Ensemble, parameters
from sciml_rod.noise_study.estimators import EVALUATIONS, Draw, Estimator, make_controls, make_estimators
from torch import Tensor, nn

from sciml.errors import InputError
from sciml.pde import MLP, derivatives

BARS = {
    "smooth": CASES["smooth"].rod,
    "bimaterial": CASES["bimaterial"].rod,
    "pulled on the left": Rod(stiffness=2.0, load=lambda x: x, left=Traction(0.4), right=Displacement(0.3)),
    "held at both ends, point load": Rod(right=Displacement(0.2), point_loads=(PointLoad(0.4, 1.5),), load=0.5),
}
BIASED = {"points uniform", "points stratified"}


def members(form: RodForm, number: int = 3) -> tuple[list[nn.Module], Ensemble, Tensor]:
    models = [form.network((7, 6), seed=seed) for seed in range(number)]
    random = torch.Generator().manual_seed(7)
    for model in models:  # not at the start, where all biases are equal
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return models, Ensemble(form, models[0]), parameters(models)


@pytest.mark.parametrize("bar", BARS)
def test_values_slopes_and_curvatures_are_those_of_every_single_network(bar: str) -> None:
    form = StrongForm(BARS[bar])
    models, ensemble, theta = members(form)
    x = torch.rand(3, 40, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    together = ensemble.field(theta, ensemble.at(x), 2)
    for number, model in enumerate(models):
        alone = derivatives(lambda x, model=model: form.field(model, x), x[number, :, None], order=2)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[number], b[:, 0].detach(), rtol=1e-11, atol=1e-12)
    for a, b in zip(ensemble.field(theta, ensemble.at(x), 1), together, strict=False):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bar", BARS)
def test_losses_are_those_of_the_forms(bar: str) -> None:
    strong, weak = StrongForm(BARS[bar]), WeakForm(BARS[bar], cells=64, points=4)
    models, ensemble, theta = members(strong)
    table = {(e.form, e.sampling): e for e in make_estimators(strong, ensemble)}
    draw = table["strong", "points uniform"].draw(3, torch.Generator().manual_seed(0))
    together = table["strong", "points uniform"].loss(theta, draw)
    for number, model in enumerate(models):
        alone = torch.stack(list(strong.loss(model, strong.at(draw.at.x[number, :, None])).values())).sum()
        assert float(together[number]) == pytest.approx(float(alone.detach()), rel=1e-11)
    hats = table["weak hats", "test functions"]
    for number, model in enumerate(models):
        work = float(weak.loss(model, weak.sample(None, torch.Generator()))["work"].detach())
        assert float(hats.loss(theta, hats.exact.expand(3))[number]) == pytest.approx(work, rel=1e-11)


def test_the_energy_at_the_solution_is_the_minimum_that_statics_gives() -> None:
    """Its smallest value over networks is not below that of the reference (non-dimensional)."""
    form = StrongForm(CASES["bimaterial"].rod)
    _, ensemble, theta = members(form)
    energy = next(e for e in make_estimators(form, ensemble) if e.form == "energy")
    from sciml_rod import reference_solution

    least = reference_solution(form.unit).energy
    assert bool((energy.loss(theta, energy.exact.expand(3)) > least).all())


@pytest.fixture(scope="module")
def smooth() -> tuple[list[Estimator], list[Estimator], Tensor]:
    form = StrongForm(CASES["smooth"].rod)
    _, ensemble, theta = members(form, 1)
    return make_estimators(form, ensemble), make_controls(form, ensemble), theta


def test_every_draw_costs_the_same_number_of_evaluations(smooth) -> None:
    for estimator in smooth[0]:
        draw = estimator.draw(2, torch.Generator().manual_seed(0))
        assert draw.at.x.shape == (2, EVALUATIONS), (estimator.form, estimator.sampling)
        assert draw.weights.shape == (2, EVALUATIONS)


def test_stochastic_gradients_are_unbiased_where_they_claim_to_be(smooth) -> None:
    estimators, _, theta = smooth
    number = 1500
    for estimator in estimators:
        exact = estimator.exact_gradient(theta)[0]
        draw = estimator.draw(number, torch.Generator().manual_seed(1))
        drawn = estimator.gradient(theta.expand(number, -1), draw)
        off = float((drawn.mean(0) - exact).square().sum())
        expected = float(drawn.var(0).sum()) / number  # squared error of the mean if it is unbiased
        biased = estimator.form == "weak sines" and estimator.sampling in BIASED
        if biased and estimator.sampling == "points uniform":
            assert off > 4 * expected
        elif not biased:
            assert off < 4 * expected, (estimator.form, estimator.sampling)


def test_the_noise_of_uniform_points_is_the_variance_of_one_point_over_64(smooth) -> None:
    """tr Cov = (integral of |g(x)|^2 - |g|^2) / 64, with the gradient g(x) of one point and the integral by Gauss."""
    estimators, _, theta = smooth
    for form in ("strong", "energy"):
        estimator = next(e for e in estimators if (e.form, e.sampling) == (form, "points uniform"))
        rule = estimator.exact
        points = rule.at.x.shape[1]
        weights = rule.weights[0]
        at = rule.at.each(lambda column: column[0, :, None])
        single = Draw(at, torch.ones(points, 1, dtype=torch.float64), torch.zeros(points, 0, dtype=torch.float64))
        gradients = estimator.gradient(theta.expand(points, -1), single)
        mean = weights @ gradients
        trace = float(weights @ (gradients - mean).square().sum(1)) / EVALUATIONS
        drawn = estimator.gradient(theta.expand(3000, -1), estimator.draw(3000, torch.Generator().manual_seed(2)))
        assert float(drawn.var(0).sum()) == pytest.approx(trace, rel=0.1)


def test_exact_gradients_agree_between_rules_and_with_the_controls(smooth) -> None:
    estimators, controls, theta = smooth
    exact = {estimator.form: estimator.exact_gradient(theta) for estimator in estimators}
    for estimator in estimators:
        torch.testing.assert_close(
            estimator.exact_gradient(theta, check=True), exact[estimator.form], rtol=1e-7, atol=1e-10
        )
    for control in controls:
        same = control.gradient(theta, control.draw(1, torch.Generator()))
        scale = float(exact[control.form].abs().max())
        torch.testing.assert_close(same, exact[control.form], rtol=1e-4, atol=1e-4 * scale)


def test_a_network_of_another_make_is_refused() -> None:
    form = StrongForm(CASES["smooth"].rod)
    with pytest.raises(InputError, match="tanh MLP"):
        Ensemble(form, MLP(1, 1, (5,), activation=torch.sin))
    with pytest.raises(InputError, match="Dropout"):
        Ensemble(form, nn.Sequential(nn.Dropout(), MLP(1, 1, (5,))))


def test_a_load_with_many_waves_spreads_the_first_layer_over_the_bar() -> None:
    """Ten sines count as ten waves; the units then bend all along the bar, not at its middle."""
    assert load_waves(StrongForm(CASES["oscillatory"].rod).unit) == pytest.approx(10, rel=1e-3)
    assert load_waves(StrongForm(CASES["smooth"].rod).unit) < MANY_WAVES
    assert load_waves(StrongForm(CASES["bimaterial"].rod).unit) == 0
    network = StrongForm(CASES["oscillatory"].rod).network((24, 24), seed=3)
    assert isinstance(network, MLP)
    layer = network.layers[0]
    assert isinstance(layer, nn.Linear)
    bends = (-layer.bias / layer.weight[:, 0]).detach().sort().values
    gaps = torch.cat([bends.new_tensor([-1.0]), bends, bends.new_tensor([1.0])]).diff()
    assert float(gaps.max()) < 4 / 24
    assert float(layer.weight.detach().std()) == pytest.approx(5, rel=0.4)
