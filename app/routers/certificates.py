"""Magnum's /v1/certificates and /v1/credentials (magnum-api, sections 4.4, 4.5 and 9)."""

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Body, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app import certificates, cluster_keys, clusters
from app.apis import MAGNUM, Api
from app.backends.driver import Keys
from app.certificates import Authority
from app.errors import Forbidden, Invalid, NotFound
from app.models import Cluster
from app.policy import Reading, Tx, allow
from app.routers.clusters import place
from app.routers.magnum_fields import Words, arguments, magnum_json
from app.routers.requests import asked, base, gateway, links
from app.versions import ApiModel, require

router = APIRouter(prefix=f"{MAGNUM.collection}/certificates", tags=["certificates"])
credentials = APIRouter(
    prefix=f"{MAGNUM.collection}/credentials", tags=["certificates"], dependencies=[Depends(require(12))]
)

OF_OTHERS = "certificate:of_others"
"""A rule of our own: Magnum wants the creator of the cluster, and nobody else of its project."""
SYSTEM = "certificate:create:system"
"""Another one: Magnum signs any subject."""


class Sign(ApiModel):
    """A signing request for the client of a cluster."""

    api: ClassVar[Api] = MAGNUM

    cluster_uuid: Annotated[Words, Field(description="Its uuid or name")]
    csr: Annotated[str, Field(strict=True, min_length=1, max_length=certificates.LARGEST_REQUEST)]
    ca_cert_type: Annotated[Words | None, Field(description="kubernetes if absent, or etcd, or front_proxy")] = None


REQUEST = {"cluster_uuid": "blue", "csr": "-----BEGIN CERTIFICATE REQUEST-----\n…\n-----END CERTIFICATE REQUEST-----\n"}


@router.get(
    "/{ident}",
    summary="Show a cluster's CA",
    operation_id="show_certificate",
    openapi_extra={
        "parameters": [
            {
                "name": "ca_cert_type",
                "in": "query",
                "required": False,
                "schema": {"type": "string"},
                "description": "etcd or front_proxy; everything else is the authority of the cluster's API",
            }
        ]
    },
)
async def show_certificate(
    request: Request, ident: str, tx: Annotated[Tx, Depends(allow("certificate:get"))]
) -> Response:
    """The certificate of an authority of the cluster. For the cluster's creator, unless the policy says otherwise."""
    query = arguments(request, ("ca_cert_type",))
    async with tx.reading() as session:
        cluster, authority = await _authority(request, session, tx, ident, "certificate:get", query.get("ca_cert_type"))
    return JSONResponse(_shown(request, cluster) | {"pem": authority.certificate})


@router.post(
    "",
    status_code=201,
    summary="Sign a certificate",
    operation_id="sign_certificate",
    dependencies=[Depends(magnum_json)],
)
async def sign_certificate(
    request: Request,
    body: Annotated[Sign, Body(examples=[REQUEST])],
    tx: Annotated[Tx, Depends(allow("certificate:create"))],
) -> Response:
    """Signs a certificate for a client. For the cluster's creator, unless the policy says otherwise.

    The request says who its holder is to the cluster. The policy says (`certificate:create:system`) who may have that
    be one of Kubernetes' own users and groups, such as system:masters, who may do everything there.
    """
    arguments(request)
    try:
        async with tx.reading() as session:
            cluster, authority = await _authority(
                request, session, tx, body.cluster_uuid, "certificate:create", body.ca_cert_type
            )
    except NotFound as error:
        raise Invalid(error.title) from None
    signed = certificates.sign(authority, body.csr, system=tx.policy.permits(SYSTEM, tx.caller))
    shown = _shown(request, cluster) | {"csr": body.csr, "pem": signed}
    if body.ca_cert_type is not None:
        shown["ca_cert_type"] = body.ca_cert_type
    return JSONResponse(shown, 201)


@router.patch("/{ident}", status_code=202, summary="Rotate a cluster's CA", operation_id="rotate_certificate")
async def rotate_certificate(
    request: Request, ident: str, tx: Annotated[Tx, Depends(allow("certificate:rotate_ca"))]
) -> Response:
    """Gives the cluster's API a new authority. Nodes trust both until each has changed over; clients need new ones."""
    arguments(request)
    parts = gateway(request)
    async with tx.writing() as session:
        cluster = await clusters.find(session, ident, lock=True)
        await clusters.rotate(session, asked(request, tx), cluster, place(request), parts.vault)
    parts.wake()
    return JSONResponse({"uuid": cluster.uuid}, 202)


@credentials.patch(
    "/{ident}", status_code=202, summary="Rotate a cluster's credential", operation_id="rotate_credential"
)
async def rotate_credential(
    request: Request, ident: str, tx: Annotated[Tx, Depends(allow("credential:rotate"))]
) -> Response:
    """Refused: clusters here have no credential of the cloud, so there is none to replace."""
    arguments(request)
    async with tx.reading() as session:
        cluster = await clusters.find(session, ident)
    clusters.check_state(cluster, clusters.QUEUEING, "Rotating the credential of")
    raise Invalid(
        f"Rotating the credential is not supported by this driver ({cluster.driver}): "
        "its clusters have no credential of the cloud."
    )


async def _authority(
    request: Request, session: Reading, tx: Tx, ident: str, rule: str, kind: str | None
) -> tuple[Cluster, Authority]:
    """A cluster and one of its authorities. Raises NotFound, and Forbidden for a cluster that somebody else made."""
    cluster = await clusters.find(session, ident)
    if cluster.user_id != tx.caller.user_id and not tx.policy.permits(OF_OTHERS, tx.caller):
        raise Forbidden(f"Policy doesn't allow {rule} to be performed. Another user made the cluster ({OF_OTHERS}).")
    keys: Keys = await cluster_keys.find(session, cluster.uuid, gateway(request).vault)
    return cluster, {"etcd": keys.etcd, "front_proxy": keys.front_proxy, "front-proxy": keys.front_proxy}.get(
        kind or "", keys.cluster
    )


def _shown(request: Request, cluster: Cluster) -> dict[str, Any]:
    return {"cluster_uuid": cluster.uuid, "links": links(base(request), "certificates", cluster.uuid)}
