"""Self-scaled Broyden updates of a dense inverse Hessian, for models of up to about 10,000 parameters.

With b = s'Bs / y's, h = y'Hy / y's and v = sqrt(y'Hy) (s / y's - Hy / y'Hy):

    H+ = (1 / tau) [H - Hy y'H / y'Hy + q v v'] + s s' / y's,

where tau and q are Al-Baali's choices as used for networks by Urban, Stefanou and Pons (2024, arXiv 2405.04230). b
costs nothing, since s = a p and p = -H g give s'Bs = -a^2 p'g. Hy is a product of its own and not H g+ + p: where steps
are short that difference cancels.

H = c M: the factor 1 / tau goes into the number c, so that an iteration touches M only through two symmetric products
and one symmetric rank-two update. On a CPU these are BLAS calls that read and write one triangle: two n^2 numbers of
traffic an iteration, half of what the general ones move.
"""

import math

import torch
from scipy.linalg import blas
from torch import Tensor

from sciml.optim.quasi_newton import InverseHessian, Pair


def broyden_scaling(b: float, h: float, n: int) -> tuple[float, float]:
    """(tau, q) of Al-Baali's self-scaled Broyden update for b = s'Bs / y's, h = y'Hy / y's and n unknowns."""
    a = max(h * b - 1, 1e-16)
    c = math.sqrt(a / (a + 1))
    rho = min(1.0, h / ((a + 1) * (1 + c)))  # h (1 - c) without cancellation
    theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b))
    sigma = 1 + theta * a
    root = sigma ** (1 / (1 - n)) if n > 1 else 1.0
    if theta > 0:
        tau = min(1.0, 1 / b) * min(root, 1 / theta)
    else:
        tau = min(min(1.0, 1 / b) * root, sigma)
    return tau, (1 - theta) / (1 + a * theta)


