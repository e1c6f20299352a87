"""The processes of one run: rank 0 asks, the others answer, and one that does not is named.

Messages go from rank to rank, not through broadcast and gather: those are one send for each rank underneath,
want equal sizes, and do not tell which rank it was that failed.
"""

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor, distributed

from memsparse import __version__, config
from memsparse.distributed.messages import FIRST, Message, length, pack, payload, payload_bytes, unpack
from memsparse.errors import EngineError, retold

PATIENCE = 10
"""The start, loading a model and encoding may take this many times the timeout."""
_FOREVER = timedelta(days=300)
_FAREWELL = 5.0
"""Seconds the others have to take note of the end."""

T = TypeVar("T")
Sent = list[tuple[distributed.Work, Tensor]]
"""Sends that run, with the buffers that must live until they end."""
Expected = tuple[distributed.Work, Tensor]
"""The first part of a message that is to come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a rank runs."""

    rank: int
    pid: int
    host: str
    device: str
    """The accelerator it would use, else the CPU."""
    version: str
    """Of memsparse."""

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"


class Line:
    """Messages to and from one other rank."""

    def __init__(self, peer: int, data: distributed.ProcessGroup | None = None, device: str = "cpu") -> None:
        """Open nothing; the groups are there already.

        Args:
            data: the group that carries tensors from device to device. None: they go with the rest, through
                the CPU.
            device: where they lie then.
        """
        self._peer = peer
        self._data = data
        self._device = device

    def send(self, message: Message) -> Sent:
        """Start to send. Raises: RuntimeError, from torch, if the other is gone."""
        buffer = pack(message, with_payload=self._data is None)
        parts = [buffer[:FIRST], *([buffer[FIRST:]] if len(buffer) > FIRST else [])]
        sent = [(_work(distributed.isend(part, self._peer)), part) for part in parts]
        if self._data is not None and payload_bytes(buffer):
            flat = payload(message, self._device)
            sent.append((_work(distributed.isend(flat, self._peer, group=self._data)), flat))
        return sent

    def expect(self) -> Expected:
        """Make ready for a message, which `receive` then waits for. Raises: as `send`."""
        first = torch.empty(FIRST, dtype=torch.uint8)
        return _work(distributed.irecv(first, self._peer)), first

    def receive(self, expected: Expected, left: Callable[[], timedelta]) -> Message:
        """Wait for a message.

        Args:
            left: how long the next wait may take.

        Raises: RuntimeError, from torch, if it does not come; EngineError if it cannot be read.
        """
        work, buffer = expected
        work.wait(left())
        total = length(buffer)
        if total > FIRST:
            buffer = torch.cat([buffer, torch.empty(total - FIRST, dtype=torch.uint8)])
            _work(distributed.irecv(buffer[FIRST:], self._peer)).wait(left())
        if self._data is None or not (size := payload_bytes(buffer)):
            return unpack(buffer)
        flat = torch.empty(size, dtype=torch.uint8, device=self._device)
        _work(distributed.irecv(flat, self._peer, group=self._data)).wait(left())
        return unpack(buffer, flat)

    def wait(self) -> Message:
        """The next message, however long it takes. Raises: ConnectionError if the other is gone."""
        with _open_line():
            return self.receive(self.expect(), lambda: _FOREVER)

    def tell(self, message: Message) -> None:
        """Send, and wait until it is taken. Raises: as `wait`."""
        with _open_line():
            for work, _ in self.send(message):
                work.wait(_FOREVER)


@dataclass(kw_only=True, slots=True)
class LayerSeconds:
    """Where the time of one memory layer's reads went; seconds, summed over `reads`."""

    reads: int = 0
    total: float = 0.0
    scoring: float = 0.0
    """Of the slowest rank each time: its scan and top k."""

    @property
    def overhead(self) -> float:
        """What many ranks cost beyond the slowest one's own work: messages, waiting, merging."""
        return self.total - self.scoring


