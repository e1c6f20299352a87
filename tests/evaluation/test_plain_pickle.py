import os
import pickle
import pickletools
import struct
from collections import OrderedDict
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memsparse.errors import DocumentError
from memsparse.evaluation import plain_pickle as module
from memsparse.evaluation.plain_pickle import plain_pickle, read_plain_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.recursive(SCALARS, lambda inner: st.tuples(inner, inner), max_leaves=4)


def nested(scalars: st.SearchStrategy, keys: st.SearchStrategy) -> st.SearchStrategy:
    return st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner)
            | st.lists(inner).map(tuple)
            | st.tuples(inner, inner, inner, inner)
            | st.dictionaries(keys, inner)
        ),
        max_leaves=30,
    )


@settings(max_examples=60)
@given(nested(SCALARS, KEYS))
def test_reads_what_every_protocol_writes(value: object) -> None:
    for protocol in PROTOCOLS:
        assert same(plain_pickle(pickle.dumps(value, protocol)), value)


@settings(max_examples=60)
@given(nested(SCALARS | st.binary(), KEYS | st.binary()))
def test_reads_bytes_since_protocol_3(value: object) -> None:
    for protocol in (3, 4, 5):
        assert same(plain_pickle(pickle.dumps(value, protocol)), value)


@settings(max_examples=60)
@given(nested(SCALARS | st.sets(KEYS), KEYS))
def test_reads_sets_since_protocol_4(value: object) -> None:
    for protocol in (4, 5):
        assert same(plain_pickle(pickle.dumps(value, protocol)), value)


def same(one: object, other: object) -> bool:
    """Equal, with 1, 1.0 and True told apart."""
    return sorted_repr(one) == sorted_repr(other)


def sorted_repr(value: object) -> str:
    if isinstance(value, set):
        return "{" + ",".join(sorted(map(sorted_repr, value))) + "}"
    if isinstance(value, list | tuple):
        return type(value).__name__ + "(" + ",".join(map(sorted_repr, value)) + ")"
    if isinstance(value, dict):
        return "{" + ",".join(f"{sorted_repr(k)}:{sorted_repr(v)}" for k, v in value.items()) + "}"
    return repr(value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_texts_and_large_numbers(protocol: int) -> None:
    value = ["x" * 70_000, "é" * 300, 2**31, -(2**31), 2**63, -(2**2100), 255, 256, 65_536, 1e300, -0.0]
    value += [{f"key {i}": i for i in range(3000)}, list(range(3000)), tuple(range(300))]
    assert plain_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_shared_stays_shared(protocol: int) -> None:
    inner = ["a"]
    read = plain_pickle(pickle.dumps([inner, inner, {"k": inner}], protocol))
    assert read[0] is read[1] is read[2]["k"]
    assert read == [["a"], ["a"], {"k": ["a"]}]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_optimised_pickle_reads_the_same(protocol: int) -> None:
    value = [{"query": "who?", "reference_list": ["a", "b"], "answer": "x"}] * 3
    assert plain_pickle(pickletools.optimize(pickle.dumps(value, protocol))) == value


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_is_refused_and_does_not_run(protocol: int, tmp_path: Path) -> None:
    target = tmp_path / "ran"
    bad = pickle.dumps([1, Malicious(target)], protocol)
    with pytest.raises(DocumentError, match=r"^x: opcode (STACK_)?GLOBAL at byte \d+ names or builds"):
        plain_pickle(bad, "x")
    assert not target.exists()
    pickle.loads(bad)
    assert target.exists(), "the attack itself must work, or the test shows nothing"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value", [OrderedDict(a=1), date(2020, 1, 1), complex(1, 2), len, Path, frozenset("ab"), bytearray(b"x")]
)
def test_objects_are_refused(value: object, protocol: int) -> None:
    with pytest.raises(DocumentError, match=r"opcode [A-Z0-9_]+ at byte"):
        plain_pickle(pickle.dumps(value, protocol))


@pytest.mark.parametrize(
    ("data", "opcode"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "GLOBAL"),
        (b"(S'true'\nios\nsystem\n.", "INST"),
        (b"(I1\no.", "OBJ"),
        (b"Pid\n.", "PERSID"),
        (b"I1\nQ.", "BINPERSID"),
        (b"\x82\x01.", "EXT1"),
        (b"\x83\x01\x00.", "EXT2"),
        (b"\x84\x01\x00\x00\x00.", "EXT4"),
        (b"I1\n)R.", "REDUCE"),
        (b"I1\n)\x81.", "NEWOBJ"),
        (b"I1\n)}\x92.", "NEWOBJ_EX"),
        (b"I1\n}b.", "BUILD"),
        (b"\x8c\x02os\x8c\x06system\x93.", "STACK_GLOBAL"),
        (b"\x97.", "NEXT_BUFFER"),
    ],
)
def test_every_building_opcode_is_named(data: bytes, opcode: str) -> None:
    with pytest.raises(DocumentError, match=f"opcode {opcode} at byte"):
        plain_pickle(data)