class SymmetricMatrix:
    """A symmetric n x n matrix of which, on a CPU, only the lower triangle is kept up to date.

    Attributes:
        entries: shape (n, n); the part above the diagonal means nothing on a CPU, and is never touched, so that the
            system gives no memory to it.
    """

    def __init__(self, vector: Tensor) -> None:
        n = vector.numel()
        kind = {torch.float64: "d", torch.float32: "s"}.get(vector.dtype) if vector.device.type == "cpu" else None
        self.entries = torch.empty(n, n, dtype=vector.dtype, device=vector.device)
        # BLAS counts by columns: torch's lower triangle is the upper one of the transpose that it sees
        self._multiply = None if kind is None else getattr(blas, f"{kind}symv")
        self._add = None if kind is None else getattr(blas, f"{kind}syr2")

    def _parts(self) -> list[Tensor]:
        """Blocks of rows that cover what is kept up to date."""
        if self._multiply is None:
            return [self.entries]
        return [self.entries[i : i + 256, : i + 256] for i in range(0, len(self.entries), 256)]

    def set_identity(self) -> None:
        """Set M to the identity."""
        for part in self._parts():
            part.zero_()
        self.entries.fill_diagonal_(1.0)

    def multiply_by(self, factor: float) -> None:
        """Multiply M by a number, in place."""
        for part in self._parts():
            part.mul_(factor)

    def product(self, vector: Tensor) -> Tensor:
        """The product M v, shape (n,)."""
        if self._multiply is None:
            return self.entries @ vector
        return torch.from_numpy(self._multiply(1.0, self.entries.numpy().T, vector.numpy()))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add x y' + y x' to M, in place."""
        if self._add is None:
            torch.addmm(self.entries, torch.stack((x, y), 1), torch.stack((y, x)), out=self.entries)
        else:
            self._add(1.0, x.numpy(), y.numpy(), a=self.entries.numpy().T, overwrite_a=1)

    def add_form(self, x: Tensor, y: Tensor, xx: float, xy: float, yy: float) -> None:
        """Add xx x x' + xy (x y' + y x') + yy y y' to M, in place."""
        radicand = xy * xy - xx * yy
        if radicand < 0:  # definite: not the product of two real linear forms
            self.add(x, 0.5 * xx * x + xy * y)
            self.add(y, 0.5 * yy * y)
            return
        root = xy + math.copysign(math.sqrt(radicand), xy)
        self.add(0.5 * (xx * x + root * y), x + (yy / root) * y if root else x)


class DenseSelfScaled(InverseHessian):
    """A dense inverse Hessian in the parameters' dtype.

    On networks the minima along its directions lie at steps of 0.2 to 0.6, so that a search that begins at 1 needs 1.4
    to 2 evaluations. With a first step that adapts (`sciml.optim.quasi_newton`) it needs 1.05 to 1.25, and after 600
    evaluations the loss of eight problems of `sciml_pdes` and `sciml_rod` was 3 (Helmholtz) to 23 (smooth rod)
    times lower, ten times in the geometric mean. On 101 small CUTEst problems it costs: -2, +3 and +6 % evaluations to
    1e-5, 1e-10 and 1e-14, and three or four problems fewer within 300. L-BFGS, whose searches from 1 need 1.0 to 1.2
    evaluations, gains nothing on networks and loses 5 to 12 % on CUTEst.
    """

    overshoots = True

    def __init__(self, vector: Tensor) -> None:
        self.n = vector.numel()
        self.inner = SymmetricMatrix(vector)  # M
        self.scale = 1.0  # c
        self.fresh = True
        self._largest = torch.finfo(vector.dtype).max ** 0.25

    @property
    def matrix(self) -> Tensor:
        """H in full, shape (n, n): a copy, for inspection."""
        if self.fresh:
            return torch.eye(self.n).to(self.inner.entries)
        lower = torch.tril(self.inner.entries)
        return self.scale * (lower + torch.tril(lower, -1).T)

    @matrix.setter
    def matrix(self, value: Tensor) -> None:
        self.inner.entries.copy_(value)
        self.scale, self.fresh = 1.0, False

    def product(self, gradient: Tensor) -> Tensor:
        """The product H g, shape (n,)."""
        return gradient.clone() if self.fresh else self.inner.product(gradient).mul_(self.scale)

    def update(self, pair: Pair) -> bool:
        """Rank-two update; refused when y's is not positive beyond rounding. When rounding has cost H its positive
        definiteness (y'Hy <= 0), H starts again from this pair."""
        if self.fresh:
            return self._start(pair)
        hy = self.product(pair.y)
        s, y = pair.s, pair.y
        ys, yhy, ss, yy = torch.stack((y @ s, y @ hy, s @ s, y @ y)).tolist()
        if not ys > 1e-12 * math.sqrt(ss * yy):
            return False
        b = -(pair.step**2) * pair.slope / ys
        if not b > 0:
            return False
        if not yhy > 0:
            return self._start(pair)
        tau, q = broyden_scaling(b, yhy / ys, self.n)
        if not (tau > 0 and math.isfinite(1 / tau)):
            return self._start(pair)
        css = q * (yhy / ys) / (tau * ys) + 1 / ys
        csh = -q / (tau * ys)
        chh = (q - 1) / (tau * yhy)
        if not (math.isfinite(css) and math.isfinite(chh)):
            return self._start(pair)
        self.scale /= tau
        if not 1 / self._largest < self.scale < self._largest:
            self.inner.multiply_by(self.scale)
            self.scale = 1.0
        self.inner.add_form(s, hy, css / self.scale, csh / self.scale, chh / self.scale)
        return True

    def _start(self, pair: Pair) -> bool:
        """First pair: H = y's / y'y I before the update (Nocedal and Wright eq. 6.20), then a plain BFGS update."""
        s, y = pair.s, pair.y
        ys, yy, ss = torch.stack((y @ s, y @ y, s @ s)).tolist()
        if not ys > 1e-12 * math.sqrt(ss * yy):
            return False
        self.scale = ys / yy
        self.inner.set_identity()
        # in units of the scale, H y = y: a pair of natural size keeps M near 1 whatever the scale of the loss
        self.inner.add_form(s, y, 2 * yy / ys / ys, -1 / ys, 0.0)
        self.fresh = False
        return True

    def reset(self) -> None:
        """Drop all curvature: the next direction is steepest descent."""
        self.fresh = True

    def tensors(self) -> dict[str, Tensor]:
        """The matrix M, once there is curvature in it."""
        return {} if self.fresh else {"matrix": self.inner.entries}

    def numbers(self) -> dict:
        """Whether any curvature is held, and the factor of M."""
        return {"fresh": self.fresh, "scale": self.scale}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Go back to the state of a checkpoint."""
        self.fresh, self.scale = bool(numbers["fresh"]), float(numbers.get("scale", 1.0))
        if "matrix" in tensors:
            self.inner.entries.copy_(tensors["matrix"])
