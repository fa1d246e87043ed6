"""Clusters"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "cluster",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("cluster_template_id", sa.String(), nullable=False),
        sa.Column("coe", sa.String(), nullable=False),
        sa.Column("driver", sa.String(), nullable=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("stack_id", sa.String(), nullable=True),
        sa.Column("keypair", sa.String(), nullable=True),
        sa.Column("docker_volume_size", sa.Integer(), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("master_flavor_id", sa.String(), nullable=True),
        sa.Column("flavor_id", sa.String(), nullable=True),
        sa.Column("create_timeout", sa.Integer(), nullable=True),
        sa.Column("discovery_url", sa.String(), nullable=True),
        sa.Column("fixed_network", sa.String(), nullable=True),
        sa.Column("fixed_subnet", sa.String(), nullable=True),
        sa.Column("floating_ip_enabled", sa.Boolean(), nullable=False),
        sa.Column("master_lb_enabled", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=True),
        sa.Column("task_state", sa.String(), nullable=True),
        sa.Column("health_status", sa.String(), nullable=True),
        sa.Column("health_status_reason", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("api_address", sa.String(), nullable=True),
        sa.Column("coe_version", sa.String(), nullable=True),
        sa.Column("container_version", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("cluster", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_cluster_cluster_template_id"), ["cluster_template_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_cluster_name"), ["name"], unique=False)
        batch_op.create_index(batch_op.f("ix_cluster_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_cluster_uuid"), ["uuid"], unique=True)

    op.create_table(
        "cluster_key",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("cluster_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=True),
        sa.Column("private_key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("cluster_id", "kind"),
    )
    with op.batch_alter_table("cluster_key", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_cluster_key_project_id"), ["project_id"], unique=False)

    op.create_table(
        "cluster_quota",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("resource", sa.String(), nullable=False),
        sa.Column("hard_limit", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project_id", "resource"),
    )
    op.create_table(
        "node_group",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("updated_at", sa.Float(), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("cluster_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("node_count", sa.Integer(), nullable=False),
        sa.Column("min_node_count", sa.Integer(), nullable=False),
        sa.Column("max_node_count", sa.Integer(), nullable=True),
        sa.Column("flavor_id", sa.String(), nullable=True),
        sa.Column("image_id", sa.String(), nullable=True),
        sa.Column("docker_volume_size", sa.Integer(), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("node_labels", sa.JSON(), nullable=False),
        sa.Column("node_taints", sa.JSON(), nullable=False),
        sa.Column("node_image", sa.String(), nullable=False),
        sa.Column("node_profile", sa.String(), nullable=False),
        sa.Column("node_cpus", sa.Float(), nullable=False),
        sa.Column("node_memory", sa.Integer(), nullable=False),
        sa.Column("node_disk", sa.Integer(), nullable=False),
        sa.Column("node_addresses", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("status_reason", sa.String(), nullable=True),
        sa.Column("stack_id", sa.String(), nullable=True),
        sa.Column("version", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("cluster_id", "name"),
    )
    with op.batch_alter_table("node_group", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_node_group_cluster_id"), ["cluster_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_node_group_name"), ["name"], unique=False)
        batch_op.create_index(batch_op.f("ix_node_group_project_id"), ["project_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_node_group_uuid"), ["uuid"], unique=True)


def downgrade() -> None:
    with op.batch_alter_table("node_group", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_node_group_uuid"))
        batch_op.drop_index(batch_op.f("ix_node_group_project_id"))
        batch_op.drop_index(batch_op.f("ix_node_group_name"))
        batch_op.drop_index(batch_op.f("ix_node_group_cluster_id"))

    op.drop_table("node_group")
    op.drop_table("cluster_quota")
    with op.batch_alter_table("cluster_key", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_cluster_key_project_id"))

    op.drop_table("cluster_key")
    with op.batch_alter_table("cluster", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_cluster_uuid"))
        batch_op.drop_index(batch_op.f("ix_cluster_project_id"))
        batch_op.drop_index(batch_op.f("ix_cluster_name"))
        batch_op.drop_index(batch_op.f("ix_cluster_cluster_template_id"))

    op.drop_table("cluster")
