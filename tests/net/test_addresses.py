"""The dial policy, how `--listen` is read, and which of our own addresses others are told."""

from types import SimpleNamespace

import ifaddr
import pytest

from p2pfusion.config import ADDRESSES_MAX
from p2pfusion.errors import UsageError
from p2pfusion.net import addresses

MAY = {
    "192.168.1.7:40123": "192.168.1.7:40123",
    "10.0.0.1:1024": "10.0.0.1:1024",
    "127.0.0.1:65535": "127.0.0.1:65535",
    "169.254.12.1:5000": "169.254.12.1:5000",
    "100.64.0.1:5000": "100.64.0.1:5000",
    "[fd00::7]:5000": "[fd00::7]:5000",
    "[FD00:0:0::7]:5000": "[fd00::7]:5000",
    "[::1]:5000": "[::1]:5000",
    "[::ffff:192.168.1.7]:5000": "192.168.1.7:5000",
}

MAY_NOT = {
    "192.168.1.7:1023": "below 1024",
    "192.168.1.7:0": "below 1024",
    "192.168.1.7:65536": "port",
    "192.168.1.7:+5000": "port",
    "192.168.1.7: 5000": "port",
    "192.168.1.7:٥٠٠٠": "port",  # noqa: RUF001 - digits int() would take
    "192.168.1.7": "HOST:PORT",
    "": "HOST:PORT",
    ":5000": "not an IP address",
    "localhost:5000": "not an IP address",
    "example.org:5000": "not an IP address",
    "3232235783:5000": "not an IP address",
    "0300.0250.0.1:5000": "not an IP address",
    "127.1:5000": "not an IP address",
    "fd00::7:5000": "brackets",
    "0.0.0.0:5000": "unspecified",
    "[::]:5000": "unspecified",
    "[::ffff:0.0.0.0]:5000": "unspecified",
    "224.0.0.251:5353": "one host",
    "255.255.255.255:5000": "one host",
    "[ff02::fb]:5353": "one host",
    "169.254.169.254:8000": "metadata",
    "[::ffff:169.254.169.254]:8000": "metadata",
    "[fd00:ec2::254]:8000": "metadata",
    "[fe80::1%eth0]:5000": "zone",
    "[" + "0" * 70 + "]:5000": "HOST:PORT",
}


@pytest.mark.parametrize(("address", "spelled"), MAY.items())
def test_addresses_of_peers_may_be_dialled(address: str, spelled: str) -> None:
    assert addresses.join(*addresses.dialable(address)) == spelled


@pytest.mark.parametrize(("address", "why"), MAY_NOT.items())
def test_others_may_not_and_the_reason_is_given(address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        addresses.dialable(address)


def test_a_list_of_addresses_is_filtered_spelled_once_and_bounded() -> None:
    good = [f"192.168.1.{n}:5000" for n in range(1, ADDRESSES_MAX + 2)]
    assert addresses.dialable_only(["localhost:1", good[0], good[0], "0.0.0.0:5000", *good[1:]]) == tuple(good[:-1])


def test_listen_is_read_or_refused_with_the_fix() -> None:
    ip, port = addresses.listening("0.0.0.0:0")
    assert (str(ip), port) == ("0.0.0.0", 0)
    with pytest.raises(UsageError, match=r"--listen nonsense: not of the form HOST:PORT; for example --listen 0"):
        addresses.listening("nonsense")
    with pytest.raises(UsageError, match=r"never dial a port below 1024; use 127.0.0.1:0"):
        addresses.listening("127.0.0.1:80")


def _adapters(*pairs: tuple[str, object]) -> object:
    return lambda: [SimpleNamespace(name=name, ips=[SimpleNamespace(ip=ip)]) for name, ip in pairs]


def test_own_addresses_put_the_lan_first_and_loopback_never(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [
        ("lo", "127.0.0.1"),
        ("docker0", "172.17.0.1"),
        ("ppp0", "203.0.113.9"),
        ("usb0", "169.254.3.4"),
        ("wlan0", "192.168.1.20"),
        ("eth0", "10.0.0.5"),
        ("eth0", ("fd00::5", 0, 0)),
    ]
    monkeypatch.setattr(ifaddr, "get_adapters", _adapters(*pairs))
    everywhere, _ = addresses.listening("0.0.0.0:0")
    assert addresses.own(everywhere, 5000) == (
        "10.0.0.5:5000",
        "192.168.1.20:5000",
        "203.0.113.9:5000",
        "172.17.0.1:5000",
    )
    everywhere_six, _ = addresses.listening("[::]:0")
    assert addresses.own(everywhere_six, 5000) == ("[fd00::5]:5000",)


def test_own_addresses_fall_back_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifaddr, "get_adapters", _adapters(("lo", "127.0.0.1"), ("eth0", ("fe80::5", 0, 2))))
    for listen, expected in (("0.0.0.0:0", "127.0.0.1:5000"), ("[::]:0", "[::1]:5000")):
        assert addresses.own(addresses.listening(listen)[0], 5000) == (expected,)


def test_bound_to_one_address_that_one_is_told() -> None:
    assert addresses.own(addresses.listening("127.0.0.1:0")[0], 5000) == ("127.0.0.1:5000",)
