"""What a problem gives by default."""

import pytest
import torch

import sciml
from sciml.errors import InputError


def test_residuals_alone_make_a_loss() -> None:
    class Residuals(sciml.Problem):
        def sample(self, size: int | None, generator: torch.Generator) -> torch.Tensor:
            return torch.arange(1.0, 1.0 + (size or 4))

        def least_squares(self, model: torch.nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"a": batch, "b": batch.new_tensor([3.0])}

    class Nothing(sciml.Problem):
        def sample(self, size: int | None, generator: torch.Generator) -> torch.Tensor:
            return torch.zeros(1)

    model = torch.nn.Linear(1, 1)
    terms = Residuals().loss(model, torch.tensor([1.0, 2.0]))
    assert {name: float(term) for name, term in terms.items()} == {"a": 2.5, "b": 9.0}
    with pytest.raises(InputError, match="Nothing has neither a method `loss` nor `least_squares`"):
        Nothing().loss(model, torch.zeros(1))
