"""A connection by itself, inside a small server."""

import asyncio
import gc

import uvicorn
from starlette.types import Receive, Scope, Send

from service.connection import ConnectionLimits, limited_protocol
from service.server import Server


def test_a_pipelined_answer_that_ends_after_its_client_has_gone_leaves_nothing_behind() -> None:
    bounds = ConnectionLimits(head_seconds=30, write_seconds=30, max_connections=5, count=lambda status: None)
    ended: list[str] = []

    async def work() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await go_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"a"})
            ended.append(scope["path"])

        server = uvicorn.Server(
            uvicorn.Config(app, port=0, http=limited_protocol(bounds), lifespan="off", log_config=None)
        )
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        await begun.wait()
        (protocol,) = server.server_state.connections
        # as when the client has gone and its answers cannot be written
        protocol.transport.abort()
        while server.server_state.connections:
            await asyncio.sleep(0.01)
        go_on.set()
        while not ended:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert not bounds.waiting
        assert protocol._deadline is None  # type: ignore[union-attr]
        writer.close()
        server.should_exit = True
        await serving

    asyncio.run(asyncio.wait_for(work(), 20))
    assert ended == ["/first"]


def test_what_was_imported_is_kept_from_the_garbage_collector() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    async def work() -> None:
        server = Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
        server.should_exit = True
        await server.serve()

    try:
        asyncio.run(work())
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
