"""Decide which IP addresses requests to foreign URLs may connect to.

The table follows IANA's two registries of special-purpose addresses, and adds the addresses at which clouds hand out
secrets to their machines.
"""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

IpAddress = IPv4Address | IPv6Address

#: Networks that the operator can allow: machines of an installation often have such addresses.
PRIVATE_NETWORKS = {
    "10.0.0.0/8": "private network",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback address",
    "172.16.0.0/12": "private network",
    "192.168.0.0/16": "private network",
    "198.18.0.0/15": "benchmarking network",
    "::1/128": "loopback address",
    "fc00::/7": "private network",
}
#: Networks that nobody can allow: they contain no web server, or one that must stay out of reach.
FORBIDDEN_NETWORKS = {
    "0.0.0.0/8": "unspecified address",
    "100.100.100.200/32": "cloud metadata service",  # Alibaba
    "168.63.129.16/32": "cloud metadata service",  # Azure; a public address by its number
    "169.254.0.0/16": "link-local network, with cloud metadata services",
    "192.0.0.0/24": "address of protocols",
    "192.0.2.0/24": "documentation address",
    "192.88.99.0/24": "6to4 relay",
    "198.51.100.0/24": "documentation address",
    "203.0.113.0/24": "documentation address",
    "224.0.0.0/4": "multicast address",
    "240.0.0.0/4": "reserved address",
    "::/96": "IPv4-compatible address",
    "::/128": "unspecified address",
    "::ffff:0:0/96": "IPv4-mapped address",
    "::ffff:0:0:0/96": "IPv4-translated address",
    "64:ff9b:1::/48": "local-use NAT64 address",
    "100::/64": "discard-only address",
    "2001::/23": "address of protocols such as Teredo",
    "2001:db8::/32": "documentation address",
    "2002::/16": "6to4 address",
    "3fff::/20": "documentation address",
    "fd00:ec2::254/128": "cloud metadata service",  # Amazon
    "fd20:ce::254/128": "cloud metadata service",  # Google
    "fe80::/10": "link-local network",
    "fec0::/10": "site-local network",
    "ff00::/8": "multicast address",
}

_PRIVATE = {ip_network(network): kind for network, kind in PRIVATE_NETWORKS.items()}
_REFUSED = _PRIVATE | {ip_network(network): kind for network, kind in FORBIDDEN_NETWORKS.items()}
#: IPv6-only machines reach all of IPv4 through this prefix, so an address in it counts as the IPv4 address it embeds.
_NAT64 = IPv6Network("64:ff9b::/96")
#: All of IPv6 that is allocated for public use.
_GLOBAL_UNICAST = IPv6Network("2000::/3")


def refusal_reason(address: IpAddress, *, allow_private: bool = False) -> str | None:
    """What kind of forbidden address this is; None if requests may connect to it."""
    if address.version == 6 and address in _NAT64:
        return refusal_reason(IPv4Address(int(address) & 0xFFFF_FFFF), allow_private=allow_private)
    matches = [network for network in _REFUSED if address in network]
    if matches:
        # A network within another one is the more specific.
        network = max(matches, key=lambda match: match.prefixlen)
        return None if allow_private and network in _PRIVATE else _REFUSED[network]
    return "reserved address" if address.version == 6 and address not in _GLOBAL_UNICAST else None
