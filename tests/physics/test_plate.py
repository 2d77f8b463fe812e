"""The plate with a hole of `notebooks/01_your_own_pde.ipynb`, as a reader would run it, against finite elements."""

import ast
import math
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from skfem import (
    Basis,
    BilinearForm,
    ElementQuad2,
    ElementVector,
    FacetBasis,
    LinearForm,
    MeshQuad,
    MeshQuad2,
    condense,
    solve,
)
from skfem.helpers import ddot, eye, sym_grad, trace

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01_your_own_pde.ipynb"
RADIUS, POISSON = 0.25, 0.3
BEFORE = "import torch, sciml\nfrom sciml.pde import MLP, Box\nSMOKE = False\n"
"""What the notebook's first cells have imported by then."""


def cell() -> str:
    """The plate's cell."""
    sources = [cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    (source,) = [source for source in sources if "class Plate" in source]
    return source


def finite_elements(cells: int) -> tuple[Basis, np.ndarray]:
    """Displacements of the quarter plate by quadratic elements along rays from the hole, curved with it."""
    rays = MeshQuad.init_tensor(np.linspace(0, 1, cells + 1), np.linspace(0, 1, 2 * cells + 1))
    straight = MeshQuad2.from_mesh(rays)
    angle = straight.doflocs[1] * math.pi / 2
    ratio = 1 / (RADIUS * np.maximum(np.cos(angle), np.sin(angle)))  # outer edge over hole along the ray
    radius = RADIUS * ratio ** straight.doflocs[0]
    mesh = MeshQuad2(np.array([radius * np.cos(angle), radius * np.sin(angle)]), straight.t)
    element = ElementVector(ElementQuad2())
    basis = Basis(mesh, element, intorder=6)

    @BilinearForm
    def stiffness(u, v, _):  # type: ignore[no-untyped-def]
        e = sym_grad(u)
        return ddot(e + POISSON / (1 - POISSON) * eye(trace(e), 2), sym_grad(v)) / (1 + POISSON)

    @LinearForm
    def pull(v, _):  # type: ignore[no-untyped-def]
        return v[0]

    right = FacetBasis(mesh, element, facets=mesh.facets_satisfying(lambda x: np.isclose(x[0], 1)), intorder=6)
    held = [dofs[np.abs(basis.doflocs[axis, dofs]) < 1e-12] for axis, dofs in enumerate(basis.split_indices())]
    answer = solve(*condense(stiffness.assemble(basis), pull.assemble(right), D=np.concatenate(held)))
    return basis, np.asarray(answer)


def highest_stress(basis: Basis, u: np.ndarray) -> float:
    """sigma_xx at the top of the hole, extrapolated from the elements beside it by projection."""
    slope = np.asarray(basis.interpolate(u).grad)  # type: ignore[union-attr]
    scalar = basis.with_element(ElementQuad2())
    stress = np.asarray(scalar.project((slope[0, 0] + POISSON * slope[1, 1]) / (1 - POISSON**2)))
    return float(stress[np.argmin(np.hypot(scalar.doflocs[0], scalar.doflocs[1] - RADIUS))])


def test_it_is_short_and_says_each_thing_on_a_line_of_its_own() -> None:
    lines = [line for line in cell().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 120
    statements = [node.lineno for node in ast.walk(ast.parse(cell())) if isinstance(node, ast.stmt)]
    assert len(statements) == len(set(statements))


def test_the_finite_elements_settle() -> None:
    coarse, fine = (highest_stress(*finite_elements(cells)) for cells in (16, 32))
    assert coarse == pytest.approx(fine, rel=1e-3)
    assert fine == pytest.approx(3.583, rel=1e-3)  # what the notebook quotes


@pytest.mark.slow
def test_displacements_and_stress_agree_with_finite_elements() -> None:
    names: dict = {}
    exec(compile(BEFORE + cell(), str(NOTEBOOK), "exec"), names)
    basis, u = finite_elements(32)
    parts = basis.split_indices()
    places = torch.from_numpy(basis.doflocs[:, parts[0]].T.copy())
    reference = np.stack([u[dofs] for dofs in parts], axis=1)
    field = names["displacement"](names["pulled"].model)
    with torch.no_grad():
        error = field(places).numpy() - reference
    assert np.linalg.norm(error) < 1e-3 * np.linalg.norm(reference)
    top = torch.tensor([[0.0, RADIUS]], dtype=torch.float64)
    stress = names["Elastic"](young=1.0, poisson=POISSON).stress(field, top)[0].detach()
    assert stress[0, 0] == pytest.approx(3.583, rel=1e-3)
    assert stress[1:].abs().max() < 1e-2  # no traction on the hole
