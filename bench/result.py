"""Everything one run found, ready to be asked."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from bench.rounds import Measured


@dataclass(frozen=True)
class Result:
    """Everything one run found."""

    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    absent: dict[str, str]
    rounds: list[Measured]

    def values(self, subject: str, workload: str, figure: str) -> list[float]:
        """One value a round."""
        return [
            one.figures[workload][figure]
            for one in self.rounds
            if one.subject == subject and figure in one.figures.get(workload, {})
        ]

    def middle(self, subject: str, workload: str, figure: str) -> float | None:
        values = self.values(subject, workload, figure)
        return median(values) if values else None

    def ratios(self, workload: str, figure: str, subject: str = "ours") -> list[float]:
        """To direct, of the rounds that have both; nothing is compared with a zero."""
        found: dict[int, dict[str, float]] = {}
        for one in self.rounds:
            if figure in (figures := one.figures.get(workload, {})):
                found.setdefault(one.round, {})[one.subject] = figures[figure]
        return [
            values[subject] / values["direct"]
            for values in found.values()
            if subject in values and values.get("direct")
        ]

    def middle_ratio(self, workload: str, figure: str) -> float | None:
        values = self.ratios(workload, figure)
        return median(values) if values else None

    @property
    def subjects(self) -> list[str]:
        """Those that were measured, in the order of the versions."""
        measured = {one.subject for one in self.rounds}
        return [name for name in self.versions if name in measured]
