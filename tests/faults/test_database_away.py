"""A database that refuses, hangs or comes back: requests are told so within seconds, and the service goes on."""

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
class Wire:
    """A connection to another port that can be cut, or left silent."""

    port: int
    listener: socket.socket = field(default_factory=socket.socket)
    is_silent: threading.Event = field(default_factory=threading.Event)
    is_cut: threading.Event = field(default_factory=threading.Event)
    open: list[socket.socket] = field(default_factory=list)

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            if self.is_cut.is_set():
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self.port))
            self.open += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=(source, target), daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket) -> None:
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
        for one in self.open:
            # a socket that another thread reads is not closed by close alone
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


@contextmanager
def wire(port: int) -> Iterator[Wire]:
    one = Wire(port)
    one.listener.bind(("127.0.0.1", 0))
    one.listener.listen()
    thread = threading.Thread(target=one.accept, daemon=True)
    thread.start()
    yield one
    one.is_silent.clear()
    one.cut()
    one.listener.shutdown(socket.SHUT_RDWR)
    one.listener.close()
    thread.join()


def test_service_survives_an_unreachable_database(models: TrainedModels, postgres: str, tmp_path: Path) -> None:
    direct = make_url(fresh_database(postgres))
    assert direct.port is not None
    with wire(direct.port) as cable:
        url = direct.set(port=cable.listener.getsockname()[1]).render_as_string(hide_password=False)
        with running(models.cache, url) as service:
            assert service.forecast()[0] == 200
            cable.cut()
            status, problem = service.forecast()
            assert status == 503
            assert problem["detail"] == "the database is unavailable; retry"
            assert service.request("GET", "/v1/models")[0] == 200
            deadline = time.monotonic() + 30
            while service.request("GET", "/health/ready")[0] != 503:
                assert time.monotonic() < deadline, "ready without a database"
            cable.is_cut.clear()
            deadline = time.monotonic() + 30
            while service.forecast()[0] != 200:
                assert time.monotonic() < deadline, "not used again"
            service.wait_until_ready()
            cable.is_silent.set()
            begin = time.monotonic()
            assert service.forecast()[0] == 503
            # a bound on every wait, and none of them for ever
            assert time.monotonic() - begin < 25
            cable.is_silent.clear()
            deadline = time.monotonic() + 60
            while service.forecast()[0] != 200:
                assert time.monotonic() < deadline, "not used again"
