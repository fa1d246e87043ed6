"""Who may do what: a table of upstream's rule names, single rules overridden by an operator's ``policy.yaml``.

`allow(rule)` is the only way for a route to a database session: the rule is checked once a request, before a session
opens. The scope that comes with it follows from the token's project; see docs/scoping.md.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.requests import Request

from app.answers import Answer
from app.auth import Caller
from app.db import EVERYTHING, Database, Scope
from app.errors import Forbidden, Invalid
from app.models import Resource
from app.rules import TEXTS

Reading = AsyncSession
"""What a render function is given: a session for reads."""


class Who(StrEnum):
    """Defaults, as oslo.policy check strings."""

    READER = "role:reader"
    MEMBER = "role:member"
    ADMIN = "role:admin"
    NOBODY = "!"


READER, MEMBER, ADMIN, NOBODY = Who.READER, Who.MEMBER, Who.ADMIN, Who.NOBODY

_READERS = (
    "container:get_one", "container:get_all", "container:logs", "container:actions", "container:top", "container:stats",
    "capsule:get", "capsule:get_all", "volume:get_one", "volume:get_all", "image:search",
    "registry:get_one", "registry:get_all", "quota:get",
    "quota:get_default", "availability_zones:get_all",
)  # fmt: skip
_MEMBERS = (
    *(
        f"container:{verb}"
        for verb in (
            "create", "delete", "update", "start", "stop", "reboot", "pause", "unpause", "kill", "execute",
            "execute_resize", "rename", "attach", "resize", "resize_container", "get_archive", "put_archive", "commit",
            "rebuild", "add_security_group", "remove_security_group", "network_attach", "network_detach",
        )
    ),
    "volume:create", "volume:delete", "capsule:create", "capsule:delete", "registry:create",
    "registry:update", "registry:delete",
)  # fmt: skip
_ADMINS = (
    "container:create:runtime", "container:create:requested_destination", "container:create:image_pull_policy",
    "container:create:host_port", "container:delete_force", "container:delete_all_projects",
    "container:get_one_all_projects", "container:get_all_all_projects", "container:get_one:host",
    "container:get_one:image_pull_policy", "container:get_one:privileged", "container:get_one:runtime",
    "container:action:events", "capsule:delete_all_projects", "capsule:get:host", "capsule:get_one_all_projects",
    "capsule:get_all_all_projects", "image:pull", "image:get_all", "image:get_one", "image:delete", "network:create",
    "network:delete", "network:attach_external_network", "host:get", "host:get_all", "zun-service:get_all",
    "zun-service:enable", "zun-service:disable", "zun-service:force_down", "zun-service:delete", "quota:update",
    "quota:delete", "quota_class:get", "quota_class:update", "registry:get_all_all_projects",
)  # fmt: skip

_MAGNUM = {  # magnum-api, section 8.4
    **{
        f"{noun}:{verb}": who
        for noun, verbs in {
            "clustertemplate": {READER: "get get_all detail", MEMBER: "create update delete", ADMIN: "publish"},
            "cluster": {
                READER: "get get_all detail", MEMBER: "create update update_health_status delete resize upgrade",
            },
            "nodegroup": {
                READER: "get get_all", MEMBER: "create update delete",
                ADMIN: "get_one_all_projects get_all_all_projects",
            },
            "certificate": {READER: "get", MEMBER: "create create:system rotate_ca", ADMIN: "of_others"},
            "credential": {MEMBER: "rotate"},
            "quota": {ADMIN: "get_all create"},
            "stats": {READER: "get_all"},
            "magnum-service": {ADMIN: "get_all"},
            "federation": {READER: "get get_all detail", MEMBER: "create update delete"},
        }.items()
        for who, words in verbs.items()
        for verb in words.split()
    },
    **dict.fromkeys(
        [
            f"{noun}:{verb}_all_projects"
            for noun in ("clustertemplate", "cluster")
            for verb in ("get_one", "get_all", "detail", "update", "delete")
        ]
        + ["cluster:upgrade_all_projects"],
        ADMIN,
    ),
}  # fmt: skip

RULES: Mapping[str, Who] = {  # zun-api, section 3.0; owner rules need no test here: a session only sees its project
    **dict.fromkeys(_READERS, READER),
    **dict.fromkeys(_MEMBERS, MEMBER),
    **dict.fromkeys(_ADMINS, ADMIN),
    **_MAGNUM,
    "container:create:privileged": NOBODY,
}

NAMED: Mapping[str, str] = {  # what upstream's rules are made of, and operators' files refer to
    "context_is_admin": "role:admin",
    "admin_api": "rule:context_is_admin",
    "admin_or_owner": "is_admin:True or project_id:%(project_id)s",
    "admin_or_user": "is_admin:True or user_id:%(user_id)s",
    "deny_everybody": "!",
}

HIDDEN = ("host", "image_pull_policy", "privileged", "runtime")
"""Fields of a container that need ``container:get_one:<field>`` to be seen."""

TRUE, FALSE = ("1", "t", "true", "on", "y", "yes"), ("0", "f", "false", "off", "n", "no")


class Policy:
    """The table with an operator's overrides on top. Raises Invalid for a file that cannot be read."""

    def __init__(self, file: Path | None = None) -> None:
        self._overridden: frozenset[str] = frozenset()
        if file is not None:
            self._enforcer, self._overridden = _enforcer(file)

    def permits(self, rule: str, caller: Caller) -> bool:
        """Whether the caller passes `rule`. A rule that nobody defined is passed by nobody.

        An override of ``context_is_admin`` or ``admin_api`` says who is meant by the rules for administrators; one of
        ``admin_or_owner`` can only narrow the others, since a reader does not become a member by it.
        """
        who = RULES.get(rule, NOBODY)
        if rule in self._overridden:
            return self._enforce(rule, caller)
        if who is ADMIN and self._overridden & {"context_is_admin", "admin_api"}:
            return self._enforce("admin_api", caller)
        if (
            who in (READER, MEMBER)
            and "admin_or_owner" in self._overridden
            and not self._enforce("admin_or_owner", caller)
        ):
            return False
        return who is not NOBODY and who.value.removeprefix("role:") in caller.roles

    def _enforce(self, rule: str, caller: Caller) -> bool:
        own = {"user_id": caller.user_id, "project_id": caller.project_id}
        credentials: dict[str, Any] = {**own, "roles": sorted(caller.roles)}
        credentials["is_admin"] = bool(self._enforcer.enforce("context_is_admin", own, credentials))
        return bool(self._enforcer.enforce(rule, own, credentials))

    def require(self, rule: str, caller: Caller) -> None:
        """Raises Forbidden, naming the rule."""
        if not self.permits(rule, caller):
            raise Forbidden(f"Policy doesn't allow {rule} to be performed.")

    def hidden(self, caller: Caller) -> frozenset[str]:
        """The fields of a container that this caller does not get to see."""
        return frozenset(field for field in HIDDEN if not self.permits(f"container:get_one:{field}", caller))


