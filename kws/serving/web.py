"""The page over HTTP: a list of files, and nothing else. One request a connection, GET or HEAD."""

import asyncio
import ipaddress
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import urlsplit

from kws.serving.door import STALL_S, Client
from kws.serving.site import POLICY, TYPES

HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Connection": "close",
}
LOCAL = {"localhost", "127.0.0.1", "::1"}


class Site:
    """Answers requests.

    Args:
        files: content by path.
        host: the address that was bound; who reaches the page under another name is refused, for a page from elsewhere
            may have been given this address (DNS rebinding).
    """

    def __init__(self, files: dict[str, bytes], host: str):
        self.files, self.host = {f"/{path}": content for path, content in files.items()}, host.strip("[]").lower()

    async def talk(self, client: Client) -> None:
        """One request and its answer."""
        try:
            async with asyncio.timeout(STALL_S):
                head = await client.reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            status, body, path = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"", "/"
        except TimeoutError:
            status, body, path = HTTPStatus.REQUEST_TIMEOUT, b"", "/"
        else:
            status, path = self._judge(head)
            body = self.files[path] if status == HTTPStatus.OK else b""
        if status != HTTPStatus.OK:
            path, body = ".html", f"<!doctype html><title>{status.phrase}</title><p>{status.phrase}".encode()
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"Content-Type: {TYPES[path[path.rindex('.') :]]}", f"Content-Length: {len(body)}"]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET, HEAD")
        lines += [f"{name}: {value}" for name, value in HEADERS.items()]
        await client.send("\r\n".join([*lines, "", ""]).encode())
        if status != HTTPStatus.OK or not head.startswith(b"HEAD "):
            await client.send(body)

    def _judge(self, head: bytes) -> tuple[HTTPStatus, str]:
        """The answer to a request's head, and the path of the file that it is to get."""
        first, *lines = head.decode("latin-1").split("\r\n")
        try:
            method, target, version = first.split(" ")
            headers = [(name.lower(), value.strip()) for name, value in (line.split(":", 1) for line in lines if line)]
        except ValueError:
            return HTTPStatus.BAD_REQUEST, "/"
        hosts, origins = ([v for name, v in headers if name == key] for key in ("host", "origin"))
        if version not in ("HTTP/1.0", "HTTP/1.1") or len(hosts) != 1:
            return HTTPStatus.BAD_REQUEST, "/"
        if not self._is_ours(hosts[0]):
            return HTTPStatus.MISDIRECTED_REQUEST, "/"
        if any(origin not in (f"http://{hosts[0]}", f"https://{hosts[0]}") for origin in origins):
            return HTTPStatus.FORBIDDEN, "/"
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, "/"
        path = target.partition("?")[0]
        path = "/index.html" if path == "/" else path
        return (HTTPStatus.OK if path in self.files else HTTPStatus.NOT_FOUND), path

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this server. The port may be another: it may have been forwarded."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in LOCAL or name == self.host:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.host not in LOCAL  # a number is nobody's to rebind, and an address was named that others reach
