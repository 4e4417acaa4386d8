"""deploy/ and docker-compose.yml: valid by Kubernetes's schemas, confined, and in step with the server's settings.

Nothing here starts a container or calls a cluster.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings
from app.main import create_app

yaml = pytest.importorskip("yaml", reason="needs PyYAML, which kubernetes-validate brings")

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
NGINX = (ROOT / "deploy" / "nginx" / "nginx.conf").read_text()
DEFAULTS = Settings(_env_file=None)
FIRST_REQUEST_SECONDS = 5
"""That app.serve gives connections which were accepted last."""


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KUBERNETES / name).read_text())
    return found


def resources() -> list[dict[str, Any]]:
    return [read(name) for name in read("kustomization.yaml")["resources"]]


def pod() -> dict[str, Any]:
    found: dict[str, Any] = read("deployment.yaml")["spec"]["template"]["spec"]
    return found


def test_every_manifest_is_part_of_the_kustomization() -> None:
    names = {path.name for path in KUBERNETES.iterdir()}
    assert names == {"kustomization.yaml", *read("kustomization.yaml")["resources"]}


def test_manifests_are_valid() -> None:
    """By the schemas that the package has, where an unknown field is an error."""
    validator = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate: requirements/test.txt")
    for manifest in resources():
        validator.validate(manifest, validator.latest_version(), strict=True)
        broken = {**manifest, "unknown": 1}
        with pytest.raises(validator.ValidationError):
            validator.validate(broken, validator.latest_version(), strict=True)


def test_selectors_and_names_meet() -> None:
    found = {manifest["kind"]: manifest for manifest in resources()}
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    assert pod()["serviceAccountName"] == found["ServiceAccount"]["metadata"]["name"]
    (api,) = pod()["containers"]
    (port,) = api["ports"]
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    sources = {one["configMapRef"]["name"] for one in api["envFrom"] if "configMapRef" in one}
    assert sources == {found["ConfigMap"]["metadata"]["name"]}
    image = read("kustomization.yaml")["images"][0]["name"]
    assert {one["image"] for one in (*pod()["containers"], *pod()["initContainers"])} == {image}
    assert "replicas" not in found["Deployment"]["spec"], "each apply would undo what the autoscaler has decided"


def test_containers_are_confined() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    assert f"--uid {pod()['securityContext']['runAsUser']} " in (ROOT / "Dockerfile").read_text()
    for container in (*pod()["containers"], *pod()["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/data"}
        assert container["resources"]["limits"]["memory"]


def test_probes_call_open_routes() -> None:
    (api,) = pod()["containers"]
    paths = {name: api[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health/live", "liveness": "/health/live", "readiness": "/health/ready"}
    assert set(paths.values()) <= create_app().openapi()["paths"].keys()


def test_settings_exist_and_leave_time_to_stop() -> None:
    settings = read("configmap.yaml")["data"]
    assert {name.lower() for name in settings} <= Settings.model_fields.keys()
    drain = float(settings["DRAIN_SECONDS"])
    (api,) = pod()["containers"]
    noticed = api["readinessProbe"]["periodSeconds"] * api["readinessProbe"]["failureThreshold"]
    assert drain > noticed
    needed = drain + FIRST_REQUEST_SECONDS + DEFAULTS.graceful_shutdown_timeout
    assert pod()["terminationGracePeriodSeconds"] > needed + 5


def nginx_value(name: str) -> str:
    found = re.search(rf"^\s+{name} ([^;]+);", NGINX, re.MULTILINE)
    assert found, name
    return found[1]


def test_nginx_has_the_limits_of_the_server() -> None:
    assert int(nginx_value("client_max_body_size").removesuffix("m")) << 20 == DEFAULTS.max_body_bytes
    assert float(nginx_value("proxy_read_timeout").removesuffix("s")) > DEFAULTS.ingest_timeout
    assert float(nginx_value("client_header_timeout").removesuffix("s")) == DEFAULTS.header_timeout
    assert float(nginx_value("client_body_timeout").removesuffix("s")) == DEFAULTS.body_timeout
    assert float(nginx_value("keepalive_timeout").removesuffix("s")) < DEFAULTS.keep_alive_timeout


def test_the_profile_ha_has_two_equal_servers_behind_nginx() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    api, second, nginx = services["api"], services["api-2"], services["nginx"]
    assert {name for name, service in services.items() if service.get("profiles") == ["ha"]} == {"api-2", "nginx"}
    assert {**api, "ports": [], "profiles": ["ha"]} == second
    drain = float(re.search(r"-([\d.]+)}", api["environment"]["DRAIN_SECONDS"])[1])  # type: ignore[index]
    assert drain > float(nginx_value("keepalive_timeout").removesuffix("s"))
    grace = float(api["stop_grace_period"].removesuffix("s"))
    assert grace > drain + FIRST_REQUEST_SECONDS + DEFAULTS.graceful_shutdown_timeout
    upstreams = set(re.findall(r"server ([\w-]+):8000", NGINX))
    assert upstreams == {"api", "api-2"} == set(nginx["depends_on"])
    assert nginx["volumes"] == ["./deploy/nginx/nginx.conf:/etc/nginx/nginx.conf:ro"]
    assert nginx["ports"][0].endswith(f":{nginx_value('listen')}")
    for service in (api, second, nginx):
        assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (True, ["ALL"], ["/tmp"])
