"""Neutron's rules as the engine's, and those as text for nft."""

from pathlib import Path
from typing import Any

import pytest

from app.backends.docker.nftables import FENCE, FENCED, OF_NODES, Place, fence_lines, new_bridge, render
from app.backends.wires import Rule
from app.firewall import rule_of

PLAIN = {
    "direction": "ingress", "ethertype": "IPv4", "protocol": None, "port_range_min": None, "port_range_max": None,
    "remote_ip_prefix": None, "remote_group_id": None, "remote_address_group_id": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Rule(True, 4)),
        ({"direction": "egress", "ethertype": "IPv6"}, Rule(False, 6)),
        ({"protocol": "tcp", "port_range_min": 80, "port_range_max": 90}, Rule(True, 4, 6, 80, 90)),
        ({"protocol": "50"}, Rule(True, 4, 50)),
        ({"protocol": "vrrp"}, Rule(True, 4, 112)),
        ({"protocol": "any"}, Rule(True, 4)),
        # ICMP has another number in IPv6, whatever Neutron was told.
        ({"protocol": "icmp", "ethertype": "IPv6"}, Rule(True, 6, 58)),
        ({"remote_ip_prefix": "10.0.0.0/8"}, Rule(True, 4, prefix="10.0.0.0/8")),
        ({"remote_group_id": "g"}, Rule(True, 4, group="g")),
        # What cannot be kept lets nothing pass, rather than everything.
        ({"remote_address_group_id": "a"}, None),
        ({"protocol": "carrier-pigeon"}, None),
    ],
)
def test_a_rule_of_neutron_is_one_of_the_engine(fields: dict[str, Any], expected: Rule | None) -> None:
    assert rule_of({**PLAIN, **fields}) == expected


def _text(*rules: Rule) -> str:
    place = Place("veth1", "cn-1", "fa:16:3e:00:00:01", ["10.0.0.5", "fd00::5"], rules)
    return render("t", "cn", [place], {"g-1": ["10.0.0.6", "fd00::6"]})[0]


@pytest.mark.parametrize(
    ("rule", "condition"),
    [
        (Rule(True, 4), "meta nfproto ipv4 return"),
        (Rule(True, 4, 6, 80, 90), "meta nfproto ipv4 meta l4proto 6 th dport 80-90 return"),
        (Rule(True, 4, 17, 53), "meta nfproto ipv4 meta l4proto 17 th dport 53-53 return"),
        (Rule(True, 4, 1, 8, 0), "meta nfproto ipv4 meta l4proto 1 icmp type 8 icmp code 0 return"),
        (Rule(True, 6, 58, 128), "meta nfproto ipv6 meta l4proto 58 icmpv6 type 128 return"),
        (Rule(True, 4, prefix="10.1.2.3/8"), "meta nfproto ipv4 ip saddr 10.0.0.0/8 return"),
        (Rule(True, 4, prefix="0.0.0.0/0"), "meta nfproto ipv4 return"),
        (Rule(True, 6, group="g-1"), "meta nfproto ipv6 ip6 saddr @g6_g1 return"),
        # A protocol without ports has none to compare.
        (Rule(True, 4, 47, 1, 2), "meta nfproto ipv4 meta l4proto 47 return"),
    ],
)
def test_a_rule_becomes_one_condition_and_the_rest_is_dropped(rule: Rule, condition: str) -> None:
    lines = [line.strip() for line in _text(rule).splitlines()]
    start = lines.index("chain in_0 {")
    assert lines[start + 1 : start + 4] == [condition, "drop", "}"]
    # The other direction has no rule, so nothing goes there.
    start = lines.index("chain out_0 {")
    assert lines[start + 1 : start + 3] == ["drop", "}"]


def test_a_rule_for_what_goes_out_names_the_receiver() -> None:
    assert "ip daddr 10.9.0.0/16 return" in _text(Rule(False, 4, prefix="10.9.0.0/16"))


def test_only_own_addresses_are_an_interfaces() -> None:
    text = _text()
    assert "own4 { type ifname . ether_addr . ipv4_addr; elements = { veth1 . fa:16:3e:00:00:01 . 10.0.0.5 }; }" in text
    assert "own6 { type ifname . ether_addr . ipv6_addr; elements = { veth1 . fa:16:3e:00:00:01 . fd00::5 }; }" in text


def test_a_port_without_port_security_has_no_rules_and_may_forge() -> None:
    text, _ = render("t", "cn", [Place("veth1", "cn-1", "fa:16:3e:00:00:01", ["10.0.0.5"], None)], {})
    assert "cn-1 . 10.0.0.5 : continue" in text
    assert "veth1" not in text


def test_the_mark_tells_texts_apart() -> None:
    assert render("t", "cn", [], {}) == render("t", "cn", [], {})
    assert render("t", "cn", [], {})[1] != render("t", "cn", [], {"g-1": []})[1]
    text, mark = render("t", "cn", [], {})
    assert text.count(f"chain {mark} {{") == 2


def test_the_text_does_not_depend_on_the_order_of_rules() -> None:
    rules = [Rule(True, 4, 6, 80, 80), Rule(True, 4, 17, 53, 53)]
    assert _text(*rules) == _text(*reversed(rules))


def test_no_network_leads_to_what_clouds_tell_machines() -> None:
    lines = [line.strip() for line in _text().splitlines()]
    assert 'iifname "cn*" ip daddr 169.254.0.0/16 reject' in lines
    assert lines.index('iifname "cn*" ip daddr 169.254.0.0/16 reject') < lines.index('iifname "cn*" jump leaving')


@pytest.mark.parametrize("kind", [FENCED, OF_NODES])
def test_a_bridge_behind_the_fence_has_a_name_that_the_kernel_takes(kind: str) -> None:
    names = {new_bridge(kind) for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith(kind) and len(name) == 15 for name in names)


def test_the_page_has_the_fence_for_those_who_put_it_up_themselves() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
    shown = page.partition(f"table inet {FENCE} {{\n")[2].partition("\n}\n")[0]
    assert shown.splitlines() == fence_lines()
