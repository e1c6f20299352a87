"""The side of every rank but 0: it waits for commands, does its part and answers, until told to stop."""

import json
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from memsparse.bank import Bank, Fingerprint
from memsparse.distributed.encoding import encoding
from memsparse.distributed.merging import candidates, contents, narrow
from memsparse.distributed.messages import Message
from memsparse.distributed.ranks import Line
from memsparse.distributed.shard import Shard, from_json, open_shard
from memsparse.engine.encoder import Encoder
from memsparse.engine.loading import LoadedModel, fingerprint, load_model
from memsparse.errors import EngineError, MemSparseError, ModelError, told
from memsparse.types import MemoryKV, Passage

LEFT_ALONE = 1
"""Exit code where rank 0 is gone."""


class Follower:
    """Holds this rank's shards, and the model once something is to be encoded."""

    def __init__(self, rank: int, line: Line) -> None:
        self._rank = rank
        self._line = line
        self._banks: dict[str, dict[str, Bank]] = {}
        """By holder and path."""
        self._shards: dict[str, Shard] = {}
        self._read: tuple[Shard, MemoryKV] | None = None
        """The last one: its chunks may be asked for."""
        self._model: tuple[str, LoadedModel] | None = None
        self._commands: dict[str, Callable[[Message], Message]] = {
            "view": self._view,
            "release": self._release,
            "read": self._read_shard,
            "contents": self._contents,
            "exact": self._exact,
            "encode": self._encode,
        }

    def run(self) -> int:
        """Serve until told to stop, or until rank 0 is gone, which is a failure; returns the exit code.

        An error of ours, or of what the work rests on, is told to rank 0, which may go on; any other ends
        this rank as well.
        """
        try:
            while (command := self._line.wait()).values["do"] != "stop":
                self._answer(command)
        except ConnectionError:
            return LEFT_ALONE
        return 0

    def _answer(self, command: Message) -> None:
        try:
            reply = self._commands[command.values["do"]](command)
        except (MemSparseError, OSError, RuntimeError, ValueError) as error:
            reply = Message(told(error))
        except BaseException as error:
            self._line.tell(Message(told(error)))
            raise
        self._line.tell(reply)

    def _view(self, command: Message) -> Message:
        values = command.values
        for key in values["forget"]:
            self._shards.pop(key, None)
        banks = self._banks.setdefault(values["holder"], {})
        if values["bank"] not in banks:
            own = Fingerprint.from_json(values["fingerprint"])
            banks[values["bank"]] = Bank.open(values["bank"], own)
        shard = open_shard(banks[values["bank"]], from_json(values["view"]), self._rank, values["ranks"])
        self._shards[values["key"]] = shard
        return Message({"digest": shard.digest})

    def _release(self, command: Message) -> Message:
        for bank in self._banks.pop(command.values["holder"], {}).values():
            bank.close()
        return Message()

    def _read_shard(self, command: Message) -> Message:
        started = perf_counter()
        shard = self._shards[command.values["key"]]
        routing_q, query_mask = _asked(command)
        kv = shard.reader.read(command.values["layer"], routing_q, query_mask)
        self._read = shard, kv
        seconds = perf_counter() - started
        found = candidates(kv, shard.first, all_scores=command.values["all_scores"])
        return Message({"seconds": seconds}, found.tensors())

    def _contents(self, command: Message) -> Message:
        if self._read is None:
            raise EngineError("chunks were asked for before anything was read")
        shard, kv = self._read
        k, v = contents(kv, command.tensors["kept"].to(kv.k.device))
        return Message({}, {"k": narrow(k, shard.dtype), "v": narrow(v, shard.dtype)})

    def _exact(self, command: Message) -> Message:
        routing_q, query_mask = _asked(command)
        shard = self._shards[command.values["key"]]
        scores = shard.exact_scores(
            command.values["layer"],
            routing_q=routing_q,
            query_mask=query_mask,
            documents=command.tensors["documents"].to(routing_q.device),
        )
        return Message({}, {"scores": scores})

    def _encode(self, command: Message) -> Message:
        loaded = self._load(command)
        dtype = Fingerprint.from_json(command.values["fingerprint"]).torch_dtype
        encoder = Encoder(loaded, dtype=dtype, **command.values["settings"])
        return encoding(encoder.encode([_passage(*row) for row in command.values["passages"]]))

    def _load(self, command: Message) -> LoadedModel:
        """The model rank 0 has, loaded once. Raises: ModelError if it is another one here."""
        values = command.values
        wanted = json.dumps([values["model"], values["dtype"], values["device"]])
        if self._model is None or self._model[0] != wanted:
            loaded = load_model(values["model"], dtype=values["dtype"], device=values["device"])
            filled = Fingerprint.from_json(values["fingerprint"])
            if differences := filled.differences(fingerprint(loaded, dtype=filled.dtype)):
                raise ModelError(
                    f"model {loaded.name} is another one here: rank 0's bank has {'; '.join(differences)}; "
                    "copy rank 0's to this host"
                )
            self._model = wanted, loaded
        return self._model[1]


def _asked(command: Message) -> tuple[Tensor, Tensor]:
    """Routing queries and their mask, on the device this rank scores on."""
    device = torch.device(command.values["device"])
    return command.tensors["routing_q"].to(device), command.tensors["query_mask"].to(device)


def _passage(number: int, title: str, text: str) -> Passage:
    """As much of a passage as its encoding takes."""
    return Passage(
        number=number,
        document_id=str(number),
        title=title,
        text=text,
        namespace="",
        metadata={},
        start=0,
        end=len(text),
    )
