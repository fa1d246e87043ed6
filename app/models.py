"""Every table, and the words that its columns may hold.

Tables are internal: request bodies are validated by the routers' pydantic models first. Times are epoch seconds (float,
UTC) of the database's clock, so that SQLite and PostgreSQL compare alike. JSON only holds what is never filtered on.
"""

from enum import StrEnum
from typing import Any
from uuid import uuid4

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, UniqueConstraint, text
from sqlmodel import Field, SQLModel

BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite only counts up by itself in an INTEGER column


def new_uuid() -> str:
    """A random uuid in its usual 36-character form."""
    return str(uuid4())


def big_id() -> Any:
    """An increasing primary key: the order of creation."""
    return Field(default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True))


def json_column() -> Any:
    """A nullable JSON column; None is SQL NULL."""
    return Field(default=None, sa_type=JSON(none_as_null=True))


class Status(StrEnum):
    """A container's public status (zun-api, section 4.2)."""

    CREATING = "Creating"
    CREATED = "Created"
    RUNNING = "Running"
    STOPPED = "Stopped"
    PAUSED = "Paused"
    RESTARTING = "Restarting"
    REBUILDING = "Rebuilding"
    DELETING = "Deleting"
    DELETED = "Deleted"
    DEAD = "Dead"
    ERROR = "Error"
    UNKNOWN = "Unknown"


class ActionState(StrEnum):
    """Where an action stands in the log."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = (ActionState.QUEUED, ActionState.RUNNING)


class Owned(SQLModel):
    """A row that belongs to one project: ``app.db`` confines every session to its own."""

    project_id: str = Field(index=True)


class Action(Owned, table=True):
    """One accepted wish: work queue, crash journal and audit trail at once (docs/action-log.md)."""

    __tablename__ = "action"
    __table_args__ = (
        Index("action_one_running", "resource_id", unique=True, sqlite_where=text("state = 'running'"),
              postgresql_where=text("state = 'running'")),
        Index("action_fifo", "resource_id", "id", sqlite_where=text("state in ('queued', 'running')"),
              postgresql_where=text("state in ('queued', 'running')")),
        Index("action_open", "id", sqlite_where=text("state in ('queued', 'running')"),
              postgresql_where=text("state in ('queued', 'running')")),
        Index("action_history", "resource_id", "id"),
    )  # fmt: skip

    id: int = big_id()
    user_id: str
    request_id: str
    resource_kind: str
    resource_id: str
    verb: str
    args: dict[str, Any] | None = json_column()
    memo: dict[str, Any] | None = json_column()
    backend: str
    state: str = ActionState.QUEUED
    cancel: bool = False
    created_at: float
    run_after: float
    deadline: float | None = None
    attempts: int = 0
    lease_token: str | None = None
    lease_until: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    message: str | None = None


class Resource(Owned):
    """What every user-visible row has. `revision` grows with each change, so that stale writers notice."""

    uuid: str = Field(default_factory=new_uuid, unique=True, index=True)
    user_id: str
    created_at: float
    updated_at: float | None = None
    revision: int = 0


class Container(Resource, table=True):
    """One container, as Zun shows it (zun-api, section 4.1), and where it lives."""

    __tablename__ = "container"

    id: int = big_id()
    name: str = Field(index=True)
    image: str
    image_driver: str = "docker"
    image_ref: str | None = None  # the engine's name of an image that is the project's own, see app.commits
    image_pull_policy: str | None = None
    command: list[str] | None = json_column()
    entrypoint: list[str] | None = json_column()
    status: str = Status.CREATING
    status_reason: str | None = None
    task_state: str | None = None
    cpu: float | None = None
    cpu_policy: str | None = None
    cores: list[int] | None = json_column()  # that it has to itself (app.cores)
    memory: int | None = None
    disk: int | None = None
    environment: dict[str, str] | None = json_column()
    labels: dict[str, str] | None = json_column()
    workdir: str | None = None
    hostname: str | None = None
    ports: list[int] | None = json_column()
    exposed_ports: list[dict[str, Any]] | None = json_column()
    addresses: dict[str, list[dict[str, Any]]] | None = json_column()
    security_groups: list[str] | None = json_column()
    restart_policy: dict[str, str] | None = json_column()
    healthcheck: dict[str, Any] | None = json_column()
    interactive: bool = False
    tty: bool = False
    auto_remove: bool = False
    auto_heal: bool = False
    privileged: bool = False
    runtime: str | None = None
    host: str | None = None
    registry_id: str | None = Field(default=None, index=True)
    capsule_id: str | None = Field(default=None, index=True)  # the uuid of the capsule that it is a member of
    init: bool = False  # a capsule's member that runs to its end before the others start
    nets: list[dict[str, Any]] | None = json_column()  # networks it is attached to (app.networks)
    mounts: list[dict[str, Any]] | None = json_column()  # volumes and injected files (app.volumes)
    hints: dict[str, Any] | None = json_column()
    backend: str
    engine_ref: str | None = None
    wanted_running: bool = False  # what the user last asked for; decides what auto_heal brings back
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    health: str | None = None  # healthy, unhealthy, starting; None without a health check


class Capsule(Resource, table=True):
    """A group of containers that share a network namespace (zun-api, section 7); its members refer to it."""

    __tablename__ = "capsule"

    id: int = big_id()
    name: str = Field(index=True)
    status: str = Status.CREATING
    status_reason: str | None = None
    task_state: str | None = None
    cpu: float | None = None
    memory: int | None = None
    labels: dict[str, str] | None = json_column()
    annotations: dict[str, str] | None = json_column()
    restart_policy: dict[str, str] | None = json_column()
    addresses: dict[str, list[dict[str, Any]]] | None = json_column()
    security_groups: list[str] | None = json_column()
    volumes: dict[str, Any] | None = json_column()
    nets: list[dict[str, Any]] | None = json_column()
    hostname: str | None = None
    host: str | None = None
    backend: str
    engine_ref: str | None = None


class Volume(Resource, table=True):
    """A volume of the project, kept until it is deleted; one that a container's `size` asked for goes with it."""

    __tablename__ = "volume"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    id: int = big_id()
    name: str
    size: int | None = None
    backend: str
    container_id: str | None = Field(default=None, index=True)  # the uuid of the container that it goes with


