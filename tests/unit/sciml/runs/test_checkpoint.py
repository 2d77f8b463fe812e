"""Checkpoints keep every bit and notice damage."""

import math
from pathlib import Path

import pytest
import torch

import sciml
from sciml.errors import InputError
from sciml.runs import checkpoint
from sciml.runs.checkpoint import Checkpoint


def test_checkpoint_keeps_every_bit_and_notices_damage(tmp_path):
    tensors = {"a": torch.randn(7, dtype=torch.float64), "b": torch.zeros(0), "c": torch.tensor([math.nan, math.inf])}
    numbers = {"x": 0.1 + 0.2, "inf": math.inf, "list": [1, None, "text"]}
    for number in (1, 2, 3):
        checkpoint.write(tmp_path, number, Checkpoint(tensors, {**numbers, "number": number}))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    state, damaged = checkpoint.newest(tmp_path)
    assert state is not None and state.numbers == {**numbers, "number": 3} and not damaged
    for name, tensor in tensors.items():
        assert torch.equal(state.tensors[name].nan_to_num(9), tensor.nan_to_num(9))
    newest = max(tmp_path.glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    state, damaged = checkpoint.newest(tmp_path)
    assert state is not None and state.numbers["number"] == 2 and damaged == [newest]
    newest.write_bytes(content[:40])
    assert checkpoint.read(newest) is None


class Line(sciml.Problem):
    def sample(self, size, generator):
        return torch.rand(size or 64, 1, generator=generator, dtype=torch.float64)

    def loss(self, model, batch):
        return {"fit": (model(batch) - 2 * batch).square().mean()}


def _solve(folder: Path) -> sciml.Solution:
    torch.manual_seed(0)
    run = sciml.Run.create(folder, command=["test"])
    return sciml.solve(Line(), torch.nn.Linear(1, 1).double(), [sciml.Adam(), sciml.LBFGS()], run=run)


def test_a_damaged_newest_checkpoint_is_passed_over_and_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = _solve(tmp_path)
    newest = max(tmp_path.rglob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    capfd.readouterr()
    assert _solve(tmp_path).loss == whole.loss
    assert f"{newest} is damaged and is passed over; going on from" in capfd.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda numbers: {},
        lambda numbers: dict.fromkeys(numbers) | {"number": 1},
        lambda numbers: {name: [] for name in numbers} | {"number": 1},
        lambda numbers: numbers | {"state": {"surprise": 1}},
        lambda numbers: numbers | {"result": "WONDERFUL"},
        lambda numbers: numbers | {"metrics": "x"},
        lambda numbers: numbers | {"number": "x"},
    ],
)
def test_a_sound_checkpoint_with_odd_content_is_one_message(change, tmp_path: Path) -> None:
    """As another version writes it, or someone who makes up a folder: its hash is right."""
    _solve(tmp_path)
    newest = max(tmp_path.rglob("*.safetensors"))
    state = checkpoint.read(newest)
    assert state is not None
    checkpoint.write(newest.parent, int(newest.stem), Checkpoint(state.tensors, change(state.numbers)))
    with pytest.raises(InputError, match=str(newest.parent)):
        _solve(tmp_path)


def test_a_sound_checkpoint_without_tensors_is_one_message(tmp_path: Path) -> None:
    _solve(tmp_path)
    newest = max(tmp_path.rglob("*.safetensors"))
    state = checkpoint.read(newest)
    assert state is not None
    for tensors in ({}, {name: torch.zeros(3) for name in state.tensors}):
        checkpoint.write(newest.parent, int(newest.stem), Checkpoint(tensors, state.numbers))
        with pytest.raises(InputError, match="other content than this version writes"):
            _solve(tmp_path)
