"""The density without poses as a stochastic problem: gradient, preconditioner, symmetry, growth by prediction."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from problem_contract import ProblemContract
from sciml_cryoem.imaging import ctf, fourier, kernels, orientations
from sciml_cryoem.imaging.half_plane import Disc
from sciml_cryoem.imaging.projection import Projector
from sciml_cryoem.imaging.symmetry import point_group, symmetrize_map
from sciml_cryoem.initial_model.frontier import PREDICTED, predicted_share
from sciml_cryoem.initial_model.map_slices import TurnedGrid
from sciml_cryoem.initial_model.marginal import Marginal, ParticleBatch
from sciml_cryoem.initial_model.marginal_density import MarginalDensity
from sciml_cryoem.initial_model.search_plan import FRONTIER, SearchPlan
from sciml_cryoem.poses.pose_error import pose_error
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

from sciml import GradientNoise
from sciml.batches import split
from sciml.loop.gradients import evaluate
from sciml.parameters import FlatParameters
from sciml.problem import Evaluation
from sciml.watching.noise import energy

BOX = 32
PLAN = replace(SearchPlan.fit(BOX), stop=10.0, shift_range=1.0, shift_step=1.0)  # five shifts: fast
SCORED_ONLY = replace(PLAN, frontier=0)
"""Shells beyond those scored are in the gradient, not in the loss."""


def _blobs(seed: int) -> np.ndarray:
    """Fine blobs without symmetry, signal in every shell that is looked at."""
    draw, line = np.random.default_rng(seed), np.arange(BOX) - BOX // 2
    volume = np.zeros((BOX,) * 3)
    for _ in range(12):
        z, y, x = (np.exp(-np.square(line - c) / 3.0) for c in 0.12 * BOX * draw.normal(size=3))
        volume += draw.uniform(0.5, 1.5) * z[:, None, None] * y[:, None] * x
    return volume.astype(np.float32)


def _images(volume: np.ndarray | None, count: int, power: float = 80.0, seed: int = 0) -> ImageSpectra:
    """Whitened images with CTF and offsets; `power`: of the signal over that of the noise, summed over an image. None
    for noise alone."""
    draw, disc = np.random.default_rng([seed, 1]), Disc(BOX, PLAN.stop + FRONTIER)
    u = draw.uniform(8e3, 2e4, count)
    table = ctf.CTF(u, u, np.zeros(count), 3e5, 2.7e7, 0.1).coefficients(BOX, 5.0)
    transfer = ctf.evaluate(table.astype(np.float32), disc.kx, disc.ky)
    transfer[:, 0] *= np.sqrt(0.5)
    values = np.sqrt(0.5) * (draw.normal(size=transfer.shape) + 1j * draw.normal(size=transfer.shape))
    values[:, 0] = values[:, 0].real
    if volume is not None:
        slices = np.empty((count, len(disc)), np.complex64)
        axes = np.ascontiguousarray(2.0 * _turns(count, seed)[:, :2], np.float32)
        spectrum = Projector(BOX, 2).spectrum(volume).astype(np.complex64)
        kernels.gather(spectrum, axes, disc.kx, disc.ky, slices)
        signal = transfer * slices
        signal *= np.sqrt(power / np.square(np.abs(signal[:, 1:])).sum(1).mean())
        values += signal * disc.phases(_offsets(count, seed)).conj()
    return ImageSpectra(disc, values.astype(np.complex64), transfer.astype(np.float32))


def _turns(count: int, seed: int = 0) -> np.ndarray:
    """Poses of `_images`."""
    return orientations.random_turns(count, np.random.default_rng([seed, 0]))


def _offsets(count: int, seed: int = 0) -> np.ndarray:
    """Of `_images`, pixels."""
    return PLAN.shift_range * np.random.default_rng([seed, 2]).uniform(-0.7, 0.7, (count, 2))


def _problem(volume: np.ndarray | None, count: int = 60, symmetry: str = "C1", **image: Any) -> Marginal:
    return Marginal(_images(volume, count, **image), PLAN, symmetry)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _evaluate(problem: Marginal, model: MarginalDensity, batch: ParticleBatch) -> Evaluation:
    return evaluate(problem, model, FlatParameters(model.parameters()), batch)


def _learn(problem: Marginal, model: MarginalDensity, batch: ParticleBatch) -> None:
    problem.learn(model, batch, _evaluate(problem, model, batch))


def _descend(problem: Marginal, model: MarginalDensity, steps: int, batch: int, seed: int = 0) -> list[float | None]:
    """Stochastic steps; the predicted share after each."""
    generator, shares = _generator(seed), []
    apply = problem.preconditioner(model)
    for _ in range(steps):
        drawn = problem.sample(batch, generator)
        evaluation = _evaluate(problem, model, drawn)
        problem.learn(model, drawn, evaluation)
        model.voxels.data -= 0.5 * apply(evaluation.gradient).reshape(model.voxels.shape)
        shares.append(predicted_share(model))
    return shares


def _warm(problem: Marginal, steps: int = 8, classes: int = 1) -> MarginalDensity:
    """A model with a map and running statistics."""
    model = problem.blob(classes, np.random.default_rng(0))
    _descend(problem, model, steps, 30)
    return model


@pytest.fixture(scope="module")
def problem() -> Marginal:
    return _problem(_blobs(1))


@pytest.fixture(scope="module")
def warm(problem: Marginal) -> MarginalDensity:
    return _warm(problem)


@pytest.fixture
def model(warm: MarginalDensity) -> MarginalDensity:
    return copy.deepcopy(warm)


@pytest.fixture(scope="module")
def scored_only(problem: Marginal) -> tuple[Marginal, MarginalDensity]:
    bare = Marginal(problem.images, SCORED_ONLY)
    return bare, _warm(bare)


class TestContract(ProblemContract):
    """What every Problem must keep to."""

    tolerance = 2e-5  # single precision
    step = 0.002
    derivative_tolerance = 0.02

    @pytest.fixture
    def pair(self, scored_only: tuple[Marginal, MarginalDensity]) -> tuple[Marginal, MarginalDensity]:
        problem, model = scored_only
        return problem, copy.deepcopy(model)

    def test_an_own_gradient_equals_autograd(self, pair: Any) -> None:
        """There is nothing to compare with: the loss is compiled. Finite differences are (see the contract)."""


def _slope(problem: Marginal, model: MarginalDensity, whole: ParticleBatch, direction: torch.Tensor) -> float:
    """Of the loss along a unit direction, by finite differences of fourth order."""
    start, values = model.voxels.detach().clone(), []
    length = 0.005 * float(start.norm())
    for sign in (-2, -1, 1, 2):
        model.voxels.data = start + sign * length * direction
        values.append(sum(float(term) for term in problem.loss(model, whole).values()))
    model.voxels.data = start
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * length)


def test_the_gradient_of_the_whole_set_is_the_derivative_of_the_loss(
    scored_only: tuple[Marginal, MarginalDensity],
) -> None:
    """Along the gradient, along noise, and along a gradient of density, with offsets, CTF, mask and gridding."""
    bare, model = scored_only[0], copy.deepcopy(scored_only[1])
    whole = bare.sample(None, _generator(3))
    gradient = _evaluate(bare, model, whole).gradient
    start = model.voxels.detach().clone()
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=start.shape)).float()
    line = torch.linspace(-1, 1, start.shape[-1])
    for direction in (
        gradient.reshape(start.shape),
        noise * torch.from_numpy(bare.slices.mask),
        line[:, None, None] * start,
    ):
        direction = direction / direction.norm()
        expected, norm = float(gradient @ direction.reshape(-1)), float(gradient.norm())
        assert abs(_slope(bare, model, whole, direction) - expected) < 0.02 * abs(expected) + 2e-4 * norm


def test_the_gradient_under_symmetry_is_the_derivative_of_the_loss() -> None:
    """Among symmetric maps: an image speaks for all its symmetric views together, not for each again."""
    problem, group = Marginal(_images(_blobs(1), 60), SCORED_ONLY, "C3"), point_group("C3")
    model = problem.blob(1, np.random.default_rng(0))
    _descend(problem, model, 6, 30)
    symmetric = symmetrize_map(model.voxels.detach()[0].numpy() * problem.slices.mask, group)
    model.voxels.data = torch.from_numpy(symmetric)[None]
    whole = problem.sample(None, _generator(3))
    gradient = _evaluate(problem, model, whole).gradient
    volume = gradient.reshape((SCORED_ONLY.side,) * 3).numpy() * problem.slices.mask
    direction = torch.from_numpy(symmetrize_map(volume, group))[None]
    direction = direction / direction.norm()
    expected = float(gradient @ direction.reshape(-1))
    assert _slope(problem, model, whole, direction) == pytest.approx(expected, rel=0.03)


def test_shells_ahead_are_in_the_gradient_and_not_in_the_loss(problem: Marginal, model: MarginalDensity) -> None:
    """They are pulled towards the images at poses in which they have no say: along low frequencies alone the gradient
    is that of the loss."""
    whole = problem.sample(None, _generator(3))
    gradient = _evaluate(problem, model, whole).gradient
    shape = model.voxels.shape
    ahead = gradient / gradient.norm()
    assert _slope(problem, model, whole, ahead.reshape(shape)) < 0.9 * float(gradient.norm())
    smooth = fourier.resample(model.voxels.detach()[0].numpy(), PLAN.side, 3.0)[None]
    low = torch.from_numpy(smooth / np.linalg.norm(smooth)).float()
    expected = float(gradient @ low.reshape(-1))
    assert abs(expected) > 0.01 * float(gradient.norm())
    assert _slope(problem, model, whole, low) == pytest.approx(expected, rel=0.02)


def test_both_terms_are_those_of_the_loss(problem: Marginal, model: MarginalDensity) -> None:
    whole = problem.sample(None, _generator(3))
    terms = _evaluate(problem, model, whole).terms
    for name, value in problem.loss(model, whole).items():
        assert float(value) == pytest.approx(float(terms[name]), rel=1e-6)
    # Against an empty map the images are likely, the prior costs something.
    assert float(terms["data"]) < -1.0
    assert 0.0 < float(terms["prior"]) < 0.5 * abs(float(terms["data"]))


def test_a_batch_is_remembered_in_learn_alone(problem: Marginal, model: MarginalDensity) -> None:
    """Every buffer but the range of offsets may move there."""
    before = copy.deepcopy(model.state_dict())
    _evaluate(problem, model, problem.sample(20, _generator(4)))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    _learn(problem, model, problem.sample(20, _generator(4)))
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert {"weight", "frontier", "outermost"} <= moved <= {"weight", "frontier", "outermost", "radius"}


def test_running_weight_is_that_of_one_image(problem: Marginal, model: MarginalDensity) -> None:
    """However a batch is cut, and however many images it has: the preconditioner of any number of images."""
    states, batch = [], problem.sample(40, _generator(5))
    for cuts in ((40,), (10, 10, 20)):
        copied, start = problem.density(model.voxels.detach().numpy()), 0
        for size in cuts:
            rows, turns = (leaf[start : start + size] for leaf in (batch.rows, batch.turns))
            _learn(problem, copied, ParticleBatch(rows, turns))
            start += size
        states.append(copied)
    whole, cut = states
    assert float((whole.weight - cut.weight).norm()) < 0.02 * float(whole.weight.norm())
    assert float(whole.frontier[-1]) == float(cut.frontier[-1]) == 40.0
    assert float(whole.outermost[1]) == pytest.approx(40.0)


def test_the_weight_of_a_shell_is_known_before_an_image_is_seen(problem: Marginal) -> None:
    """It does not depend on the poses; only how it is spread over the shell does."""
    model, fresh = (problem.blob(2, np.random.default_rng(0)) for _ in range(2))
    padded = problem.gradient(model, problem.sample(None, _generator(0)))[2].mean["weight"]
    seen = problem.sums.weight(padded.sum(0).numpy())
    expected = fresh.weight.sum(0).numpy()
    inside = slice(1, int(PLAN.start + PLAN.frontier))
    ratio = problem.metric.shell_mean(seen)[inside] / problem.metric.shell_mean(expected)[inside]
    np.testing.assert_allclose(ratio, 1.0, atol=0.1)
    # Shells that were not collected keep what is expected of them.
    _learn(problem, model, problem.sample(30, _generator(1)))
    beyond = slice(inside.stop, PLAN.side // 2)
    after, before = (problem.metric.shell_mean(each.weight[0].numpy())[beyond] for each in (model, fresh))
    np.testing.assert_array_equal(after, before)


def _frozen_hessian(problem: Marginal, model: MarginalDensity, whole: ParticleBatch) -> Any:
    """v -> Hessian of the loss with all posteriors held."""
    ((found, axes, slices),) = problem._searches(model, whole, gather=True)
    denominator = found.denominator.reshape(slices.shape)
    where = TurnedGrid(float(model.radius), whole.turns[0].numpy())

    def apply(vector: torch.Tensor) -> torch.Tensor:
        probe = copy.deepcopy(model)
        probe.voxels.data = vector.reshape(model.voxels.shape).float()
        _, mine = problem.slices.of(probe, where)
        (grid,) = problem.sums.empty(1)
        problem.sums.add(grid, axes, denominator[0] * mine[0], denominator[0])
        data = problem.sums.adjoint(problem.sums.completed(grid.astype(np.float32))) * problem.slices.mask
        return torch.from_numpy(data).reshape(-1) * (2.0 / len(whole.rows)) + problem.metric.prior_gradient(
            probe
        ).reshape(-1)

    return apply


def test_preconditioner_is_symmetric_positive_and_bounds_the_hessian(problem: Marginal, model: MarginalDensity) -> None:
    """A full step with poses held is stable, expectation maximization; so is the half that is taken on a batch, whose
    grid has another turn than those whose weights are remembered, or before any are."""
    apply = problem.preconditioner(model)
    draw = np.random.default_rng(0)
    u, v = (torch.from_numpy(draw.normal(size=model.voxels.numel())) for _ in range(2))
    assert float(u @ apply(v)) == pytest.approx(float(apply(u) @ v), rel=1e-9)
    assert float(v @ apply(v)) > 0
    whole, fresh = problem.sample(None, _generator(6)), problem.density(model.voxels.detach().numpy())
    exact = copy.deepcopy(fresh)
    padded = _evaluate(problem, exact, whole).statistics.mean["weight"][0]
    exact.weight.copy_(torch.from_numpy(problem.sums.weight(padded.numpy())))
    for case, low, high in ((exact, 0.8, 2.0), (fresh, 0.8, 4.0), (model, 0.8, 4.0)):
        hessian, apply = _frozen_hessian(problem, case, whole), problem.preconditioner(case)
        assert float(u.float() @ hessian(v.float())) == pytest.approx(float(hessian(u.float()) @ v.float()), rel=1e-3)
        vector, largest = v.float(), 0.0
        for _ in range(25):
            moved = apply(hessian(vector))
            largest = float(moved.norm() / vector.norm())
            vector = moved / moved.norm()
        assert low < largest < high


def test_the_gradient_of_a_symmetric_map_is_symmetric() -> None:
    """C2: whatever the images show, the group is imposed. Without it, the gradient of the same map is not symmetric."""
    group = point_group("C2")
    symmetric = symmetrize_map(_blobs(1), group)
    asymmetry = []
    for name in ("C2", "C1"):
        problem = _problem(_blobs(1), 40, name)
        side = PLAN.side
        blob = np.zeros((side,) * 3, np.float32)
        start = side // 2 - BOX // 2
        inside = slice(max(start, 0), max(start, 0) + min(side, BOX))
        source = slice(max(-start, 0), max(-start, 0) + min(side, BOX))
        blob[inside, inside, inside] = symmetric[source, source, source]
        model = problem.density(0.1 * symmetrize_map(blob, group)[None])
        gradient = _evaluate(problem, model, problem.sample(None, _generator(2))).gradient
        volume = gradient.reshape((side,) * 3).numpy() * problem.slices.mask
        asymmetry.append(float(np.linalg.norm(volume - symmetrize_map(volume, group)) / np.linalg.norm(volume)))
    assert asymmetry[0] < 1e-4
    assert asymmetry[1] > 0.05


def test_only_views_of_one_asymmetric_unit_are_tried() -> None:
    whole, part = _problem(None, 12), _problem(None, 12, "D2")
    turn = orientations.random_turns(1, np.random.default_rng(0))[0]
    where = TurnedGrid(6.0, turn)
    share = len(part.slices.orientations(where)) / len(whole.slices.orientations(where))
    assert 0.2 < share < 0.35


def _shares(volume: np.ndarray | None, steps: int) -> list[float]:
    """Predicted shares of signal just beyond a radius that must rest."""
    problem = Marginal(_images(volume, 200), replace(PLAN, stop=PLAN.start))
    model = problem.blob(1, np.random.default_rng(0))
    shares = _descend(problem, model, steps, 40)
    assert float(model.radius) == PLAN.start
    assert shares[:5] == [None] * 5  # not before HALF_LIFE images have been seen
    return [share for share in shares[5:] if share is not None]


def test_the_map_predicts_images_of_it_and_no_noise() -> None:
    """However often the same 200 images of noise are seen, the map made of them tells nothing about the next."""
    noise, signal = _shares(None, 100), _shares(_blobs(1), 30)
    assert len(noise) == 95
    assert abs(np.mean(noise)) < 0.05
    assert np.mean(np.array(noise) > PREDICTED) < 0.05
    assert min(signal[5:]) > 2 * PREDICTED


@pytest.mark.parametrize(("count", "batch"), [(1000, 40), (500, 150)])
def test_the_radius_does_not_grow_on_noise(count: int, batch: int) -> None:
    problem = _problem(None, count)
    model = problem.blob(1, np.random.default_rng(0))
    _descend(problem, model, 3600 // batch, batch)
    assert float(model.radius) <= PLAN.start + 1.0


def test_the_radius_grows_on_images_of_a_map() -> None:
    """From a blob."""
    problem = Marginal(_images(_blobs(1), 200), PLAN)
    for seed in (0, 1):
        model = problem.blob(1, np.random.default_rng(0))
        _descend(problem, model, 40, 40, seed)
        assert PLAN.start + 1.0 < float(model.radius) <= PLAN.stop


def test_poses_are_found_as_fine_as_the_grid() -> None:
    """From a map at the resolution of a start, however far it grows: medians over six seeds are 0.57 to 0.66 of the
    spacing of the grid that the last radius is searched on."""
    problem = Marginal(_images(_blobs(1), 200), PLAN)
    full = _placed(_to_scale(problem, _blobs(1), _turns(200)))
    start = fourier.resample(fourier.resample(full, int(2 * PLAN.start)), PLAN.side)
    for seed in (0, 1, 2):
        model = problem.density(start[None])
        _descend(problem, model, 40, 40, seed)
        assert float(model.radius) > PLAN.start + 1.0
        poses = problem.poses(model)
        assert poses.rotations.shape == (200, 3, 3)
        assert set(poses.classes) == {0}
        error = pose_error(_turns(200), _offsets(200), poses.rotations, poses.offsets)
        spacing = orientations.spacing_deg(PLAN.order(float(model.radius)))
        assert float(np.median(error.angles_deg)) < 0.8 * spacing
        assert float(np.median(error.shifts)) < 0.8 * PLAN.shift_step


def _placed(volume: np.ndarray) -> np.ndarray:
    """A map of the box of the images on the grid of the plan."""
    return fourier.resample(volume, PLAN.side)


def _to_scale(problem: Marginal, volume: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """The map with the grey scale of images at known poses: least squares."""
    disc, images = problem.images.disc, problem.images
    slices = np.empty((len(poses), len(disc)), np.complex64)
    spectrum = Projector(BOX, 2).spectrum(volume).astype(np.complex64)
    kernels.gather(spectrum, np.ascontiguousarray(2.0 * poses[:, :2], np.float32), disc.kx, disc.ky, slices)
    power = np.square(np.abs(images.values)).sum() - len(poses) * (len(disc) - 0.5)
    return volume * np.float32(np.sqrt(power / np.square(np.abs(images.transfer * slices)).sum()))


def test_two_classes_share_out_the_images() -> None:
    first, second = _images(_blobs(1), 60, seed=0), _images(_blobs(5), 60, seed=1)
    both = ImageSpectra(
        first.disc, np.concatenate([first.values, second.values]), np.concatenate([first.transfer, second.transfer])
    )
    maps = [
        _placed(_to_scale(Marginal(part, PLAN), _blobs(which), _turns(60, seed)))
        for part, which, seed in ((first, 1, 0), (second, 5, 1))
    ]
    problem = Marginal(both, PLAN)
    model, single = problem.density(np.stack(maps)), problem.density(maps[0][None])
    for each in (model, single):
        each.radius.fill_(9.0)
    poses = problem.poses(model)
    assert np.mean(poses.classes == np.repeat([0, 1], 60)) > 0.95
    alone = problem.poses(single)
    assert poses.log_likelihood[60:].mean() > alone.log_likelihood[60:].mean() + 2.0
    # An image of the first class gains nothing by the second, and pays for the choice.
    assert (poses.log_likelihood - alone.log_likelihood)[:60].mean() == pytest.approx(-np.log(2.0), abs=0.1)
    gradient = _evaluate(problem, model, problem.sample(None, _generator(0))).gradient
    assert gradient.numel() == 2 * PLAN.side**3
    started = problem.blob(2, np.random.default_rng(0)).voxels.detach()
    assert started.shape == (2, *(PLAN.side,) * 3)
    assert 0.01 < float((started[0] - started[1]).abs().max() / started.max()) < 1.0


def test_likelihood_at_a_radius_is_the_loss_there(problem: Marginal, model: MarginalDensity) -> None:
    before, turn = float(model.radius), torch.eye(3)
    low, high = (
        problem.log_likelihood(model, np.arange(20), TurnedGrid(radius, turn.numpy())) for radius in (4.0, 9.0)
    )
    assert float(model.radius) == before
    assert low != high
    model.radius.fill_(4.0)
    batch = ParticleBatch(torch.arange(20), turn.expand(20, 3, 3))
    assert -float(problem.loss(model, batch)["data"]) == pytest.approx(low, rel=1e-6)


def test_poses_are_those_of_the_model_and_all_images(problem: Marginal, model: MarginalDensity) -> None:
    """Whatever was evaluated before: the whole set, for which they are remembered, or a part of it."""
    whole = problem.sample(None, _generator(1))
    expected = problem.poses(model)
    problem.gradient(model, whole)
    remembered = problem.poses(model)
    np.testing.assert_array_equal(remembered.rotations, expected.rotations)
    np.testing.assert_array_equal(remembered.log_likelihood, expected.log_likelihood)
    problem.gradient(model, ParticleBatch(whole.rows[:20], whole.turns[:20]))
    with torch.no_grad():
        model.voxels.mul_(0.5)
    found = problem.poses(model)
    assert len(found.rotations) == problem.size == len(expected.rotations)
    assert found.log_likelihood.mean() != expected.log_likelihood.mean()


def _ratio(gradients: list[torch.Tensor], metric: Any) -> float:
    """SNR of a gradient from independent ones: the energy of their mean less the noise left in it, over their
    variance."""
    mean = torch.stack(gradients).double().mean(0)
    noise = sum(float(energy(gradient.double() - mean, metric)) for gradient in gradients) / (len(gradients) - 1)
    return float(energy(mean, metric)) / noise - 1.0 / len(gradients)


def test_the_snr_of_micro_batches_is_that_of_independent_batches() -> None:
    """At a state that is about to score further shells. A right 95 % interval misses the reference, which has an error
    of its own, about once in 13 windows; that it does so more than three times in 12 has a probability of 1e-3. With a
    turn of the grid that micro-batches share, none of 12 holds it; what evaluations leave in the model shows, too."""
    problem = Marginal(_images(_blobs(1), 400), PLAN)
    model = problem.density(_placed(_to_scale(problem, _blobs(1), _turns(400)))[None])
    _descend(problem, model, 6, 40)
    generator = _generator(9)

    def micro_gradients(at: MarginalDensity) -> list[torch.Tensor]:
        return [_evaluate(problem, at, part).gradient for part in split(problem.sample(40, generator), 2)]

    independent = [torch.stack(micro_gradients(copy.deepcopy(model))).mean(0) for _ in range(120)]
    reference = _ratio(independent, problem.preconditioner(model))
    held, estimates = 0, []
    for _ in range(12):
        noise, at = GradientNoise(20), copy.deepcopy(model)
        for _ in range(20):
            noise.measure(micro_gradients(at), 40, problem.population, problem.preconditioner(at))
        estimate = noise.estimate()
        assert estimate is not None
        assert estimate.snr is not None
        assert estimate.low is not None
        assert estimate.high is not None
        estimates.append(estimate.snr)
        held += estimate.low <= reference <= estimate.high
    assert held >= 9, (held, reference, np.mean(estimates))
    assert np.mean(estimates) == pytest.approx(reference, rel=0.2)
