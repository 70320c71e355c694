"""The alert rules, by promtool: each fires on what it is for, and stays quiet on what is usual."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.chart import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
MINUTES = 60
Series = dict[str, str]
API, WORKER = 'instance="api:8000",job="api"', 'instance="w:9100",job="worker"'


def still(value: float) -> str:
    return f"{value}x{MINUTES}"


def growing(by: float) -> str:
    """By so much a minute."""
    return f"0+{by}x{MINUTES}"


def queue(queued: int, running: int = 0, workers: int = 1, threads: int = 4) -> Series:
    return {
        f'robustreps_shards{{{API},state="queued",priority="normal"}}': still(queued),
        f'robustreps_shards{{{API},state="running",priority="normal"}}': still(running),
        f"robustreps_workers{{{API}}}": still(workers), f"robustreps_worker_threads{{{API}}}": still(threads),
    }  # fmt: skip


def events(name: str, by: float) -> Series:
    return {f'robustreps_events_total{{{WORKER},event="{name}"}}': growing(by)}


def storage(errors: float) -> Series:
    return {
        f'robustreps_storage_errors_total{{{WORKER},operation="write"}}': growing(errors),
        f'robustreps_storage_operation_seconds_count{{{WORKER},operation="write"}}': growing(100),
    }


def requests(failed: float) -> Series:
    name = "robustreps_http_request_seconds_count"
    return {f'{name}{{{API},status="503"}}': growing(failed), f'{name}{{{API},status="200"}}': growing(100)}


def answers(fast: float, slow: float) -> Series:
    name, of = "robustreps_http_request_seconds", f'{API},route="/v1/jobs"'
    total = growing(fast + slow)
    return {
        f'{name}_bucket{{{of},le="0.1"}}': growing(fast), f'{name}_bucket{{{of},le="5"}}': total,
        f'{name}_bucket{{{of},le="+Inf"}}': total, f"{name}_count{{{of}}}": total,
    }  # fmt: skip


def connections(used: float) -> Series:
    return {
        f'robustreps_database_connections{{{API},state="in_use"}}': still(used),
        f"robustreps_database_connections_limit{{{API}}}": still(30),
    }


def api(name: str, value: float, labels: str = "") -> Series:
    return {f"{name}{{{API}{labels}}}": still(value)}


LAST_PASS, AGE = "robustreps_reconciler_last_pass_timestamp_seconds", "robustreps_queue_oldest_seconds"
CASES: dict[str, tuple[Series, Series]] = {
    "ApiDown": (api("up", 0), api("up", 1)),
    "WorkerDown": ({f"up{{{WORKER}}}": still(0)}, {f"up{{{WORKER}}}": still(1)}),
    "DatabaseDown": (api("robustreps_database_up", 0), api("robustreps_database_up", 1)),
    "NoWorkers": (queue(3, workers=0, threads=0), queue(0, workers=0, threads=0)),
    "NothingIsClaimed": (queue(3, 1) | events("claimed", 0), queue(3, 4) | events("claimed", 0)),
    "QueueIsOld": (api(AGE, 1000, ',priority="high"'), api(AGE, 1000, ',priority="normal"')),
    "LeasesAreLost": (events("lease_lost", 1), events("lease_lost", 0.1)),
    "AttemptsFail": (events("attempt_failed", 2), events("attempt_failed", 0.1)),
    "DeviceHangs": ({f"robustreps_device_silent_seconds{{{WORKER}}}": still(200)},
                    {f"robustreps_device_silent_seconds{{{WORKER}}}": still(1)}),
    "StorageFails": (storage(20), storage(1)),
    "ApiFails": (requests(20), requests(1)),
    "ApiIsSlow": (answers(90, 10), answers(100, 0)),
    "ConnectionsRunOut": (connections(29), connections(10)),
    "ReconcilerStands": (api(LAST_PASS, 60), {f"{LAST_PASS}{{{API}}}": growing(60)}),
    "BrokerFails": ({f"robustreps_broker_errors_total{{{API}}}": growing(1)},
                    {f"robustreps_broker_errors_total{{{API}}}": still(7)}),
    "PlanningLags": (api("robustreps_planning_lag_seconds", 4000), api("robustreps_planning_lag_seconds", 60)),
    "WebhooksLag": (api("robustreps_webhook_lag_seconds", 4000), api("robustreps_webhook_lag_seconds", 60)),
}  # fmt: skip
"""What makes each alert fire, and what is so near that it may not."""


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("promtool is missing: make servers", pytrace=False)
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)


def firing(tmp_path: Path, series: Series) -> set[str]:
    """The alerts that fire in the 50th minute: those that promtool says it did not expect."""
    given = [{"series": name, "values": values} for name, values in series.items()]
    none = [{"eval_time": "50m", "alertname": alert, "exp_alerts": []} for alert in CASES]
    case = {"interval": "1m", "input_series": given, "alert_rule_test": none}
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]}))
    done = promtool("test", "rules", path)
    found = set(re.findall(r"alertname: (\w+), time: 50m", done.stdout + done.stderr))
    assert bool(found) == bool(done.returncode), done.stdout + done.stderr
    return found


def test_prometheus_takes_the_rules() -> None:
    done = promtool("check", "rules", RULES)
    assert (done.returncode, f"{len(CASES)} rules found" in done.stdout) == (0, True), done.stderr


def test_every_alert_has_a_case_a_severity_and_a_summary() -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    assert [rule["alert"] for rule in rules] == list(dict.fromkeys(rule["alert"] for rule in rules))
    assert {rule["alert"] for rule in rules} == CASES.keys()
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]


def test_nothing_is_claimed_fires_also_where_nobody_counts_claims(tmp_path: Path) -> None:
    assert firing(tmp_path, queue(3, 1)) == {"NothingIsClaimed"}
    assert firing(tmp_path, queue(3, 4)) == set()


@pytest.mark.parametrize("alert", CASES)
def test_it_fires_alone_on_what_it_is_for_and_not_on_what_is_usual(alert: str, tmp_path: Path) -> None:
    wrong, usual = CASES[alert]
    assert firing(tmp_path, wrong) == {alert}
    assert firing(tmp_path, usual) == set()
