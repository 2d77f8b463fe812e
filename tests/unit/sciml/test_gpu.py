"""On an accelerator: the same batches as on the CPU, and the same answer to a stated tolerance (`make gpu-check`)."""

import math

import pytest
import torch

import sciml
from sciml.pde import MLP, Interval, derivative

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


class Poisson(sciml.Problem):
    def sample(self, size, generator):
        return Interval(0.0, 1.0).sample(size or 256, generator)

    def loss(self, model, batch):
        u = lambda x: x * (1 - x) * model(x)
        residual = derivative(u, batch, order=2) + math.pi**2 * torch.sin(math.pi * batch)
        return {"pde": residual.square().mean()}


def error(model):
    parameter = next(model.parameters())
    x = torch.linspace(0, 1, 101, dtype=torch.float64, device=parameter.device)[:, None]
    return float((x * (1 - x) * model(x) - torch.sin(math.pi * x)).abs().max())


def test_first_steps_agree_with_the_cpu_to_rounding():
    losses = []
    for device in ("cpu", "cuda"):
        solution = sciml.solve(
            Poisson(), MLP(1, 1).double().to(device), [sciml.Adam(steps=30), sciml.SelfScaled(steps=10)]
        )
        losses.append([r["loss"] for r in solution.history if r["kind"] == "step"])
    assert len(losses[0]) == len(losses[1])
    for a, b in zip(*losses, strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_solve_on_the_gpu_reaches_the_same_accuracy():
    model = MLP(1, 1).double().cuda()
    solution = sciml.solve(Poisson(), model)
    assert next(solution.model.parameters()).is_cuda
    assert error(model) < 1e-5
