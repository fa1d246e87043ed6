"""zun-tempest-plugin, in the session's own stack: every test does what ``zun.toml`` says, no worse and no better."""

import pytest

from tests.stack.session import Stack
from tests.tempest import expected, zun


# The plugin has 41 tests for new versions and 77 in all.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("lane", zun.SUITE.lanes)
def test_a_lane_is_as_the_list_says(lane: str, stack: Stack, docker_url: str) -> None:
    assert not expected.differences(zun.SUITE, lane, zun.SUITE.run(stack, lane, ""))
