"""Which addresses agents and tenants may lead us to: those of the public internet, and what the operator adds.

Not `ipaddress.is_global`, whose answers have changed between Python's releases: the special-purpose registries of IANA,
as networks that anybody can check. Of IPv6 all is refused but what is handed out to the public.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
WEB_PORTS = frozenset({80, 443})

_SPECIAL: tuple[Network, ...] = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # a carrier's own; also a cloud's metadata
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # a cloud's metadata behind a public address
            "169.254.0.0/16",  # link-local, and there the metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments; also a cloud's metadata
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
            "2001::/23",  # protocol assignments, and there Teredo, which has an IPv4 address inside
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which has an IPv4 address inside
            "3fff::/20",  # documentation
        ),
    )
)
# What is outside of it is loopback, link-local, unique local, multicast, or an IPv4 address in another form.
_PUBLIC = IPv6Network("2000::/3")
# In a network without IPv4 its resolver puts an IPv4 address into the last bits (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")


def may_reach(address: Address, allowed: Sequence[Network] = ()) -> bool:
    """Whether an agent may be led to this address; `allowed` are networks of the operator's that it may reach too."""
    return is_within(address, allowed) or _is_public(address)


def may_connect(address: Address, port: int, allowed: Sequence[Network]) -> bool:
    """The same of a port there: in the networks that are allowed every port is, elsewhere the two of the web."""
    return is_within(address, allowed) or (port in WEB_PORTS and _is_public(address))


def is_within(address: Address, networks: Sequence[Network]) -> bool:
    """Whether it belongs to one of them."""
    return any(address.version == network.version and address in network for network in networks)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address):
        if address in _NAT64:
            return _is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _PUBLIC:
            return False
    return not is_within(address, _SPECIAL)
