"""What a cluster's users expect to run in it: DNS, and a class of storage. Both come as images from elsewhere.

They are made when a label names a tag of theirs (``coredns_tag``, ``local_path_tag``); ``container_infra_prefix`` says
where system images come from. No label, no addon: a cluster without access to a registry has no pod that cannot start.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from app.backends.kubernetes.files import DOMAIN, Layout

MANIFESTS = Path(__file__).with_name("manifests")
COREDNS = "docker.io/coredns/"
LOCAL_PATH = "docker.io/rancher/"

_PATHS = {
    "ServiceAccount": "/api/v1/namespaces/kube-system/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/kube-system/configmaps",
    "Service": "/api/v1/namespaces/kube-system/services",
    "Deployment": "/apis/apps/v1/namespaces/kube-system/deployments",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "StorageClass": "/apis/storage.k8s.io/v1/storageclasses",
}


def objects(layout: Layout) -> Iterator[tuple[str, dict[str, Any]]]:
    """What to apply, and at which path of the API each object stands."""
    labels = layout.spec.labels
    prefix = labels.get("container_infra_prefix")
    if tag := labels.get("coredns_tag"):
        words = {"ADDRESS": str(layout.ranges.dns_service), "DOMAIN": DOMAIN}
        yield from _objects("coredns", f"{prefix or COREDNS}coredns:{tag}", **words)
    if tag := labels.get("local_path_tag"):
        yield from _objects("local-path", f"{prefix or LOCAL_PATH}local-path-provisioner:{tag}")


def _objects(name: str, image: str, **words: str) -> Iterator[tuple[str, dict[str, Any]]]:
    text = (MANIFESTS / f"{name}.yaml").read_text()
    for word, value in {"IMAGE": image, **words}.items():
        text = text.replace(word, value)
    for document in yaml.safe_load_all(text):
        yield f"{_PATHS[document['kind']]}/{document['metadata']['name']}", document
