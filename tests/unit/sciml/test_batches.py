"""Batches are cut, joined and moved whatever their structure."""

from typing import NamedTuple

import pytest
import torch

from sciml import batches
from sciml.errors import InputError


class Points(NamedTuple):
    inside: torch.Tensor
    weights: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [
        torch.arange(12.0),
        (torch.arange(12.0), torch.arange(24.0).reshape(12, 2)),
        {"a": torch.arange(12.0)},
        Points(torch.arange(12.0), torch.ones(12, 3)),
    ],
)
def test_splitting_and_joining_restores_the_batch(batch):
    parts = batches.split(batch, 4)
    assert [batches.count(part) for part in parts] == [3, 3, 3, 3]
    joined = batches.concatenate(parts)
    assert type(joined) is type(batch)
    for a, b in zip(batches.leaves(joined), batches.leaves(batch), strict=True):
        assert torch.equal(a, b)


def test_move_casts_numbers_but_not_indices():
    moved = batches.move((torch.ones(2), torch.arange(2)), torch.zeros(1, dtype=torch.float64))
    assert moved[0].dtype == torch.float64 and moved[1].dtype == torch.int64


def test_batches_that_cannot_be_cut_are_refused():
    with pytest.raises(InputError, match="cannot be cut"):
        batches.split(torch.ones(3), 4)
    with pytest.raises(InputError, match="a batch holds a str"):
        batches.count(["a"])
