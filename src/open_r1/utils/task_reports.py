"""What an evaluation of a task says: the record that every task's evaluator returns."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """One evaluation. Example: `TaskReport(task="rec", metrics={"accuracy": 0.9}, counts={"rows": 10}, ...)`."""

    task: str
    metrics: dict[str, float]  # name -> value, finite; what has no value is left out and told in `notes`
    counts: dict[str, int]
    details: list[dict]  # one record per row
    notes: list[str]  # what to know about the numbers