class Tx:
    """A caller whose rule was checked, and the door to sessions in the scope that follows from it.

    The check's answer waits in here: a refused caller gets 403 on the first attempt to open a session, after malformed
    input got its 400, in Zun's order.
    """

    def __init__(
        self, caller: Caller, policy: Policy, database: Database, scope: Scope, denied: Forbidden | None
    ) -> None:
        self.caller = caller
        self.policy = policy
        self._database = database
        self._scope = scope
        self._denied = denied

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session for reads. Raises Forbidden."""
        self.check()
        async with self._database.reading(self._scope) as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A transaction, committed when the block ends. Raises Forbidden."""
        self.check()
        async with self._database.transaction(self._scope) as session:
            yield session

    async def remembered(
        self,
        key: Hashable,
        render: Callable[[AsyncSession], Awaitable[Answer]],
        listed: Sequence[type[Resource]] = (),
    ) -> bytes:
        """The body that `render` makes in a reading session of this scope; see `Database.remembered`."""
        self.check()
        return await self._database.remembered(self._scope, key, render, listed)

    def check(self) -> None:
        """Raises Forbidden when the route's rule said no."""
        if self._denied is not None:
            raise self._denied

    def require(self, rule: str) -> None:
        """A further rule for a part of the request. Raises Forbidden."""
        self.check()
        self.policy.require(rule, self.caller)

    def sees(self, project_id: str) -> bool:
        """Whether a row of that project is within this scope."""
        return self._scope.project_id in (None, project_id)