def test_every_opcode_is_either_read_or_refused_on_purpose() -> None:
    refused = {opcode.name for opcode in pickletools.opcodes} - set(module._HANDLERS)
    assert refused == {
        "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2",
        "EXT4", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER", "BYTEARRAY8", "FROZENSET",
    }  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_cut_is_noticed(protocol: int) -> None:
    data = pickle.dumps([{"query": "who?", "answer": ["a", 1.5, None, True, 2**40]}, ("x",)], protocol)
    for end in range(1, len(data)):
        with pytest.raises(DocumentError):
            plain_pickle(data[:end])


@given(st.binary(max_size=60), st.integers(0, 59), st.integers(0, 255))
def test_noise_ends_in_a_value_or_in_an_error_of_ours(noise: bytes, at: int, byte: int) -> None:
    whole = bytearray(pickle.dumps([{"query": "who?", "answer": ["a", 1.5, (1, 2), {3}]}]))
    whole[at % len(whole)] = byte
    for data in (noise, bytes(whole)):
        with suppress(DocumentError):
            plain_pickle(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b".", "no single value"),
        (b"I1\nI2\n.", "no single value"),
        (b"(I1\n.", "no single value"),
        (b"0.", "no mark"),
        (b"I1\na.", "needs a list"),
        (b"I1\nI2\na.", "needs a list"),
        (b"(I1\ne.", "needs a list"),
        (b"}I1\ns.", "needs a dict"),
        (b"(I1\nd.", "key without a value"),
        (b"(I1\nu.", "needs a dict"),
        (b"t.", "no mark"),
        (b"\x86.", "empty stack"),
        (b"2.", "empty stack"),
        (b"g7\n.", "never kept"),
        (b"q\x00.", "not there"),
        (b"}]I1\ns.", "list as a key"),
        (b"\x8f(]\x90.", "list as a key"),
        (b"\x8f(}\x85\x90.", "dict as a key, or in one"),
        (b"U\x01\xff.", "not UTF-8"),
        (b"I1\n.I2\n.", "4 bytes after STOP"),
    ],
)
def test_damage_is_said_in_words(data: bytes, words: str) -> None:
    with pytest.raises(DocumentError, match=words):
        plain_pickle(data)


def test_marks_can_be_dropped_and_values_doubled() -> None:
    assert plain_pickle(b"(I1\n1I2\n.") == 2
    assert plain_pickle(b"I1\n(0.") == 1
    assert plain_pickle(b"(I1\n2t.") == (1, 1)


def test_strings_of_python_2_are_utf8() -> None:
    assert plain_pickle(b"U\x03\xc3\xa9!.") == "é!"
    assert plain_pickle(b"S'abc'\n.") == "abc"


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    table: dict[str, object] = {}
    table["self"] = [table]
    for value in (loop, table):
        with pytest.raises(DocumentError, match="holds itself"):
            plain_pickle(pickle.dumps(value))


def test_depth_ends_at_the_limit() -> None:
    for depth, fits in ((module.MAX_DEPTH, True), (module.MAX_DEPTH + 1, False)):
        data = b"]" * depth + b"a" * (depth - 1) + b"."
        if fits:
            assert plain_pickle(data) is not None
        else:
            with pytest.raises(DocumentError, match="nested deeper"):
                plain_pickle(data)


def test_shared_lists_cannot_stand_for_endless_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS", 10_000)
    bomb: list[object] = []
    for _ in range(40):
        bomb = [bomb, bomb]
    with pytest.raises(DocumentError, match="more than 10,000 values"):
        plain_pickle(pickle.dumps(bomb))


def test_a_key_cannot_take_forever_to_hash() -> None:
    bomb: tuple[object, ...] = ()
    for _ in range(60):
        bomb = (bomb, bomb)
    data = pickle.dumps(bomb)[:-1]
    for wrapped in (b"\x8f(" + data[2:] + b"\x90.", b"}" + data[2:] + b"Ns."):
        with pytest.raises(DocumentError, match="more than 256 values as a key"):
            plain_pickle(wrapped)


@pytest.mark.parametrize("opcode", [b"\x8d", b"\x8e"])
@pytest.mark.parametrize("length", [2**40, 2**62, 2**64 - 1])
def test_a_claimed_length_takes_no_memory(opcode: bytes, length: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pkl"
    path.write_bytes(opcode + struct.pack("<Q", length) + b"abc.")
    with pytest.raises(DocumentError, match="damaged or cut short"):
        read_plain_pickle(path)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "data.pkl"
    value = [{"query": "who?", "reference_list": ["a"] * 3, "answer": "x"}] * 20
    path.write_bytes(pickle.dumps(value))
    assert read_plain_pickle(path) == value
    path.write_bytes(b"")
    with pytest.raises(DocumentError, match=r"data\.pkl: the file is empty"):
        read_plain_pickle(path)
    for wrong in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(DocumentError, match="give a readable file"):
            read_plain_pickle(wrong)


def test_a_file_that_is_too_large_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps("abc"))
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(DocumentError, match="more than 10; split the file"):
        read_plain_pickle(path)
