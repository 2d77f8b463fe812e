"""Derivatives against closed forms, batched over points, in and out of autograd."""

import math

import pytest
import torch
from torch import Tensor

from sciml.errors import InputError
from sciml.pde import MLP, derivative, derivatives, divergence, gradient, laplacian


@pytest.fixture
def points() -> Tensor:
    return torch.rand(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def wave(x: Tensor) -> Tensor:
    return torch.sin(2 * x[..., :1]) * torch.exp(x[..., 1:])


def test_partial_derivatives_of_every_order(points: Tensor) -> None:
    a, b = points[:, :1], points[:, 1:]
    for order in range(5):
        expected = 2**order * torch.sin(2 * a + order * math.pi / 2) * torch.exp(b)
        assert torch.allclose(derivative(wave, points, order=order, dim=0), expected, rtol=1e-12)
        assert torch.allclose(derivative(wave, points, order=order, dim=1), wave(points), rtol=1e-12)


def test_mixed_derivative_of_a_derivative(points: Tensor) -> None:
    mixed = derivative(lambda x: derivative(wave, x, dim=0), points, dim=1)
    assert torch.allclose(mixed, 2 * torch.cos(2 * points[:, :1]) * torch.exp(points[:, 1:]), rtol=1e-12)


def test_a_nested_flux_reads_like_the_formula() -> None:
    x = torch.linspace(0.1, 1, 9, dtype=torch.float64)[:, None]
    stiffness = lambda x: 1 + x**2
    flux = derivative(lambda x: stiffness(x) * derivative(torch.sin, x), x)
    assert torch.allclose(flux, 2 * x * torch.cos(x) - (1 + x**2) * torch.sin(x), rtol=1e-12)


def test_values_may_lack_the_last_dimension(points: Tensor) -> None:
    result = derivative(lambda x: wave(x)[:, 0], points)
    assert result.shape == (7,)
    assert torch.allclose(result, derivative(wave, points)[:, 0])


def test_several_components_and_leading_dimensions() -> None:
    x = torch.rand(3, 4, 1, dtype=torch.float64)
    slope = derivative(lambda x: torch.cat([x**2, x**3], dim=-1), x)
    assert torch.allclose(slope, torch.cat([2 * x, 3 * x**2], dim=-1))


def test_derivatives_come_from_one_evaluation() -> None:
    calls = []

    def field(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x**4

    x = torch.rand(5, 1, dtype=torch.float64)
    value, slope, curvature = derivatives(field, x, order=2)
    assert calls == [5]
    for result, expected in ((value, x**4), (slope, 4 * x**3), (curvature, 12 * x**2)):
        assert torch.allclose(result, expected)


def test_gradient_divergence_laplacian(points: Tensor) -> None:
    a, b = points[:, :1], points[:, 1:]
    slopes = torch.cat([2 * torch.cos(2 * a) * torch.exp(b), wave(points)], dim=1)
    assert torch.allclose(gradient(wave, points), slopes)
    assert torch.allclose(laplacian(wave, points), -3 * wave(points))
    assert torch.allclose(divergence(lambda x: gradient(wave, x), points), -3 * wave(points))
    both = gradient(lambda x: torch.cat([wave(x), 2 * wave(x)], dim=-1), points)
    assert both.shape == (7, 2, 2)
    assert torch.allclose(both[:, 1], 2 * slopes)


def test_a_line_has_no_curvature_and_a_constant_no_slope() -> None:
    x = torch.rand(4, 1, dtype=torch.float64)
    assert torch.equal(derivative(lambda x: 3 * x, x, order=2), torch.zeros_like(x))
    assert torch.equal(derivative(lambda x: torch.ones_like(x), x), torch.zeros_like(x))


def test_results_train_parameters_and_leave_the_points_alone() -> None:
    model = MLP(1, 1).double()
    x = torch.rand(6, 1, dtype=torch.float64)
    derivative(model, x, order=2).square().mean().backward()
    assert not x.requires_grad
    assert all(p.grad is not None for p in list(model.parameters())[:-1])  # the last bias has no slope


def test_without_gradients_the_result_is_plain() -> None:
    model = MLP(1, 1).double()
    x = torch.rand(6, 1, dtype=torch.float64)
    with torch.no_grad():
        plain = derivative(model, x, order=2)
    assert not plain.requires_grad
    assert torch.equal(plain, derivative(model, x, order=2))


def test_a_tensor_must_hang_on_the_points() -> None:
    x = torch.rand(4, 1, dtype=torch.float64)
    with pytest.raises(InputError, match="requires_grad"):
        derivative(x**2, x)
    x.requires_grad_(True)
    assert torch.allclose(derivative(x**2, x), 2 * x)


def test_a_coordinate_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="coordinates 0 to 1"):
        derivative(wave, torch.rand(3, 2), dim=2)
    with pytest.raises(InputError, match="1 components in 2 dimensions"):
        divergence(wave, torch.rand(3, 2))


def test_values_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"values of shape \(3, 1\)"):
        derivative(lambda x: x[:3], torch.rand(4, 1))


def test_divergence_of_a_tensor_field_is_taken_row_by_row() -> None:
    x = torch.rand(7, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    first = lambda x: torch.stack([x[:, 0] ** 2 * x[:, 1], x[:, 1] ** 3], dim=1)
    second = lambda x: torch.stack([torch.sin(x[:, 1]), x[:, 0] * x[:, 1]], dim=1)
    both = divergence(lambda x: torch.stack([first(x), second(x)], dim=1), x)
    assert torch.allclose(both, torch.cat([divergence(first, x), divergence(second, x)], dim=1))
    assert torch.allclose(both[:, :1], 2 * x[:, :1] * x[:, 1:] + 3 * x[:, 1:] ** 2)
    # The gradient of a vector field is such a tensor: its divergence is the Laplacian.
    assert torch.allclose(divergence(lambda x: gradient(first, x), x), laplacian(first, x))
