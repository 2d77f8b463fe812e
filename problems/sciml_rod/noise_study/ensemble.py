"""Many parameter vectors of one network at once: what makes a study over seeds, batches and step sizes affordable.

The members share the shape of the network and differ in parameters and points. Derivatives along x are propagated
through the layers together with the values, so that one reverse pass gives the gradients of all members.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciml.errors import InputError
from sciml.pde import MLP, Kinks, derivative
from sciml_rod.forms.form import RodForm


@dataclass(frozen=True)
class Places:
    """Points of the unit bar with all that does not depend on the parameters. Leading dimension: members (or 1).

    Attributes:
        x: positions.
        load: f there.
        stiffness: EA there.
        stiffness_slope: EA' there.
        features: inputs of the first layer, and their slopes; their curvature is zero.
        mask: factor of the network N in u = lift + mask N, with its slope and curvature (last dimension: order).
        lift: what is added, likewise.
    """

    x: Float[Tensor, "members points"]
    load: Float[Tensor, "members points"]
    stiffness: Float[Tensor, "members points"]
    stiffness_slope: Float[Tensor, "members points"]
    features: Float[Tensor, "members points inputs"]
    feature_slopes: Float[Tensor, "members points inputs"]
    mask: Float[Tensor, "members points 3"]
    lift: Float[Tensor, "members points 3"]

    def each(self, change: Callable[[Tensor], Tensor]) -> "Places":
        """The same with every column changed."""
        return Places(*(change(getattr(self, field.name)) for field in fields(self)))


def join(first: Places, second: Places) -> Places:
    """The points of both, member by member; the second may be given once for all."""
    second = second.each(lambda column: column.expand(len(first.x), *column.shape[1:]))
    pairs = ((getattr(first, field.name), getattr(second, field.name)) for field in fields(Places))
    return Places(*(torch.cat(pair, 1) for pair in pairs))


class Ensemble:
    """Networks of one shape on one bar, evaluated together.

    Args:
        form: gives the bar and the essential conditions.
        like: a network made by `form.network`; its parameters are not used.

    Raises:
        InputError: `like` is no tanh network of that make.
    """

    def __init__(self, form: RodForm, like: nn.Module) -> None:
        parts = list(like) if isinstance(like, nn.Sequential) else [like]
        network = parts[-1]
        kinks = parts[0] if len(parts) == 2 else None
        if not isinstance(network, MLP) or network.activation is not torch.tanh or len(parts) > 2:
            raise InputError(f"an ensemble needs a tanh MLP, with or without kinks in front; got {like}.")
        if kinks is not None and not isinstance(kinks, Kinks):
            raise InputError(f"an ensemble knows no input layer of type {type(kinks).__name__}.")
        self.unit = form.unit
        self.kinks = kinks.positions.to("cpu") if kinks is not None else torch.zeros(0, dtype=torch.float64)
        self.center, self.stretch = (part.to("cpu", torch.float64) for part in (network.center, network.stretch))
        if not network.scaled:
            self.center, self.stretch = torch.zeros_like(self.center), torch.ones_like(self.stretch)
        self.shapes = [tuple(parameter.shape) for parameter in network.parameters()]
        self.sizes = [parameter.numel() for parameter in network.parameters()]
        self._mask, self._lift = _conditions(form)

    def at(self, x: Float[Tensor, "members points"]) -> Places:
        """Everything that the losses need to know about points of the unit bar."""
        features = torch.cat([x[..., None], (x[..., None] - self.kinks).abs()], -1)
        slopes = torch.cat([torch.ones_like(x)[..., None], torch.sign(x[..., None] - self.kinks)], -1)
        powers = torch.stack([torch.ones_like(x), x, x * x], -1)
        column = x.reshape(-1, 1)
        return Places(
            x,
            self.unit.f(x),
            self.unit.EA(x),
            derivative(self.unit.EA, column).detach().reshape(x.shape),
            (features - self.center) * self.stretch,
            slopes * self.stretch,
            powers @ self._mask,
            powers @ self._lift,
        )

    def field(
        self, theta: Float[Tensor, "members parameters"], places: Places, order: int
    ) -> tuple[Float[Tensor, "members points"], ...]:
        """u and its derivatives up to `order` (1 or 2) for every member."""
        values = [value[..., 0] for value in self._network(theta, places, order)]
        mask, lift = places.mask.unbind(-1), places.lift.unbind(-1)
        u = lift[0] + mask[0] * values[0]
        slope = lift[1] + mask[1] * values[0] + mask[0] * values[1]
        if order == 1:
            return u, slope
        return u, slope, lift[2] + mask[2] * values[0] + 2 * mask[1] * values[1] + mask[0] * values[2]

    def _network(self, theta: Tensor, places: Places, order: int) -> Sequence[Tensor]:
        """N, N' and N'', by the chain rule through every layer: tanh' = 1 - tanh^2 =: s, tanh'' = -2 tanh s."""
        count, members = places.x.shape[1], len(theta)
        parts = theta.split(self.sizes, 1)
        columns: Sequence[Tensor] = [places.features, places.feature_slopes]
        for layer in range(0, len(parts), 2):
            weight = parts[layer].view(members, *self.shapes[layer]).mT
            if layer:
                a = torch.tanh(columns[0])
                s = 1 - a * a
                slope = s * columns[1]
                if order == 2:
                    bend = -2 * a * slope * columns[1]
                    columns = [a, slope, bend + s * columns[2] if len(columns) == 3 else bend]
                else:
                    columns = [a, slope]
            stacked = torch.cat([column.expand(members, -1, -1) for column in columns], 1)
            columns = list((stacked @ weight).split(count, 1))
            columns[0] = columns[0] + parts[layer + 1][:, None]
        return columns


def parameters(models: Sequence[nn.Module]) -> Float[Tensor, "members parameters"]:
    """The parameters of networks of one shape, a row each (a copy)."""
    rows = [torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]) for model in models]
    return torch.stack(rows).to("cpu", torch.float64)


def _conditions(form: RodForm) -> tuple[Tensor, Tensor]:
    """Mask and lift are polynomials of degree 2 at most: rows 1, x, x^2 -> value, slope, curvature."""
    x = torch.tensor([[0.0], [0.5], [1.0]], dtype=torch.float64)
    lift = form.conditions(torch.zeros_like(x), x).expand_as(x)
    mask = form.conditions(torch.ones_like(x), x) - lift
    tables = []
    for values in (mask, lift):
        c = torch.linalg.solve(torch.cat([torch.ones_like(x), x, x * x], 1), values)[:, 0].tolist()
        tables.append(torch.tensor([[c[0], c[1], 2 * c[2]], [c[1], 2 * c[2], 0], [c[2], 0, 0]], dtype=torch.float64))
    return tables[0], tables[1]