class Ranks:
    """The other ranks, as rank 0 leads them; `lead` makes it. Safe to share between threads."""

    def __init__(self, places: Mapping[int, Place], lines: Mapping[int, Line], *, timeout: float) -> None:
        self.places = places
        """Of the others, by rank."""
        self.timeout = timeout
        """Seconds a rank may take to answer, from when rank 0 has done its own part."""
        self.turn = threading.RLock()
        """To hold while asking several things that belong together."""
        self.seconds: dict[int, LayerSeconds] = {}
        """By memory layer, of every reader."""
        self._lines = lines
        self._lost: str | None = None
        """Why nobody can be asked any more."""
        self._forgotten: deque[str] = deque()

    @property
    def count(self) -> int:
        """How many ranks there are, this one included."""
        return len(self._lines) + 1

    def ask(
        self, commands: Mapping[int, Message], own: Callable[[], T], *, patience: float = 1
    ) -> tuple[T, dict[int, Message]]:
        """Send ranks a command each, do one's own part, and wait for their replies.

        Args:
            commands: by rank; those without one are left alone.
            own: this rank's part, done while the others do theirs.
            patience: how many times the timeout they have.

        Raises: EngineError naming a rank that is gone or does not answer, now and ever after; what a rank
        raised itself, its name in front, after which all may be asked again; what `own` raises.
        """
        with self.turn:
            if self._lost is not None:
                raise EngineError(self._lost)
            self._lost = "a question was cut short and the ranks are out of step; start all ranks again"
            started = {rank: self._start(rank, command) for rank, command in commands.items()}
            try:
                mine = own()
            finally:
                replies = self._collect(started, self.timeout * patience)
            for rank, reply in replies.items():
                if "error" in reply.values:
                    raise retold(reply.values, str(self.places[rank]))
            return mine, replies

    def stop(self) -> None:
        """Tell the others to end; where a rank is lost they find out by themselves."""
        with self.turn:
            if self._lost is not None:
                return
            self._lost = "the ranks have been told to stop; start all ranks again"
            left = _countdown(_FAREWELL)
            for rank, line in self._lines.items():
                with suppress(EngineError), self._naming(rank, _FAREWELL):  # what it was for is done
                    for work, _ in line.send(Message({"do": "stop"})):
                        work.wait(left())

    def forget(self, key: str) -> None:
        """Have the others let go of a view when they open the next one; may be called at any moment."""
        self._forgotten.append(key)

    def forgotten(self) -> list[str]:
        """Views to let go of, each told once."""
        return [self._forgotten.popleft() for _ in range(len(self._forgotten))]

    def release(self, holder: str) -> None:
        """Have the others close the banks of an engine; where one is lost there is nothing to close."""
        if self._lost is None:
            command = Message({"do": "release", "holder": holder})
            self.ask(dict.fromkeys(self._lines, command), lambda: None)

    def gone(self) -> list[Place]:
        """Ranks of this host whose process has ended."""
        host = socket.gethostname()
        return [place for place in self.places.values() if place.host == host and not _lives(place.pid)]

    def _start(self, rank: int, command: Message) -> tuple[Sent, Expected]:
        line = self._lines[rank]
        with self._naming(rank):
            return line.send(command), line.expect()

    def _collect(self, started: Mapping[int, tuple[Sent, Expected]], seconds: float) -> dict[int, Message]:
        replies, left = {}, _countdown(seconds)
        for rank, (sent, expected) in started.items():
            with self._naming(rank, seconds):
                replies[rank] = self._lines[rank].receive(expected, left)
                for work, _ in sent:
                    work.wait(left())
        self._lost = None
        return replies

    @contextmanager
    def _naming(self, rank: int, seconds: float = 0) -> Iterator[None]:
        """Turn what torch says of a broken line into an error that names the rank."""
        try:
            yield
        except RuntimeError as error:
            place = self.places[rank]
            if "timed out" in str(error).lower():
                self._lost = (
                    f"{place} has not answered for {seconds:g} s; see whether it is stopped or overloaded, "
                    "then start all ranks again, or set MEMSPARSE_TIMEOUT to more seconds"
                )
            else:
                self._lost = (
                    f"{place} is gone; see its own messages for the cause, then start all ranks again"
                )
            raise EngineError(self._lost) from error


