"""magnum-tempest-plugin, in the session's own stack: every test does what ``magnum.toml`` says, no better either."""

import pytest

from tests.stack import kubernetes
from tests.stack.session import Stack
from tests.tempest import expected, magnum

(LANE,) = magnum.SUITE.lanes


# The plugin sleeps for ten minutes beside a cluster; before that Kubernetes may have to be built.
@pytest.mark.timeout(kubernetes.SECONDS + 1500)
def test_the_lane_is_as_the_list_says(stack: Stack, docker_url: str, kubernetes_image: str) -> None:
    results = magnum.SUITE.run(stack, LANE, "")
    assert not expected.differences(magnum.SUITE, LANE, results)
    assert len(results) == 60
