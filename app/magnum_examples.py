"""What Magnum's operations answer when all goes well, for /openapi.json; by operation id."""

from collections.abc import Mapping
from typing import Any

_UUID, _PROJECT = "3b1c7a52-6f0e-4a7e-9d3b-5f1f0c3f2a11", "28efb79e969e43a5b0b78ec14821c357"
_TEMPLATE_UUID, _GROUP_UUID = "7c1f0d3e-52b4-4c1a-8a56-0f6f5f1d2e33", "c0b5a1d4-9e7a-4a53-8d0f-6a1b2c3d4e55"
_USER = "c902c727e25d41a3a07f73af83c0530d"


def _links(path: str) -> list[dict[str, str]]:
    base = "http://127.0.0.1:9517"
    return [{"href": f"{base}/v1/{path}", "rel": "self"}, {"href": f"{base}/{path}", "rel": "bookmark"}]


_TEMPLATE = {
    "uuid": _TEMPLATE_UUID,
    "name": "small-swarm",
    "coe": "swarm-mode",
    "image_id": "swarm-node",
    "flavor_id": "small",
    "master_flavor_id": None,
    "dns_nameserver": None,
    "keypair_id": None,
    "external_network_id": "public",
    "fixed_network": None,
    "fixed_subnet": None,
    "network_driver": "docker",
    "apiserver_port": None,
    "docker_volume_size": None,
    "cluster_distro": "debian",
    "http_proxy": None,
    "https_proxy": None,
    "no_proxy": None,
    "volume_driver": None,
    "labels": {"swarm_strategy": "spread"},
    "server_type": "vm",
    "insecure_registry": None,
    "docker_storage_driver": None,
    "tags": None,
    "driver": "swarm",
    "registry_enabled": False,
    "tls_disabled": False,
    "public": False,
    "hidden": False,
    "master_lb_enabled": False,
    "floating_ip_enabled": True,
    "links": _links(f"clustertemplates/{_TEMPLATE_UUID}"),
    "project_id": _PROJECT,
    "user_id": _USER,
    "created_at": "2026-01-31T09:05:07+00:00",
    "updated_at": None,
}
_SHORT = {
    "uuid": _UUID,
    "name": "blue",
    "cluster_template_id": _TEMPLATE_UUID,
    "keypair": None,
    "docker_volume_size": None,
    "labels": {"swarm_strategy": "spread", "tier": "lab"},
    "master_flavor_id": "small",
    "flavor_id": "small",
    "create_timeout": 60,
    "status": "CREATE_COMPLETE",
    "health_status": "HEALTHY",
    "cluster_id": "blue-3b1c7a526f0e",
    "node_count": 1,
    "master_count": 1,
    "merge_labels": False,
    "links": _links(f"clusters/{_UUID}"),
}
_CLUSTER = _SHORT | {
    "status_reason": None,
    "discovery_url": None,
    "api_address": "tcp://10.222.0.10:2376",
    "coe_version": "28.5.1",
    "container_version": "28.5.1",
    "project_id": _PROJECT,
    "user_id": _USER,
    "fixed_network": None,
    "fixed_subnet": None,
    "floating_ip_enabled": True,
    "master_lb_enabled": False,
    "node_addresses": ["10.222.0.11"],
    "master_addresses": ["10.222.0.10"],
    "health_status_reason": {"api": "ok", "blue-default-worker-0.Ready": "True"},
    "labels_overridden": {},
    "labels_added": {"tier": "lab"},
    "labels_skipped": {},
    "created_at": "2026-01-31T09:05:07+00:00",
    "updated_at": "2026-01-31T09:05:31+00:00",
}
_GROUP_SHORT = {
    "uuid": _GROUP_UUID,
    "name": "default-worker",
    "flavor_id": "small",
    "image_id": "swarm-node",
    "node_count": 1,
    "role": "worker",
    "is_default": True,
    "status": "CREATE_COMPLETE",
    "stack_id": "blue-3b1c7a526f0e",
    "min_node_count": 0,
    "max_node_count": None,
    "merge_labels": False,
}
_GROUP = _GROUP_SHORT | {
    "id": 2,
    "cluster_id": _UUID,
    "project_id": _PROJECT,
    "docker_volume_size": None,
    "labels": {"swarm_strategy": "spread", "tier": "lab"},
    "node_addresses": ["10.222.0.11"],
    "status_reason": None,
    "version": None,
    "node_labels": {},
    "node_taints": [],
    "labels_overridden": {},
    "labels_added": {},
    "labels_skipped": {},
    "links": _links(f"clusters/{_UUID}/nodegroups/{_GROUP_UUID}"),
    "created_at": "2026-01-31T09:05:07+00:00",
    "updated_at": None,
}
_NOT_YET = {"id", "status", "status_reason", "stack_id", "version", "node_addresses", "created_at", "updated_at"}
_PEM = "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----"
_CERTIFICATE = {"cluster_uuid": _UUID, "links": _links(f"certificates/{_UUID}"), "pem": _PEM}
_QUOTA = {
    "id": 1,
    "project_id": _PROJECT,
    "resource": "Cluster",
    "hard_limit": 5,
    "created_at": "2026-01-31T09:05:07+00:00",
    "updated_at": None,
}
_SERVICE = {
    "id": 1,
    "host": "cloud",
    "binary": "magnum-conductor",
    "state": "up",
    "disabled": False,
    "disabled_reason": None,
    "report_count": 7,
    "created_at": "2026-01-31T09:05:07+00:00",
    "updated_at": "2026-01-31T09:06:07+00:00",
}
_EVENT = {
    "id": 17,
    "event": "resize",
    "status": "done",
    "status_reason": None,
    "details": {"nodegroup": "default-worker", "node_count": 3, "nodes_to_remove": []},
    "steps": 4,
    "request_id": "req-2f3c5a04-3ff0-4d2e-8d0d-9b1c5a1c7b11",
    "user_id": _USER,
    "project_id": _PROJECT,
    "created_at": "2026-01-31T09:05:07+00:00",
    "started_at": "2026-01-31T09:05:07+00:00",
    "finished_at": "2026-01-31T09:05:12+00:00",
}
EXAMPLES: Mapping[str, Any] = {
    **{f"list{kind}_cluster_templates": {"clustertemplates": [_TEMPLATE]} for kind in ("", "_detailed")},
    **{f"{verb}_cluster_template": _TEMPLATE for verb in ("create", "show", "update")},
    "list_clusters": {"clusters": [_SHORT]},
    "list_detailed_clusters": {"clusters": [_CLUSTER]},
    "show_cluster": _CLUSTER,
    "list_cluster_events": {"events": [_EVENT]},
    **{f"{verb}_cluster": {"uuid": _UUID} for verb in ("create", "update", "resize", "upgrade")},
    "list_nodegroups": {"nodegroups": [_GROUP_SHORT]},
    "show_nodegroup": _GROUP,
    "create_nodegroup": {name: value for name, value in _GROUP.items() if name not in _NOT_YET},
    "update_nodegroup": _GROUP | {"status": "UPDATE_IN_PROGRESS"},
    "show_certificate": _CERTIFICATE,
    "sign_certificate": _CERTIFICATE | {"csr": "-----BEGIN CERTIFICATE REQUEST-----\n…"},
    "rotate_certificate": {"uuid": _UUID},
    "rotate_credential": {"uuid": _UUID},
    "list_cluster_quotas": {"quotas": [_QUOTA]},
    **{f"{verb}_cluster_quota": _QUOTA for verb in ("create", "show", "update")},
    "show_cluster_stats": {"clusters": 1, "nodes": 2},
    "list_cluster_services": {"mservices": [_SERVICE]},
    **{f"list{kind}_federations": {"federations": []} for kind in ("", "_detailed")},
    **{f"{verb}_federation": {"uuid": _UUID} for verb in ("create", "update")},
    "show_federation": {"uuid": _UUID},
}
