"""The chart, rendered by Helm's own engine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/robustreps"
EVERYTHING: dict[str, Any] = {
    "training": {"enabled": True}, "metrics": {"workerPort": 9100},
    "ingress": {"enabled": True, "className": "nginx", "host": "robustreps.example", "tlsSecret": "robustreps-tls"},
    "certificates": "robustreps-tls-inside",
    "image": {"pullSecrets": [{"name": "registry"}]},
    "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
    "workers": {"runtimeClassName": "nvidia", "settings": {"COMPILE": True}, "nodeSelector": {"gpu": "h100"}},
}  # fmt: skip
"""Values that turn everything on."""

Object = dict[str, Any]


def rendered(values: Mapping[str, Any] | None = None, release: str = "demo") -> list[Object]:
    """Kubernetes' objects. Raises helm_python.HelmError for values that the chart refuses."""
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(dict(values or {}))
        files = chart.render(dict(values or {}), name=release, namespace="jobs")
    documents = [d for name, text in files.items() if name.endswith(".yaml") for d in yaml.safe_load_all(text)]
    return [document for document in documents if document]


def one(objects: list[Object], kind: str, ending: str) -> Object:
    """The only object of a kind whose name ends so."""
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(ending))
    return found


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """The specification of every pod that the objects make, by the name of what makes it."""
    for o in objects:
        if "template" in o.get("spec", {}):
            yield o["metadata"]["name"], o["spec"]["template"]["spec"]


def variables(pod: Object) -> dict[str, Any]:
    """What is set in a pod's only container, by name."""
    return {v["name"]: v.get("value") for v in pod["containers"][0]["env"]}
