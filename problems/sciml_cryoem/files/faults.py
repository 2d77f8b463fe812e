"""Faults of an input, collected so that a user sees all of them at once instead of one a run."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from sciml.errors import InputError
from sciml.findings import Finding, Severity


@dataclass(frozen=True)
class Fault:
    """One fault of an input file, or one thing about it that the user should know.

    Attributes:
        file: the file at fault.
        place: line, row or header field; empty when it is the file as a whole.
        fault: what was found and what is allowed, a sentence.
        remedy: what to do about it, a sentence.
        severity: None for a fault that makes the input unusable; else how bad it is to go on; see `Finding`.
        kind: faults of one kind are reported as one, with their number; empty: only equal sentences are of one kind.
    """

    file: str
    place: str
    fault: str
    remedy: str
    severity: Severity | None = None
    kind: str = ""

    @property
    def fatal(self) -> bool:
        """Whether it makes the input unusable."""
        return self.severity is None

    @property
    def where(self) -> str:
        """File and place in words."""
        return f"{self.file}, {self.place}" if self.place else self.file

    def __str__(self) -> str:
        return f"{self.where}: {self.fault} {self.remedy}".rstrip()

    def finding(self) -> Finding:
        """The same for screen, report and summary. A fatal one is severe."""
        return Finding(self.fault, self.where, self.severity or "severe", self.remedy)

    def record(self) -> dict[str, str | bool]:
        """The entry of `faults` in what `check --json` prints."""
        texts = {"file": self.file, "place": self.place, "fault": self.fault, "remedy": self.remedy}
        return {**texts, "fatal": self.fatal}


class FaultError(InputError):
    """An `InputError` that still knows its parts, so that `check` can list it among the others."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(str(fault))
        self.fault = fault


@dataclass
class Faults:
    """The faults found so far while reading one particle set.

    Attributes:
        found: in the order of discovery.
    """

    found: list[Fault] = field(default_factory=list)

    def error(self, file: str | Path, place: str, fault: str, remedy: str, kind: str = "") -> None:
        """Add a fault that makes the input unusable."""
        self.found.append(Fault(str(file), place, fault, remedy, kind=kind))

    def severe(self, file: str | Path, place: str, fault: str, remedy: str) -> None:
        """Add something that probably ruins the answer."""
        self.found.append(Fault(str(file), place, fault, remedy, "severe"))

    def warning(self, file: str | Path, place: str, fault: str, remedy: str = "", kind: str = "") -> None:
        """Add something that may spoil the answer."""
        self.found.append(Fault(str(file), place, fault, remedy, "warning", kind))

    def note(self, file: str | Path, place: str, fault: str, remedy: str = "") -> None:
        """Add something that is good to know."""
        self.found.append(Fault(str(file), place, fault, remedy, "note"))

    @property
    def grouped(self) -> list[Fault]:
        """One fault of each kind, the first, which says how many more there are and where the last is."""
        kinds: dict[tuple[Severity | None, str], list[Fault]] = {}
        for fault in self.found:
            kinds.setdefault((fault.severity, fault.kind or str(fault)), []).append(fault)
        return [_with_count(members) for members in kinds.values()]

    @property
    def errors(self) -> list[Fault]:
        """The fatal ones, one of each kind."""
        return [fault for fault in self.grouped if fault.fatal]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The others, one of each kind, for the reports of what is computed from this input."""
        return tuple(fault.finding() for fault in self.grouped if not fault.fatal)

    def raise_errors(self, path: str | Path) -> None:
        """Stop if there is a fatal fault.

        Args:
            path: the particle STAR file, named in the hint when there is more than one fault.

        Raises:
            InputError: the first fatal fault; it says how many more kinds there are.
        """
        errors = self.errors
        if len(errors) == 1:
            raise FaultError(errors[0])
        if errors:
            raise InputError(f"{errors[0]} ({len(errors) - 1} more: `sciml cryoem check {path}` lists all.)")


def _with_count(members: list[Fault]) -> Fault:
    first, others = members[0], len(members) - 1
    if not others:
        return first
    return replace(first, fault=f"{first.fault} {others:,} more of this kind, the last: {members[-1].where}.")
