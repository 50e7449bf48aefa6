"""Reads `.nq` files of version 1, written from docs/format.md alone.

What is not as specified raises a ValueError (or KeyError: it is missing).
"""

import hashlib
import json
import math
import re
import struct
from pathlib import Path
from typing import Any

START = b'{"__metadata__":{"checksum":"'
NUMBERS = dict(zip("U8 U16 U32 I8 I16 I32 I64 F16 F32".split(), "BHIbhiqef"))
COUNTS = "U8 U16 U32"
G = [  # the constants of steps that follow from spreads
    float.fromhex(x)
    for x in "0x0p+0 0x1.989374p+0 0x1.fdc806p-1 0x1.2c0832p-1 0x1.573eacp-2 "
    "0x1.8127f8p-3 0x1.aa810ep-4 0x1.d1b7eap-5 0x1.f85ec6p-6".split()
]
FORM = "(float|packed) ([0-9]+) ([0-9]+)(?: ([0-9]+))?"
File = dict[str, Any]


def need(good: bool, what: str) -> None:
    if not good:
        raise ValueError(what)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    need(len(pairs) == len({name for name, _ in pairs}), "a name twice")
    return dict(pairs)


def digest(data: bytes, size: int) -> str:
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def read(path: str | Path) -> File:
    """The fields and arrays of a file, all of which is checked."""
    data = Path(path).read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    need(end % 8 == 0 and end <= min(len(data), 8 + 2**20), "header length")
    a = 8 + len(START)
    need(data[8:a] == START and a + 32 < end, "start")
    zeroed = data[:a] + b"0" * 32 + data[a + 32 : end]
    need(data[a : a + 32] == digest(zeroed, 16).encode(), "checksum")
    header = json.loads(data[8:end].decode(), object_pairs_hook=unique)
    fields = header.pop("__metadata__")
    need(all(isinstance(x, str) for x in fields.values()), "fields")
    need(fields["format"] == "pyg-nodequant", "format")
    need(bool(re.fullmatch("1[.][0-9]+", fields["version"])), "version")
    file, at = {"fields": fields, "arrays": {}}, end
    for name, entry in header.items():
        shape, (a, b) = entry["shape"], entry["data_offsets"]
        need(all(type(x) is int and x >= 0 for x in [*shape, a, b]), name)
        code = f"<{math.prod(shape)}{NUMBERS[entry['dtype']]}"
        size = struct.calcsize(code)
        need(at == end + a and at + size == end + b <= len(data), name)
        need(a % struct.calcsize("<" + code[-1]) == 0, name)
        values = struct.unpack_from(code, data, at)
        values = bytes(values) if code[-1] == "B" else values
        file["arrays"][name] = entry["dtype"], shape, values
        sums = fields["sums"][16 * len(file["arrays"]) - 16 :][:16]
        need(sums == digest(data[at : at + size], 8), f"checksum of {name}")
        at += size
    need(len(fields["sums"]) == 16 * len(header), "sums")
    need(at == len(data), "length")
    check(file)
    return file


def check(file: File) -> None:
    """Decodes everything that a file has."""
    if file["fields"]["kind"] == "table":
        rows(file, "t")
        return
    need(file["fields"]["kind"] == "recommender", "kind")
    need(form(file, "u")[1] == form(file, "i")[1], "dimensions")
    for read_part in (titles, seen, graph, metadata):
        read_part(file)
    for side in ("user", "item"):
        rows(file, side[0])
        ids(file, side)


def array(file: File, name: str, dtypes: str, *shapes: list[int]) -> Any:
    """The values of an array; without shapes, it may have any length."""
    dtype, shape, values = file["arrays"][name]
    need(dtype in dtypes.split(), f"{name} is {dtype}")
    need(shape in shapes if shapes else len(shape) == 1, f"shape of {name}")
    return values


def form(file: File, prefix: str) -> tuple[int, int, int]:
    """Rows, dimensions and classes of a table; 0 classes: plain numbers."""
    match = re.fullmatch(FORM, file["fields"][prefix])
    need(match is not None, "form")
    n, d, classes = (int(x or 0) for x in match.groups()[1:])
    need(n <= 2**31 and 1 <= d <= 4096, "form")
    need((match[1] == "float") == (match[4] is None), "form")
    need(match[1] == "float" or 1 <= classes <= 256, "form")
    return n, d, classes


