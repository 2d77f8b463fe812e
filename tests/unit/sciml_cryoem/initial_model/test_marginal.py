"""The density without poses as a stochastic problem: gradient, preconditioner, symmetry, growth by prediction."""

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
from sciml_cryoem.initial_model import marginal
from sciml_cryoem.initial_model.marginal import HALF_LIFE, PREDICTED, Drawn, Marginal, MarginalDensity
from sciml_cryoem.initial_model.search_plan import FRONTIER, Plan
from sciml_cryoem.poses.pose_error import pose_error
from sciml_cryoem.reconstruction.image_spectra import ImageSpectra

BOX = 32
PLAN = replace(Plan.fit(BOX), stop=10.0, shift_range=1.0, shift_step=1.0)  # five shifts: fast


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


def _descend(problem: Marginal, model: MarginalDensity, steps: int, batch: int, seed: int = 0) -> list[float | None]:
    """Stochastic steps; the predicted share after each."""
    generator, shares = _generator(seed), []
    apply = problem.preconditioner(model)
    for _ in range(steps):
        _, gradient = problem.gradient(model, problem.sample(batch, generator))
        model.voxels.data -= 0.5 * apply(gradient).reshape(model.voxels.shape)
        shares.append(problem.predicted(model))
    return shares


def _warm(problem: Marginal, steps: int = 8, classes: int = 1) -> MarginalDensity:
    """A model with a map and running statistics."""
    model = MarginalDensity(PLAN, problem.blob(classes, np.random.default_rng(0)))
    _descend(problem, model, steps, 30)
    return model


@pytest.fixture(scope="module")
def problem() -> Marginal:
    return _problem(_blobs(1))


@pytest.fixture
def model(problem: Marginal) -> MarginalDensity:
    return _warm(problem)


class TestContract(ProblemContract):
    """What every Problem must keep to, the statistics that a batch moves aside: as for the whole set, they rest."""

    tolerance = 2e-5  # single precision
    step = 0.002
    derivative_tolerance = 0.02

    @pytest.fixture(autouse=True)
    def _no_frontier(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Shells beyond those scored are in the gradient, not in the loss."""
        monkeypatch.setattr(marginal, "FRONTIER", 0)

    @pytest.fixture
    def pair(self, problem: Marginal, _no_frontier: None) -> tuple[Marginal, MarginalDensity]:
        bare = Marginal(problem.images, PLAN)
        return bare, _warm(bare)

    def batch(self, problem: Any, model: Any, seed: int = 0, size: int | None = None) -> Drawn:
        drawn = problem.sample(size or self.batch_size, _generator(seed))
        return replace(drawn, whole=torch.ones_like(drawn.whole))

    def test_batches_of_equal_size_can_be_joined(self, pair: Any) -> None:
        """If their grids are turned alike: one step has one turn."""
        problem, model = pair
        first, second = self.batch(problem, model, 1), self.batch(problem, model, 2)
        second = replace(second, turn=first.turn)
        joined = Drawn(*(torch.cat([getattr(b, name) for b in (first, second)]) for name in ("rows", "turn", "whole")))
        mean = (self.loss(problem, model, first) + self.loss(problem, model, second)) / 2
        assert self.loss(problem, model, joined) == pytest.approx(mean, rel=self.tolerance)

    def test_an_own_gradient_equals_autograd(self, pair: Any) -> None:
        """There is nothing to compare with: the loss is compiled. Finite differences are (see the contract)."""


def _slope(problem: Marginal, model: MarginalDensity, whole: Drawn, direction: torch.Tensor) -> float:
    """Of the loss along a unit direction, by finite differences of fourth order."""
    start, values = model.voxels.detach().clone(), []
    length = 0.005 * float(start.norm())
    for sign in (-2, -1, 1, 2):
        model.voxels.data = start + sign * length * direction
        values.append(sum(float(term) for term in problem.loss(model, whole).values()))
    model.voxels.data = start
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * length)


def test_the_gradient_of_the_whole_set_is_the_derivative_of_the_loss(
    problem: Marginal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along the gradient, along noise, and along a gradient of density, with offsets, CTF, mask and gridding."""
    monkeypatch.setattr(marginal, "FRONTIER", 0)
    bare = Marginal(problem.images, PLAN)
    model, whole = _warm(bare), bare.sample(None, _generator(3))
    assert bool(whole.whole.all())
    _, gradient = bare.gradient(model, whole)
    start = model.voxels.detach().clone()
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=start.shape)).float()
    line = torch.linspace(-1, 1, start.shape[-1])
    for direction in (gradient.reshape(start.shape), noise * torch.from_numpy(bare.mask), line * start):
        direction = direction / direction.norm()
        expected = float(gradient @ direction.reshape(-1))
        assert abs(expected) > 0.005 * float(gradient.norm())
        assert _slope(bare, model, whole, direction) == pytest.approx(expected, rel=0.02)


