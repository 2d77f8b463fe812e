"""What the commands that work on particle images share: checks of their options, a progress line, peak memory."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciml.command_line.devices import Device, choose_device
from sciml.errors import InputError

if TYPE_CHECKING:
    from sciml.runs.run import Run
    from sciml_cryoem.files.particle_set import Particles

PAYS = 1_000
"""Images from which a GPU makes up, in a search for poses, for the seconds that it takes to start."""
FEWEST = 50
"""Images that a search for poses needs: with fewer, a map is found in any noise."""


@contextmanager
def image_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress line on a terminal, nothing elsewhere; gives the function to call with the images done.

    Args:
        title: what is being done.
        total: images there are.
    """
    from sciml.reporting.progress import Progress

    began = time.monotonic()
    with Progress(title) as line:

        def update(done: int) -> None:
            rate = done / max(time.monotonic() - began, 1e-6)
            line.update(step=done, rate=rate, unit="images", left=(total - done) / rate)

        yield update


def peak_rss_mb() -> float:
    """Peak resident memory of this process; NaN where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    # Unlike that of getrusage, this maximum does not go back to the process that started this one.
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    if found:
        return found[0] / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def chosen_device(device: Device, gpu_pays: bool = False) -> str:
    """Where to compute: "cpu" (compiled loops), "cuda", or "torch" where numba does not import.

    Arguments and errors are those of `choose_device`. For a direct reconstruction a GPU does not pay: it is bound by
    memory, and a GPU takes seconds to start.
    """
    chosen = choose_device(device, gpu_pays)
    if chosen != "cpu":
        return chosen
    try:
        from sciml_cryoem.imaging import kernels  # noqa: F401
    except ImportError:
        from sciml.command_line.console import say

        say("numba does not import here; torch does its work, several times slower.")
        return "torch"
    return "cpu"


def batch_mb(device: str) -> float:
    """Megabytes of images at a time where poses are searched: more on a GPU, whose steps take as long for a hundred
    images as for thousands."""
    from sciml_cryoem.reconstruction.images import ImageSettings

    return 128.0 if device == "cuda" else ImageSettings.batch_mb


def check_diameter(diameter: float | None, particles: "Particles") -> None:
    """Refuse a diameter that does not fit into the box.

    Raises:
        InputError: it does not.
    """
    extent = particles.box * particles.pixel_size
    if diameter is not None and not 0 < diameter <= extent:
        raise InputError(f"--diameter {diameter:g}: give Angstrom between 0 and the box, {extent:g}.")


def check_number(particles: "Particles") -> None:
    """Refuse a set that is too small to find poses with.

    Raises:
        InputError: it has fewer than 50 images.
    """
    if len(particles) < FEWEST:
        raise InputError(f"{particles.path}: {len(particles)} particles; a search for poses needs at least {FEWEST}.")


def read_mask_option(mask: str, box: int) -> Any:
    """The value of `--mask`: one of its words, or the mask read from a file.

    Raises:
        InputError: a file that is no mask for this box.
    """
    from sciml_cryoem.maps.masks import read_mask

    return mask if mask in ("sphere", "auto", "none") else read_mask(mask, box)


def mask_file(option: str) -> list[Path]:
    """The file that an option `--mask` names; none where it is a word."""
    return [] if option in ("auto", "sphere", "none") else [Path(option)]


@contextmanager
def undone_if_refused(run: "Run") -> Iterator[None]:
    """Remove the folder of a new run if bad input is found only while it computes (a pixel that is NaN)."""
    try:
        yield
    except InputError:
        if not run.resumed:
            run.discard()
        raise
