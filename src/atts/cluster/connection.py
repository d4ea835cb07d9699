"""The one place that connects to Ray, and lets go of it."""

import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from atts.errors import ConfigError
from atts.package import install

LOCAL = "local"
"""The address for a cluster of this machine alone, which ends with the command."""

KNOCK_SECONDS = 5.0


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Connect to a cluster; inside, Ray may be used. Gives the module ``ray``.

    A cluster of this machine alone listens on its loopback address, and asks whoever connects for a
    token that is made for it. Nothing is sent to Ray's authors, and no dashboard is started.

    Args:
        address: ``auto``: the cluster that runs on this machine, or that ``RAY_ADDRESS`` names;
            ``HOST:PORT`` of another, of which this machine must be a node; or ``local``.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """
    if "://" in address:
        raise ConfigError(
            f"--ray {address}: the command must run on a node of the cluster, and be given auto or "
            "HOST:PORT"
        )
    if address not in ("auto", LOCAL):
        _knock(address)
    ray = load_ray(address == LOCAL)
    if ray.is_initialized():  # by a program that uses atts, which keeps it
        yield ray
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _none_there(address, error) from None
    else:
        # What Ray says of lost workers would stand in the middle of standard output; we say it.
        ray._private.worker._worker_logs_enabled = False
    finally:
        # Ray takes SIGTERM for itself, and would end the process without a record's last line.
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See that somebody listens: Ray would try for a minute, and say so on standard error."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _none_there(address, error) from None


def _none_there(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"--ray {address}: there is no such Ray cluster: {str(error).partition(chr(10))[0]}\n"
        "Start one with ray start --head, join it from other machines with ray start "
        "--address HOST:PORT; or give --ray local for the cores of this machine alone"
    )


def load_ray(is_local: bool = False) -> ModuleType:
    """The module ``ray``; ``is_local``: set up for a cluster of this machine alone.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change
    if is_local and "ray" not in sys.modules:  # which reads these when it is loaded
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # the loopback address, on Linux too
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError(f"--ray needs Ray: {install('ray')}") from None
    return ray  # type: ignore[no-any-return, unused-ignore]
