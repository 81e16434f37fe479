"""A `SwarmError` across the control socket: what the daemon raises, the command raises too.

@passed_on                            # a method of a servicer
async def Pause(self, request, context): ...

raise error_in(rpc_error.details())   # at the client, for the status `REFUSED`
"""

from __future__ import annotations

import functools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from swarm.errors import Code, SwarmError

REFUSED = grpc.StatusCode.FAILED_PRECONDITION
Method = Callable[[Any, Any, Any], Awaitable[Any]]


def passed_on(method: Method) -> Method:
    """End a call that raised `SwarmError` with a status that says code, message and hint."""

    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except SwarmError as error:
            text = json.dumps([error.code.value, error.message, error.hint])
            await context.abort(REFUSED, text)

    return call


def error_in(details: str) -> SwarmError:
    """The error that `passed_on` wrote."""
    code, message, hint = json.loads(details)
    return SwarmError(Code(code), message, hint)
