"""A local Ray that nobody else can reach: on loopback only, with a token that only its environment holds."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # its stub lacks them

AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def private_ray() -> Iterator[None]:
    """Make a local Ray that starts inside listen on loopback only and require a token.

    The token is random and is written to no file. A mode, token or token file that the environment already
    names stays in force. Everything is restored afterwards, so that this process can join a cluster.
    """
    before = {name: os.environ.get(name) for name in AUTHENTICATION}
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if not (before["RAY_AUTH_TOKEN"] or before["RAY_AUTH_TOKEN_PATH"]):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    # Without clusters, the address of this node is 127.0.0.1, and all its processes listen there. `ray.init`
    # replaces an explicit `_node_ip_address` of 127.0.0.1 by an external address.
    ray_constants.ENABLE_RAY_CLUSTER = False
    _reload()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        _reload()


def _reload() -> None:
    """Make Ray read the variables again, which it reads once per process."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
