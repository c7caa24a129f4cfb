"""An unreachable or unresponsive database: requests fail within seconds, and the service recovers."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import make_url

from tests.conftest import TrainedModels
from tests.faults.conftest import running
from tests.postgres import fresh_database


@dataclass
class Proxy:
    """A TCP proxy to a port on loopback. It can cut its connections, or stop forwarding."""

    port: int
    listener: socket.socket = field(default_factory=socket.socket)
    is_silent: threading.Event = field(default_factory=threading.Event)
    is_cut: threading.Event = field(default_factory=threading.Event)
    connections: list[socket.socket] = field(default_factory=list)

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            if self.is_cut.is_set():
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.port))
            self.connections += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self.forward, args=(source, target), daemon=True).start()

    def forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                while self.is_silent.is_set():
                    time.sleep(0.02)
                target.sendall(data)
        except OSError:
            pass
        finally:
            source.close()
            target.close()

    def cut(self) -> None:
        self.is_cut.set()
        for connection in self.connections:
            # close() does not interrupt a read in another thread
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    proxy.listener.bind(("127.0.0.1", 0))
    proxy.listener.listen()
    thread = threading.Thread(target=proxy.accept, daemon=True)
    thread.start()
    yield proxy
    proxy.is_silent.clear()
    proxy.cut()
    proxy.listener.shutdown(socket.SHUT_RDWR)
    proxy.listener.close()
    thread.join()


def test_service_survives_an_unreachable_database(models: TrainedModels, postgres: str, tmp_path: Path) -> None:
    direct = make_url(fresh_database(postgres))
    assert direct.port is not None
    with proxied(direct.port) as proxy:
        url = direct.set(port=proxy.listener.getsockname()[1]).render_as_string(hide_password=False)
        with running(models.cache, url) as service:
            assert service.forecast()[0] == 200
            proxy.cut()
            status, problem = service.forecast()
            assert status == 503
            assert problem["detail"] == "the database is unavailable; retry"
            assert service.request("GET", "/v1/models")[0] == 200
            deadline = time.monotonic() + 30
            while service.request("GET", "/health/ready")[0] != 503:
                assert time.monotonic() < deadline, "ready without a database"
            proxy.is_cut.clear()
            deadline = time.monotonic() + 30
            while service.forecast()[0] != 200:
                assert time.monotonic() < deadline, "the database is not used again"
            service.wait_until_ready()
            proxy.is_silent.set()
            start = time.monotonic()
            assert service.forecast()[0] == 503
            assert time.monotonic() - start < 25
            proxy.is_silent.clear()
            deadline = time.monotonic() + 60
            while service.forecast()[0] != 200:
                assert time.monotonic() < deadline, "the database is not used again"
