"""Addresses of model servers, as people write them."""

from ipaddress import ip_address
from urllib.parse import urlsplit

_ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1")
"""What the addresses of other clients end in; here a route is added to every request."""


def server_address(text: str) -> str:
    """Where a server's routes begin; a known route at its end is cut off.

    Raises:
        ValueError: it is no such address. A password in it is not repeated.

    >>> server_address("http://gpu1:40000/v1/chat/completions")
    'http://gpu1:40000'
    >>> server_address("https://host/models/draft/v1/")
    'https://host/models/draft'
    """
    if "@" in text:
        raise ValueError("the address holds a user name or a password: use api_key_env")
    try:
        parts = urlsplit(text)
        port = parts.port
        if parts.netloc.startswith("["):
            ip_address(parts.hostname or "")
    except ValueError as error:
        raise ValueError(
            f"{text!r}: a port is a number from 1 to 65535, and an IPv6 address stands in "
            f"brackets, as in http://[::1]:40000 ({error})"
        ) from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or parts.query
        or parts.fragment
        or not text.isprintable()
        or " " in text
    ):
        raise ValueError(f"{text!r} is not the address of a server: http://HOST:PORT is")
    path = parts.path.rstrip("/")
    while route := next((route for route in _ROUTES if path.endswith(route)), None):
        path = path.removesuffix(route).rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path}"


def host_name(text: str) -> str:
    """A name, or an address without brackets, for a server to listen at.

    Raises:
        ValueError: it is neither.

    >>> host_name("::1")
    '::1'
    """
    if ":" in text:
        ip_address(text.partition("%")[0])  # its zone, where it has one, stands behind %
    elif not text or not text.isprintable() or any(char in text for char in " /[]@"):
        raise ValueError(f"{text!r} is no host: a name or an address is, without a port")
    return text
