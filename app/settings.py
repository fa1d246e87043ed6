"""All that can be configured: environment variables ``CAISSON_…``, over an optional TOML file, over defaults.

Nested values use a double underscore: ``CAISSON_KEYSTONE__URL``. The TOML file is named by ``CAISSON_CONFIG_FILE``.
There are no module-level settings: whoever needs them is given the object.
"""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from app.errors import Invalid


class Section(BaseModel):
    """A part of the settings; a name that is none of them is refused, as at the top."""

    model_config = ConfigDict(extra="forbid")


class KeystoneSettings(Section):
    """How Caisson itself logs in to Keystone, to validate the tokens of others."""

    url: str = Field(description="The identity endpoint, ending in /v3.")
    username: str | None = None
    password: SecretStr | None = None
    user_domain_name: str = "Default"
    project_name: str = "service"
    project_domain_name: str = "Default"
    application_credential_id: str | None = None
    application_credential_secret: SecretStr | None = None
    www_authenticate_uri: str | None = Field(None, description="What a 401 answer names; `url` when absent.")
    ca_file: Path | None = None
    timeout: float = Field(5.0, gt=0, description="Seconds for one call.")
    cache_seconds: float = Field(60.0, ge=0, le=60, description="How long a validated token is believed.")
    region: str | None = Field(None, description="Region of the other services used; the first listed when absent.")
    interface: Literal["public", "internal", "admin"] = Field("public", description="Which of their addresses is used.")
    jws_public_keys: list[Path] = Field(
        default_factory=list, description="Keystone's JWS public keys: forged or expired tokens fail without a call."
    )

    @model_validator(mode="after")
    def _some_credential(self) -> "KeystoneSettings":
        password = self.username and self.password
        credential = self.application_credential_id and self.application_credential_secret
        if not password and not credential:
            raise ValueError("keystone needs username and password, or application_credential_id and _secret")
        return self


class IdentitySettings(Section):
    """The embedded identity, in use when no Keystone is configured."""

    allow_remote: bool = Field(False, description="Serve it on an address that other machines can reach.")
    token_hours: float = Field(12.0, gt=0, le=24 * 7)
    admin_password: SecretStr | None = Field(None, description="First start only; generated when absent.")


class QuotaSettings(Section):
    """What a project may have when no administrator says otherwise; -1 is no limit."""

    containers: int = Field(40, ge=-1)
    memory: int = Field(51200, ge=-1, description="MiB, of all containers together.")
    disk: int = Field(100, ge=-1, description="GiB, of all containers together.")
    cpu: int = Field(20, ge=-1, description="Cores, of all containers together.")


class LimitSettings(Section):
    """What one project may ask of one replica. None of them can be turned off."""

    rate: float = Field(1000.0, gt=0, description="Units per second; what comes faster is paced, then refused.")
    burst: float = Field(2000.0, ge=1, description="Units that may come at once after a rest.")
    write_cost: float = Field(10.0, ge=1, description="Units of a request that changes something; a read is 1.")
    concurrent: int = Field(256, ge=1, description="Requests under way at a time.")
    websockets: int = Field(200, ge=1, description="Terminals open at a time.")


class BackendSettings(Section):
    """One engine: `kind` names an entry point of the group ``app.backends``."""

    kind: str = "docker"
    url: str | None = Field(None, description="unix:///path or tcp://host:port; found by itself when absent.")
    availability_zone: str | None = Field(None, description="The zone of its host; the general one when absent.")
    concurrency: int | None = Field(None, ge=1, description="Engine calls that change something; 2 per core if absent.")


class NodeImage(Section):
    """An image that nodes of clusters may be made from."""

    os_distro: str = Field(min_length=1, max_length=255, description="Its operating system, which templates show.")
    image: str | None = Field(None, description="What the engine knows it by; the same name when absent.")
    profile: str = Field("", description="How its nodes are started, a driver's own word; the usual way when empty.")


class Flavor(Section):
    """A size of nodes."""

    cpus: float = Field(gt=0)
    memory: int = Field(ge=64, description="MiB.")
    disk: int = Field(0, ge=0, description="GiB that the host must have free for it; 0 asks for none.")