class InjectedFile(Owned, table=True):
    """A file that a `bind` mount puts into a container or a capsule's member; content encrypted (``app.vault``)."""

    __tablename__ = "injected_file"

    id: int = big_id()
    container_id: str = Field(index=True)
    destination: str
    content: str


class Network(Resource, table=True):
    """An engine's network that an administrator made for a Neutron network (zun-api, section 3.11)."""

    __tablename__ = "network"

    id: int = big_id()
    name: str | None = None
    neutron_net_id: str = Field(unique=True)
    network_id: str | None = None
    backend: str


class Host(SQLModel, table=True):
    """A host that a replica serves, as Zun shows its agents in ``/services`` (zun-api, section 3.13)."""

    __tablename__ = "host"
    __table_args__ = (UniqueConstraint("backend", "hostname"),)

    id: int = big_id()
    uuid: str = Field(default_factory=new_uuid, unique=True)
    backend: str
    hostname: str
    binary: str = "zun-compute"
    disabled: bool = False
    disabled_reason: str | None = None
    forced_down: bool = False
    last_seen_up: float | None = None
    report_count: int = 0
    facts: dict[str, Any] | None = json_column()
    created_at: float
    updated_at: float | None = None


class PinnedCore(SQLModel, table=True):
    """A core of an engine's host that one container has to itself."""

    __tablename__ = "pinned_core"

    backend: str = Field(primary_key=True)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    container_id: str = Field(index=True)


class Installation(SQLModel, table=True):
    """One row: which installation this database is, so that several on one engine tell their things apart."""

    __tablename__ = "installation"

    id: int = Field(primary_key=True)
    uuid: str = Field(default_factory=new_uuid)


class Quota(SQLModel, table=True):
    """An administrator's limit for one resource of one project; absent means the class's."""

    __tablename__ = "quota"

    project_id: str = Field(primary_key=True)
    resource: str = Field(primary_key=True)
    hard_limit: int


