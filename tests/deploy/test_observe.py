"""Dashboard, alerts and docs/observe.md name the metrics that a real API and worker tell, and all of them."""

import json
import re
from pathlib import Path

import httpx2
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.chart import ROOT
from tests.deploy.test_alerts import RULES, promtool
from tests.fixtures import LiveService

NAMES = re.compile(r"\b((?:robustreps|process)_[a-z_]+)\b")
OF_GPUS = {"robustreps_device_memory_bytes": "gauge"}
"""What only a worker with a GPU tells."""
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "robustreps.json"
PROVISIONED = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"


def families(service: LiveService) -> list[Metric]:
    """Of an embedded service, which is an API and a worker."""
    text = httpx2.get(f"{service.url}/metrics", timeout=120).text
    return list(text_string_to_metric_families(text))


def names(found: list[Metric]) -> set[str]:
    """Of samples, as queries call them."""
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
    return {family.name + end for family in found for end in ends.get(family.type, ("",))} | OF_GPUS.keys()


def queries() -> list[str]:
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return rules + [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_every_metric_that_a_panel_or_an_alert_names_is_told(live_service: LiveService) -> None:
    told, asked = names(families(live_service)), {name for query in queries() for name in NAMES.findall(query)}
    assert len(asked) > 25
    assert asked - told == set()


def test_the_documentation_has_every_metric_and_no_other(live_service: LiveService) -> None:
    text = (ROOT / "docs" / "observe.md").read_text()
    table = text.split("<!-- metrics -->")[1].split("<!-- end of metrics -->")[0]
    rows = {m[1]: (m[3], m[4]) for m in re.finditer(r"^\| `(\w+)`( by [^|]+)? \| (\w+) \| ([^|]+) \|$", table, re.M)}
    told = {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, family.documentation)
        for family in families(live_service)
        if family.name.startswith("robustreps_")
    }
    assert {name: row for name, row in rows.items() if name not in OF_GPUS} == told
    assert rows.keys() >= OF_GPUS.keys()


def test_a_label_that_is_documented_is_a_label(live_service: LiveService) -> None:
    text = (ROOT / "docs" / "observe.md").read_text()
    rows = re.finditer(r"^\| `(\w+)`( by [^|]+)? \|", text, re.M)
    documented = {row[1]: set(re.findall(r"`(\w+)`", row[2] or "")) for row in rows}
    for family in families(live_service):
        name = family.name + ("_total" if family.type == "counter" else "")
        for sample in family.samples if name in documented else ():
            assert sample.labels.keys() - {"le"} == documented[name], name


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    (source,) = yaml.safe_load(PROVISIONED.read_text())["datasources"]
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": source["uid"]}
    assert not [
        (a["title"], b["title"])
        for n, a in enumerate(panels)
        for b in panels[n + 1 :]
        if overlap(a["gridPos"], b["gridPos"])
    ]


def overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    across = a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
    return across and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


def test_every_query_is_one_that_prometheus_understands(tmp_path: Path) -> None:
    rules = [{"record": f"of:query:{n}", "expr": q.replace("$__rate_interval", "5m")} for n, q in enumerate(queries())]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
