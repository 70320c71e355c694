"""The chart: what Helm makes of it is what Kubernetes and KEDA take, and what the service needs of them."""

import warnings
from typing import Any

import helm_python
import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda

from service.settings import PREFIX, Settings
from tests.deploy.chart import CHART, EVERYTHING, Object, one, pods, rendered, variables

VALUES = {"default": {}, "everything": EVERYTHING, "plain": {
    "keda": {"enabled": False}, "api": {"autoscaling": {"enabled": False}}, "networkPolicy": {"enabled": False},
    "serviceAccount": {"create": False}, "migration": {"enabled": False}, "workers": {"gpus": 0},
}}  # fmt: skip
VERSIONS = ("1.29", "1.33", "1.37")


@pytest.fixture(scope="module", params=VALUES)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return rendered(VALUES[request.param])


def test_helm_lint_has_nothing_to_say_but_that_there_is_no_icon() -> None:
    for values in VALUES.values():
        found = helm_python.lint(CHART, values, strict=True)
        assert (found["errors"], [m["error"] for m in found["messages"]]) == ([], ["icon is recommended"])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_kubernetes_takes(objects: list[Object], version: str) -> None:
    checked = 0
    for o in objects:
        if not o["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(o, version, strict=True)
            checked += 1
    assert checked > 4


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    api = one(rendered(), "Deployment", "-api")
    api["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(api, VERSIONS[-1], strict=True)


def test_keda_knows_every_field_of_its_objects() -> None:
    for kind, model in (("ScaledObject", keda.ScaledObject), ("TriggerAuthentication", keda.TriggerAuthentication)):
        given = one(rendered(), kind, "-worker")
        with warnings.catch_warnings():  # of the models' own
            warnings.simplefilter("ignore")
            known = model.model_validate(given).model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert known == given


def test_no_pod_is_root_writes_to_its_image_or_may_ask_the_cluster_for_anything(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        security = pod["securityContext"]
        assert (security["runAsNonRoot"], security["runAsUser"]) == (True, 10001), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip


def test_what_is_written_has_a_volume(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        mounted = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted >= ({"/tmp"} if name.endswith("-migrate") else {"/tmp", "/var/lib/robustreps"})


def test_every_pod_has_the_certificates_that_settings_may_name() -> None:
    given = rendered({"certificates": "mine", "training": {"enabled": True}})
    for name, pod in pods(given):
        assert {"name": "certificates", "secret": {"secretName": "mine", "defaultMode": 0o440}} in pod["volumes"], name
        (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "certificates")
        assert (mount["mountPath"], mount["readOnly"]) == ("/etc/robustreps/certificates", True)


def test_every_setting_of_a_pod_is_one_of_the_services(objects: list[Object]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for _, pod in pods(objects):
        assert {name for name in variables(pod) if name.startswith(PREFIX)} <= known
        assert pod["enableServiceLinks"] is False, "Kubernetes would add settings that the service does not know"


def test_secrets_are_references(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        (container,) = pod["containers"]
        of_secret = {v["name"] for v in container["env"] if "secretKeyRef" in v.get("valueFrom", {})}
        if name.endswith("-api"):
            assert container["envFrom"] == [{"secretRef": {"name": "robustreps"}}]
            continue
        assert "envFrom" not in container
        servers = {"ROBUSTREPS_DATABASE_URL", "ROBUSTREPS_BROKER_URL"}
        others = {f"ROBUSTREPS_{each}" for each in ("S3_ACCESS_KEY", "S3_SECRET_KEY", "METRICS_TOKEN")}
        assert of_secret == servers | (set() if name.endswith("-migrate") else others), name
    assert not [o for o in objects if o["kind"] in ("Secret", "ConfigMap")]


@pytest.mark.parametrize(
    "name",
    [
        "DATABASE_URL",
        "S3_SECRET_KEY",
        "S3_ACCESS_KEY",
        "SECRET_KEY",
        "API_KEY",
        "METRICS_TOKEN",
        "ROBUSTREPS_PORT",
        "device",
    ],
)
def test_a_setting_that_is_a_secret_or_no_setting_is_refused(name: str) -> None:
    with pytest.raises(helm_python.HelmError, match="propertyName"):
        rendered({"settings": {name: "x"}})


@pytest.mark.parametrize(
    "values",
    [{"worker": {}}, {"workers": {"gpus": -1}}, {"api": {"port": 1}}, {"ingress": {"enabled": True}},
     {"training": {"nodes": 1}}, {"existingSecret": ""}],
)  # fmt: skip
def test_values_that_the_chart_does_not_know_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        rendered(values)


def test_large_numbers_and_truths_are_written_as_the_settings_read_them() -> None:
    given = {"MAX_UPLOAD_BYTES": 8_000_000_000, "COMPILE": True, "LEASE_SECONDS": 60.5}
    found = variables(dict(pods(rendered({"settings": given})))["demo-robustreps-worker"])
    parsed = Settings(**{name.lower(): found[PREFIX + name] for name in given})
    assert parsed.model_dump(include={n.lower() for n in given}) == {n.lower(): v for n, v in given.items()}


def test_a_worker_has_longer_to_end_than_it_may_take_to_drain(objects: list[Object]) -> None:
    for name, pod in pods(objects):
        if "ROBUSTREPS_DRAIN_SECONDS" in variables(pod):
            assert pod["terminationGracePeriodSeconds"] >= float(variables(pod)["ROBUSTREPS_DRAIN_SECONDS"]) + 5, name


def test_the_api_answers_while_routers_hear_that_it_ends() -> None:
    api = dict(pods(rendered()))["demo-robustreps-api"]
    (container,) = api["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert api["terminationGracePeriodSeconds"] > 5
    paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


def test_who_scales_says_how_many_and_nobody_else() -> None:
    assert "replicas" not in one(rendered(), "Deployment", "-api")["spec"]
    assert "replicas" not in one(rendered(), "Deployment", "-worker")["spec"]
    plain = rendered(VALUES["plain"])
    assert one(plain, "Deployment", "-worker")["spec"]["replicas"] == 1
    assert not [o for o in plain if o["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]


def test_a_worker_and_a_training_node_have_their_gpus() -> None:
    found = dict(pods(rendered(EVERYTHING)))
    limits = {n: p["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for n, p in found.items()}
    assert limits == {
        "demo-robustreps-api": None, "demo-robustreps-worker": 1, "demo-robustreps-training": 8,
        "demo-robustreps-migrate": None,
    }  # fmt: skip


def test_the_migration_runs_first_and_needs_nothing_of_the_release() -> None:
    job = one(rendered(), "Job", "-migrate")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert "serviceAccountName" not in job["spec"]["template"]["spec"]
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate"]


def test_training_nodes_find_the_first_one_by_name() -> None:
    objects = rendered(EVERYTHING)
    nodes, service = one(objects, "StatefulSet", "-training"), one(objects, "Service", "-training")
    assert nodes["spec"]["serviceName"] == service["metadata"]["name"]
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    script = nodes["spec"]["template"]["spec"]["containers"][0]["args"][0]
    name = nodes["metadata"]["name"]
    assert f"--nnodes=2 --node-rank=$NODE_RANK --master-addr={name}-0.{name} --master-port=29500" in script


def selects(policy: Object, labels: dict[str, str]) -> bool:
    wanted: dict[str, str] = policy["spec"]["podSelector"]["matchLabels"]
    return wanted.items() <= labels.items()


def test_every_pod_is_closed_and_only_the_api_and_training_nodes_are_reached() -> None:
    objects = rendered({"training": {"enabled": True}})
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    reached = {}
    for o in objects:
        if "template" in o.get("spec", {}):
            labels = o["spec"]["template"]["metadata"]["labels"]
            mine = [p["spec"] for p in policies if selects(p, labels)]
            assert any(spec["policyTypes"] == ["Ingress", "Egress"] for spec in mine)
            reached[labels["app.kubernetes.io/component"]] = any("ingress" in spec for spec in mine)
    assert reached == {"api": True, "worker": False, "migrate": False, "training": True}


def test_budgets_and_selectors_name_the_pods_that_there_are() -> None:
    objects = rendered(EVERYTHING)
    made = [o["spec"]["template"]["metadata"]["labels"] for o in objects if "template" in o.get("spec", {})]
    for o in objects:
        if o["kind"] in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
            wanted = o["spec"]["selector"]["matchLabels"]
            assert sum(wanted.items() <= labels.items() for labels in made) == 1
