"""Every draw is a function of seed, purpose and counter."""

import torch

from sciml.seeds import generator


def test_streams_are_functions_of_seed_purpose_and_counter():
    def draw(*key, counter=0):
        return torch.rand(4, generator=generator(*key, counter=counter))

    assert torch.equal(draw(0, "batch", 1, counter=5), draw(0, "batch", 1, counter=5))
    distinct = [draw(0, "batch", 1), draw(1, "batch", 1), draw(0, "fixed", 1), draw(0, "batch", 2)]
    distinct += [draw(0, "batch", 1, counter=c) for c in (1, 2, 3)]
    assert len({tuple(d.tolist()) for d in distinct}) == len(distinct)
