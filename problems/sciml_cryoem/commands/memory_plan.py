"""Memory, reading and time of a command, shown before it starts (`--dry-run`).

Each engine states its `Resources`; this module adds the process around it and prints the whole.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciml_cryoem.files.particle_set import Particles
    from sciml_cryoem.initial_model.start_map import AbInitioOptions
    from sciml_cryoem.reconstruction.accumulation import ReconstructOptions
    from sciml_cryoem.reconstruction.resources import Resources
    from sciml_cryoem.refinement.image_set import RefineOptions

WITH_TORCH = 412e6
"""Resident bytes of the process with its libraries and kernels, before any image is read (measured, CPU build)."""
WITHOUT_TORCH = 267e6
"""The same where torch is not imported, with the library of the figures (measured)."""
TORCH_FOR_CUDA = 330e6
"""Additional bytes of a torch build for CUDA, on a machine without a GPU (measured)."""
START = 6.0
"""Seconds until the first image is read, and for figures and report in the end."""


@dataclass(frozen=True)
class ResourcePlan:
    """Resources of a whole command.

    Attributes:
        command: its name.
        process: resident bytes of the interpreter with its libraries.
        engine: resources that the engine states.
    """

    command: str
    process: float
    engine: "Resources"

    @property
    def parts(self) -> list[tuple[str, float]]:
        """What is held at the same time at the peak, with its bytes."""
        return [("interpreter and libraries", self.process), *self.engine.memory]

    @property
    def memory(self) -> float:
        """Peak resident bytes."""
        return sum(size for _, size in self.parts)

    @property
    def limit(self) -> float:
        """Peak resident bytes at worst."""
        return self.process + sum(size for _, size in self.engine.limit)

    @property
    def seconds(self) -> float:
        """Of the whole command on one core, roughly."""
        return self.engine.seconds + START

    @property
    def notes(self) -> list[str]:
        """Assumptions, a sentence each."""
        worst = f"At worst it takes {self.limit / 2**20:,.0f} MB."
        return [*self.engine.notes, *([worst] if self.limit > self.memory else [])]

    @property
    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "plan": self.command,
            "memory_mb": self.memory / 2**20,
            "memory_limit_mb": self.limit / 2**20,
            "parts": [{"part": name, "mb": size / 2**20} for name, size in self.parts],
            "read_mb": self.engine.read / 2**20,
            "passes": self.engine.passes,
            "cpu_seconds": self.seconds,
            "notes": self.notes,
        }

    def text(self) -> str:
        """For a terminal."""
        rows = [*self.parts, ("peak memory", self.memory)]
        width = max(len(name) for name, _ in rows)
        lines = [f"  {name:<{width}}  {size / 2**20:10,.0f} MB" for name, size in rows]
        lines += [
            f"Reads {self.engine.read / 2**20:,.0f} MB ({self.engine.passes:g} passes over the images).",
            f"Roughly {_duration(self.seconds)} on one core.",
            *self.notes,
        ]
        return "\n".join([f"{self.command}:", *lines])


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def show_plan(plan: ResourcePlan, json: bool) -> None:
    """Print a plan: words, or one JSON object."""
    from sciml.command_line.console import print_json

    if json:
        print_json(plan.summary)
    else:
        print(plan.text())


def plan_reconstruct(particles: "Particles", options: "ReconstructOptions", solver: str) -> ResourcePlan:
    """Resources of `sciml cryoem reconstruct`."""
    from sciml_cryoem.reconstruction import direct, stochastic

    if solver == "direct":
        return ResourcePlan("reconstruct", WITHOUT_TORCH, direct.resources(particles, options))
    return ResourcePlan("reconstruct", _process(), stochastic.resources(particles))


def plan_abinitio(particles: "Particles", options: "AbInitioOptions") -> ResourcePlan:
    """Resources of `sciml cryoem abinitio`."""
    from sciml_cryoem.initial_model.resources import resources

    return ResourcePlan("abinitio", _process(), resources(particles, options))


def plan_refine(particles: "Particles", options: "RefineOptions") -> ResourcePlan:
    """Resources of `sciml cryoem refine`."""
    from sciml_cryoem.refinement.resources import resources

    return ResourcePlan("refine", _process(), resources(particles, options))


def _process() -> float:
    """Resident bytes of a process that has imported torch and the kernels."""
    return WITH_TORCH + (TORCH_FOR_CUDA if _torch_is_for_cuda() else 0.0)


def _torch_is_for_cuda() -> bool:
    """Which build of torch is installed, without importing it."""
    found = find_spec("torch")
    return found is not None and any((Path(str(found.origin)).parent / "lib").glob("libtorch_cuda*"))
