"""Submissions by a short way: finding out what a route depends on takes FastAPI a quarter of their time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from pydantic import TypeAdapter
from starlette.concurrency import run_in_threadpool

from service.api.context import LONGEST_KEY, client_of, context_of, submit
from service.api.tagged import JSON, Tagged
from service.kinds.dispatch import JobRequest

REQUEST: TypeAdapter[Any] = TypeAdapter(JobRequest)


class Straight(Tagged):
    """The route of `submit_job`. What is not a plain, valid submission goes FastAPI's way, which says what is wrong."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def straight(request: Request) -> Response:
            key = request.headers.get("idempotency-key")
            plain = request.headers.get("content-type") == JSON and not request.scope["query_string"]
            if not plain or (key is not None and not 1 <= len(key) <= LONGEST_KEY):
                return await handle(request)
            try:
                body = REQUEST.validate_python(await request.json())
            except ValueError:
                return await handle(request)
            ctx = await context_of(request)
            asked = await run_in_threadpool(submit, ctx, body, key, await client_of(request))
            await asyncio.wrap_future(asked.told)
            return asked.answer(ctx)

        return straight
