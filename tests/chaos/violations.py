"""What the chaos suite finds."""

from typing import NamedTuple


class Violation(NamedTuple):
    """A promise that was broken, and the evidence."""

    promise: str
    evidence: str