_led: list[Ranks] = []
"""What this process leads, if it does: like the process group of torch, one for the whole process."""


def lead(timeout: float) -> Ranks:
    """Join the run as rank 0, once all are there.

    Raises: EngineError if they do not come together, or are not of one kind.
    """
    here = _join(timeout)
    lines = {rank: Line(rank) for rank in range(1, distributed.get_world_size())}
    left = _countdown(timeout * PATIENCE)
    with _coming_together():
        places = {rank: Place(**line.receive(line.expect(), left).values) for rank, line in lines.items()}
    for place in places.values():
        if place.version != here.version:
            raise EngineError(
                f"{place} runs memsparse {place.version}, rank 0 {here.version}; install one of them"
            )
    everywhere = [here, *places.values()]
    distinct = {(place.host, place.device) for place in everywhere}
    direct = all(place.device != "cpu" for place in everywhere) and len(distinct) == len(everywhere)
    with _coming_together():
        for line in lines.values():
            for work, _ in line.send(Message({"direct": direct})):
                work.wait(left())
        data = _data_group(direct, timeout)
    _led.append(Ranks(places, {rank: Line(rank, data, here.device) for rank in lines}, timeout=timeout))
    return _led[-1]


def leads() -> bool:
    """Whether this process leads others."""
    return bool(_led)


def leading() -> Ranks:
    """The ranks this process leads. Raises: EngineError if it leads none."""
    if not _led:
        raise EngineError("this process leads no ranks; start it with torchrun, and call lead() on rank 0")
    return _led[-1]


def follow(timeout: float) -> Line:
    """Join the run as another rank: its line to rank 0. Raises: as `lead`."""
    here = _join(timeout)
    line, left = Line(0), _countdown(timeout * PATIENCE)
    with _coming_together():
        for work, _ in line.send(Message(asdict(here))):
            work.wait(left())
        direct = bool(line.receive(line.expect(), left).values["direct"])
        return Line(0, _data_group(direct, timeout), here.device)


def leave() -> None:
    """Let go of the others."""
    _led.clear()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _join(timeout: float) -> Place:
    device = "cpu"
    if torch.cuda.is_available():
        own = config.rank(here=True) % torch.cuda.device_count()
        torch.cuda.set_device(own)
        device = f"cuda:{own}"
    with _coming_together():
        distributed.init_process_group("gloo", timeout=timedelta(seconds=timeout * PATIENCE))
    return Place(
        rank=distributed.get_rank(),
        pid=os.getpid(),
        host=socket.gethostname(),
        device=device,
        version=__version__,
    )


@contextmanager
def _open_line() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError("the other rank is gone") from error


@contextmanager
def _coming_together() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        cause = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"the ranks do not come together ({cause}); start them with torchrun, and see that their hosts "
            "reach one another"
        ) from error


def _data_group(direct: bool, timeout: float) -> distributed.ProcessGroup | None:
    """NCCL where every rank has an accelerator for itself; all ranks ask alike."""
    if not direct:
        return None
    group: distributed.ProcessGroup = distributed.new_group(
        backend="nccl", timeout=timedelta(seconds=timeout * PATIENCE)
    )
    return group


def _countdown(seconds: float) -> Callable[[], timedelta]:
    """What is left of some seconds from now on, and always a moment."""
    end = perf_counter() + seconds
    return lambda: timedelta(seconds=max(end - perf_counter(), 0.05))


def _lives(pid: int) -> bool:
    """Whether a process of this host runs; one that ended and waits to be noticed does not."""
    try:
        os.kill(pid, 0)
        return " Z " not in Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")[:64]
    except ProcessLookupError:
        return False
    except OSError:  # another user's, or a system without /proc
        return True


def _work(work: distributed.Work | None) -> distributed.Work:
    """What torch starts. Raises: RuntimeError where it starts nothing, which is in no group."""
    if work is None:
        raise RuntimeError("this process is not in the group")
    return work
