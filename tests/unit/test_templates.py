"""Rules of cluster templates that need no database."""

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cloud import Cloud
from app.errors import Invalid, NotFound
from app.lookup import uuid_of
from app.models import ClusterTemplate
from app.settings import ClusterSettings, NodeImage
from app.templates import FIELDS, check_names, check_use, complete, patched

KNOWN = ClusterSettings(images={"node": NodeImage(os_distro="debian")}, flavors={})
CLOUD = Cloud(KNOWN, None, "")
PLAIN = asyncio.run(complete({"image_id": "node", "coe": "kubernetes"}, CLOUD))
TEMPLATE = ClusterTemplate(project_id="p", user_id="u", created_at=1.0, **PLAIN)

CHANGES = [
    ({}, True), ({"name": "x"}, True), ({"public": True}, True), ({"public": False}, False), ({"hidden": True}, True),
    ({"hidden": False}, True), ({"tags": "a"}, True), ({"tags": None}, False), ({"image_id": "x"}, False),
    ({"name": "x", "hidden": True}, False), ({"labels": {}}, False), ({"uuid": None}, False),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "harmless"), CHANGES)
def test_a_template_in_use_changes_only_in_name_and_visibility(changes: dict[str, Any], harmless: bool) -> None:
    check_use(TEMPLATE, changes, False)
    if harmless:
        check_use(TEMPLATE, changes, True)
    else:
        with pytest.raises(Invalid, match="referenced by one or multiple clusters"):
            check_use(TEMPLATE, changes, True)


async def test_an_empty_list_permits_no_name_and_says_where_it_is() -> None:
    with pytest.raises(Invalid, match=r"clusters\.images"):
        await complete({"image_id": "node", "coe": "swarm"}, Cloud(ClusterSettings(), None, ""))
    with pytest.raises(Invalid, match=r"clusters\.flavors"):
        await check_names(PLAIN | {"flavor_id": "small"}, CLOUD)
    with pytest.raises(NotFound, match=r"clusters\.keypairs"):
        await CLOUD.check_keypair("k")
    with pytest.raises(Invalid, match=r"There are: public"):
        await check_names(PLAIN | {"external_network_id": "x"}, CLOUD)
    await check_names(PLAIN | {"external_network_id": "public"}, CLOUD)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "replace", "remove"]),
        st.sampled_from([f"/{name}" for name in FIELDS] + ["/labels/a", "/labels/b", "/uuid", "/x", "/labels/a/b"]),
        st.one_of(st.none(), st.text(), st.integers(), st.booleans()),
    )
)


@given(OPERATIONS)
def test_any_patch_is_applied_to_a_copy_or_refused(operations: list[tuple[str, str, Any]]) -> None:
    before = TEMPLATE.model_dump()
    with contextlib.suppress(Invalid):
        assert patched(TEMPLATE, operations).keys() == set(FIELDS)
    assert TEMPLATE.model_dump() == before


@given(st.uuids())
def test_a_uuid_in_any_spelling(uuid: Any) -> None:
    for text in (str(uuid), uuid.hex, str(uuid).upper(), f"{{{uuid}}}"):
        assert uuid_of(text) == str(uuid)
    assert uuid_of(f"x{uuid}") is None
