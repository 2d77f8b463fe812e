"""Checkpoints keep every bit and notice damage."""

import math
import subprocess
import sys

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


def test_arrays_are_kept_without_torch(tmp_path):
    code = f"""
import sys, pathlib, numpy as np
from sciml.runs import checkpoint
folder = pathlib.Path({str(tmp_path)!r})
checkpoint.write(folder, 1, checkpoint.Checkpoint({{"a": np.arange(3)[::-1], "b": np.float64(0.1)}}, {{"n": 2**70}}))
state, damaged = checkpoint.newest(folder, "numpy")
assert not damaged and state.numbers == {{"n": 2**70}}
assert state.tensors["a"].tolist() == [2, 1, 0] and state.tensors["b"] == 0.1
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
