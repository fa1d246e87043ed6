"""Image references in Docker's grammar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.images import Reference, check_passwords, login, parse
from app.models import Registry
from app.vault import Vault

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("image", "domain", "path", "tag", "digest", "full"),
    [
        ("busybox", None, "busybox", None, None, "busybox:latest"),
        ("busybox:1.36", None, "busybox", "1.36", None, "busybox:1.36"),
        ("library/busybox", None, "library/busybox", None, None, "library/busybox:latest"),
        ("a/b/c-d_e__f.g:T_a.g-1", None, "a/b/c-d_e__f.g", "T_a.g-1", None, "a/b/c-d_e__f.g:T_a.g-1"),
        ("quay.io/x/y", "quay.io", "x/y", None, None, "quay.io/x/y:latest"),
        ("localhost/x", "localhost", "x", None, None, "localhost/x:latest"),
        ("localhost:5000/x:1", "localhost:5000", "x", "1", None, "localhost:5000/x:1"),
        ("127.0.0.1:15000/tp:1", "127.0.0.1:15000", "tp", "1", None, "127.0.0.1:15000/tp:1"),
        ("host:5000/x", "host:5000", "x", None, None, "host:5000/x:latest"),
        ("Registry.Example/x", "Registry.Example", "x", None, None, "Registry.Example/x:latest"),
        ("[::1]:5000/x", "[::1]:5000", "x", None, None, "[::1]:5000/x:latest"),
        (f"busybox@{DIGEST}", None, "busybox", None, DIGEST, f"busybox@{DIGEST}"),
        (f"quay.io/x/y:1@{DIGEST}", "quay.io", "x/y", "1", DIGEST, f"quay.io/x/y@{DIGEST}"),
    ],
)
def test_references(image: str, domain: str | None, path: str, tag: str | None, digest: str | None, full: str) -> None:
    found = parse(image)
    assert found == Reference(domain, path, tag, digest)
    assert found.full == full
    assert found.repo == (f"{domain}/{path}" if domain else path)
    assert parse(found.full).full == full


@pytest.mark.parametrize("image", [DIGEST, DIGEST[:20], "sha256", "sha256:latest", f"sha256@{DIGEST}"])
def test_an_id_is_no_name(image: str) -> None:
    """Engines would take it for the id of any image that they hold, whosever it is."""
    with pytest.raises(Invalid, match="not by its id"):
        parse(image)
    assert parse(f"localhost/{image}").domain == "localhost"


@pytest.mark.parametrize(
    "image",
    [
        "", " ", "UPPER", "a b", "-a", "a-", "a/", "/a", "a//b", "a:", "a:b:c", "a@", "a@sha256:short", ":1", "a:-1",
        "a:" + "t" * 129, "host:port/x", "http://x/y", "x/y\n", "x\ny", "x/y:1\n", "é", "x:é", "a___b", "a..b",
        "[::1/x", "../x", "x;rm", "x$y", "x y:1", "٣",
    ],
)  # fmt: skip
def test_what_is_no_reference(image: str) -> None:
    with pytest.raises(Invalid, match="reference") as caught:
        parse(image, "repo")
    assert "repo" in caught.value.title


@given(st.text(max_size=40))
def test_what_is_read_is_written_the_same(image: str) -> None:
    try:
        found = parse(image)
    except Invalid:
        return
    written = found.repo + (f":{found.tag}" if found.tag else "") + (f"@{found.digest}" if found.digest else "")
    assert written == image


@pytest.mark.parametrize("piece", ["a-", "a.", "a_", "a__", "a/", "a-a.", "1.", "a:", "A-"])
def test_a_crafted_name_does_not_keep_the_process_busy(piece: str) -> None:
    """The expression has no two ways to read the same text, so that even a very long name is refused at once."""
    with pytest.raises(Invalid) as caught:
        parse(piece * 20_000 + "!")
    assert len(caught.value.title) < 500


def test_a_login_is_opened_for_one_pull() -> None:
    vault = Vault("key")
    row = Registry(
        project_id="p", user_id="u", name="n", domain="d", username="u", password=vault.seal("s"), created_at=0.0
    )
    found = login(row, vault)
    assert found is not None
    assert (found.domain, found.username, found.password) == ("d", "u", "s")
    assert "'s'" not in repr(found)
    row.password = None
    assert login(row, vault) is not None
    row.username = None
    assert login(row, vault) is None


def test_a_login_sealed_with_another_key_is_told() -> None:
    row = Registry(
        project_id="p", user_id="u", name="n", domain="d", username="u", password=Vault("a").seal("s"), created_at=0.0
    )
    with pytest.raises(Invalid, match="CAISSON_SECRET_KEY"):
        login(row, Vault("b"))


def test_credentials_are_printable() -> None:
    check_passwords(["user", None, "pässword 🐳"])
    for bad in ("a\nb", "a\x00", "\x1b"):
        with pytest.raises(Invalid, match="printable"):
            check_passwords([bad])
