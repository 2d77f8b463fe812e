"""What a refinement is between two iterations, written after each and read back: it goes on to the same bits."""

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sciml.errors import InputError
from sciml.runs import checkpoint
from sciml.runs.checkpoint import Checkpoint
from sciml.runs.stage import Stage

if TYPE_CHECKING:
    from sciml_cryoem.refinement.gold_standard import Refinement

_PLAIN = (bool, int, float, str, type(None))


def state_of(refinement: "Refinement") -> Checkpoint:
    """Poses, maps, noise, counters, the record of the iterations and the state of the generator.

    Every plain number among the attributes is kept, so that none is forgotten when the refinement gets another.
    """
    poses = {f"poses.{field.name}": getattr(refinement.poses, field.name) for field in fields(refinement.poses)}
    maps = {f"map{half}": volume for half, volume in enumerate(refinement.maps)}
    curves = {f"fsc{record.number}": record.fsc for record in refinement.iterations}
    numbers: dict[str, Any] = {
        "counters": {name: value for name, value in vars(refinement).items() if isinstance(value, _PLAIN)},
        "generator": refinement.draw.bit_generator.state,
        "iterations": [_plain(record) for record in refinement.iterations],
        "images": len(refinement.particles),
    }
    return Checkpoint({**poses, **maps, **curves, "noise.power": refinement.noise.power}, numbers)


def _plain(record: Any) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(record).items() if name != "fsc"}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in kept.items()}


def restore(refinement: "Refinement", kept: Checkpoint) -> None:
    """Take a state back.

    Raises:
        InputError: it is of another number of images or another box.
    """
    from sciml_cryoem.refinement.gold_standard import Iteration, Poses

    arrays, numbers = kept.tensors, kept.numbers
    box = refinement.particles.box
    if numbers["images"] != len(refinement.particles) or arrays["map0"].shape != (box,) * 3:
        raise InputError(
            f"the checkpoint is of {numbers['images']} images in a box of {len(arrays['map0'])}, "
            f"{refinement.particles.path} has {len(refinement.particles)} in {box}; use --overwrite to start anew."
        )
    refinement.poses = Poses(**{field.name: arrays[f"poses.{field.name}"] for field in fields(Poses)})
    refinement.noise = replace(refinement.noise, power=arrays["noise.power"])
    refinement.maps = [arrays["map0"], arrays["map1"]]
    refinement.iterations = [
        Iteration(**record, fsc=arrays[f"fsc{record['number']}"]) for record in numbers["iterations"]
    ]
    refinement.draw.bit_generator.state = numbers["generator"]
    for name, value in numbers["counters"].items():
        setattr(refinement, name, value)


class Keeper:
    """Writes a refinement to a stage after every iteration, and takes it back.

    Attributes:
        stage: where; None keeps nothing.
        damaged: names of checkpoints that could not be read and were passed over.
    """

    def __init__(self, stage: Stage | None) -> None:
        self.stage = stage
        self.damaged: list[str] = []

    def resume(self, refinement: "Refinement") -> bool:
        """Take back the newest sound checkpoint; False if there is none.

        Raises:
            InputError: it is of other images.
        """
        if self.stage is None:
            return False
        kept, damaged = checkpoint.newest(self.stage.checkpoints, "numpy")
        self.damaged = [path.name for path in damaged]
        if kept is not None:
            restore(refinement, kept)
        return kept is not None

    def write(self, refinement: "Refinement") -> None:
        """Keep the state as it is.

        Raises:
            OSError: it cannot be written.
        """
        if self.stage is not None:
            checkpoint.write(self.stage.checkpoints, len(refinement.iterations), state_of(refinement))
