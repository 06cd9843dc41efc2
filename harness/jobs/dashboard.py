"""Access to a cluster's dashboard: its address, its token, and a first request with clear errors."""

import os
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from harness.errors import InfrastructureError, UsageError

VERSION_TIMEOUT_SECONDS = 10.0  # for the dashboard's version
VISIBLE_ASCII = "[!-~]*"  # the characters of an address or a header
TOKEN_SOURCES = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
EXPECTED_ADDRESS = "expected the cluster's dashboard, such as http://head:8265"


def find_dashboard(address: str) -> tuple[str, dict[str, str]]:
    """Check that a Ray dashboard answers at `http://HOST:8265` and accepts the user's token.

    Returns:
        The address without a slash at the end, and the header with the token if there is one.

    Raises:
        UsageError: The address is not a dashboard's, or the token is malformed.
        InfrastructureError: Nothing answers there, or it rejects the token.
    """
    if not _is_dashboard_address(address):
        shown = re.sub(".*@", "…@", address)  # without a password
        raise UsageError(f"--address {shown}: {EXPECTED_ADDRESS}")
    address = address.rstrip("/")
    source, token = _read_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    _request_version(address, headers, source)
    return address, headers


def _is_dashboard_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        port = parts.port  # the port is parsed only on access
    except ValueError:
        return False
    valid = parts.scheme in {"http", "https"} and parts.hostname and port != 0 and "@" not in parts.netloc
    return bool(valid and re.fullmatch(VISIBLE_ASCII, address))


def _request_version(address: str, headers: dict[str, str], token_source: str) -> None:
    """Request the version, because Ray's own client would take 20 s to raise a vague error."""
    prefix = f"--address {address}"
    request = urllib.request.Request(f"{address}/api/version", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=VERSION_TIMEOUT_SECONDS):
            return
    except urllib.error.HTTPError as error:
        if error.code == 401:
            reason = f"the cluster requires a token, and none is set: set {TOKEN_SOURCES}"
        elif error.code == 403 and token_source:
            reason = f"the cluster rejects the token from {token_source}"
        elif error.code == 403:
            reason = "access is forbidden"
        else:
            reason = f"no Ray dashboard: HTTP {error.code}"
        raise InfrastructureError(f"{prefix}: {reason}") from error
    except OSError as error:
        reason = str(getattr(error, "reason", error))
        raise InfrastructureError(f"{prefix}: no Ray dashboard answers there ({reason})") from error
    except (HTTPException, ValueError) as error:  # Ray's own port, 6379, for example, or an invalid host name
        raise UsageError(f"{prefix}: nothing there speaks HTTP; {EXPECTED_ADDRESS}") from error


def _read_token() -> tuple[str, str]:
    """Return the source of the token, tried in Ray's order, and the token, which no message may contain."""
    default = Path.home() / ".ray" / "auth_token"
    if token := os.environ.get("RAY_AUTH_TOKEN", ""):
        source = "RAY_AUTH_TOKEN"
    elif path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        source, token = f"RAY_AUTH_TOKEN_PATH ({path})", _read_text(Path(path))
    elif default.exists():
        source, token = "~/.ray/auth_token", _read_text(default)
    else:
        return "", ""
    token = token.strip()
    if not re.fullmatch(VISIBLE_ASCII, token):
        raise UsageError(f"{source}: expected a token: one line of ASCII letters, digits and signs")
    return source, token


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UsageError(f"token file {path}: cannot be read: {reason}") from None
