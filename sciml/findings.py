"""What a user should know about an input or an answer: one type for the screen, the report and the JSON."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Severity = Literal["note", "warning", "severe"]
"""note: good to know; warning: the answer may be worse than it looks; severe: do not trust the answer."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""From the least to the worst."""


@dataclass(frozen=True)
class Finding:
    """One thing that a user should know about an input or an answer.

    Attributes:
        what: what was found, with its numbers, a sentence.
        where: the file, column, row or term that it was found in; empty where the sentence says it.
        severity: how bad it is; see `Severity`.
        remedy: what to do about it, a sentence; empty where there is nothing to do.
    """

    what: str
    where: str = ""
    severity: Severity = "warning"
    remedy: str = ""

    def __str__(self) -> str:
        label = "" if self.severity == "note" else f"{self.severity.upper()}: "
        place = f"{self.where}: " if self.where else ""
        return f"{label}{place}{self.what} {self.remedy}".rstrip()

    def record(self) -> dict[str, str]:
        """The entry of `findings` in `summary.json` and in what `--json` prints."""
        return asdict(self)

    @classmethod
    def from_record(cls, value: Any) -> "Finding":
        """A finding read back from a summary. What is no finding is shown as the note that it can still be.

        Args:
            value: an entry of `findings` in a `summary.json`, which may come from elsewhere.
        """
        if not isinstance(value, dict):
            return cls(str(value), severity="note")
        text = {name: str(value.get(name) or "") for name in ("what", "where", "remedy")}
        word = value.get("severity")
        severity = SEVERITIES[SEVERITIES.index(word) if word in SEVERITIES else 1]
        return cls(text["what"], text["where"], severity, text["remedy"])


def worst(findings: list[Finding]) -> Severity:
    """The highest severity among findings; "note" where there are none."""
    return SEVERITIES[max((SEVERITIES.index(finding.severity) for finding in findings), default=0)]


def by_severity(findings: list[Finding]) -> list[Finding]:
    """The worst first; equals stay in their order."""
    return sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity))
