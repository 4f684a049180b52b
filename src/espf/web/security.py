"""Who is calling: from the Authorization header of a request to an administrator."""

import asyncio
import base64
import binascii
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import Request

from espf.errors import Denied
from espf.users import User, Users

#: Passwords checked at the same time: each check takes a processor and 64 MB for 0.1-0.2 s.
PASSWORD_CHECKS = 2

_password_checks = ThreadPoolExecutor(PASSWORD_CHECKS, thread_name_prefix="espf-password")


async def authenticate(request: Request, users: Users) -> User:
    """The user that the Authorization header names: Basic (login, password) or Bearer (token).

    Raises Denied when there is no such header, or when what it holds is wrong.
    """
    scheme, _, credentials = request.headers.get("authorization", "").strip().partition(" ")
    match scheme.lower():
        case "basic":
            login, password = _basic(credentials)
            return await by_password(users, login, password)
        case "bearer":
            return await asyncio.to_thread(users.by_token, credentials.strip())
        case "":
            raise Denied("log in: an Authorization header is expected, Basic or Bearer")
        case _:
            raise Denied("the Authorization header must be Basic or Bearer")


async def by_password(users: Users, login: str, password: str) -> User:
    """The user with this login and password, checked in a thread. Raises Denied."""
    return await asyncio.get_running_loop().run_in_executor(
        _password_checks, users.by_password, login, password
    )


def _basic(credentials: str) -> tuple[str, str]:
    try:
        login, colon, password = (
            base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
        )
    except (binascii.Error, ValueError):
        colon = ""
    if not colon:
        raise Denied("the Authorization header must hold base64 of 'login:password'")
    return login, password