class QuotaClass(SQLModel, table=True):
    """A limit of a quota class; the class ``default`` holds what settings do not."""

    __tablename__ = "quota_class"

    class_name: str = Field(primary_key=True)
    resource: str = Field(primary_key=True)
    hard_limit: int


class Ticket(Owned, table=True):
    """The right to open one websocket once: attach or exec (zun-api, section 6). The secret itself is not kept."""

    __tablename__ = "ticket"

    secret_hash: str = Field(primary_key=True)
    container_id: str
    exec_id: str | None = None
    expires_at: float


class Image(Resource, table=True):
    """An image on a host: pulled by an administrator (zun-api, section 3.10), or the commit of a container."""

    __tablename__ = "image"

    id: int = big_id()
    repo: str
    tag: str
    host: str
    backend: str
    image_id: str | None = None
    committed_from: str | None = None  # the uuid of the container that it is a copy of
    size: int | None = Field(default=None, sa_type=BigInteger)
    status: str = Status.CREATING
    status_reason: str | None = None
    task_state: str | None = None


class Registry(Resource, table=True):
    """A private registry and its credentials; the password is encrypted (``app.vault``)."""

    __tablename__ = "registry"

    id: int = big_id()
    name: str = Field(index=True)
    domain: str
    username: str | None = None
    password: str | None = None


class ClusterTemplate(Resource, table=True):
    """What clusters are made from (magnum-api, section 5.2). Projects read each other's public ones: `app.db`."""

    __tablename__ = "cluster_template"

    id: int = big_id()
    name: str = Field(index=True)
    coe: str
    driver: str
    image_id: str
    flavor_id: str | None = None
    master_flavor_id: str | None = None
    keypair_id: str | None = None
    external_network_id: str | None = None
    fixed_network: str | None = None
    fixed_subnet: str | None = None
    dns_nameserver: str | None = None
    network_driver: str | None = None
    volume_driver: str | None = None
    apiserver_port: int | None = None
    docker_volume_size: int | None = None
    docker_storage_driver: str | None = None
    cluster_distro: str
    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: str | None = None
    insecure_registry: str | None = None
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    tags: str | None = None
    server_type: str = "vm"
    registry_enabled: bool = False
    tls_disabled: bool = False
    public: bool = False
    hidden: bool = False
    master_lb_enabled: bool = False
    floating_ip_enabled: bool = True


class ClusterStatus(StrEnum):
    """A cluster's or node group's public status (magnum-api, section 6.1), as far as it occurs here."""

    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    CREATE_FAILED = "CREATE_FAILED"
    CREATE_COMPLETE = "CREATE_COMPLETE"
    UPDATE_IN_PROGRESS = "UPDATE_IN_PROGRESS"
    UPDATE_FAILED = "UPDATE_FAILED"
    UPDATE_COMPLETE = "UPDATE_COMPLETE"
    DELETE_IN_PROGRESS = "DELETE_IN_PROGRESS"
    DELETE_FAILED = "DELETE_FAILED"


class Cluster(Resource, table=True):
    """One cluster (magnum-api, section 5.1). How many nodes it has, and where, its node groups say."""

    __tablename__ = "cluster"

    id: int = big_id()
    name: str = Field(index=True)
    cluster_template_id: str = Field(index=True)
    coe: str
    driver: str
    backend: str  # the engine that its nodes are on
    stack_id: str | None = None  # the handle that clients see: `cluster_id` from 1.13 on
    keypair: str | None = None
    docker_volume_size: int | None = None
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    master_flavor_id: str | None = None
    flavor_id: str | None = None
    create_timeout: int | None = None  # minutes
    discovery_url: str | None = None
    fixed_network: str | None = None
    fixed_subnet: str | None = None
    floating_ip_enabled: bool = True
    master_lb_enabled: bool = False
    status: str = ClusterStatus.CREATE_IN_PROGRESS
    status_reason: str | None = None
    task_state: str | None = None
    health_status: str | None = None  # HEALTHY, UNHEALTHY, UNKNOWN; None before the first look
    health_status_reason: dict[str, str] | None = json_column()
    api_address: str | None = None
    coe_version: str | None = None
    container_version: str | None = None


