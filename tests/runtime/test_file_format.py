from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from pyg_nodequant.runtime import PackedFileError
from pyg_nodequant.runtime.file_format import read_container, write_container

ARRAYS = {
    "b.half": np.arange(3, dtype=np.float16),
    "a.codes": np.arange(16, dtype=np.uint8),
    "c.id": np.array([-5, 2**40]),
    "d.none": np.zeros((0, 4), dtype=np.float32),
}


def sealed(header, data=b"", length=None, raw=None):
    # A file with a correct checksum around any header, by the description.
    text = raw if raw is not None else json.dumps(
        header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    length = len(text) if length is None else length
    whole = length.to_bytes(8, "little") + text + data
    at = 8 + len('{"__metadata__":{"checksum":"')
    digest = hashlib.blake2b(whole, digest_size=16).hexdigest().encode()
    return whole[:at] + digest + whole[at + 32:]


def header(arrays=None, **changes):
    metadata = {"checksum": "0" * 32, "format": "pyg-nodequant",
                "version": "1", "kind": "table", **changes}
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
    assert sealed(content, path.read_bytes()[8 + size:]) == path.read_bytes()


def test_same_input_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_container(tmp_path / name, "table", {"t": "x"}, ARRAYS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_codes_are_aligned_first(tmp_path):
    write_container(tmp_path / "a", "table", {}, ARRAYS)
    size = int.from_bytes((tmp_path / "a").read_bytes()[:8], "little")
    content = json.loads((tmp_path / "a").read_bytes()[8:8 + size])
    assert content["a.codes"]["data_offsets"][0] == 0
    for name, array in ARRAYS.items():
        assert content[name]["data_offsets"][0] % array.dtype.itemsize == 0


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
                read_container(path, "table", verify)
    for length in range(len(data) - 1, -1, -1):
        os.truncate(path, length)
        for verify in (True, False):
            with pytest.raises(PackedFileError, match="bad.nq"):
                read_container(path, "table", verify)


@pytest.mark.parametrize("content,cause", [
    (b"", "only 0 bytes"),
    (b"PK\3\4" * 100, "does not begin like a file of pyg-nodequant"),
    (sealed(header(), length=2**63), "its header would have"),
    (sealed(header(), length=1 << 21), "its header would have"),
    (sealed(header(), length=3), "its header would have"),
    (sealed(header(format="other")), "not in the format 'pyg-nodequant'"),
    (sealed(header(version="2")), "format version 2, this program reads "
     "version 1"),
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
