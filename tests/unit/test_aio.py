"""A limit of time that does not lose cancellations."""

from __future__ import annotations

import asyncio

import pytest

from swarm.aio import in_time


def test_a_task_cancelled_in_the_turn_in_which_its_work_ends_is_cancelled():
    async def story() -> None:
        work = asyncio.get_running_loop().create_future()

        async def endless() -> None:
            while True:
                await in_time(work, 60)
                await asyncio.sleep(60)

        task = asyncio.create_task(endless())
        await asyncio.sleep(0)
        work.set_result(None)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done and task.cancelled()

    asyncio.run(story())


def test_work_that_takes_too_long_is_ended_and_cleans_up():
    async def story() -> None:
        cleaned_up = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                cleaned_up.set()

        with pytest.raises(asyncio.TimeoutError):
            await in_time(work(), 0.01)
        assert cleaned_up.is_set()

    asyncio.run(story())


def test_a_cancelled_wait_ends_its_work_first():
    async def story() -> None:
        ended = asyncio.Event()

        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        task = asyncio.create_task(in_time(work(), 60))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled() and ended.is_set()

    asyncio.run(story())


def test_results_and_errors_come_through_also_without_a_limit_left():
    async def story() -> None:
        async def at_once() -> int:
            return 5

        async def wrong() -> None:
            raise ValueError("no")

        assert await in_time(at_once(), 0.0) == 5
        with pytest.raises(ValueError, match="no"):
            await in_time(wrong(), 1.0)

    asyncio.run(story())
