#!/usr/bin/env python3
"""Check what auditdb proves, without auditdb: Python's standard library and docs/integrity-format.md are all that went into this.

  check_proof.py event FILE KEY                           a proof of one event (verify-integrity prove --id)
  check_proof.py consistency FILE KEY                     a proof that a log only grew (verify-integrity prove --extends)
  check_proof.py partition NAME ROWS LOG SETS CHECKPOINT KEY [ERASED]   every leaf set of an exported partition

KEY is the file with the log's verifier key. The files of a partition are those that the section "Exported partitions" makes.
Exit code 0: it holds; 4: it does not; 2: wrong usage, or a file cannot be read."""
import base64, datetime, hashlib, re, struct, sys
from urllib.parse import unquote_to_bytes

def need(ok, why):
    if not ok:
        raise ValueError(why)
def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()
def unbase64(text):
    raw = base64.b64decode(text, validate=True)
    need(base64.b64encode(raw).decode() == text, "base64 is not canonical")
    return raw
def unpercent(text):  # the strings of records
    raw = unquote_to_bytes(text)
    need("".join(chr(b) if 0x21 <= b <= 0x7E and b != 0x25 else "%%%02X" % b for b in raw) == text, "a string is not canonical")
    return raw

# Ed25519 (RFC 8032): verification alone, so nothing here is secret and time does not matter.
P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D, ROOT = -121665 * pow(121666, -1, P) % P, pow(2, (P - 1) // 4, P)

def point(raw):
    sign, y = divmod(int.from_bytes(raw, "little"), 2**255)
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    x = x if x * x % P == square else x * ROOT % P
    need(y < P and x * x % P == square and (x or not sign), "not a point of the curve")
    x = x if x & 1 == sign else P - x
    return x, y, 1, x * y % P
def plus(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    return (b - a) * (d - c) % P, (d + c) * (b + a) % P, (d - c) * (d + c) % P, (b - a) * (b + a) % P
def times(k, p):
    q = (0, 1, 1, 0)
    while k:
        q, p, k = plus(q, p) if k & 1 else q, plus(p, p), k >> 1
    return q
def signed_by(public, message, signature):
    s = int.from_bytes(signature[32:], "little")
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little")
    need(len(signature) == 64 and s < L, "malformed signature")
    a = times(s, point((4 * pow(5, -1, P) % P).to_bytes(32, "little")))
    b = plus(point(signature[:32]), times(k % L, point(public)))
    return (a[0] * b[2] - b[0] * a[2]) % P == 0 and (a[1] * b[2] - b[1] * a[2]) % P == 0

# Trees (RFC 6962; the algorithms are those of RFC 9162, sections 2.1.3.2 and 2.1.4.2).
def node(left, right):
    return sha(b"\1", left, right)
def tree(hashes):
    if len(hashes) == 1:
        return hashes[0]
    k = 1 << (len(hashes) - 1).bit_length() - 1
    return node(tree(hashes[:k]), tree(hashes[k:]))
def climb(path, fn, sn, old, new):  # old stays behind where a hash lies to the right of its tree
    for h in path:
        need(sn > 0, "a path is too long")
        if fn & 1 or fn == sn:
            old, new = node(h, old), node(h, new)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            new = node(new, h)
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0, "a path is too short")
    return old, new
def included(leaf_hash, index, size, path, root, why):
    need(0 <= index < size and climb(path, index, size - 1, leaf_hash, leaf_hash)[1] == root, why)
def extends(first, first_root, second, second_root, path):
    if first == second:
        return not path and first_root == second_root
    fn, sn = first - 1, second - 1
    shift = (~fn & -~fn).bit_length() - 1  # trailing ones
    path = [first_root] + path if first & first - 1 == 0 else path
    return 0 < first < second and path != [] and climb(path[1:], fn >> shift, sn >> shift, path[0], path[0]) == (first_root, second_root)

# Signed checkpoints, records, leaves.
def checkpoint(text, signatures, vkey):
    name, key_id, key = vkey.decode().strip().split("+", 2)
    key, found = unbase64(key), False
    need(len(key) == 33 and key[0] == 1 and sha(name.encode(), b"\n", key)[:4].hex() == key_id, "malformed verifier key")
    need(re.fullmatch("(— [^ \n]+ [^ \n]+\n)+", signatures), "malformed signatures")
    for _, signer, signature in (line.split(" ") for line in signatures[:-1].split("\n")):
        raw = unbase64(signature)
        if signer == name and raw[:4].hex() == key_id:
            need(signed_by(key[1:], (text + "\n").encode(), raw[4:]), "the checkpoint's signature is false")
            found = True
    origin, size, root = text.split("\n")[:3]
    need(found and origin == name and re.fullmatch("[1-9][0-9]{0,17}", size), "the checkpoint is not signed with this key")
    return int(size), unbase64(root)
def record(text):
    lines = [line.split(" ", 1) for line in text.rstrip("\n").split("\n")]
    need(lines[0][0] == "auditdb/1", "not a record")
    columns = {part: [[unpercent(x).decode() for x in v.split(" ")] for name, v in lines if name == part] for part in ("core", "personal")}
    return dict(lines[1:], kind=lines[0][1]) | columns
def fields(values):
    return struct.pack(">H", len(values)) + b"".join(b"\xff" * 4 if v is None else struct.pack(">i", len(v)) + v for v in values)
def leaf(core, personal, salt, commit):
    need(commit or len(salt) == 16, "a salt has 16 bytes")
    return sha(b"\0\1", fields(core), commit or sha(b"\2\1", fields(personal), salt))
def shown(typ, value):
    number = int.from_bytes(value or b"", "big", signed=True)
    if value is None or typ in ("text", "varchar", "jsonb"):
        return value and value[typ == "jsonb":].decode()
    if typ == "timestamptz" and abs(number) < 2**55:
        return f"{datetime.datetime(2000, 1, 1) + datetime.timedelta(microseconds=number)} UTC"
    return number if typ in ("int2", "int4", "int8") else value.hex()
EVENT = r"""auditdb-event-proof/1\nrecord (\S+)\nposition (0|[1-9][0-9]*)\n((?:path [0-9a-f]{64}\n)*)format (\S+)
((?:format_path [0-9a-f]{64}\n)*)((?:core (?:-|=\S*)\n)+)(?:((?:personal (?:-|=\S*)\n)*)salt ([0-9a-f]{32})|commit ([0-9a-f]{64}))\n"""
def event(text, vkey):
    head, note, signatures = text.decode().split("\n\n")
    magic, extra, index, *record_path = head.split("\n")
    need(magic == "c2sp.org/tlog-proof@v1" and extra.startswith("extra "), "not a proof of an event")
    m = re.fullmatch(EVENT, unbase64(extra[6:]).decode("ascii")) or need(False, "malformed extra data")
    set_text, format_text = unpercent(m[1]), unpercent(m[4])
    values = lambda part: [None if x[-2:] == " -" else unpercent(x.split(" =", 1)[1]) for x in (part or "").split("\n")[:-1]]
    path, format_path = ([bytes.fromhex(x.split(" ")[1]) for x in part.split("\n")[:-1]] for part in (m[3], m[5]))
    s, f, core, personal = record(set_text.decode()), record(format_text.decode()), values(m[6]), values(m[7])
    need(s["kind"] in ("batch", "seal") and f["kind"] == "format" and s["table"] == f["table"], "records of other kinds")
    need(index == "index " + s["seq"], "the index is another record's")
    need(len(core) == len(f["core"]) and (m[9] or len(personal) == len(f["personal"])), "not the columns of the format")
    size, root = checkpoint(note, signatures, vkey)
    row = leaf(core, personal, bytes.fromhex(m[8] or ""), bytes.fromhex(m[9] or ""))
    included(row, int(m[2]), int(s["rows"]), path, bytes.fromhex(s["root"]), "the fields do not lead to the leaf set's root")
    included(sha(b"\0", set_text), int(s["seq"]), size, [unbase64(h) for h in record_path], root, "the leaf set's record is not in the tree")
    included(sha(b"\0", format_text), int(f["seq"]), size, format_path, root, "the columns' record is not in the tree")
    for (name, typ), value in zip(f["core"] + f["personal"], core + personal):
        print(f"{name}: {shown(typ, value)!r}")
def consistency(text, vkey):
    head, old, old_signatures, new, signatures = text.decode().split("\n\n")
    magic, *path = head.split("\n")
    first, second = checkpoint(old, old_signatures + "\n", vkey), checkpoint(new, signatures, vkey)
    need(magic == "auditdb-consistency-proof/1", "not a consistency proof")
    need(extends(*first, *second, [unbase64(h) for h in path]), "the newer log does not begin with the older one")
    print(f"the log of {second[0]} records begins with the {first[0]} records of the older checkpoint")
def ids(encoded, first):
    numbers = [sum((b & 127) << 7 * i for i, b in enumerate(v)) for v in re.findall(rb"[\x80-\xff]*[\0-\x7f]", encoded, re.S)]
    for gap, length in zip(numbers[::2], numbers[1::2]):
        yield from range(first + gap, first + gap + length)
        first += gap + length
def copied(data, columns):
    need(data[:19] == b"PGCOPY\n\xff\r\n\0" + bytes(8) and data[-2:] == b"\xff\xff", "the rows are not COPY BINARY")
    pos = 19
    while pos < len(data) - 2:
        need(data[pos:pos + 2] == struct.pack(">H", columns), "a row has other columns than the format")
        pos, row = pos + 2, []
        for _ in range(columns):
            size, pos = struct.unpack_from(">i", data, pos)[0], pos + 4
            need(-1 <= size <= len(data) - pos, "a field does not fit")
            row, pos = row + [None if size < 0 else data[pos:pos + size]], pos + max(size, 0)
        yield row

def partition(name, rows, log, sets, note, vkey, erased=b""):
    texts = [text + "\n" for text in log.decode().rstrip("\n").split("\n\n")]
    size, root = checkpoint(*(note.decode().rstrip("\n") + "\n").split("\n\n"), vkey)
    need(tree([sha(b"\0", text.encode()) for text in texts[:size]]) == root, "the records are not those of the checkpoint")
    logged = [r for r in map(record, texts[:size]) if r["kind"] in ("batch", "seal", "format")]
    place = lambda r: r["kind"] != "format" and [r.get(k) for k in ("table", "from", "to", "default")]
    named = [place(r) for r in logged if place(r) and unpercent(r["partition"]) == name]
    need(named and named.count(named[0]) == len(named), "no leaf set, or those of several ranges, are of a partition of this name")
    f = next(r for r in logged if r["kind"] == "format" and r["table"] == named[0][0])
    core, columns, at = len(f["core"]), len(f["core"] + f["personal"]), [column for column, _ in f["core"]].index("id")
    kept = {int(seq): [bytes.fromhex(x) for x in more] for seq, *more in (line.split("|") for line in sets.decode().split())}
    commits = {int(key): bytes.fromhex(commit) for key, commit in (line.split("|") for line in erased.decode().split())}
    found = {}
    for row in copied(rows, columns + ("salt" in f)):
        need(found.setdefault(int.from_bytes(row[at], "big", signed=True), row) is row, "two rows have one id")
    for r in (r for r in logged if place(r) == named[0]):
        (encoded, salts), leaves = kept[int(r["seq"])], []
        for i, key in enumerate(ids(encoded, int(r["min_id"]))):
            row = found.pop(key)  # a KeyError names a row that is missing
            salt, empty = "salt" in f and row[-1] or salts[16 * i:16 * i + 16], row[core:].count(None) == len(row) - core
            leaves.append(leaf(row[:core], row[core:columns], salt, empty and commits.get(key)))
        same = [sha(encoded).hex(), str(len(leaves)), tree(leaves).hex()] == [r["ids"], r["rows"], r["root"]]
        need(same, f"rows of record {r['seq']} are not what was logged")
    need(all(key < 2**40 for key in found), "there are rows that were never logged")
    print(f"{sum(int(r['rows']) for r in logged if place(r) == named[0])} rows are what was logged, {len(found)} are not sealed")

def main(kind="", *args):
    try:
        if len(args) not in {"event": (2,), "consistency": (2,), "partition": (6, 7)}.get(kind, ()):
            raise OSError(__doc__)
        files = [name.encode() if kind == "partition" and i == 0 else open(name, "rb").read() for i, name in enumerate(args)]
        {"event": event, "consistency": consistency, "partition": partition}[kind](*files)
    except OSError as error:
        return print(error, file=sys.stderr) or 2
    except (ValueError, LookupError, TypeError, StopIteration, struct.error) as error:
        return print("it does not hold:", repr(error), file=sys.stderr) or 4

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
