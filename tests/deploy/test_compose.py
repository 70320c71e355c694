"""The compose file, as Docker Compose itself reads it."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import compose
import pytest
import yaml
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry

from deploy.servers import stopped, tethered, usable_port
from service.settings import PREFIX, Settings
from tests.deploy.chart import ROOT

BINARY = Path(compose.__file__).with_name("docker-compose")
DEPLOY = ROOT / "deploy"
EXAMPLE = DEPLOY / "env.example"
OURS = ("migrate", "bucket", "api", "worker")


def run(env: Path, *files: str) -> "subprocess.CompletedProcess[str]":
    named = [argument for file in files for argument in ("--file", str(DEPLOY / file))]
    command = [str(BINARY), "--env-file", str(env), *named, "config", "--format", "json"]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere"})


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, with every secret filled in."""
    env = tmp_path_factory.mktemp("env") / ".env"
    env.write_text("".join(f"{line}x\n" if line.endswith("=") else f"{line}\n" for line in lines()))
    return env


@cache
def lines() -> list[str]:
    return EXAMPLE.read_text().splitlines()


@pytest.fixture(scope="module")
def services(filled: Path) -> dict[str, Any]:
    done = run(filled, "compose.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_a_secret_that_is_left_out_is_asked_for(tmp_path: Path) -> None:
    for name in [line.removesuffix("=") for line in lines() if line.endswith("=")]:
        env = tmp_path / name
        env.write_text("".join(f"{line}x\n" for line in lines() if line.endswith("=") and line != f"{name}="))
        done = run(env, "compose.yaml")
        assert done.returncode != 0
        assert name in done.stderr
        assert "env.example" in done.stderr


def test_nothing_is_published_but_the_api_and_grafana_to_this_machine(services: dict[str, Any]) -> None:
    ports = {name: [(p["host_ip"], p["target"]) for p in s.get("ports", [])] for name, s in services.items()}
    assert {n: p for n, p in ports.items() if p} == {"api": [("127.0.0.1", 8000)], "grafana": [("127.0.0.1", 3000)]}


def test_servers_are_on_a_network_that_leads_nowhere(services: dict[str, Any]) -> None:
    outside = {name for name, service in services.items() if "outside" in service["networks"]}
    assert outside == {"api", "grafana"}


def test_every_setting_is_one_of_the_services(services: dict[str, Any]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in OURS:
        assert {n for n in services[name]["environment"] if n.startswith(PREFIX)} <= known


def test_the_api_and_workers_wait_for_the_schema_the_bucket_and_the_servers(services: dict[str, Any]) -> None:
    for name in ("api", "worker"):
        waits = {other: each["condition"] for other, each in services[name]["depends_on"].items()}
        assert waits == {
            "migrate": "service_completed_successfully", "bucket": "service_completed_successfully",
            "postgres": "service_healthy", "redis": "service_healthy", "s3": "service_healthy",
        }  # fmt: skip
    for name in ("postgres", "redis", "s3", "prometheus"):
        assert services[name]["healthcheck"]["test"]


def test_our_containers_write_to_volumes_only_and_gain_nothing(services: dict[str, Any]) -> None:
    for name in OURS:
        service = services[name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["tmpfs"] == ["/tmp"]


def test_redis_keeps_its_messages_and_evicts_none(services: dict[str, Any]) -> None:
    command = services["redis"]["command"][-1]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_redis_knows_the_services_user_alone(services: dict[str, Any], tmp_path: Path) -> None:
    port, password = usable_port(), services["redis"]["environment"]["REDISCLI_AUTH"]
    script = services["redis"]["command"][-1].replace("$$", "$").replace("/etc/redis", str(DEPLOY / "redis"))
    here = f"redis-server - --bind 127.0.0.1 --port {port} --dir {tmp_path}"
    command = tethered(["sh", "-c", script.replace("redis-server -", here, 1)])
    process = subprocess.Popen(command, env=os.environ | {"REDISCLI_AUTH": password}, stdout=subprocess.DEVNULL)
    url = services["api"]["environment"]["ROBUSTREPS_BROKER_URL"].replace("redis:6379", f"127.0.0.1:{port}")
    try:
        with Redis.from_url(url, retry=Retry(ConstantBackoff(0.1), 300)) as redis:
            assert redis.ping()
            with pytest.raises(NoPermissionError):
                redis.flushall()
        with Redis(port=port) as nobody, pytest.raises(AuthenticationError):
            nobody.ping()
    finally:
        stopped(process)


def test_a_worker_may_take_as_long_to_drain_as_it_was_told(services: dict[str, Any]) -> None:
    drain = float(services["worker"]["environment"]["ROBUSTREPS_DRAIN_SECONDS"])
    assert services["worker"]["stop_grace_period"] == "1m0s"
    assert drain + 5 < 60


def test_a_worker_has_a_gpu_unless_the_machine_has_none(services: dict[str, Any], filled: Path) -> None:
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    cpu = json.loads(run(filled, "compose.yaml", "compose.cpu.yaml").stdout)["services"]["worker"]
    assert cpu["environment"]["ROBUSTREPS_DEVICE"] == "cpu"
    assert not cpu["deploy"]["resources"]["reservations"].get("devices")


def test_images_have_versions_and_what_is_built_has_a_stage(services: dict[str, Any]) -> None:
    for name, service in services.items():
        built = service.get("build", {}).get("target")
        if name in OURS:
            assert f" AS {built}\n" in (ROOT / "Dockerfile").read_text()
        else:
            assert service["image"].partition(":")[2].lstrip("v")[0].isdigit()


def test_the_bucket_is_made_once(services: dict[str, Any]) -> None:
    compile("\n".join(services["bucket"]["command"]), "bucket", "exec")


def test_prometheus_asks_the_services_that_there_are(services: dict[str, Any]) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
    asked = {t.partition(":")[0] for job in config["scrape_configs"] for s in job.get("static_configs", [])
             for t in s["targets"]}  # fmt: skip
    asked |= {name for job in config["scrape_configs"] for s in job.get("dns_sd_configs", []) for name in s["names"]}
    assert asked == {"api", "worker"}
    assert asked <= services.keys()


def test_grafana_reads_what_is_mounted(services: dict[str, Any]) -> None:
    mounted = {v["target"]: Path(v["source"]) for v in services["grafana"]["volumes"] if v["type"] == "bind"}
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/robustreps.yaml").read_text())
    assert provider["providers"][0]["options"]["path"] in mounted
    assert all(path.is_dir() for path in mounted.values())


def test_the_api_alone_has_the_secret_of_its_keys(services: dict[str, Any]) -> None:
    having = {name for name, s in services.items() if "ROBUSTREPS_SECRET_KEY" in (s.get("environment") or {})}
    assert having == {"api"}
