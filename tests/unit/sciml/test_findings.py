import json
from typing import Any

import pytest

from sciml.findings import Finding, by_severity, worst
from sciml.runs.files import to_json

NOTE, WARNING = Finding("Half maps agree to 8 Angstrom.", severity="note"), Finding("Two rows are equal.", "row 3")
SEVERE = Finding("All angles are zero.", "rlnAngleRot", "severe", "Refine the poses first.")


def test_the_line_on_the_screen_says_how_bad_where_what_and_what_to_do() -> None:
    assert str(SEVERE) == "SEVERE: rlnAngleRot: All angles are zero. Refine the poses first."
    assert str(WARNING) == "WARNING: row 3: Two rows are equal."
    assert str(NOTE) == "Half maps agree to 8 Angstrom."


def test_the_worst_come_first_and_equals_stay_in_their_order() -> None:
    second = Finding("Another.")
    assert by_severity([NOTE, WARNING, SEVERE, second]) == [SEVERE, WARNING, second, NOTE]
    assert (worst([]), worst([NOTE, WARNING]), worst([WARNING, SEVERE, NOTE])) == ("note", "warning", "severe")


def test_a_finding_survives_a_summary() -> None:
    assert [Finding.from_record(entry) for entry in json.loads(to_json([NOTE, SEVERE]))] == [NOTE, SEVERE]


@pytest.mark.parametrize("damaged", ["a sentence", None, 3, {}, {"what": ["x"], "severity": {"a": 1}}, {"what": None}])
def test_a_damaged_record_is_still_shown(damaged: Any) -> None:
    assert isinstance(str(Finding.from_record(damaged)), str)
