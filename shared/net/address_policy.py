"""Which addresses of the network strangers may have us connect to: our own table, after IANA's two registries of
special-purpose addresses and the addresses at which clouds tell a machine its secrets."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

IpAddress = IPv4Address | IPv6Address

#: An operator may vouch for what is here: own machines are often found at such addresses.
PRIVATE_NETWORKS = {
    "10.0.0.0/8": "a private network",
    "100.64.0.0/10": "the network between a provider and its customers",
    "127.0.0.0/8": "this machine itself",
    "172.16.0.0/12": "a private network",
    "192.168.0.0/16": "a private network",
    "198.18.0.0/15": "a network for benchmarks",
    "::1/128": "this machine itself",
    "fc00::/7": "a private network",
}
#: No web server that anybody means is at any of these, or one that is nobody's business.
FORBIDDEN_NETWORKS = {
    "0.0.0.0/8": "no address",
    "100.100.100.200/32": "a cloud's own service",  # Alibaba
    "168.63.129.16/32": "a cloud's own service",  # Azure; public by its number
    "169.254.0.0/16": "a link-local network, where clouds have their own services",
    "192.0.0.0/24": "an address for protocols",
    "192.0.2.0/24": "an address for documentation",
    "192.88.99.0/24": "a relay of 6to4",
    "198.51.100.0/24": "an address for documentation",
    "203.0.113.0/24": "an address for documentation",
    "224.0.0.0/4": "a multicast address",
    "240.0.0.0/4": "a reserved address",
    "::/96": "an IPv4 address in the oldest disguise",
    "::/128": "no address",
    "::ffff:0:0/96": "an IPv4 address in disguise",
    "::ffff:0:0:0/96": "an IPv4 address in disguise",
    "64:ff9b:1::/48": "a translator to IPv4 that leads wherever its owner wants",
    "100::/64": "an address that discards",
    "2001::/23": "an address for protocols, Teredo among them",
    "2001:db8::/32": "an address for documentation",
    "2002::/16": "an IPv4 address in the disguise of 6to4",
    "3fff::/20": "an address for documentation",
    "fd00:ec2::254/128": "a cloud's own service",  # Amazon
    "fd20:ce::254/128": "a cloud's own service",  # Google
    "fe80::/10": "a link-local network",
    "fec0::/10": "a private network of old",
    "ff00::/8": "a multicast address",
}

_PRIVATE = {ip_network(network): what for network, what in PRIVATE_NETWORKS.items()}
_TABLE = _PRIVATE | {ip_network(network): what for network, what in FORBIDDEN_NETWORKS.items()}
#: Machines that have IPv6 alone reach every IPv4 address through this one, so it is as good as what it stands for.
_NAT64 = IPv6Network("64:ff9b::/96")
#: All of IPv6 that is given out. Whatever else there may be is nobody's web server.
_GIVEN_OUT = IPv6Network("2000::/3")


def refusal_reason(address: IpAddress, *, allow_private: bool = False) -> str | None:
    """What the address is that nobody may connect to; None if it may be. `allow_private`: it may be private, too."""
    if address.version == 6 and address in _NAT64:
        return refusal_reason(IPv4Address(int(address) & 0xFFFF_FFFF), allow_private=allow_private)
    found = [network for network in _TABLE if address in network]
    if found:
        # Of two that hold it, one within the other, the inner one says more.
        network = max(found, key=lambda one: one.prefixlen)
        return None if allow_private and network in _PRIVATE else _TABLE[network]
    return "a reserved address" if address.version == 6 and address not in _GIVEN_OUT else None
