"""The body of a request, read whole and bounded, for all who speak HTTP to us."""

from starlette.requests import ClientDisconnect, Request

from espf.errors import InvalidRequest


class TooLarge(InvalidRequest):
    """The body has more bytes than may be."""


async def read_body(request: Request, most: int) -> bytes:
    """The body of a request; it may have ``most`` bytes, and no more are held.

    Raises TooLarge, and InvalidRequest when the caller leaves before its end.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise TooLarge(f"the body is larger than {most} bytes", "body")
    except ClientDisconnect:
        raise InvalidRequest("the body ends too early", "body") from None
    return bytes(body)