class Allow:
    """The dependency that `allow` makes; a test walks all routes and looks for it."""

    def __init__(self, rule: str, on_request: str | None, always: str | None, refuses: bool) -> None:
        self.rule = rule
        self.on_request = on_request
        self.always = always
        self.refuses = refuses

    async def __call__(self, request: Request) -> Tx:
        """Check the rule and choose the scope."""
        caller: Caller = request.state.caller
        gateway = request.app.state.gateway
        policy: Policy = gateway.policy
        denied: Forbidden | None = None
        scope = Scope(caller.project_id)
        try:
            policy.require(self.rule, caller)
            wants_all = truth("all_projects", request.query_params.get("all_projects", ""))
            if self.on_request is not None and wants_all:
                if self.refuses:
                    policy.require(self.on_request, caller)
                if policy.permits(self.on_request, caller):
                    scope = EVERYTHING
            elif self.always is not None and policy.permits(self.always, caller):
                scope = EVERYTHING
        except Forbidden as error:
            denied = error
        return Tx(caller, policy, gateway.database, scope, denied)


def allow(rule: str, *, all_projects: str | None = None, any_project: str | None = None, refuses: bool = True) -> Allow:
    """Check `rule`; the session then sees the caller's project.

    `all_projects` names the rule that must hold as well when the query asks for all projects. `any_project` names the
    rule whose holders always see every project: single objects, for administrators (zun-api, section 5.1). With
    `refuses` false, who asks for all projects without that rule gets the own one, where Zun is so.
    """
    return Allow(rule, all_projects, any_project, refuses)


def truth(name: str, value: str) -> bool:
    """Zun's reading of a flag in a query string. Raises Invalid naming it."""
    if value == "" or value.lower() in FALSE:
        return False
    if value.lower() in TRUE:
        return True
    raise Invalid(
        f"Unrecognized value '{value[:64]}' for {name}, acceptable values are: {', '.join(sorted(FALSE + TRUE))}"
    )


def sample() -> str:
    """A policy.yaml with every rule and its default, commented out."""
    named = "".join(f"#   {name}: {check}\n" for name, check in NAMED.items())
    rules = "".join(f'\n# {TEXTS[rule]}\n#"{rule}": "{who.value}"\n' for rule, who in sorted(RULES.items()))
    return (
        "# Roles imply downwards: admin, member, reader. Uncomment a line to change a rule; docs/policy.md says more.\n"
        f"# Checks may refer to these by rule:NAME, and they can be changed as well:\n{named}{rules}"
    )


def _enforcer(file: Path) -> tuple[Any, frozenset[str]]:
    # Imported only where there is a file: oslo costs a tenth of the start and of the memory, and most have none.
    from oslo_config import cfg
    from oslo_policy import opts
    from oslo_policy import policy as oslo

    conf = cfg.ConfigOpts()
    conf([], project="caisson", default_config_files=[], default_config_dirs=[])
    opts.set_defaults(conf, policy_file=str(file))
    enforcer = oslo.Enforcer(conf, use_conf=True)
    defaults = {**NAMED, **{name: who.value for name, who in RULES.items()}}
    enforcer.register_defaults([oslo.RuleDefault(name, check) for name, check in defaults.items()])
    try:
        text = file.read_text()
        named = frozenset(oslo.Rules.load(text))
        enforcer.load_rules(force_reload=True)
    except Exception as error:
        raise Invalid(f"policy file {file}: {error}") from None
    return enforcer, named
