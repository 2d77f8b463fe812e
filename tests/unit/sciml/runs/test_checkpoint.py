"""Checkpoints keep every bit and notice damage."""

import math

import torch

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
