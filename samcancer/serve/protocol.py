"""HTTP connections that may not stay open without ever finishing a request."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient_protocol(idle_s: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, which closes a connection that is between requests for too long.

    uvicorn itself waits forever for the end of a request's headers, so that a few hundred
    connections that send a byte now and then would keep everyone else out. Bodies have a limit of
    their own, where they are read.

    Args:
        idle_s: Seconds without a whole request; a connection is closed after one to two times that.
    """

    class ImpatientProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
            super().connection_made(transport)
            self.loop.call_later(idle_s, self._look, None)

        def _look(self, last_seen: Any) -> None:
            """Close unless a request has begun since the last look, or is being answered."""
            if self.transport.is_closing():
                return
            request: Any = self.cycle
            if request is last_seen and (request is None or request.response_complete):
                self.transport.close()
                return
            self.loop.call_later(idle_s, self._look, request)

    return ImpatientProtocol
