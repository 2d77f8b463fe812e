"""One vector behind the parameters of a model."""

import pytest
import torch

from sciml.errors import InputError
from sciml.parameters import FlatParameters


def test_flat_parameters_are_the_models_own():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    before = model(torch.ones(1, 2))
    flat = FlatParameters(model.parameters())
    assert torch.equal(model(torch.ones(1, 2)), before)
    flat.vector.zero_()
    assert torch.equal(model(torch.ones(1, 2)), torch.zeros(1, 1))
    assert flat.vector.shape == (13,)


def test_models_that_cannot_be_trained_are_refused():
    with pytest.raises(InputError, match="no trainable"):
        FlatParameters(torch.nn.Tanh().parameters())
    mixed = torch.nn.ModuleList([torch.nn.Linear(1, 1), torch.nn.Linear(1, 1).double()])
    with pytest.raises(InputError, match=r"float32 on cpu, torch\.float64 on cpu"):
        FlatParameters(mixed.parameters())
