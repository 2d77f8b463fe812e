"""Self-scaled Broyden updates of a dense inverse Hessian: the finisher for models of up to a few thousand parameters.

With b = s'Bs / y's, h = y'Hy / y's and v = sqrt(y'Hy) (s / y's - Hy / y'Hy):

    H+ = (1 / tau) [H - Hy y'H / y'Hy + q v v'] + s s' / y's,

where tau and q are Al-Baali's choices as used for networks by Urban, Stefanou and Pons (2024, arXiv 2405.04230). b
costs nothing, since s = a p and p = -H g give s'Bs = -a^2 p'g; an iteration reads H twice and rewrites it once (a
rank-two `addmm`). Hy is a product of its own and not H g+ + p: where steps are short that difference cancels.
"""

import math

import torch
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


class DenseSelfScaled(InverseHessian):
    """A dense inverse Hessian, n x n in the parameters' dtype."""

    def __init__(self, vector: Tensor) -> None:
        self.n = vector.numel()
        self.matrix = torch.eye(self.n, dtype=vector.dtype, device=vector.device)
        self.fresh = True

    def product(self, gradient: Tensor) -> Tensor:
        """H g."""
        return gradient.clone() if self.fresh else self.matrix @ gradient

    def update(self, pair: Pair) -> bool:
        """Rank-two update; refused when y's or y'Hy is not positive (then H is kept, or reset)."""
        if self.fresh:
            return self._start(pair)
        hy = self.matrix @ pair.y
        s, y = pair.s, pair.y
        ys, yhy, ss, yy = torch.stack((y @ s, y @ hy, s @ s, y @ y)).tolist()
        if not ys > 1e-12 * math.sqrt(ss * yy):
            return False
        if not yhy > 0:
            self.reset()
            return False
        b = -(pair.step**2) * pair.slope / ys
        if not b > 0:
            return False
        tau, q = broyden_scaling(b, yhy / ys, self.n)
        css = q * (yhy / ys) / (tau * ys) + 1 / ys
        csh = -q / (tau * ys)
        chh = (q - 1) / (tau * yhy)
        if not (tau > 0 and math.isfinite(1 / tau) and math.isfinite(css) and math.isfinite(chh)):
            self.reset()
            return False
        left = torch.stack((s, hy), 1)
        right = torch.stack((css * s + csh * hy, csh * s + chh * hy))
        torch.addmm(self.matrix, left, right, beta=1 / tau, out=self.matrix)
        return True

    def _start(self, pair: Pair) -> bool:
        """First pair: H = y's / y'y I before the update (Nocedal and Wright eq. 6.20), then a plain BFGS update."""
        s, y = pair.s, pair.y
        ys, yy, ss = torch.stack((y @ s, y @ y, s @ s)).tolist()
        if not ys > 1e-12 * math.sqrt(ss * yy):
            return False
        gamma = ys / yy
        self.matrix.zero_().fill_diagonal_(gamma)
        hy = gamma * y
        yhy = gamma * yy
        left = torch.stack((s, hy), 1)
        right = torch.stack(((yhy / ys + 1) / ys * s - hy / ys, -s / ys))
        torch.addmm(self.matrix, left, right, out=self.matrix)
        self.fresh = False
        return True

    def reset(self) -> None:
        """Forget all curvature: the next direction is steepest descent."""
        self.fresh = True

    def tensors(self) -> dict[str, Tensor]:
        """The matrix, once there is curvature in it."""
        return {} if self.fresh else {"matrix": self.matrix}

    def numbers(self) -> dict:
        """Whether any curvature is held."""
        return {"fresh": self.fresh}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Take back a checkpoint."""
        self.fresh = bool(numbers["fresh"])
        if "matrix" in tensors:
            self.matrix.copy_(tensors["matrix"])
