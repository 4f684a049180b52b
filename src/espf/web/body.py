"""The body of a request, read whole and bounded, for all who speak HTTP to us."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from espf.errors import InvalidRequest

#: How long a client may take over it.
BODY_SECONDS = 60


class TooLarge(InvalidRequest):
    """The body has more bytes than may be."""


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request; it may have ``most`` bytes, and no more are held.

    Raises TooLarge, and InvalidRequest when the caller leaves before its end, or is too slow.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise TooLarge(f"the body is larger than {most} bytes", "body")
    except TimeoutError:
        raise InvalidRequest(f"the body does not come within {BODY_SECONDS} s", "body") from None
    except ClientDisconnect:
        raise InvalidRequest("the body ends too early", "body") from None
    return bytes(body)
