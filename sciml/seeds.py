"""Counter-based randomness: every draw is a function of (seed, purpose, counter), never of what was drawn before.

So a resumed run, an extra monitor or another number of ranks sees the same batches.
"""

import hashlib

import torch


def generator(seed: int, *purpose: str | int, counter: int = 0) -> torch.Generator:
    """A CPU generator for one draw.

    Args:
        seed: the run's seed.
        *purpose: names and numbers of the stream, e.g. ("batch", phase index).
        counter: position in the stream. Distinct counters below 2**32 of one stream give distinct generator seeds.

    torch's CPU generator (Mersenne twister) uses 32 bits of its seed. Adding the counter to a hashed base keeps the
    seeds of one stream distinct. Hashing the counter too would not: two would coincide after about 65,000 draws.
    """
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    base = int.from_bytes(digest, "little")
    return torch.Generator().manual_seed((base + counter) % 2**32)