def rows(file: File, prefix: str) -> list[list[float]]:
    """All rows of a table by row number."""
    n, d, classes = form(file, prefix)
    if not classes:
        flat = array(file, f"{prefix}.rows", "F32", [n, d])
        return [list(flat[i * d : i * d + d]) for i in range(n)]
    table = class_table(array(file, f"{prefix}.classes", "U8"), d, classes)
    codes = array(file, f"{prefix}.codes", "U8")
    shared = classes > 1 or any(table[0][0])
    scales = row_scales(file, prefix, [[n], [1]][: 1 + shared], n)
    offsets = [0.0] * n
    if f"{prefix}.offset" in file["arrays"]:
        offsets = array(file, f"{prefix}.offset", "F16 F32", [n])
    need(all(map(math.isfinite, [*scales, *offsets])), "scale or offset")
    scaling, at = iter(zip(scales, offsets)), 0
    out: list[list[float]] = [[]] * n
    for c, members in enumerate(members_of_classes(file, prefix, n, classes)):
        b, a, m, n_c = (field[c] for field in table)
        size = (sum(b) + 7) // 8
        for first in range(0, len(members), 64):
            block = members[first : first + 64]
            end = at + size * len(block)
            for j, row in enumerate(block):
                v = cut(codes[at + j : end : len(block)], size, b)
                r, o = next(scaling)
                x = [r * (m[k] + a[k] * v[k]) for k in range(d)]
                # Without "+ o * 0": it would turn -0.0 into 0.0.
                x = [x_k + o if n_k else x_k for x_k, n_k in zip(x, n_c)]
                out[row] = [single(x_k) for x_k in x]
            at = end
    need(at == len(codes), "length of codes")
    return out


def class_table(raw: bytes, d: int, classes: int) -> list[list[list[float]]]:
    """Widths, steps, offsets and n: each by class and dimension."""
    fields, at = [], 4
    for byte, bits, value in zip(raw[:4], (4, 16, 16, 1), (9, 1.0, 0.0, 1)):
        how, wide = byte & 15, byte >> 4
        number = bits == 16
        need(how <= 2 or number and how == 2 + len(fields), "class table")
        need(wide <= (number and how in (1, 2)), "class table")
        if how > 2:
            part, at = raw[at:][: 2 * d * (how == 3)], at + 2 * d * (how == 3)
            fields.append(derived(fields, part, d))
            continue
        each = d if how == 2 else 1
        count, bits, flat = classes * each, bits << wide, [value] * classes
        size = (count * bits + 7) // 8 if how else 0
        part, at = raw[at : at + size], at + size
        need(at <= len(raw), "length of the class table")
        if how and bits >= 16:
            flat = list(struct.unpack(f"<{count}{'ef'[wide]}", part))
        elif how:
            flat = [
                x >> s & 2**bits - 1 for x in part for s in range(8)[::bits]
            ]
            need(not any(flat[count:]), "bits left over in the class table")
        need(max(flat) <= 8 or bits != 4, "width")
        times = d // each
        flat = [x for x in flat[:count] for _ in range(times)]
        fields.append([flat[c * d : c * d + d] for c in range(classes)])
    need(at == len(raw), "length of the class table")
    return fields


def derived(
    fields: list[list[list[float]]], part: bytes, d: int
) -> list[list[float]]:
    """Steps from spreads after widths, offsets after widths and steps."""
    if len(fields) == 1:
        need(len(part) == 2 * d, "length of the class table")
        spread = struct.unpack(f"<{d}e", part)
        need(all(0 <= x < math.inf for x in spread), "spread")
        return [
            [single(x * G[b]) for x, b in zip(spread, line)]
            for line in fields[0]
        ]
    return [
        [single(single(-0.5 * a) * (2**b - 1)) + 0.0 for a, b in zip(*lines)]
        for lines in zip(fields[1], fields[0])
    ]