class ClusterSettings(Section):
    """What clusters are made of. Where the cloud's catalogue has Glance, Nova and Neutron, these are asked instead of
    the lists; nothing that is in no list is accepted."""

    images: dict[str, NodeImage] = Field(default_factory=dict, description="Images of nodes, by name.")
    flavors: dict[str, Flavor] = Field(default_factory=dict, description="Sizes of nodes, by name.")
    networks: list[str] = Field(["public"], description="Networks that a template may name.")
    keypairs: list[str] = Field(default_factory=list, description="Key pairs that a cluster may name.")
    disabled_drivers: list[str] = Field(default_factory=list, description="Drivers that are not offered.")
    quota: int = Field(20, ge=0, description="Clusters of one project, unless an administrator says otherwise.")
    network_pool: str = Field("10.222.0.0/16", description="Each cluster's network is cut from this range.")
    network_prefix: int = Field(24, ge=16, le=28, description="Prefix length of one cluster's network.")
    runtime: str | None = Field(None, description="Sandboxing runtime of nodes; without one they are privileged.")
    publish_address: str | None = Field(
        None, description="Host address on which clusters' APIs are published; their nodes' own address when absent."
    )
    preload: list[str] = Field(
        default_factory=list, description="Images of the engine that a cluster may have loaded into its nodes."
    )
    create_timeout: int = Field(60, ge=1, description="Minutes that a creation may take when nothing else is said.")
    health_seconds: float = Field(20.0, gt=0, description="How often each cluster is looked at.")


def _a_range(text: str) -> str:
    ip_network(text)
    return text


