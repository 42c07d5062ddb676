"""Pickles of arrays, read by hand: bit for bit what NumPy wrote, and one line about anything else."""

import os
import pickle
import pickletools
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scoretomo.datatypes import InputError
from scoretomo.io.cryodrgn import read_ctf, read_indices, read_latent, read_poses
from scoretomo.io.pickled_arrays import read_pickled_arrays

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
TYPES = ["f2", "<f4", ">f4", "<f8", ">f8", "i1", "i2", "<i4", "<i8", ">i8", "u1", ">u2", "u4", "u8"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p.pkl"


def of_numpy_1(content: bytes) -> bytes:
    """The same pickle with the names that modules had in NumPy 1."""
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        before = name.replace(b"_core", b"core")
        for start, end in ((b"c", b"\n"), (b"\x8c" + bytes([len(name)]), b"")):  # protocols 0 to 3, and 4 and 5
            content = content.replace(
                start + name + end, start[:1] + bytes([len(before)])[: len(start) - 1] + before + end
            )
    assert b"numpy.core" in content and b"numpy._core" not in content
    return content


def layouts(array: NDArray[Any]) -> list[NDArray[Any]]:
    readonly = array.copy()
    readonly.flags.writeable = False
    return [
        array,
        readonly,
        np.asfortranarray(array),
        array.transpose(0, 2, 1),  # NumPy 2 writes the order of its axes
        array[:, ::2],
        array[::-1],
        array[0, 0],
        array[0, 0, :1].reshape(()),
    ]


def refused(path: Path, content: bytes, *, others_follow: bool = False) -> str:
    """What is said about the file, which is one line and names it."""
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_pickled_arrays(path, others_follow=others_follow)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be read as a pickle of NumPy arrays: it ") and "\n" not in message
    assert message.endswith("pickle.dump(numpy.asarray(values), file)") and len(message) < len(str(path)) + 400
    return message


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_are_read_bit_for_bit(path: Path, protocol: int) -> None:
    bits = np.random.default_rng(protocol).bytes(2 * 3 * 4 * 8)
    for kind in TYPES:
        written = layouts(np.frombuffer(bits, kind)[:24].reshape(2, 3, 4).copy())
        whole = pickle.dumps(written, protocol)
        for variant in (whole, of_numpy_1(whole)):
            path.write_bytes(variant)
            for found, original in zip(read_pickled_arrays(path), written, strict=True):
                assert (found.dtype, found.shape) == (original.dtype, original.shape)
                assert found.tobytes() == original.tobytes() and not found.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_one_array_or_several(path: Path, protocol: int) -> None:
    array, other = np.arange(6.0).reshape(3, 2), np.arange(300)
    for content in (array, (array,), [array], (array, other), [array, other], (array, array), (array, other) * 30, ()):
        path.write_bytes(pickle.dumps(content, protocol))
        expected = content if isinstance(content, tuple | list) else (content,)
        found = read_pickled_arrays(path)
        assert len(found) == len(expected) and all(map(np.array_equal, found, expected))


def test_types_with_numbers_for_flags(path: Path) -> None:
    """How NumPy before 1.16 wrote them."""
    content = pickle.dumps(np.arange(3.0, dtype="f4"), 3).replace(b"\x89\x88\x87q", b"K\x00K\x01\x87q")
    assert b"K\x00K\x01\x87q" in content
    path.write_bytes(content)
    assert read_pickled_arrays(path)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_more_than_one_pickle(path: Path, protocol: int) -> None:
    first, second = pickle.dumps(np.arange(4), protocol), pickle.dumps(np.arange(9), protocol)
    for rest in (second, b"x", second[:30]):
        path.write_bytes(first + rest)
        (found,) = read_pickled_arrays(path, others_follow=True)
        assert found.tolist() == [0, 1, 2, 3]
        assert f"{len(rest)} bytes behind its end" in refused(path, first + rest)


class Call:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_file_asks_for_is_said(path: Path, protocol: int) -> None:
    gone = path.with_name("gone")
    objects = np.array([Call(os.mkdir, str(gone)), None])
    for content, name in (
        (Call(os.system, f"mkdir {gone}"), f"{os.name}.system"),
        ((np.zeros(3), Call(os.mkdir, str(gone))), f"{os.name}.mkdir"),
        (objects, f"{os.name}.mkdir"),
        (Call(np.load, "x.npy"), "numpy.load"),
        (np.float32(3), "numpy._core.multiarray.scalar"),
        (np.zeros(3).view(np.matrix), "numpy.matrix"),
        (torch.zeros(3), "torch._utils._rebuild_tensor_v2"),
    ):
        assert f"it asks for {name};" in refused(path, pickle.dumps(content, protocol))
    assert not gone.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([True]), "an array of type b1"),
        (np.array([1j]), "an array of type c16"),
        (np.array(["text"]), "an array of type U4"),
        (np.array([b"text"]), "an array of type S4"),
        (np.array(["2020"], "M8[s]"), "an array of type M8"),
        (np.array([None, "a"]), "an array of type O8"),
        (np.zeros(3, "V4"), "an array of type V4"),
        (np.zeros((0, 9)), "an array without values"),
        (((np.zeros(3),),), "something else than arrays"),
        ((np.zeros(3), None), "something else than arrays"),
        ([1, 2, 3], "something else than arrays"),
        (list(range(20_000)), "thousands of values that are in no array"),
        (1.5, "it uses |damaged, or no pickle"),
        ("text", "something else than arrays"),
    ],
)
def test_values_that_are_no_arrays_of_numbers(path: Path, content: Any, message: str, protocol: int) -> None:
    said = refused(path, pickle.dumps(content, protocol))
    assert any(words in said for words in message.split("|"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_opcodes_that_arrays_do_not_need_are_named(path: Path, protocol: int) -> None:
    records = np.zeros(3, [("a", "f4")])
    assert "it uses EMPTY_DICT" in refused(path, pickle.dumps(records, protocol))
    assert "it uses EMPTY_DICT" in refused(path, pickle.dumps({"rot": np.zeros(3)}, protocol))
    assert "it uses BINFLOAT" in refused(path, pickle.dumps((0.5, np.zeros(3)), protocol))


ZEROS = pickle.dumps(np.zeros((1, 2)), 3)
TYPE = ZEROS[ZEROS.index(b"cnumpy\ndtype") : ZEROS.index(b"b\x89") + 1]  # as it is made, and its state set
SHAPE = b"K\x01K\x02\x86"
EMPTY = ZEROS[: ZEROS.index(b"(K\x01K\x01")]


def edited(before: bytes, after: bytes) -> bytes:
    assert ZEROS.count(before) == 1
    return ZEROS.replace(before, after)


def nested(levels: int) -> bytes:
    return b"\x80\x04)" + b"\x85" * levels + b"."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends too early"),
        (b"data_\n\nloop_\n", "damaged, or no pickle"),
        (b"hello\n", "damaged, or no pickle"),
        (b"\x93NUMPY\x01\x00", "damaged, or no pickle"),
        (bytes(2000), "damaged, or no pickle"),
        (b"(ios\nsystem\n(S'true'\ntR.", "it asks for os.system;"),
        (b"cos\nsystem\n(Vtrue\ntR.", "it asks for os.system;"),
        (b"\x80\x04\x8c\x04a\nbc\x8c\x02\xc3\xa9\x93.", r"it asks for a\nbc.\xe9;"),  # one line, whatever it asks for
        (b"\x80\x04NN\x93.", "it asks for nothing.nothing;"),
        (b"cnumpy\nndarray\nK\x04\x85R.", "calls NumPy as no file of arrays does"),
        (edited(b"ndarray", b"dtype"), "calls NumPy as no file of arrays does"),
        (edited(b"C\x01b", b"C\x01O"), "calls NumPy as no file of arrays does"),
        (ZEROS[:-1] + ZEROS[len(EMPTY) :], "sets a state that no file of arrays sets"),  # the same twice
        (edited(TYPE, TYPE + TYPE[TYPE.index(b"(K\x03") :]), "sets a state that no file of arrays sets"),
        (edited(TYPE, TYPE + b"Nb"), "sets a state that no file of arrays sets"),
        (edited(b"N" * 3 + b"J", b"N" * 2 + b"K\x00J"), "an array of type f8"),  # types of fields, with another size
        (edited(b"J\xff\xff\xff\xffJ", b"J\x00\x00\x01\x00J"), "an array of type f8"),
        (edited(b"K\x00tq\x0cb", b"K?tq\x0cb"), "an array of type f8"),  # flags of objects
        (edited(b"\x02\x00\x00\x00f8", b"\x03\x00\x00\x00f16"), "an array of type f16"),
        (edited(b"\x01\x00\x00\x00<", b"\x01\x00\x00\x00|"), "an array of type f8"),
        (edited(SHAPE, b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86"), "shape is not that of its 16 bytes"),
        (edited(SHAPE, b"K\x01K\x03\x86"), "shape is not that of its 16 bytes"),
        (edited(SHAPE, b"K\x01K\x01\x86"), "shape is not that of its 16 bytes"),
        (edited(SHAPE, b"\x88K\x02\x86"), "shape is not that of its 16 bytes"),  # true is no length
        (edited(SHAPE, b"\x8a\xff" + b"\x7f" * 255 + b"K\x02\x86"), "shape is not that of its 16 bytes"),
        (edited(SHAPE, b"(" + b"K\x01" * 90 + b"K\x02t"), "damaged"),  # NumPy has no so many axes
        (ZEROS[:-1] + b"K\x00NsN.", "it uses SETITEM"),
        (EMPTY + b".", "something else than arrays"),  # announced and never filled
        (EMPTY + b"0.", "it uses POP"),
        (b"\x80\x02]q\x00h\x00a.", "something else than arrays"),  # a list in itself
        (b"\x80\x02]q\x00(h\x00N.", "damaged"),  # an open end
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02(]NR.", "calls NumPy"),
        (b"\x80\x02NNa.", "damaged"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b"x", "ends too early"),
        (b"\x80\x04B\xff\xff\xff\x7fx", "ends too early"),
        (b"I" + b"9" * 5000 + b"\n.", "damaged"),
        (b"I12", "ends too early"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "damaged"),
        (b"V\\ud800\n.", "something else than arrays"),
        (b"c_codecs\nencode\n(V\\u0394\nVlatin1\ntR.", "damaged"),
        (b"c_codecs\nencode\n(Vabc\nVutf-8\ntR.", "calls NumPy"),
        (b"c__builtin__\nbytes\n(I1000000000000\ntR.", "calls NumPy"),
        (b"\x80\x04P1\n.", "it uses PERSID"),
        (b"\x80\x02\x82\x01.", "it uses EXT1"),
        (b"\x80\x05\x97.", "it uses NEXT_BUFFER"),
        (nested(9000), "something else than arrays"),
        (nested(200_000), "thousands of values"),
        (b"\x80\x02)" + b"q\x00h\x00h\x00\x86" * 2000 + b".", "damaged|something else than arrays"),  # 2 to the 2000
    ],
)
def test_tampered_files(path: Path, content: bytes, message: str) -> None:
    said = refused(path, content)
    assert any(words in said for words in message.split("|")), said


def test_one_text_is_not_made_into_bytes_over_and_over(path: Path) -> None:
    """3 MB of text that would become 6 GB."""
    text = b"X\x80\x96\x98\x00"[:1] + (3_000_000).to_bytes(4, "little") + b"a" * 3_000_000
    start = b"\x80\x02c_codecs\nencode\nq\x00" + text + b"X\x06\x00\x00\x00latin1\x86q\x01"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "makes more bytes than it has" in refused(path, start + b"h\x00h\x01R" * 2000 + b".")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_files_cut_short_at_any_place(path: Path, protocol: int) -> None:
    whole = pickle.dumps((np.zeros((2, 3)), np.ones(2, "f4")), protocol)
    for end in range(1, len(whole), 5):
        refused(path, whole[:end])


def test_files_that_can_not_be_opened(path: Path) -> None:
    with pytest.raises(InputError, match=r"p\.pkl: No such file"):
        read_pickled_arrays(path)
    with pytest.raises(InputError, match="is not a file"):
        read_pickled_arrays(path.parent)
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"p\.pkl: is not a file"):
        read_pickled_arrays(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(InputError, match=r"p\.pkl: .*symbolic links"):
        read_pickled_arrays(path)


def test_weights_are_said_to_be_weights(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)
    assert "an archive of torch.save, as cryoDRGN's weights are" in refused(path, path.read_bytes())


# mutations

_ROTATIONS = np.eye(3, dtype="f4")[None].repeat(9, 0)
_CTF = np.array([[64, 3.0, 15000, 14000, -30, 300, 2.7, 0.1, 0], [64, 3.0, 16000, 15500, 60, 200, 0.01, 0.07, 90]])
_FILES: dict[Callable[[Path], object], list[Any]] = {
    lambda path: read_poses(path, 32, 6.0): [_ROTATIONS, (_ROTATIONS.astype(">f8"), np.full((9, 2), 0.25))],
    read_ctf: [_CTF, np.asfortranarray(_CTF, "f4")],
    read_latent: [np.arange(60, dtype="f4").reshape(30, 2), np.arange(60.0).reshape(2, 30).T],
    lambda path: read_indices(path, 60): [np.arange(60)[::-1], np.arange(40, dtype=">u2")],
}
_CODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


def mutated(content: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A pickle with a few bytes, opcodes or pieces changed, most of them near the descriptions of arrays."""
    result = bytearray(content)
    for _ in range(generator.integers(1, 3)):
        start, end = sorted(generator.integers(0, len(result) + 1, 2).tolist())
        end = min(end, start + int(generator.choice([1, 2, 4, 8, 64])))
        source = int(generator.integers(len(other)))
        result[start:end] = [
            b"",
            generator.bytes(end - start),
            _CODES[generator.integers(len(_CODES))] + result[start + 1 : end],
            bytes(result[start:end]) * 2,
            other[source : source + end - start],
            bytes([int(generator.choice([0, 1, 127, 128, 255]))]) * (end - start),
        ][generator.integers(6)]
        if not result or generator.random() < 0.03:
            result = result[:start]
    return bytes(result)


def check_mutations(path: Path, count: int, seed: int) -> int:
    """Read mutated files with all functions; how many of them were read."""
    generator = np.random.default_rng(seed)
    whole = [
        (reader, variant)
        for reader, contents in _FILES.items()
        for content in contents
        for protocol in PROTOCOLS
        for variant in (pickle.dumps(content, protocol), of_numpy_1(pickle.dumps(content, protocol)))
    ]
    read = 0
    for _ in range(count):
        reader, content = whole[generator.integers(len(whole))]
        changed = mutated(content, whole[generator.integers(len(whole))][1], generator)
        path.write_bytes(changed)
        try:
            arrays = read_pickled_arrays(path, others_follow=True)
            assert all(type(array) is np.ndarray and array.dtype.kind in "fiu" for array in arrays)
            assert all(0 < array.nbytes <= len(changed) for array in arrays)
            read += 1
        except InputError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        for function in (reader, *(_FILES if generator.random() < 0.1 else ())):
            try:
                function(path)
            except InputError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    return read


@pytest.mark.parametrize("count", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutated_files_are_read_or_refused(path: Path, count: int) -> None:
    read = check_mutations(path, count, seed=count)
    assert 0.1 * count < read < 0.9 * count  # neither is all that happens
