"""A short run of ``scripts/fuzz`` on a real engine of its own, which shows more states and says no in more words."""

from pathlib import Path

import pytest

from tests.api.caisson import BUSY
from tests.e2e.served import serve
from tests.fuzz import SECRET, Fuzz
from tests.stack import images
from tests.stack.docker import PrivateDocker
from tests.stack.keystone import Keystone
from tests.stack.session import Stack


@pytest.mark.timeout(300)  # several hundred requests
def test_any_request_is_answered_as_described_on_docker(
    stack: Stack, keystone: Keystone, private_docker: PrivateDocker, tmp_path: Path
) -> None:
    images.build(private_docker.url, f"{BUSY}:latest")
    with serve(stack, tmp_path, keystone, private_docker.url) as served:
        tokens = [keystone.token(f"alpha-{role}") for role in ("admin", "member", "reader")]
        fuzz = Fuzz(served.url, tokens, 1)
        fuzz.ask_each(1, "/v1/containers")
        fuzz.follow_links(4)
        log = (served.folder / "gateway.log").read_text()
    assert fuzz.findings == {}
    assert len(fuzz.reached) >= 20
    assert "Traceback" not in log
    assert SECRET not in log
