"""Faults of an input, collected so that a user sees all of them at once instead of one a run."""

from dataclasses import dataclass, field
from pathlib import Path

from sciml.errors import InputError


@dataclass(frozen=True)
class Fault:
    """One fault of an input file.

    Attributes:
        file: the file at fault.
        place: line, row or header field; empty when it is the file as a whole.
        fault: what was found and what is allowed, a sentence.
        remedy: what to do about it, a sentence.
        fatal: False for a warning: the data can be used, and the user should know.
    """

    file: str
    place: str
    fault: str
    remedy: str
    fatal: bool = True

    def __str__(self) -> str:
        where = f"{self.file}, {self.place}" if self.place else self.file
        return f"{where}: {self.fault} {self.remedy}".rstrip()


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

    def error(self, file: str | Path, place: str, fault: str, remedy: str) -> None:
        """Add a fault that makes the input unusable."""
        self.found.append(Fault(str(file), place, fault, remedy))

    def warning(self, file: str | Path, place: str, fault: str, remedy: str = "") -> None:
        """Add something the user should know."""
        self.found.append(Fault(str(file), place, fault, remedy, fatal=False))

    @property
    def errors(self) -> list[Fault]:
        """The fatal ones."""
        return [fault for fault in self.found if fault.fatal]

    @property
    def warnings(self) -> list[Fault]:
        """The others."""
        return [fault for fault in self.found if not fault.fatal]

    def raise_errors(self, path: str | Path) -> None:
        """Stop if there is a fatal fault.

        Args:
            path: the particle STAR file, named in the hint when there is more than one fault.

        Raises:
            InputError: the first fatal fault; it says how many more there are.
        """
        errors = self.errors
        if len(errors) == 1:
            raise FaultError(errors[0])
        if errors:
            raise InputError(f"{errors[0]} ({len(errors) - 1} more: `sciml cryoem check {path}` lists all.)")
