"""Work in parts that the memory of a GPU holds, with a memory that is made up."""

import logging
import threading

import pytest
import torch
from sciml_cryoem.imaging.devices import in_parts, memory_budget, torch_device, warm_up

from sciml.errors import InputError


def test_names() -> None:
    assert torch_device("torch") == torch.device("cpu")
    assert torch_device("cuda").type == "cuda"


def test_only_a_gpu_is_warmed_up_and_one_that_is_not_there_does_not_matter_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert warm_up("cpu") is None and warm_up("torch") is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert warm_up("cuda") is None
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    thread = warm_up("cuda")
    assert thread is not None
    thread.join()
    assert not failed


def test_a_budget_leaves_room_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_budget(torch.device("cpu"), 100, 7) == 7
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (60, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda place: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda place: 10)
    assert memory_budget(torch.device("cuda"), 1000, 7) == 50  # half of 60 free and 40 kept but not used
    assert memory_budget(torch.device("cuda"), 20, 7) == 20


def _work(holds: int, done: list[slice]):
    def work(part: slice) -> None:
        if part.stop - part.start > holds:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
        done.append(part)

    return work


@pytest.mark.parametrize(
    ("count", "step", "holds", "lengths"),
    [(10, 4, 4, [4, 4, 2]), (10, 8, 3, [2, 2, 2, 2, 2]), (9, 100, 5, [4, 4, 1]), (3, 2, 1, [1, 1, 1]), (0, 5, 1, [])],
)
def test_every_item_once_and_in_order(
    count: int, step: int, holds: int, lengths: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    done: list[slice] = []
    with caplog.at_level(logging.WARNING):
        in_parts(count, step, _work(holds, done))
    assert [part.stop - part.start for part in done] == lengths
    assert [item for part in done for item in range(part.start, part.stop)] == list(range(count))
    assert bool(caplog.messages) == (min(count, step) > holds)
    if caplog.messages:
        assert f"does not hold {min(count, step)} images" in caplog.messages[0]


def test_no_room_for_one() -> None:
    with pytest.raises(InputError, match=r"one image \(CUDA out of memory\. Tried to allocate 2 GiB\); free some"):
        in_parts(5, 4, _work(0, []))


def test_other_errors_pass() -> None:
    def work(part: slice) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        in_parts(5, 4, work)
