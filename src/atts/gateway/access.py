"""Who may ask: an API key if one is set, and otherwise only this machine, by its own names."""

import hashlib
import hmac
import ipaddress
import os
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from atts.errors import ConfigError, RequestError
from atts.gateway.replies import error_response

KEY_VARIABLE = "ATTS_API_KEY"
OPEN_PATHS = frozenset({"/health"})
"""What needs no key: whether the server lives."""


def read_key(path: Path | None) -> str | None:
    """The API key, of a file or of the environment; None if there is none.

    Raises:
        ConfigError: the file cannot be read, or holds none.
    """
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the API key in {path}: {error}") from error
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{path} must hold an API key: one word of printable ASCII")
    return key


def check_host(host: str, key: str | None) -> None:
    """Refuse to listen to other machines without a key.

    Raises:
        ConfigError: there is none, and ``host`` is not this machine's own address.
    """
    if key is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines in: set an API key, in the environment variable "
            f"{KEY_VARIABLE} or by --api-key-file"
        )


class Access:
    """Lets a request through, or refuses it.

    Without a key the name that was asked for must be one of this machine's own: a page in a browser
    can make its own name point here, and would otherwise be let in.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = None if key is None else _digest(key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refused := self._refusal(scope)):
            await error_response(refused)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> RequestError | None:
        headers = Headers(scope=scope)
        if self._key is None:
            if is_loopback(_name_of(headers.get("host", ""))):
                return None
            return RequestError(
                "without an API key only requests to this machine's own address are answered",
                status=403,
                kind="permission_error",
                code="wrong_host",
            )
        if scope["path"] in OPEN_PATHS:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(_digest(given.strip()), self._key):
            return None
        return RequestError(
            "a valid API key is needed, as 'Authorization: Bearer KEY'",
            status=401,
            kind="authentication_error",
            code="invalid_api_key",
        )


def _digest(key: str) -> bytes:
    """Of one length, so that not even that shows in the time of a comparison."""
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape")).digest()


def _name_of(host: str) -> str:
    """The name or address in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_loopback(name: str) -> bool:
    """Whether a name or address is this machine's own."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
