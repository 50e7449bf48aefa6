from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from pyg_nodequant.runtime import PackedFileError, PackedFormatError
from pyg_nodequant.runtime.file_format import read_container, write_container

ARRAYS = {
    "b.half": np.arange(3, dtype=np.float16),
    "a.codes": np.arange(16, dtype=np.uint8),
    "c.id": np.array([-5, 2**40]),
    "d.none": np.zeros((0, 4), dtype=np.float32),
}


def sealed(header, data=b"", length=None, raw=None):
    # A file with correct checksums around any header, by the description.
    if raw is None and isinstance(header.get("__metadata__"), dict):
        sums = []
        for name, one in header.items():
            if name != "__metadata__" and isinstance(one, dict):
                begin, end = (*one["data_offsets"], 0, 0)[:2]
                sums.append(hashlib.blake2b(data[begin:end],
                                            digest_size=8).hexdigest())
        header["__metadata__"].setdefault("sums", "".join(sums))
    text = raw if raw is not None else json.dumps(
        header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    length = len(text) if length is None else length
    head = length.to_bytes(8, "little") + text
    at = 8 + len('{"__metadata__":{"checksum":"')
    digest = hashlib.blake2b(head, digest_size=16).hexdigest().encode()
    return head[:at] + digest + head[at + 32:] + data


def header(arrays=None, **changes):
    metadata = {"checksum": "0" * 32, "format": "pyg-nodequant",
                "version": "1.0", "kind": "table", **changes}
    return {"__metadata__": metadata, **(arrays or {})}


def entry(dtype="U8", shape=(4, ), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape),
            "data_offsets": list(offsets)}


