"""L-BFGS in compact form, with one history tensor and a cached Gram matrix.

A step takes one product with the history and one with its transpose.

With rows s_i, y_i (oldest first), R = triu(S Y'), D = diag(S Y'), gamma = s'y / y'Py of the newest pair and a fixed P
(identity or preconditioner), H0 = gamma P:

    w = R^-1 S g,    u = R^-T ((D + Y H0 Y') w - Y H0 g),    H g = H0 g + S'u - H0 Y'w.

Source: Byrd, Nocedal and Schnabel (1994), eq. 3.1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sciml.optim.quasi_newton import InverseHessian, Pair


class CompactLBFGS(InverseHessian):
    """The inverse Hessian of limited-memory BFGS.

    Args:
        vector: the parameters, shape (n,): gives size, dtype and device.
        history: number of pairs kept, m.
        preconditioner: symmetric positive operator P on flat vectors; None for the identity.
    """

    def __init__(self, vector: Tensor, history: int, preconditioner: Callable[[Tensor], Tensor] | None = None) -> None:
        self.history, self.preconditioner = history, preconditioner
        self.blocks = 2 if preconditioner is None else 3  # S, Y and, with a preconditioner, Z = P Y
        self.rows = torch.zeros(self.blocks * history, vector.numel(), dtype=vector.dtype, device=vector.device)
        self.gram = torch.zeros(self.blocks * history, self.blocks * history, dtype=torch.float64)
        self.order: list[int] = []  # slots, oldest first
        self.pending: int | None = None  # slot whose Gram entries are still to be computed
        self.image: Tensor | None = None  # P g of the latest gradient

    @property
    def fresh(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether no curvature pair is held."""
        return not self.order

    @property
    def preconditioned(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether steepest descent has a natural length (1)."""
        return self.preconditioner is not None

    def product(self, gradient: Tensor) -> Tensor:
        """H g. The same pass over the history completes the Gram matrix for the newest pair."""
        image = gradient if self.preconditioner is None else self._image(gradient)
        if not self.order:
            return image.clone()
        m = self.history
        columns = [gradient]
        if self.pending is not None:
            columns += [self.rows[block * m + self.pending] for block in range(self.blocks)]
        inner = _inner(self.rows, torch.stack(columns, 1)).cpu()
        if self.pending is not None:
            for block in range(self.blocks):
                index = block * m + self.pending
                self.gram[index, :] = inner[:, 1 + block]
                self.gram[:, index] = inner[:, 1 + block]
            self.pending = None
        slots = torch.tensor(self.order)
        last = self.blocks - 1  # block of Y, or of Z = P Y
        sy = self.gram[slots][:, m + slots]
        ypy = self.gram[m + slots][:, last * m + slots]
        upper, diagonal = torch.triu(sy), torch.diag(torch.diag(sy))
        gamma = float(sy[-1, -1] / ypy[-1, -1])
        w = torch.linalg.solve_triangular(upper, inner[slots, :1], upper=True)
        right = (diagonal + gamma * ypy) @ w - gamma * inner[last * m + slots, :1]
        u = torch.linalg.solve_triangular(upper.T, right, upper=False)
        weights = torch.zeros(self.rows.shape[0], dtype=torch.float64)
        weights[slots] = u[:, 0]
        weights[last * m + slots] = -gamma * w[:, 0]
        return torch.addmv(image * gamma, self.rows.T, weights.to(self.rows))

    def _image(self, gradient: Tensor) -> Tensor:
        assert self.preconditioner is not None
        self.image = self.preconditioner(gradient)
        return self.image

    def update(self, pair: Pair) -> bool:
        """Keep the pair if s'y is positive beyond rounding, relative to ||s|| ||y||."""
        curvature = float(torch.sum(pair.s.double() * pair.y.double()))
        norms = float(torch.linalg.vector_norm(pair.s.double()) * torch.linalg.vector_norm(pair.y.double()))
        if not curvature > 1e-12 * norms:
            return False
        slot = len(self.order) if len(self.order) < self.history else self.order.pop(0)
        self.rows[slot] = pair.s
        self.rows[self.history + slot] = pair.y
        if self.preconditioner is not None:
            before = self.image
            assert before is not None
            self.rows[2 * self.history + slot] = self._image(pair.gradient) - before
        self.order.append(slot)
        self.pending = slot
        return True

    def reset(self) -> None:
        """Drop all curvature pairs."""
        self.order, self.pending = [], None

    def tensors(self) -> dict[str, Tensor]:
        """History, Gram matrix and the latest preconditioned gradient."""
        state = {"rows": self.rows, "gram": self.gram}
        if self.image is not None:
            state["image"] = self.image
        return state

    def numbers(self) -> dict:
        """Slot order and the pending slot."""
        return {"order": list(self.order), "pending": self.pending}

    def restore(self, tensors: dict[str, Tensor], numbers: dict) -> None:
        """Go back to the state of a checkpoint."""
        self.rows.copy_(tensors["rows"])
        self.gram.copy_(tensors["gram"])
        self.image = tensors["image"].to(self.rows.device) if "image" in tensors else None
        self.order, self.pending = [int(slot) for slot in numbers["order"]], numbers["pending"]


def _inner(rows: Tensor, columns: Tensor, width: int = 1 << 18) -> Tensor:
    """rows @ columns in float64, by blocks of columns when the history is kept in single precision."""
    if rows.dtype == torch.float64:
        return rows @ columns
    result = torch.zeros(rows.shape[0], columns.shape[1], dtype=torch.float64, device=rows.device)
    for start in range(0, rows.shape[1], width):
        part = slice(start, start + width)
        result += rows[:, part].double() @ columns[part].double()
    return result
