"""Where a webhook may point to. A client names the address, so it must not lead into the service's own network."""

import ipaddress
import re
import socket
from ipaddress import IPv4Address, IPv6Address

import httpx2
import structlog

from service.settings import Settings

log = structlog.get_logger()
NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SPECIAL = [ipaddress.ip_network(network) for network in ("192.0.0.0/24", "3fff::/20")]
"""What not every version of Python knows to be reserved."""


class Refused(ValueError):  # noqa: N818 - what was done, not what went wrong
    """Nothing may be sent there."""


def parse(url: str, settings: Settings) -> httpx2.URL:
    """The address, if its form is allowed; a name is looked up only by `resolve`. Raises Refused."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, UnicodeError) as e:
        raise Refused(f"is not a URL: {e}") from e
    schemes = ("https", "http") if settings.webhook_http else ("https",)
    if parsed.scheme not in schemes or not parsed.host:
        raise Refused(f"must begin with {' or '.join(f'{s}://' for s in schemes)} and a host")
    if parsed.userinfo:
        raise Refused("has a user name or a password; allowed: none, for deliveries are signed")
    if parsed.port is not None and not 0 < parsed.port < 65_536:
        raise Refused(f"has port {parsed.port}; allowed: 1 to 65535")
    try:
        address = ipaddress.ip_address(parsed.host)
    except ValueError:
        if NAME.fullmatch(parsed.raw_host.decode("ascii")):
            return parsed
        raise Refused("has a host that is no name") from None
    _check(address, settings)
    return parsed


def resolve(url: httpx2.URL, settings: Settings) -> list[str]:
    """The addresses of a URL's host, all of them allowed. Raises Refused, or OSError if it has none."""
    port = url.port or (443 if url.scheme == "https" else 80)
    found = socket.getaddrinfo(url.raw_host.decode("ascii").strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    for address in addresses:  # each: who answers for the name could add one of ours to its own
        _check(ipaddress.ip_address(address), settings)
    return addresses


def _check(address: IPv4Address | IPv6Address, settings: Settings) -> None:
    if not settings.webhook_private and not public(address):
        log.warning("a webhook leads to an address that is not public", address=str(address))
        # Not which: a client would learn what the names of the service's own network lead to.
        raise Refused("leads to an address that is not public")


def public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is of the public internet, also where it is an IPv4 address in the form of an IPv6 one."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(inner)
        if address.is_site_local:
            return False
    if any(address in network for network in SPECIAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)