def test_the_gradient_under_symmetry_is_the_derivative_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among symmetric maps: an image speaks for all its symmetric views together, not for each again."""
    monkeypatch.setattr(marginal, "FRONTIER", 0)
    problem, group = _problem(_blobs(1), 60, "C3"), point_group("C3")
    model = MarginalDensity(PLAN, problem.blob(1, np.random.default_rng(0)))
    _descend(problem, model, 6, 30)
    symmetric = symmetrize_map(model.voxels.detach()[0].numpy() * problem.mask, group)
    model.voxels.data = torch.from_numpy(symmetric)[None]
    whole = problem.sample(None, _generator(3))
    _, gradient = problem.gradient(model, whole)
    volume = gradient.reshape((PLAN.side,) * 3).numpy() * problem.mask
    direction = torch.from_numpy(symmetrize_map(volume, group))[None]
    direction = direction / direction.norm()
    expected = float(gradient @ direction.reshape(-1))
    assert _slope(problem, model, whole, direction) == pytest.approx(expected, rel=0.03)


def test_shells_ahead_are_in_the_gradient_and_not_in_the_loss(problem: Marginal, model: MarginalDensity) -> None:
    """They are pulled towards the images at poses in which they have no say: along low frequencies alone the gradient
    is that of the loss."""
    whole = problem.sample(None, _generator(3))
    _, gradient = problem.gradient(model, whole)
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
    terms, _ = problem.gradient(model, whole)
    for name, value in problem.loss(model, whole).items():
        assert float(value) == pytest.approx(float(terms[name]), rel=1e-6)
    # Against an empty map the images are likely, the prior costs something.
    assert float(terms["data"]) < -1.0
    assert 0.0 < float(terms["prior"]) < 0.5 * abs(float(terms["data"]))


def test_the_whole_set_moves_no_statistics(problem: Marginal, model: MarginalDensity) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    problem.gradient(model, problem.sample(None, _generator(4)))
    kept = {"weight", "seen", "radius", "predicted"}
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in kept)
    problem.gradient(model, problem.sample(20, _generator(4)))
    assert not torch.equal(before["weight"], model.weight)
    fresh = MarginalDensity(PLAN, model.voxels.detach().numpy())
    problem.gradient(fresh, problem.sample(None, _generator(4)))
    assert float(fresh.seen) > 0  # but for a model that has none


def test_running_weight_does_not_depend_on_how_a_batch_is_cut(problem: Marginal, model: MarginalDensity) -> None:
    """The weight of one image, whatever the size of a batch: the preconditioner of any number of images."""
    states = []
    for cuts in ((40,), (10, 10, 20)):
        copy = MarginalDensity(PLAN, model.voxels.detach().numpy())
        batch, start = problem.sample(40, _generator(5)), 0
        for size in cuts:
            part = slice(start, start + size)
            problem.gradient(copy, Drawn(batch.rows[part], batch.turn[part], batch.whole[part]))
            start += size
        states.append((copy.weight / copy.seen, float(copy.seen), copy.predicted))
    assert states[0][1] == pytest.approx(1.0 - 0.5 ** (40 / HALF_LIFE), rel=1e-5)
    assert states[1][1] == pytest.approx(states[0][1], rel=1e-5)
    assert float((states[0][0] - states[1][0]).norm() / states[0][0].norm()) < 0.2
    assert float(states[0][2][-1]) == float(states[1][2][-1]) == 40.0


def _frozen_hessian(problem: Marginal, model: MarginalDensity, whole: Drawn) -> Any:
    """v -> Hessian of the loss with all posteriors held."""
    found, axes, slices = problem._batch(model, whole, gather=True)
    denominator = found.denominator.reshape(slices.shape)

    def apply(vector: torch.Tensor) -> torch.Tensor:
        probe = MarginalDensity(PLAN, vector.reshape(model.voxels.shape).numpy())
        probe.load_state_dict({**model.state_dict(), "voxels": probe.voxels.detach()})
        _, mine = problem._slices(probe, whole.turn[0].numpy())
        grids = problem._insert(axes, denominator * mine, denominator, PLAN.side)
        data = np.stack([problem._adjoint(grid) for grid in grids]) * (2.0 / len(whole.rows))
        return torch.from_numpy(data).reshape(-1) + problem._prior_gradient(probe).reshape(-1)

    return apply


def test_preconditioner_is_symmetric_positive_and_bounds_the_hessian(problem: Marginal, model: MarginalDensity) -> None:
    """A full step with poses held is stable, expectation maximisation; so is the half that is taken on a batch, whose
    grid has another turn than those whose weights are remembered."""
    apply = problem.preconditioner(model)
    draw = np.random.default_rng(0)
    u, v = (torch.from_numpy(draw.normal(size=model.voxels.numel())) for _ in range(2))
    assert float(u @ apply(v)) == pytest.approx(float(apply(u) @ v), rel=1e-9)
    assert float(v @ apply(v)) > 0
    whole, fresh = problem.sample(None, _generator(6)), MarginalDensity(PLAN, model.voxels.detach().numpy())
    problem.gradient(fresh, whole)
    for case, low, high in ((fresh, 0.8, 2.0), (model, 0.8, 3.6)):
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
        model = MarginalDensity(PLAN, 0.1 * symmetrize_map(blob, group)[None])
        _, gradient = problem.gradient(model, problem.sample(None, _generator(2)))
        volume = gradient.reshape((side,) * 3).numpy() * problem.mask
        asymmetry.append(float(np.linalg.norm(volume - symmetrize_map(volume, group)) / np.linalg.norm(volume)))
    assert asymmetry[0] < 1e-4
    assert asymmetry[1] > 0.05


def test_only_views_of_one_asymmetric_unit_are_tried() -> None:
    whole, part = _problem(None, 12), _problem(None, 12, "D2")
    turn = orientations.random_turns(1, np.random.default_rng(0))[0]
    share = len(part.orientations(6.0, turn)) / len(whole.orientations(6.0, turn))
    assert 0.2 < share < 0.35


def _shares(volume: np.ndarray | None, steps: int) -> list[float]:
    """Predicted shares of signal just beyond a radius that must rest."""
    problem = Marginal(_images(volume, 200), replace(PLAN, stop=PLAN.start))
    model = MarginalDensity(problem.plan, problem.blob(1, np.random.default_rng(0)))
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
    model = MarginalDensity(PLAN, problem.blob(1, np.random.default_rng(0)))
    _descend(problem, model, 3600 // batch, batch)
    assert float(model.radius) <= PLAN.start + 1.0


@pytest.mark.rounding
def test_the_radius_grows_on_images_of_a_map_and_their_poses_are_found() -> None:
    """From a blob; poses up to the turn and hand that no image can tell, as fine as the grid."""
    images, errors = _images(_blobs(1), 200), []
    for seed in (0, 1):
        problem = Marginal(images, PLAN)
        model = MarginalDensity(PLAN, problem.blob(1, np.random.default_rng(0)))
        _descend(problem, model, 80, 40, seed)
        assert PLAN.start + 1.0 < float(model.radius) <= PLAN.stop
        poses = problem.poses(model)
        assert poses.rotations.shape == (200, 3, 3)
        assert set(poses.classes) == {0}
        error = pose_error(_turns(200), _offsets(200), poses.rotations, poses.offsets)
        errors.append(float(np.median(error.angles_deg)))
    # half of the grid's points are 14 degrees away; measured 9 to 10 with each of six seeds after 80 steps, where after
    # half as many some are still at 23 or 91
    assert max(errors) < 20.0, errors


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
    model, single = MarginalDensity(PLAN, np.stack(maps)), MarginalDensity(PLAN, maps[0][None])
    for each in (model, single):
        each.radius.fill_(9.0)
    poses = problem.poses(model)
    assert np.mean(poses.classes == np.repeat([0, 1], 60)) > 0.95
    alone = problem.poses(single)
    assert poses.log_likelihood[60:].mean() > alone.log_likelihood[60:].mean() + 2.0
    # An image of the first class gains nothing by the second, and pays for the choice.
    assert (poses.log_likelihood - alone.log_likelihood)[:60].mean() == pytest.approx(-np.log(2.0), abs=0.1)
    _, gradient = problem.gradient(model, problem.sample(None, _generator(0)))
    assert gradient.numel() == 2 * PLAN.side**3
    started = problem.blob(2, np.random.default_rng(0))
    assert started.shape == (2, *(PLAN.side,) * 3)
    assert 0.01 < np.abs(started[0] - started[1]).max() / started.max() < 1.0


def test_likelihood_at_a_radius_leaves_the_model_as_it_was(problem: Marginal, model: MarginalDensity) -> None:
    before = float(model.radius)
    low, high = (problem.log_likelihood(model, np.arange(20), np.eye(3), radius) for radius in (4.0, 9.0))
    assert float(model.radius) == before
    assert low != high
    whole = Drawn(torch.arange(20), torch.eye(3, dtype=torch.float64).expand(20, 3, 3), torch.ones(20).bool())
    model.radius.fill_(4.0)
    assert -float(problem.loss(model, whole)["data"]) == pytest.approx(low, rel=1e-6)


def test_poses_after_a_part_of_the_set_are_of_all_images(problem: Marginal, model: MarginalDensity) -> None:
    """Micro-batches of the whole set must not be taken for it."""
    whole = problem.sample(None, _generator(1))
    expected = problem.poses(model)
    part = Drawn(whole.rows[:20], whole.turn[:20], whole.whole[:20])
    problem.gradient(model, part)
    found = problem.poses(model)
    assert len(found.rotations) == problem.size == len(expected.rotations)
