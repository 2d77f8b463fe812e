"""Every PDE keeps the contract of a Problem."""

import pytest
from problem_contract import ProblemContract  # pyright: ignore[reportMissingImports]
from sciml_pdes import CATALOG, make
from torch import nn

from sciml import Problem


@pytest.mark.parametrize("name", CATALOG, scope="class")
class TestEveryPDE(ProblemContract):
    # Residuals with two nested derivatives amplify rounding in the finite difference.
    derivative_tolerance = 1e-5

    @pytest.fixture
    def pair(self, name: str) -> tuple[Problem, nn.Module]:
        problem = make(name)
        return problem, problem.model(seed=1)