def test_round_trip(tmp_path):
    path = tmp_path / "a.nq"
    write_container(path, "table", {"t": "x"}, ARRAYS)
    content = read_container(path, "table")
    assert content.field("t") == "x"
    assert set(content.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert np.array_equal(content.arrays[name], array)
        assert content.arrays[name].dtype == array.dtype
        assert not content.arrays[name].flags.writeable
    assert os.listdir(tmp_path) == ["a.nq"]


def test_safetensors_reads_it(tmp_path):
    path = tmp_path / "a.nq"
    write_container(path, "table", {"t": "x"}, ARRAYS)
    with safe_open(path, "numpy") as file:
        assert file.metadata()["format"] == "pyg-nodequant"
        for name, array in ARRAYS.items():
            assert np.array_equal(file.get_tensor(name), array)


def test_checksum_is_what_the_description_says(tmp_path):
    path = tmp_path / "a.nq"
    write_container(path, "table", {"t": "x"}, ARRAYS)
    size = int.from_bytes(path.read_bytes()[:8], "little")
    text = path.read_bytes()[8:8 + size]
    assert size % 8 == 0
    content = json.loads(text)
    content["__metadata__"]["checksum"] = "0" * 32
    del content["__metadata__"]["sums"]
    assert sealed(content, path.read_bytes()[8 + size:]) == path.read_bytes()


def test_same_input_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_container(tmp_path / name, "table", {"t": "x"}, ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_arrays_are_aligned_without_padding(tmp_path):
    write_container(tmp_path / "a", "table", {}, ARRAYS)
    size = int.from_bytes((tmp_path / "a").read_bytes()[:8], "little")
    content = json.loads((tmp_path / "a").read_bytes()[8:8 + size])
    for name, array in ARRAYS.items():
        assert content[name]["data_offsets"][0] % array.dtype.itemsize == 0
    total = sum(array.nbytes for array in ARRAYS.values())
    assert (tmp_path / "a").stat().st_size == 8 + size + total


def test_checksums_are_checked_by_array(tmp_path):
    path = tmp_path / "a.nq"
    write_container(path, "table", {"t": "x"}, ARRAYS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackedFormatError, match="array 'a.codes' does not"):
        read_container(path, "table")
    content = read_container(path, "table", verify=False)
    assert content.arrays["a.codes"][-1] == 15 ^ 1


@pytest.mark.parametrize("mmap", [True, False])
def test_newer_minor_versions_are_read(tmp_path, mmap):
    path = tmp_path / "a.nq"
    path.write_bytes(sealed(header({"a": entry(), "new": entry(
        offsets=(4, 8))}, version="1.7", what="ever"), b"xxxxyyyy"))
    content = read_container(path, "table", mmap)
    assert content.take("a", ["U8"], (4, )).tobytes() == b"xxxx"
    base = content.arrays["a"]
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) == mmap


def test_every_flip_and_every_truncation(tmp_path):
    path = tmp_path / "bad.nq"
    write_container(path, "table", {"t": "x"}, ARRAYS)
    data = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(data):
            for flip in (1, 0x20, 0xff):
                os.pwrite(file.fileno(), bytes([byte ^ flip]), place)
                with pytest.raises(PackedFileError, match="bad.nq"):
                    read_container(path, "table")
            os.pwrite(file.fileno(), bytes([byte]), place)
    read_container(path, "table")
    for more in (b"\0", b"\0" * 8):
        path.write_bytes(data + more)
        for verify in (True, False):
            with pytest.raises(PackedFileError):
                read_container(path, "table", verify=verify)
    for length in range(len(data) - 1, -1, -1):
        os.truncate(path, length)
        for verify in (True, False):
            with pytest.raises(PackedFileError, match="bad.nq"):
                read_container(path, "table", verify=verify)


@pytest.mark.parametrize("content,cause", [
    (b"", "only 0 bytes"),
    (b"PK\3\4" * 100, "does not begin like a file of pyg-nodequant"),
    (sealed(header(), length=2**63), "its header would have"),
    (sealed(header(), length=1 << 21), "its header would have"),
    (sealed(header(), length=3), "its header would have"),
    (sealed(header(format="other")), "not in the format 'pyg-nodequant'"),
    (sealed(header(version="2.0")), "format version 2.0, this program reads "
     "version 1"),
    (sealed(header({"a": entry()}, sums="00"), b"xxxx"),
     "'sums' has 2 digits instead of 16"),
    (sealed(header(kind="cake")), "holds a cake, not a table"),
    (sealed(header(), b"x" * 8), "8 bytes of data instead of 0"),
    (sealed(header({"a": entry(shape=(2**62, 2**62))}), b"xxxx"),
     "does not fit"),
    (sealed(header({"a": entry(shape=(0, 2**62), offsets=(0, 0))})),
     "does not fit"),
    (sealed(header({"a": entry(offsets=(0, 8), shape=(8, ))}), b"xxxx"),
     "does not fit"),
    (sealed(header({"a": entry(offsets=(4, 0))}), b"xxxx"), "does not fit"),
    (sealed(header({"a": entry(shape=(-4, ))}), b"xxxx"), "is damaged"),
    (sealed(header({"a": entry(shape=(True, ))}), b"x"), "is damaged"),
    (sealed(header({"a": entry(dtype="C64")}), b"xxxx"), "is damaged"),
    (sealed(header({"a": entry(offsets=(0, ))}), b"xxxx"), "is damaged"),
    (sealed(header({"a": 3}), b"xxxx"), "is damaged"),
    (sealed(header({"a": entry(), "b": entry()}), b"xxxx"), "overlap"),
    (sealed(header({"a": entry(offsets=(4, 8))}), b"x" * 8), "a gap"),
    (sealed(header({"a": entry(shape=(1, ), offsets=(0, 1)),
                    "b": entry("F16", (1, ), (1, 3))}), b"xxx"),
     "not aligned"),
    (sealed(None, raw=json.dumps(header()).replace(" ", "").encode()[:-1]
            + b',"a":' + b"[" * 5000 + b"]" * 5000 + b"}"), "damaged"),
    (sealed(None, raw=b'{"__metadata__":{"checksum":"' + b"0" * 32 +
            b'","kind":"a","kind":"b"}}'), "header is damaged"),
    (sealed(header(more=3)), "header is damaged"),
])
def test_refuses(tmp_path, content, cause):
    path = tmp_path / "other.nq"
    path.write_bytes(content)
    with pytest.raises(PackedFileError, match=cause) as caught:
        read_container(path, "table")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_refuses_other_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros((3, 3))}, path, {"format": "pt"})
    with pytest.raises(PackedFileError, match="does not begin like"):
        read_container(path, "table")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(PackedFileError, match="No such file"):
        read_container(tmp_path / "no.nq", "table")
    with pytest.raises(PackedFileError, match="cannot be read"):
        read_container(tmp_path, "table")
    with pytest.raises(PackedFileError, match="cannot be written"):
        write_container(tmp_path / "no" / "a.nq", "table", {}, {})
    assert os.listdir(tmp_path) == []


def test_take(tmp_path):
    write_container(tmp_path / "a", "table", {}, ARRAYS)
    content = read_container(tmp_path / "a", "table")
    assert content.take("d.none", ["F32"], (None, 4)).shape == (0, 4)
    with pytest.raises(PackedFileError, match="'x' is missing"):
        content.take("x", ["U8"])
    with pytest.raises(PackedFileError, match="has type F16 instead of U8"):
        content.take("b.half", ["U8"])
    with pytest.raises(PackedFileError, match=r"has shape \[3\] instead"):
        content.take("b.half", ["F16"], (4, ))
    with pytest.raises(PackedFileError, match="no field 'u'"):
        content.field("u")
