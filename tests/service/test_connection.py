"""The server and its connections, around a minimal application."""

import asyncio
import gc

import uvicorn
from starlette.types import Receive, Scope, Send

from service.connection import ConnectionLimits, limited_protocol
from service.server import Server


def test_pipelined_request_of_a_disconnected_client_is_cleaned_up() -> None:
    limits = ConnectionLimits(head_seconds=30, write_seconds=30, max_connections=5, count=lambda status: None)
    finished: list[str] = []

    async def work() -> None:
        started, go_on = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            started.set()
            await go_on.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
            await send({"type": "http.response.body", "body": b"a"})
            finished.append(scope["path"])

        server = uvicorn.Server(
            uvicorn.Config(app, port=0, http=limited_protocol(limits), lifespan="off", log_config=None)
        )
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\nGET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        await started.wait()
        (protocol,) = server.server_state.connections
        # the client disconnects, so its answers cannot be written
        protocol.transport.abort()
        while server.server_state.connections:
            await asyncio.sleep(0.01)
        go_on.set()
        while not finished:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert not limits.waiting
        writer.close()
        server.should_exit = True
        await serving

    asyncio.run(asyncio.wait_for(work(), 20))
    assert finished == ["/first"]


def test_startup_freezes_imported_objects() -> None:
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
