"""The URL table: which router serves what. Paths are canonical here, see ``app.gate``."""

from fastapi import APIRouter

from app.routers import (
    capsules,
    certificates,
    cluster_events,
    cluster_quotas,
    cluster_reports,
    clusters,
    container_actions,
    container_archives,
    container_changes,
    container_networks,
    container_streams,
    containers,
    hosts,
    images,
    networks,
    nodegroups,
    quotas,
    root,
    templates,
    volumes,
)


def container_api() -> list[APIRouter]:
    """Zun's API."""
    return [
        root.router,
        containers.router,
        container_actions.router,
        container_changes.router,
        container_streams.router,
        container_networks.router,
        capsules.router,
        container_archives.router,
        volumes.router,
        images.router,
        images.registries,
        networks.router,
        hosts.router,
        hosts.services,
        hosts.zones,
        quotas.router,
        quotas.classes,
    ]


def container_infra_api() -> list[APIRouter]:
    """Magnum's API."""
    return [
        root.magnum,
        templates.router,
        nodegroups.router,
        cluster_events.router,
        clusters.router,
        certificates.router,
        certificates.credentials,
        cluster_quotas.router,
        cluster_reports.stats,
        cluster_reports.services,
        cluster_reports.federations,
    ]
