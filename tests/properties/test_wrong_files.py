"""The short form of `make torture`: files made wrong are read rightly or refused in words, soon."""

from pathlib import Path

import pytest
import torture


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of wrong numbers that NumPy computes with
def test_wrong_files_are_refused_or_read_rightly(tmp_path: Path) -> None:
    tallies = list(torture.wrong_files(tmp_path, 1200, seed=3))
    assert len(tallies) >= 9
    assert [line for tally in tallies for line in tally.wrong] == []
    assert sum(tally.refused for tally in tallies) > 500