class Settings(BaseSettings):
    """Caisson's configuration. Defaults suit one developer on one machine."""

    model_config = SettingsConfigDict(env_prefix="CAISSON_", env_nested_delimiter="__", extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9517, ge=1, le=65535)
    data_dir: Path = Field(Path(".caisson"), description="Database, keys and lock file live here.")
    database_url: str | None = Field(None, description="SQLite in data_dir when absent; postgresql://… for replicas.")
    migrate_on_start: bool = True
    secret_key: SecretStr | None = Field(
        None, description="Encrypts secrets at rest; kept in data_dir when absent, required with PostgreSQL."
    )
    other_secret_keys: list[SecretStr] = Field(
        default_factory=list, description="Keys that are read as well: from before a rotation, or the one to come."
    )
    policy_file: Path | None = Field(None, description="oslo.policy YAML that overrides single rules.")
    keystone: KeystoneSettings | None = None
    identity: IdentitySettings = IdentitySettings()
    public_url: str | None = Field(
        None, description="Base URL for the embedded catalogue; from host and port if absent."
    )
    backends: dict[str, BackendSettings] = Field(default_factory=lambda: {"local": BackendSettings()})

    clusters: ClusterSettings = ClusterSettings()

    accepted_advisories: list[str] = Field(
        default_factory=list, description="CVE numbers that `caisson check` shall not count: closed by other means."
    )
    audit_file: Path | None = Field(None, description="Audit events go there; to standard error when absent.")
    audit_reads: bool = Field(False, description="Audit requests as well that change nothing.")
    limits: LimitSettings = LimitSettings()
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="A larger request body is refused with 413.")
    max_archive_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="A larger archive is neither taken into a container nor out of one."
    )
    body_seconds: float = Field(
        60.0, gt=0, description="Until a request's body is complete, otherwise 408; archives get ten times as long."
    )
    page_limit: int = Field(1000, ge=1, description="Most rows in one page (Zun's api.max_limit).")
    execute_timeout: float = Field(15.0, gt=0, description="Seconds a synchronous exec may take before 409.")

    ticket_seconds: float = Field(60.0, gt=0, le=3600, description="How long a websocket's URL waits to be opened.")
    allowed_origins: list[str] = Field(
        default_factory=list, description="Hosts beside our own whose web pages may open websockets, such as Horizon's."
    )

    default_cpu: float = Field(1.0, ge=0, description="Cores when a request names none; 0 is no limit.")
    minimum_cpu: float = 0.1
    maximum_cpu: float = 16.0
    default_memory: int = Field(512, ge=0, description="MiB when a request names none; 0 is no limit.")
    minimum_memory: int = 4
    maximum_memory: int = 8192
    minimum_disk: int = 1
    maximum_disk: int = 160
    maximum_volumes: int = Field(100, ge=0, description="Volumes with a name that one project may have.")
    pids_limit: int = Field(512, ge=1, description="Processes and threads in one container.")
    log_max_mib: int = Field(50, ge=1, description="Log kept of one container by the engine, MiB.")
    pull_policy: Literal["always", "ifnotpresent"] | None = Field(
        None,
        description="Image policy when a request names none. With Keystone `always`, so that nobody runs another "
        "project's private image from the host's cache; with the embedded identity `ifnotpresent`.",
    )
    quota: QuotaSettings = QuotaSettings()
    unique_container_name_scope: Literal["", "project", "global"] = ""
    availability_zone: str = "nova"
    host_down_seconds: float = Field(180.0, gt=0, description="An engine that was silent for so long is down.")
    firewall: Literal["nftables", "none"] = Field(
        "nftables",
        description="Who enforces the security groups of Neutron, and keeps containers from the host. With `none` "
        "ports come without port security, and containers reach what listens on the host.",
    )
    wire_ranges: list[Annotated[str, AfterValidator(_a_range)]] = Field(
        ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "2001:db8::/32"],
        description="Where the subnets of Neutron's networks must lie: each host sends what goes there to containers.",
    )
    guard_seconds: float = Field(10.0, gt=0, description="How often changed security group rules are looked for.")
    publish_address: str = Field("127.0.0.1", description="Host address of published ports.")
    network_pool: str = Field("10.221.0.0/16", description="Project networks are cut from this range.")
    network_prefix: int = Field(24, ge=16, le=29, description="Prefix length of one project's network.")

    worker_slots: int = Field(16, ge=1, description="Actions that one replica runs at a time.")
    lease_seconds: float = Field(30.0, ge=2, description="How long a claimed action belongs to its replica.")
    poll_seconds: float = Field(1.0, gt=0)
    observe_seconds: float = Field(15.0, gt=0, description="Full comparison of rows and engine; events come at once.")
    action_deadline: float = Field(1800.0, gt=0, description="Seconds after which an unreachable engine is a failure.")
    history_days: float = Field(30.0, gt=0, description="Finished actions of deleted resources are kept this long.")
    drain_seconds: float = Field(
        0.0, ge=0, description="After SIGTERM it goes on serving for so long, and tells balancers to go elsewhere."
    )
    shutdown_seconds: float = Field(20.0, gt=0, description="What running steps get after SIGTERM.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources = [init_settings, env_settings]
        if path := os.environ.get("CAISSON_CONFIG_FILE"):
            sources.append(_file(settings_cls, Path(path)))
        return tuple(sources)

    @property
    def database(self) -> str:
        """The database URL with an async driver in it."""
        url = self.database_url or f"sqlite:///{self.data_dir / 'caisson.db'}"
        for plain, driver in (("sqlite:", "sqlite+aiosqlite:"), ("postgresql:", "postgresql+asyncpg:")):
            if url.startswith(plain):
                return url.replace(plain, driver, 1)
        return url

    @property
    def default_pull_policy(self) -> str:
        """`pull_policy`, or what suits the kind of identity."""
        return self.pull_policy or ("always" if self.keystone else "ifnotpresent")

    @property
    def base_url(self) -> str:
        """Where clients reach this process, without a trailing slash."""
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")


def _file(settings_cls: type[BaseSettings], path: Path) -> TomlConfigSettingsSource:
    # The library takes a file that is not there for an empty one, and leaves what is no TOML to a traceback.
    try:
        path.read_bytes()
        return TomlConfigSettingsSource(settings_cls, toml_file=path)
    except OSError as error:
        raise Invalid(f"CAISSON_CONFIG_FILE {path}: {error.strerror}") from None
    except ValueError as error:
        raise Invalid(f"CAISSON_CONFIG_FILE {path}: {error}") from None
