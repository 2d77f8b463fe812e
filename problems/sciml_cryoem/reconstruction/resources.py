"""Resources of an engine, known before it starts: memory by its parts, reading, and a rough time.

Each engine states its own, beside the code that allocates: `images.block_bytes`, `image_spectra.spectra_bytes`,
`accumulation.sums_memory`, `poses.search`, `poses.polish`, and from these `initial_model.resources` and
`refinement.resources`. The formulas count the arrays held at the peak, in bytes. They leave out what is small or fixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Memory = Sequence[tuple[str, float]]
"""Parts held at the same time: what, and its bytes."""


@dataclass(frozen=True)
class Resources:
    """Resources of an engine.

    Attributes:
        memory: at the peak, as it is expected.
        limit: at the peak at worst; the same as `memory` where nothing depends on the data.
        read: bytes read from the stacks, all passes together.
        passes: over the images.
        seconds: on one core; good to a factor of two or three.
        notes: assumptions, a sentence each.
    """

    memory: Memory
    limit: Memory
    read: float
    passes: float
    seconds: float
    notes: Sequence[str] = field(default_factory=tuple)


def total(memory: Memory) -> float:
    """Bytes of all parts together."""
    return sum(size for _, size in memory)


def disc_points(radius: float) -> float:
    """Independent Fourier points |k| < radius of an image, as a real number."""
    return 0.5 * np.pi * radius**2
