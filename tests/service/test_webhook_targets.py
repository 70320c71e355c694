"""Where deliveries may go, and that they go nowhere else: real names, real sockets, real TLS."""

import ipaddress
import ssl
import subprocess
import time
from pathlib import Path

import httpx2
import pytest

from service.settings import Settings
from service.webhooks.posting import ANSWER_BYTES, post
from service.webhooks.targets import Refused, parse, public, resolve
from tests.service.receiver import Answer, dripping, dropping, endless, garbage, hanging, receiving, status

PRIVATE = [
    "127.0.0.1", "127.255.0.1", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.1",
    "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fc00::1",
    "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
    "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::",
    "2002:a9fe:a9fe::1", "2001::1", "100::1", "5f00::1", "3fff::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
OPEN = Settings(webhook_http=True, webhook_private=True)
CLOSED = Settings(webhook_http=True)
TLS = ssl.create_default_context()


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_of_no_public_network_is_refused(address: str) -> None:
    assert not public(ipaddress.ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(Refused, match="not public"):
        parse(f"https://{host}/", CLOSED)
    assert resolve(parse(f"https://{host}/", OPEN), OPEN)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_allowed(address: str) -> None:
    assert public(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1", "0"])
def test_a_name_is_refused_for_what_it_leads_to(host: str) -> None:
    with pytest.raises(Refused, match="not public"):
        resolve(parse(f"https://{host}/", CLOSED), CLOSED)


BAD = {
    "http://example.com/": "https://", "ftp://example.com/": "https://", "https:///x": "a host", "example.com": "https://",
    "https://": "a host", "https://ada@example.com/": "user name", "https://ada:secret@example.com/": "user name",
    "https://example.com:0/": "port", "https://example.com:99999/": "port", "https://exa mple.com/": "no name",
    "https://example.com/\x00": "not a URL", "file:///etc/passwd": "https://", "javascript:alert(1)": "https://",
    "https://[::1/": "not a URL", "https://0177.0.0.1/": "not a URL", "https://\u2024.com/": "not a URL",
}  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_a_url_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(Refused, match=BAD[url]):
        parse(url, Settings())


def test_the_connection_goes_to_the_address_that_was_checked_whatever_the_name_says_by_then() -> None:
    with receiving(status(200)) as receiver:
        port = httpx2.URL(receiver.url).port
        url = parse(f"http://hooks.invalid:{port}/a?b=c", CLOSED)  # a name that leads nowhere
        assert post(url, ["127.0.0.1"], {"webhook-id": "1"}, "{}", TLS) == (200, None)
        with pytest.raises(OSError, match="not known"):
            resolve(url, CLOSED)
    [got] = receiver.received
    assert (got.headers["Host"], got.headers["webhook-id"]) == (f"hooks.invalid:{port}", "1")
    assert got.headers["Content-Type"] == "application/json"
    assert got.body == b"{}"


def test_an_address_that_does_not_answer_leaves_the_others_their_turn() -> None:
    with receiving(status(204)) as receiver:
        url = parse(receiver.url, OPEN)
        assert post(url, ["127.0.0.9", "127.0.0.1"], {}, "{}", TLS) == (204, None)
        refused = post(url, ["127.0.0.9"], {}, "{}", TLS)
    assert refused.status is None
    assert "refused" in str(refused.error)


ANSWERS: dict[str, tuple[Answer, int | None, str | None]] = {
    "no content": (status(204), 204, None),
    "an endless answer": (endless, 200, None),
    "a long answer": (status(200, bytes(10 * ANSWER_BYTES)), 200, None),
    "a redirect": (status(302, Location="/elsewhere"), 302, "answered 302; redirects are not followed"),
    "another": (status(307, Location="http://169.254.169.254/"), 307, "answered 307; redirects are not followed"),
    "a refusal": (status(403, b"no"), 403, "answered 403"),
    "gone": (status(410), 410, "answered 410"),
    "a failure": (status(503), 503, "answered 503"),
    "no HTTP": (garbage, None, "illegal status line"),
    "a dropped connection": (dropping, None, "disconnected"),
    "a hanging server": (hanging, None, "no answer within 1 seconds"),
    "a dripping server": (dripping, None, "no answer within 1 seconds"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_whatever_answers_is_over_in_time_and_said(case: str) -> None:
    answer, code, error = ANSWERS[case]
    with receiving(answer) as receiver:
        begun = time.monotonic()
        got = post(parse(receiver.url, OPEN), ["127.0.0.1"], {}, "{}", TLS, seconds=1)
        assert time.monotonic() - begun < 60, "these answers never end"
    assert got.status == code
    assert (error or "None") in str(got.error)
    assert len(receiver.received) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of localhost, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*command, "-keyout", path, "-out", path.with_suffix(".crt")], check=True, capture_output=True)
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def test_tls_asks_for_the_name_and_trusts_nobody_unknown(certificate: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    asked: list[str | None] = []
    server.sni_callback = lambda _, name, __: asked.append(name)
    trusting = ssl.create_default_context(cafile=certificate)
    with receiving(status(200), tls=server) as receiver:
        url = parse(receiver.url, OPEN)
        assert post(url, ["127.0.0.1"], {}, "{}", trusting) == (200, None)
        other = url.copy_with(host="other.invalid")
        assert "certificate" in str(post(other, ["127.0.0.1"], {}, "{}", trusting).error)
        assert "certificate" in str(post(url, ["127.0.0.1"], {}, "{}", TLS).error)
    assert asked[:2] == ["localhost", "other.invalid"]
    assert len(receiver.received) == 1
