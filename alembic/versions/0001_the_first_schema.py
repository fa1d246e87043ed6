"""The first schema"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "action",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("resource_kind", sa.String(), nullable=False),
        sa.Column("resource_id", sa.String(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("args", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("memo", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("cancel", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("run_after", sa.Float(), nullable=False),
        sa.Column("deadline", sa.Float(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_token", sa.String(), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("message", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("action", schema=None) as batch_op:
        batch_op.create_index(
            "action_fifo",
            ["resource_id", "id"],
            unique=False,
            sqlite_where=sa.text("state in ('queued', 'running')"),
            postgresql_where=sa.text("state in ('queued', 'running')"),
        )
        batch_op.create_index("action_history", ["resource_id", "id"], unique=False)
        batch_op.create_index(
            "action_one_running",
            ["resource_id"],
            unique=True,
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        )
        batch_op.create_index(
            "action_open",
            ["id"],
            unique=False,
            sqlite_where=sa.text("state in ('queued', 'running')"),
            postgresql_where=sa.text("state in ('queued', 'running')"),
        )
        batch_op.create_index(batch_op.f("ix_action_project_id"), ["project_id"], unique=False)

    op.create_table(
        "capsule",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=True),
        sa.Column("task_state", sa.String(), nullable=True),
        sa.Column("cpu", sa.Float(), nullable=True),
        sa.Column("memory", sa.Integer(), nullable=True),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("annotations", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("restart_policy", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("addresses", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("security_groups", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("volumes", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("nets", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("hostname", sa.String(), nullable=True),
        sa.Column("host", sa.String(), nullable=True),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("engine_ref", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("capsule", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_capsule_name"), ["name"], unique=False)
        batch_op.create_index(batch_op.f("ix_capsule_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_capsule_uuid"), ["uuid"], unique=True)

    op.create_table(
        "cluster_template",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("coe", sa.String(), nullable=False),
        sa.Column("driver", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=False),
        sa.Column("flavor_id", sa.String(), nullable=True),
        sa.Column("master_flavor_id", sa.String(), nullable=True),
        sa.Column("keypair_id", sa.String(), nullable=True),
        sa.Column("external_network_id", sa.String(), nullable=True),
        sa.Column("fixed_network", sa.String(), nullable=True),
        sa.Column("fixed_subnet", sa.String(), nullable=True),
        sa.Column("dns_nameserver", sa.String(), nullable=True),
        sa.Column("network_driver", sa.String(), nullable=True),
        sa.Column("volume_driver", sa.String(), nullable=True),
        sa.Column("apiserver_port", sa.Integer(), nullable=True),
        sa.Column("docker_volume_size", sa.Integer(), nullable=True),
        sa.Column("docker_storage_driver", sa.String(), nullable=True),
        sa.Column("cluster_distro", sa.String(), nullable=False),
        sa.Column("http_proxy", sa.String(), nullable=True),
        sa.Column("https_proxy", sa.String(), nullable=True),
        sa.Column("no_proxy", sa.String(), nullable=True),
        sa.Column("insecure_registry", sa.String(), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("tags", sa.String(), nullable=True),
        sa.Column("server_type", sa.String(), nullable=False),
        sa.Column("registry_enabled", sa.Boolean(), nullable=False),
        sa.Column("tls_disabled", sa.Boolean(), nullable=False),
        sa.Column("public", sa.Boolean(), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.Column("master_lb_enabled", sa.Boolean(), nullable=False),
        sa.Column("floating_ip_enabled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("cluster_template", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_cluster_template_name"), ["name"], unique=False)
        batch_op.create_index(batch_op.f("ix_cluster_template_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_cluster_template_uuid"), ["uuid"], unique=True)

    op.create_table(
        "container",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("image", sa.String(), nullable=False),
        sa.Column("image_driver", sa.String(), nullable=False),
        sa.Column("image_ref", sa.String(), nullable=True),
        sa.Column("image_pull_policy", sa.String(), nullable=True),
        sa.Column("command", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("entrypoint", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=True),
        sa.Column("task_state", sa.String(), nullable=True),
        sa.Column("cpu", sa.Float(), nullable=True),
        sa.Column("cpu_policy", sa.String(), nullable=True),
        sa.Column("cores", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("memory", sa.Integer(), nullable=True),
        sa.Column("disk", sa.Integer(), nullable=True),
        sa.Column("environment", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("labels", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("workdir", sa.String(), nullable=True),
        sa.Column("hostname", sa.String(), nullable=True),
        sa.Column("ports", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("exposed_ports", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("addresses", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("security_groups", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("restart_policy", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("healthcheck", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("interactive", sa.Boolean(), nullable=False),
        sa.Column("tty", sa.Boolean(), nullable=False),
        sa.Column("auto_remove", sa.Boolean(), nullable=False),
        sa.Column("auto_heal", sa.Boolean(), nullable=False),
        sa.Column("privileged", sa.Boolean(), nullable=False),
        sa.Column("runtime", sa.String(), nullable=True),
        sa.Column("host", sa.String(), nullable=True),
        sa.Column("registry_id", sa.String(), nullable=True),
        sa.Column("capsule_id", sa.String(), nullable=True),
        sa.Column("init", sa.Boolean(), nullable=False),
        sa.Column("nets", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("mounts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("hints", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("engine_ref", sa.String(), nullable=True),
        sa.Column("wanted_running", sa.Boolean(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("health", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("container", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_container_capsule_id"), ["capsule_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_container_name"), ["name"], unique=False)
        batch_op.create_index(batch_op.f("ix_container_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_container_registry_id"), ["registry_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_container_uuid"), ["uuid"], unique=True)

    op.create_table(
        "host",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("hostname", sa.String(), nullable=False),
        sa.Column("binary", sa.String(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.String(), nullable=True),
        sa.Column("forced_down", sa.Boolean(), nullable=False),
        sa.Column("last_seen_up", sa.Float(), nullable=True),
        sa.Column("report_count", sa.Integer(), nullable=False),
        sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("backend", "hostname"),
        sa.UniqueConstraint("uuid"),
    )
    op.create_table(
        "identity_credential",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("roles", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("unrestricted", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("identity_credential", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_identity_credential_user_id"), ["user_id"], unique=False)

    op.create_table(
        "identity_grant",
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "project_id", "role"),
    )
    op.create_table(
        "identity_key",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("private_pem", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "identity_project",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "identity_revocation",
        sa.Column("audit_id", sa.String(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("audit_id"),
    )
    op.create_table(
        "identity_user",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("default_project_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "image",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("repo", sa.String(), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("image_id", sa.String(), nullable=True),
        sa.Column("committed_from", sa.String(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=True),
        sa.Column("task_state", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("image", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_image_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_image_uuid"), ["uuid"], unique=True)

    op.create_table(
        "injected_file",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("container_id", sa.String(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("injected_file", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_injected_file_container_id"), ["container_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_injected_file_project_id"), ["project_id"], unique=False)

    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "network",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("neutron_net_id", sa.String(), nullable=False),
        sa.Column("network_id", sa.String(), nullable=True),
        sa.Column("backend", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("neutron_net_id"),
    )
    with op.batch_alter_table("network", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_network_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_network_uuid"), ["uuid"], unique=True)

    op.create_table(
        "pinned_core",
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("container_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("backend", "number"),
    )
    with op.batch_alter_table("pinned_core", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_pinned_core_container_id"), ["container_id"], unique=False)

    op.create_table(
        "quota",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("resource", sa.String(), nullable=False),
        sa.Column("hard_limit", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "resource"),
    )
    op.create_table(
        "quota_class",
        sa.Column("class_name", sa.String(), nullable=False),
        sa.Column("resource", sa.String(), nullable=False),
        sa.Column("hard_limit", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("class_name", "resource"),
    )
    op.create_table(
        "registry",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("domain", sa.String(), nullable=False),
        sa.Column("username", sa.String(), nullable=True),
        sa.Column("password", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("registry", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_registry_name"), ["name"], unique=False)
        batch_op.create_index(batch_op.f("ix_registry_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_registry_uuid"), ["uuid"], unique=True)

    op.create_table(
        "ticket",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("secret_hash", sa.String(), nullable=False),
        sa.Column("container_id", sa.String(), nullable=False),
        sa.Column("exec_id", sa.String(), nullable=True),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("secret_hash"),
    )
    with op.batch_alter_table("ticket", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_ticket_project_id"), ["project_id"], unique=False)

    op.create_table(
        "volume",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=True),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("container_id", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project_id", "name"),
    )
    with op.batch_alter_table("volume", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_volume_container_id"), ["container_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_volume_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_volume_uuid"), ["uuid"], unique=True)


def downgrade() -> None:
    with op.batch_alter_table("volume", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_volume_uuid"))
        batch_op.drop_index(batch_op.f("ix_volume_project_id"))
        batch_op.drop_index(batch_op.f("ix_volume_container_id"))

    op.drop_table("volume")
    with op.batch_alter_table("ticket", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_ticket_project_id"))

    op.drop_table("ticket")
    with op.batch_alter_table("registry", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_registry_uuid"))
        batch_op.drop_index(batch_op.f("ix_registry_project_id"))
        batch_op.drop_index(batch_op.f("ix_registry_name"))

    op.drop_table("registry")
    op.drop_table("quota_class")
    op.drop_table("quota")
    with op.batch_alter_table("pinned_core", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_pinned_core_container_id"))

    op.drop_table("pinned_core")
    with op.batch_alter_table("network", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_network_uuid"))
        batch_op.drop_index(batch_op.f("ix_network_project_id"))

    op.drop_table("network")
    op.drop_table("installation")
    with op.batch_alter_table("injected_file", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_injected_file_project_id"))
        batch_op.drop_index(batch_op.f("ix_injected_file_container_id"))

    op.drop_table("injected_file")
    with op.batch_alter_table("image", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_image_uuid"))
        batch_op.drop_index(batch_op.f("ix_image_project_id"))

    op.drop_table("image")
    op.drop_table("identity_user")
    op.drop_table("identity_revocation")
    op.drop_table("identity_project")
    op.drop_table("identity_key")
    op.drop_table("identity_grant")
    with op.batch_alter_table("identity_credential", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_identity_credential_user_id"))

    op.drop_table("identity_credential")
    op.drop_table("host")
    with op.batch_alter_table("container", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_container_uuid"))
        batch_op.drop_index(batch_op.f("ix_container_registry_id"))
        batch_op.drop_index(batch_op.f("ix_container_project_id"))
        batch_op.drop_index(batch_op.f("ix_container_name"))
        batch_op.drop_index(batch_op.f("ix_container_capsule_id"))

    op.drop_table("container")
    with op.batch_alter_table("cluster_template", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_cluster_template_uuid"))
        batch_op.drop_index(batch_op.f("ix_cluster_template_project_id"))
        batch_op.drop_index(batch_op.f("ix_cluster_template_name"))

    op.drop_table("cluster_template")
    with op.batch_alter_table("capsule", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_capsule_uuid"))
        batch_op.drop_index(batch_op.f("ix_capsule_project_id"))
        batch_op.drop_index(batch_op.f("ix_capsule_name"))

    op.drop_table("capsule")
    with op.batch_alter_table("action", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_action_project_id"))
        batch_op.drop_index(
            "action_open",
            sqlite_where=sa.text("state in ('queued', 'running')"),
            postgresql_where=sa.text("state in ('queued', 'running')"),
        )
        batch_op.drop_index(
            "action_one_running",
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        )
        batch_op.drop_index("action_history")
        batch_op.drop_index(
            "action_fifo",
            sqlite_where=sa.text("state in ('queued', 'running')"),
            postgresql_where=sa.text("state in ('queued', 'running')"),
        )

    op.drop_table("action")
