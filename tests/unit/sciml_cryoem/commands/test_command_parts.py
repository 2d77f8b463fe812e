"""Which device a command computes on."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sciml_cryoem.commands import abinitio as abinitio_command
from sciml_cryoem.commands import parts as command_parts
from sciml_cryoem.commands import refine as refine_command
from sciml_cryoem.commands.parts import PAYS, chosen_device
from sciml_cryoem.reconstruction.images import ImageSettings

from sciml.command_line import devices
from sciml.command_line.main import main
from sciml.errors import InputError


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU."""
    monkeypatch.setattr(devices, "_driver_found", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("gpu")
def test_auto_takes_a_gpu_where_it_pays() -> None:
    assert chosen_device("auto", gpu_pays=True) == "cuda"
    assert chosen_device("auto") == "cpu"
    assert chosen_device("cuda") == "cuda"
    assert chosen_device("cpu", gpu_pays=True) == "cpu"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("given", "fewest", "expected"), [("auto", PAYS, "cpu"), ("auto", 600, "cuda"), ("cuda", 0, "cuda")]
)
def test_the_searches_are_told(
    given: Any, fewest: int, expected: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the 600 images of the bundled set."""
    monkeypatch.setattr(command_parts, "PAYS", fewest)
    star, truth, out = *(root / "data" / "particles" / name for name in ("particles.star", "truth.mrc")), Path("out")
    options = abinitio_command.Options(particles=star, out=out, device=given)
    abinitio = abinitio_command._engine_options(options, abinitio_command._read(options))
    refine = refine_command._read(refine_command.Options(particles=star, reference=truth, out=out, device=given))[2]
    for settings in (abinitio.settings, refine.settings):
        assert settings.device == expected
        assert (settings.batch_mb > ImageSettings.batch_mb) == (expected == "cuda")


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for driver in (True, False):
        monkeypatch.setattr(devices, "_driver_found", lambda found=driver: found)
        assert chosen_device("auto", gpu_pays=True) == "cpu"
        with pytest.raises(InputError, match="--device cuda: torch finds no GPU here"):
            chosen_device("cuda")


def test_torch_is_not_asked_where_no_driver_is() -> None:
    """Its import would cost a refinement on the CPU two seconds."""
    code = (
        "import sys; from sciml.command_line import devices; devices._driver_found = lambda: False; "
        "from sciml_cryoem.commands import parts; "
        "assert parts.chosen_device('auto', gpu_pays=True) == 'cpu'; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("words", [["abinitio"], ["refine", "--reference", "truth.mrc"]])
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(
    words: list[str], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(root / "data" / "particles")
    out = tmp_path / "out"
    assert main(["cryoem", words[0], "particles.star", *words[1:], "--out", str(out), "--device", "cuda"]) == 2
    assert "--device cuda: torch finds no GPU here" in capsys.readouterr().err
    assert not out.exists()