class NodeGroup(Resource, table=True):
    """Nodes of one cluster that are alike (magnum-api, section 5.3); the first is that of the masters."""

    __tablename__ = "node_group"
    __table_args__ = (UniqueConstraint("cluster_id", "name"),)

    id: int = big_id()
    cluster_id: str = Field(index=True)  # the uuid of its cluster
    name: str = Field(index=True)
    role: str = "worker"
    is_default: bool = False
    node_count: int
    min_node_count: int = 0
    max_node_count: int | None = None
    flavor_id: str | None = None
    image_id: str | None = None
    docker_volume_size: int | None = None
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    node_labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    node_taints: list[dict[str, str]] = Field(default_factory=list, sa_type=JSON)
    # What image_id and flavor_id meant when they were accepted, whatever settings and services say later: the engine's
    # name of the image, how its nodes are started, and of each node cores, MiB and GiB, where 0 is no limit.
    node_image: str = ""
    node_profile: str = ""
    node_cpus: float = 0.0
    node_memory: int = 0
    node_disk: int = 0
    node_addresses: list[str] = Field(default_factory=list, sa_type=JSON)
    status: str = ClusterStatus.CREATE_IN_PROGRESS
    status_reason: str | None = None
    stack_id: str | None = None
    version: str | None = None


class ClusterKey(Owned, table=True):
    """A secret of one cluster and what belongs to it: an authority, or a key for tokens. Keys are sealed (`app.vault`).

    `kind` is cluster, etcd, front_proxy or accounts; ``cluster.previous`` while that authority is being replaced.
    """

    __tablename__ = "cluster_key"

    cluster_id: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    certificate: str | None = None
    private_key: str


class ClusterQuota(SQLModel, table=True):
    """An administrator's limit of clusters in one project (magnum-api, section 4.6); absent means the setting's."""

    __tablename__ = "cluster_quota"
    __table_args__ = (UniqueConstraint("project_id", "resource"),)

    id: int = big_id()
    project_id: str
    resource: str = "Cluster"
    hard_limit: int
    created_at: float
    updated_at: float | None = None


class IdentityUser(SQLModel, table=True):
    """A user of the embedded identity."""

    __tablename__ = "identity_user"

    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    password_hash: str
    enabled: bool = True
    default_project_id: str | None = None


class IdentityProject(SQLModel, table=True):
    """A project of the embedded identity."""

    __tablename__ = "identity_project"

    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    description: str = ""
    enabled: bool = True


class IdentityGrant(SQLModel, table=True):
    """A role (admin, member, reader) of a user on a project."""

    __tablename__ = "identity_grant"

    user_id: str = Field(primary_key=True)
    project_id: str = Field(primary_key=True)
    role: str = Field(primary_key=True)


class IdentityCredential(SQLModel, table=True):
    """An application credential: logs in as its user on one project with some of the user's roles."""

    __tablename__ = "identity_credential"

    id: str = Field(primary_key=True)
    user_id: str = Field(index=True)
    project_id: str
    name: str
    description: str = ""
    secret_hash: str
    roles: list[str] | None = json_column()
    unrestricted: bool = False
    expires_at: float | None = None


class IdentityRevocation(SQLModel, table=True):
    """A revoked token, by audit id, kept until it would have expired anyway."""

    __tablename__ = "identity_revocation"

    audit_id: str = Field(primary_key=True)
    expires_at: float


class IdentityKey(SQLModel, table=True):
    """The key that signs embedded tokens: PEM, encrypted (``app.vault``)."""

    __tablename__ = "identity_key"

    id: str = Field(primary_key=True)
    private_pem: str
    created_at: float


KINDS: dict[str, type[Container] | type[Capsule] | type[Image] | type[Cluster]] = {
    "container": Container,
    "capsule": Capsule,
    "image": Image,
    "cluster": Cluster,
}
"""Resources that actions work on, by ``Action.resource_kind``."""