def members_of_classes(
    file: File, prefix: str, n: int, classes: int
) -> list[list[int]]:
    """The row numbers of each class, ascending."""
    name = f"{prefix}.class"
    need((name in file["arrays"]) == (classes > 1), name)
    flat = bytes(n)
    if 1 < classes <= 16:
        raw = array(file, name, "U8", [(n + 1) // 2])
        flat = bytes(x for byte in raw for x in (byte & 15, byte >> 4))
        need(not any(flat[n:]), name)
    elif classes > 16:
        flat = array(file, name, "U8", [n])
    need(max(flat, default=0) < classes, name)
    members: list[list[int]] = [[] for _ in range(classes)]
    for row in range(n):
        members[flat[row]].append(row)
    return members


def row_scales(file: File, prefix: str, shapes: Any, n: int) -> list[float]:
    """The scale of each row by position."""
    name, log = f"{prefix}.scale", f"{prefix}.log"
    logs = [x for x in (log, f"{log}4") if x in file["arrays"]]
    need(len(logs) == (file["arrays"][name][0] == "U8"), log)
    if logs:
        low, step = array(file, logs[0], "F32", [2])
        if logs[0] == log:
            top, codes = 255, array(file, name, "U8", [n])
        else:
            raw = array(file, name, "U8", [(n + 1) // 2])
            top, codes = 15, [x for y in raw for x in (y & 15, y >> 4)]
            need(not any(codes[n:]), name)
        powers = [min(low + e * step, 999.0) for e in range(top)]
        values = [0.0, *(single(2.0**x) for x in powers)]
        need(all(map(math.isfinite, values)), log)
        return [values[e] for e in codes[:n]]
    values = list(array(file, name, "F16 F32", *shapes))
    return values if len(values) == n else values * n


def single(x: float) -> float:
    """The F32 next to x."""
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def cut(string: bytes, size: int, widths: list[int]) -> list[int]:
    """The codes in the string of a row."""
    need(len(string) == size, "length of codes")
    bits, codes = int.from_bytes(string, "little"), []
    for width in widths:
        codes.append(bits & 2**width - 1)
        bits >>= width
    need(bits == 0, "bits left over")
    return codes


def pieces(file: File, name: str, sizes: str, dtypes: str, n: int) -> Any:
    """The n pieces of an array whose sizes another one holds."""
    flat, at, out = array(file, name, dtypes), 0, []
    for size in array(file, sizes, COUNTS, [n]):
        out.append(flat[at : at + size])
        at += size
    need(at == len(flat), f"sum of {sizes}")
    return out


def strings(file: File, name: str, n: int) -> list[str]:
    raw = pieces(file, name, f"{name}.size", "U8", n)
    return [x.decode("utf-8", "surrogatepass") for x in raw]


def lists(file: File, name: str) -> list[list[int]] | None:
    """Ascending items of each user, None if the file has none."""
    n, bound = form(file, "u")[0], form(file, "i")[0]
    item, degree = f"{name}.item", f"{name}.degree"
    if item not in file["arrays"] and degree not in file["arrays"]:
        return None
    out = [list(x) for x in pieces(file, item, degree, COUNTS, n)]
    for x in out:
        need(x == sorted(set(x)) and (not x or x[-1] < bound), item)
    return out


def ids(file: File, side: str) -> list[int] | list[str]:
    """The ids of "user" or "item"; row numbers in bare files."""
    n, name = form(file, side[0])[0], f"c.{side}"
    if name not in file["arrays"]:
        return list(range(n))
    if file["arrays"][name][0] == "U8":
        out: Any = strings(file, name, n)
    else:
        out = list(array(file, name, "I8 I16 I32 I64", [n]))
    need(len(set(out)) == n, f"{name} is not distinct")
    return out


def titles(file: File) -> list[str] | None:
    """The titles of all items, None if there are none."""
    given = "c.title" in file["arrays"] or "c.title.size" in file["arrays"]
    return strings(file, "c.title", form(file, "i")[0]) if given else None


def seen(file: File) -> list[list[int]] | None:
    """The items that each user has seen, None if the file does not tell."""
    return lists(file, "c.seen")


def graph(file: File) -> tuple[int, list[list[int]]] | None:
    """Layers and the items of each user, None without a graph."""
    edges, layers = lists(file, "g"), file["fields"].get("layers")
    need((edges is None) == (layers is None), "graph without layers")
    if edges is None:
        return None
    need(bool(re.fullmatch("[0-9]+", layers)) and int(layers) <= 64, "layers")
    return int(layers), edges


def metadata(file: File) -> Any:
    """What the file tells of its making, None if nothing."""
    raw = b"null"
    if "c.metadata" in file["arrays"]:
        raw = array(file, "c.metadata", "U8")
    return json.loads(raw.decode())
