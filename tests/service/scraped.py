"""What an exposition in Prometheus' text format says."""

from typing import Any

import httpx2
from prometheus_client.parser import text_string_to_metric_families

Found = dict[str, dict[frozenset[tuple[str, str]], float]]
"""Values by sample name, and then by labels."""


def parsed(text: str) -> Found:
    found: Found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def scraped(url: str, token: str = "") -> Found:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return parsed(httpx2.get(f"{url}/metrics", headers=headers, timeout=120).raise_for_status().text)


def value(found: Found, name: str, **labels: Any) -> float:
    """The sum of a metric's series that have these labels; 0 if there is none."""
    wanted = set(labels.items())
    return sum(v for k, v in found.get(name, {}).items() if wanted <= k)
