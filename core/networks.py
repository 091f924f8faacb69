"""
Which addresses of IP lie in the open internet, where a URL that somebody else has chosen may lead. Pure.

A table of our own: `ipaddress.is_global` calls NAT64, 6to4 and IPv4-compatible forms of 127.0.0.1 global
(RELIABILITY 1.3), and knows nothing of what a cloud keeps on public numbers.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

#: IANA's special-purpose registry for IPv4, where it is not for everybody.
_CLOSED_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network (RFC 791)
            "10.0.0.0/8",  # private (RFC 1918)
            "100.64.0.0/10",  # shared behind a carrier's NAT (RFC 6598); clouds keep metadata here
            "127.0.0.0/8",  # loopback (RFC 1122)
            "168.63.129.16/32",  # Azure's own services, on a public number
            "169.254.0.0/16",  # link-local, and the metadata services of most clouds (RFC 3927)
            "172.16.0.0/12",  # private (RFC 1918)
            "192.0.0.0/24",  # protocol assignments (RFC 6890)
            "192.0.2.0/24",  # documentation (RFC 5737)
            "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
            "192.168.0.0/16",  # private (RFC 1918)
            "198.18.0.0/15",  # benchmarks (RFC 2544)
            "198.51.100.0/24",  # documentation (RFC 5737)
            "203.0.113.0/24",  # documentation (RFC 5737)
            "224.0.0.0/4",  # multicast (RFC 5771)
            "240.0.0.0/4",  # reserved, and broadcast (RFC 1112, RFC 919)
        ),
    )
)

#: All that is handed out to anybody (RFC 4291 §2.4). What stands outside is loopback, IPv4 in disguise (mapped,
#: compatible, NAT64), unique local, link-local, site-local, discard, segment routing or multicast.
_OPEN_V6 = IPv6Network("2000::/3")

_CLOSED_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID (RFC 2928)
            "2001:db8::/32",  # documentation (RFC 3849)
            "2002::/16",  # 6to4: an IPv4 address in disguise (RFC 3056)
            "3fff::/20",  # documentation (RFC 9637)
        ),
    )
)


def is_public(address: str) -> bool:
    """Whether a literal address of IP is one host of the open internet; no name ever is."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        return (
            parsed.scope_id is None
            and parsed in _OPEN_V6
            and not any(parsed in network for network in _CLOSED_V6)
        )
    return not any(parsed in network for network in _CLOSED_V4)
