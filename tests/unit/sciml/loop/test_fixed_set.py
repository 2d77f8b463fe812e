"""The fixed set of a quasi-Newton phase: which items it holds, which lie beside it, and how it is drawn anew."""

import pytest
import torch

import sciml
from sciml.batches import leaves
from sciml.loop import fixed_set
from sciml.loop.fixed_set import FixedSet

HOT = 0.1
"""The residual is large for x below this."""


class Cliff(sciml.Problem):
    """Residual 1 for x < HOT, else 0.01, whatever the model; y and the label are functions of x."""

    declared = 100

    def sample(self, size, generator):
        x = torch.rand(size or self.declared, 1, generator=generator, dtype=torch.float64)
        return {"x": x, "rest": (torch.cat([3 * x, -x], 1), (x[:, 0] * 1e6).long())}

    def least_squares(self, model, batch):
        return {"cliff": torch.where(batch["x"] < HOT, 1.0, 0.01) + 0 * model(batch["x"])}


class Unknown(Cliff):
    """The same loss, without saying which item it comes from."""

    def loss(self, model, batch):
        return {"cliff": Cliff.least_squares(self, model, batch)["cliff"].square().mean()}

    def least_squares(self, model, batch):
        return None


class Walls(sciml.Problem):
    """Points inside and half as many on a wall: no single count of items."""

    def sample(self, size, generator):
        x = torch.rand(size or 64, 1, generator=generator, dtype=torch.float64)
        return x, torch.rand(len(x) // 2, 1, generator=generator, dtype=torch.float64)

    def least_squares(self, model, batch):
        return {"inside": torch.where(batch[0] < HOT, 1.0, 0.01), "wall": model(batch[1])}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Linear(1, 1).double()


def made(problem=None, seed=0):
    return FixedSet(problem or Cliff(), seed, torch.zeros(1, dtype=torch.float64))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


def numbers(batch):
    return set(batch["x"].flatten().tolist())


def hot(x):
    return float((x < HOT).double().mean())


def test_the_set_is_a_function_of_the_seed():
    assert same(made(seed=3).batch, made(seed=3).batch)
    assert not numbers(made(seed=3).batch) & numbers(made(seed=4).batch)
    grown = [made(seed=3) for _ in range(2)]
    for fixed in grown:
        fixed.append(50)
        fixed.append(7)
    assert same(grown[0].batch, grown[1].batch) and same(grown[0].beside, grown[1].beside)
    assert grown[0].size == 157 and grown[0].declared == 100


def test_items_get_the_models_precision():
    fixed = FixedSet(Cliff(), 0, torch.zeros(1))
    assert [leaf.dtype for leaf in leaves(fixed.batch)] == [torch.float32, torch.float32, torch.int64]
    assert [leaf.dtype for leaf in leaves(fixed.beside)] == [torch.float32, torch.float32, torch.int64]


def test_items_beside_the_set_are_none_of_it_and_stay_until_it_is_drawn_anew(model):
    fixed = made()
    first = fixed.beside
    assert fixed.beside is first and len(numbers(first)) == fixed.declared
    for change, kept in (
        (lambda: fixed.append(100), True),
        (lambda: fixed.renew(fixed.survey(model), 200), False),
        (lambda: fixed.append(3), True),
    ):
        before = fixed.beside
        change()
        assert (fixed.beside is before) == kept
        assert kept or not numbers(fixed.beside) & numbers(before)
        assert len(numbers(fixed.beside)) == fixed.declared
        assert not numbers(fixed.beside) & numbers(fixed.batch)


def test_growing_keeps_the_items_and_adds_new_ones():
    fixed = made()
    old = fixed.batch
    fixed.append(60)
    assert fixed.size == 160 == len(numbers(fixed.batch))
    for before, after in zip(leaves(old), leaves(fixed.batch), strict=True):
        assert torch.equal(after[:100], before)


def test_a_survey_sees_new_items_and_every_residual(model):
    fixed = made()
    survey = fixed.survey(model)
    x = survey.items["x"]
    assert len(x) == fixed_set.CANDIDATES * 100
    assert not numbers(survey.items) & (numbers(fixed.batch) | numbers(made().beside))
    assert survey.density is not None
    assert torch.allclose(survey.density, torch.where(x[:, 0] < HOT, 1.0, 0.01).double())
    assert survey.loss == pytest.approx(hot(x) + (1 - hot(x)) * 1e-4)
    assert not numbers(survey.items) & numbers(fixed.survey(model).items)


def test_the_new_set_is_dense_where_the_residuals_are_large(model, monkeypatch):
    """Weights 1/2 + density / (2 mean density): 5.1 on a tenth of the candidates, 0.55 on the others. Two eighths of
    them drawn without replacement, so that the heavy ones run short, have a share of 0.34 of the heavy ones."""
    monkeypatch.setattr(Cliff, "declared", 400)
    shares, plain = [], []
    for seed in range(5):
        fixed = made(seed=seed)
        plain.append(hot(fixed.batch["x"]))
        fixed.renew(fixed.survey(model), 400)
        assert fixed.size == fixed.declared == 400
        shares += [hot(fixed.batch["x"]), hot(fixed.beside["x"])]
    assert sum(plain) / 5 == pytest.approx(0.1, abs=0.03)
    assert sum(shares[0::2]) / 5 == pytest.approx(0.34, abs=0.04)
    assert sum(shares[1::2]) / 5 == pytest.approx(0.34, abs=0.04)  # beside the set it is as on it


@pytest.mark.parametrize("problem", [Cliff(), Unknown()])
def test_an_item_stays_whole(model, problem):
    fixed = made(problem)
    fixed.renew(fixed.survey(model), 150)
    fixed.append(20)
    for batch, size in ((fixed.batch, 170), (fixed.beside, 100)):
        x, (pair, label) = batch["x"], batch["rest"]
        assert x.shape == (size, 1) and pair.shape == (size, 2) and label.shape == (size,)
        assert torch.equal(pair, torch.cat([3 * x, -x], 1))
        assert torch.equal(label, (x[:, 0] * 1e6).long())


def test_without_residuals_the_new_set_is_a_plain_draw(model):
    fixed = made(Unknown())
    old, survey = fixed.batch, fixed.survey(model)
    assert survey.density is None
    assert survey.loss == pytest.approx(hot(survey.items["x"]), rel=0.01)
    fixed.renew(survey, 4000)
    assert fixed.size == 4000
    assert hot(fixed.batch["x"]) == pytest.approx(0.1, abs=0.025)
    assert not numbers(fixed.batch) & (numbers(old) | numbers(fixed.beside))


def test_leaves_that_count_different_items_are_drawn_plainly(model):
    fixed = made(Walls())
    survey = fixed.survey(model)
    assert survey.density is None
    fixed.renew(survey, 2000)
    inside, wall = fixed.batch
    assert (len(inside), len(wall)) == (2000, 1000)
    assert hot(inside) == pytest.approx(0.1, abs=0.035)
    assert [len(leaf) for leaf in leaves(fixed.beside)] == [64, 32]


def test_residuals_of_no_item_and_residuals_that_are_no_numbers(model):
    class End(Cliff):
        def least_squares(self, model, batch):
            return {**super().least_squares(model, batch), "end": model(batch["x"][:1]).sum(), "two": torch.ones(2)}

    class Pole(Cliff):
        def least_squares(self, model, batch):
            return {"pole": 1 / (batch["x"] < HOT).double()}

    fixed, plain = made(End()), made()
    density, expected = fixed.survey(model).density, plain.survey(model).density
    assert density is not None and expected is not None and torch.equal(density, expected)
    pole = made(Pole())
    survey = pole.survey(model)
    assert survey.density is None
    pole.renew(survey, 100)
    assert pole.size == 100


@pytest.mark.parametrize("problem", [Cliff(), Unknown(), Walls()])
@pytest.mark.parametrize("changes", ["", "a", "r", "ar", "ra", "rara"])
def test_what_is_saved_is_restored_bit_for_bit(model, problem, changes):
    def change(fixed, which):
        for name in which:
            if name == "a":
                fixed.append(fixed.size)
            else:
                fixed.renew(fixed.survey(model), fixed.size + 10)

    whole = made(problem, seed=5)
    change(whole, changes)
    saved = {name: tensor.clone() for name, tensor in whole.tensors().items()}
    assert bool(saved) == bool(changes)  # the first draw need not be saved
    again = made(problem, seed=5)
    again.restore(saved, whole.draws)
    assert same(again.batch, whole.batch) and same(again.beside, whole.beside)
    assert again.size == whole.size and again.declared == whole.declared
    for fixed in (whole, again):  # and it goes on alike
        change(fixed, "ra")
    assert same(again.batch, whole.batch) and same(again.beside, whole.beside)


def test_a_batch_with_few_rows_in_one_tensor_is_surveyed_whole() -> None:
    class Ends(sciml.Problem):
        def sample(self, size: int | None, generator: torch.Generator) -> dict[str, torch.Tensor]:
            return {"inside": torch.rand(size or 16, 1, generator=generator), "ends": torch.tensor([[0.0], [1.0]])}

        def loss(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name: model(points).square().mean() for name, points in batch.items()}

    model = torch.nn.Linear(1, 1)
    problem = Ends()
    fixed = FixedSet(problem, 0, next(model.parameters()).detach())
    survey = fixed.survey(model)
    with torch.no_grad():
        expected = float(sum(problem.loss(model, survey.items).values()))
    assert survey.density is None and survey.loss == pytest.approx(expected, rel=1e-6)
    fixed.renew(survey, 32)
    assert fixed.batch["inside"].shape == (32, 1) and fixed.batch["ends"].shape == (2, 1)
