"""Running several tasks at once so that none of them dies silently."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from swarm.errors import Code, SwarmError

Work = Coroutine[Any, Any, None]


async def together(main: Work, *background: Work) -> None:
    """Run `main` to its end, and the endless `background` tasks for as long.

    Raises the error of `main`, or of the first background task that ends: without it the node
    would go on and be wrong. All others are cancelled then.
    """
    tasks = [asyncio.ensure_future(work) for work in (main, *background)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        if not tasks[0].done():
            raise SwarmError(Code.INTERNAL, "a background task of the daemon ended")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def uninterrupted(work: Work) -> None:
    """Run `work` to its end although this task is cancelled meanwhile, even several times."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            continue
    task.result()


async def both(first: Work, second: Work) -> None:
    """Run two things at once; when one fails the other is ended too and its error is raised."""
    tasks = [asyncio.ensure_future(first), asyncio.ensure_future(second)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
