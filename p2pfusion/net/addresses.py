"""`host:port` addresses: reading them, refusing the dangerous ones, and naming our own.

An address is an IP literal and a port, `192.168.1.7:40123` or `[fd00::7]:40123`; host names are not addresses, because
resolving one would let a stranger's message make us ask a name server. What we may dial is decided here and nowhere
else (RELIABILITY.md 2.8, "dial policy"): addresses come from strangers, over mDNS and gossip.

This module opens no connection and knows neither HTTP nor mDNS.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import ifaddr

from p2pfusion.config import ADDRESSES_MAX
from p2pfusion.errors import UsageError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

PORT_MIN = 1024
"""No peer listens below: those ports are the mail servers, routers and printers a forged record could aim us at."""
ADDRESS_CHARS_MAX = 64
"""The longest address: 45 characters of IPv6, brackets, colon, port, and room for a zone we then refuse."""

_METADATA_SERVICES: tuple[IPAddress, ...] = (
    ipaddress.ip_address("169.254.169.254"),
    ipaddress.ip_address("fd00:ec2::254"),
)
"""Where clouds answer with credentials to whoever asks from inside."""

_VIRTUAL_ADAPTERS = ("docker", "br-", "veth", "virbr", "vmnet", "vboxnet", "cni", "flannel", "tun", "utun", "zt")
"""Adapters that lead to containers, virtual machines and tunnels rather than to the LAN; their addresses come last."""


def split(address: str) -> tuple[IPAddress, int]:
    """Split `host:port` into its IP literal and port. Raises `ValueError`, with words a user can act on."""
    host, colon, digits = address[: ADDRESS_CHARS_MAX + 1].rpartition(":")
    if not colon or len(address) > ADDRESS_CHARS_MAX:
        raise ValueError("not of the form HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets, as in [fd00::7]:40123")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("the host is not an IP address") from None
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) <= 65535):
        raise ValueError("the port is not a number from 0 to 65535")
    return ip, int(digits)


def join(ip: IPAddress | str, port: int) -> str:
    """The one spelling of an address: `split(join(ip, port)) == (ip, port)`."""
    host = str(ip)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def dialable(address: str) -> tuple[IPAddress, int]:
    """What `split` gives, for an address that may be dialled. Raises `ValueError` with the reason it may not."""
    ip, port = split(address)
    if ip.version == 6 and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped  # judge, and dial, what the kernel would really connect to
    if port < PORT_MIN:
        raise ValueError(f"ports below {PORT_MIN} are never dialled")
    if ip.is_unspecified:
        raise ValueError("the unspecified address is nobody")
    if ip.is_multicast or (ip.version == 4 and ip.is_reserved):
        raise ValueError("not the address of one host")
    if ip in _METADATA_SERVICES:
        raise ValueError("the metadata service of a cloud is never dialled")
    if ip.version == 6 and ip.scope_id is not None:
        raise ValueError("a zone means something on one computer only")
    return ip, port


def dialable_only(addresses: Iterable[str]) -> tuple[str, ...]:
    """The addresses among these that may be dialled, in their one spelling, at most `ADDRESSES_MAX`."""
    kept: list[str] = []
    for address in addresses:
        if len(kept) == ADDRESSES_MAX:
            break
        try:
            spelled = join(*dialable(address))
        except ValueError:
            continue
        if spelled not in kept:
            kept.append(spelled)
    return tuple(kept)


def listening(listen: str) -> tuple[IPAddress, int]:
    """Read the `--listen` option; port 0 lets the system choose. Raises `UsageError` naming the fix."""
    try:
        ip, port = split(listen)
    except ValueError as error:
        raise UsageError(f"--listen {listen}: {error}; for example --listen 0.0.0.0:0") from None
    if 0 < port < PORT_MIN:
        raise UsageError(
            f"--listen {listen}: peers never dial a port below {PORT_MIN}; use {join(ip, 0)} for a free one"
        )
    return ip, port


def adapters() -> list[tuple[str, IPAddress]]:
    """The name of each network adapter of this computer with each of its IP addresses."""
    return [
        (adapter.name, ipaddress.ip_address(item.ip if isinstance(item.ip, str) else item.ip[0]))
        for adapter in ifaddr.get_adapters()
        for item in adapter.ips
    ]


def own(bound: IPAddress, port: int) -> tuple[str, ...]:
    """The addresses (1 to `ADDRESSES_MAX`) at which others reach a listener bound to `bound`, most useful first.

    Bound to one address, that one. Bound to all, those of the LAN adapters; loopback only where there is nothing else.
    """
    if not bound.is_unspecified:
        return (join(bound, port),)
    found = [
        (_rank(ip, adapter), ip)
        for adapter, ip in adapters()
        if ip.version == bound.version and not ip.is_loopback and not (ip.version == 6 and ip.is_link_local)
    ]
    if not found:
        return (join("127.0.0.1" if bound.version == 4 else "::1", port),)
    ordered = sorted(found, key=lambda item: (item[0], int(item[1])))
    return tuple(dict.fromkeys(join(ip, port) for _, ip in ordered))[:ADDRESSES_MAX]


def _rank(ip: IPAddress, adapter: str) -> int:
    """Lower is likelier to be where the other devices of the household are."""
    return 4 * ip.is_link_local + 2 * adapter.lower().startswith(_VIRTUAL_ADAPTERS) + (not ip.is_private)
