"""Zun's /v1/quotas and /v1/quota_classes (zun-api, sections 3.16 and 8)."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field, WithJsonSchema

from app import quotas
from app.errors import Forbidden, Invalid
from app.policy import Tx, allow
from app.routers.requests import gateway
from app.versions import ApiModel

router = APIRouter(prefix="/v1/quotas", tags=["quotas"])
classes = APIRouter(prefix="/v1/quota_classes", tags=["quotas"])

MOST = 2**31 - 1
OTHERS = "quota:update"  # who may set quotas may look at those of every project


def _limit(value: Any) -> Any:
    """A number or a string of one: clients send either. Raises Invalid."""
    if isinstance(value, str) and value.removeprefix("-").isdecimal() and value.isascii() and len(value) < 12:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not quotas.UNLIMITED <= value <= MOST:
        shown = str(value)[:64]
        raise Invalid(
            f"Quota value '{shown}': it must be a whole number from -1, which is no limit, to {MOST}",
            code="invalid-quota-value",
        )
    return value


Limit = Annotated[
    int, BeforeValidator(_limit), WithJsonSchema({"type": "integer", "minimum": quotas.UNLIMITED, "maximum": MOST})
]
Project = Annotated[str, Path(max_length=255, description="A project's id.")]
Class = Annotated[str, Path(max_length=255, description="A class's name; the one that counts is default.")]


class Limits(ApiModel):
    """New limits; what is absent stays."""

    containers: Limit | None = None
    memory: Annotated[Limit | None, Field(description="MiB")] = None
    disk: Annotated[Limit | None, Field(description="GiB")] = None
    cpu: Annotated[Limit | None, Field(description="Cores")] = None

    @property
    def given(self) -> dict[str, int]:
        """By resource. Raises Invalid for null."""
        values = {name: getattr(self, name) for name in quotas.RESOURCES if name in self.model_fields_set}
        return {name: _limit(value) for name, value in values.items()}


EXAMPLES = [{"containers": 10, "memory": 4096, "disk": -1, "cpu": 8}]


@router.get("/{project}", summary="Show quotas", operation_id="show_quotas")
async def show(
    request: Request,
    project: Project,
    tx: Annotated[Tx, Depends(allow("quota:get", any_project=OTHERS))],
    usages: Annotated[str, Query(max_length=64, description="Anything: tell what is in use as well.")] = "",
) -> Response:
    """What a project may have; -1 is no limit. Administrators see every project, others their own."""
    _own(tx, project, "quota:get")
    async with tx.reading() as session:
        limits = await quotas.limits(session, project, gateway(request).settings)
        used = await quotas.usage(session, project) if usages else {}
    if not usages:
        return _shown(limits)
    return JSONResponse({name: {"limit": limits[name], "in_use": used[name]} for name in quotas.RESOURCES})


@router.get("/{project}/defaults", summary="Show default quotas", operation_id="show_default_quotas")
async def defaults(
    request: Request, project: Project, tx: Annotated[Tx, Depends(allow("quota:get_default", any_project=OTHERS))]
) -> Response:
    """What a project may have for which nothing else was set."""
    _own(tx, project, "quota:get_default")
    async with tx.reading() as session:
        return _shown(await quotas.class_limits(session, quotas.DEFAULT_CLASS, gateway(request).settings))


@router.put("/{project}", summary="Change quotas", operation_id="update_quotas")
async def update(
    request: Request,
    project: Project,
    body: Annotated[Limits, Body(examples=EXAMPLES)],
    tx: Annotated[Tx, Depends(allow("quota:update", any_project=OTHERS))],
) -> Response:
    """Sets limits of one project; what is not named stays."""
    _no_query(request)
    async with tx.writing() as session:
        await quotas.override(session, project, body.given)
        return _shown(await quotas.limits(session, project, gateway(request).settings))


@router.delete("/{project}", summary="Reset quotas", operation_id="delete_quotas")
async def forget(project: Project, tx: Annotated[Tx, Depends(allow("quota:delete", any_project=OTHERS))]) -> Response:
    """The project has the defaults again."""
    async with tx.writing() as session:
        await quotas.forget(session, project)
    return JSONResponse(None)


@classes.get("/{name}", summary="Show a quota class", operation_id="show_quota_class")
async def show_class(request: Request, name: Class, tx: Annotated[Tx, Depends(allow("quota_class:get"))]) -> Response:
    """The limits of a class; those of `default` are every project's unless it has its own."""
    async with tx.reading() as session:
        return _shown(await quotas.class_limits(session, name, gateway(request).settings))


@classes.put("/{name}", summary="Change a quota class", operation_id="update_quota_class")
async def update_class(
    request: Request,
    name: Class,
    body: Annotated[Limits, Body(examples=EXAMPLES)],
    tx: Annotated[Tx, Depends(allow("quota_class:update"))],
) -> Response:
    """Sets limits of a class; what is not named stays."""
    _no_query(request)
    async with tx.writing() as session:
        await quotas.override_class(session, name, body.given)
        return _shown(await quotas.class_limits(session, name, gateway(request).settings))


def _own(tx: Tx, project: str, rule: str) -> None:
    """Raises Forbidden, as Zun does, when the caller's scope does not hold that project."""
    tx.check()
    if not tx.sees(project):
        raise Forbidden(f"Policy doesn't allow {rule} to be performed.")


def _no_query(request: Request) -> None:
    if request.query_params:
        names = ", ".join(sorted(request.query_params))[:64]
        raise Invalid(
            f"Additional properties are not allowed ('{names}' was unexpected)", code="schema-validation-error"
        )


def _shown(limits: dict[str, int]) -> Response:
    return JSONResponse({name: limits[name] for name in quotas.RESOURCES})
