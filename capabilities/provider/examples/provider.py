"""Key-value in memory, as an outside provider of Weft.

    python provider.py nats://user:password@127.0.0.1:4222 LATTICE NAMESPACE/APP/NAME...

It speaks docs/wire.md with two libraries, nats-py and cbor2, and no code of Weft.
"""

import asyncio
import re
import secrets
import signal
import sys
import time

import cbor2
import nats

KEY_VALUE = "weft:provider/key-value@1.0.0"
PARTS = "weft:provider/parts@1.0.0"
KEY_MAX, VALUE_MAX, PAGE_MAX, BATCH_MAX, BATCH_BYTES_MAX = 1024, 8 << 20, 1000, 1000, 16 << 20
PARTS_MAX, ALL_PARTS_MAX, IDLE_S, SEEN_S = 20 << 20, 60 << 20, 15, 11
ENVELOPE_MAX = 9 << 10  # What a reply has beside its results, with much room.


class Failed(Exception):
    """An error of the function: a case of its error variant, or of its error enum."""


class Refused(Exception):
    """The call did not start: a kind of failure, and why."""


def at_most(what, length, limit):
    if length > limit:
        raise Failed(["too-large", {"what": what, "len": length, "max": limit}])


class Store:
    """The functions of key-value. An option is [] or [value]; what gives nothing gives None."""

    def __init__(self):
        self.values = {}

    @staticmethod
    def name(bucket, key):
        if bucket.count("\0") != 3 or not bucket.endswith("\0"):
            raise Failed(["no-such-store"])
        if not key:
            raise Failed(["empty-key"])
        at_most("key", len(key.encode()), KEY_MAX)
        return bucket + key

    def option(self, name):
        return [self.values[name]] if name in self.values else []

    def get(self, bucket, key):
        return self.option(self.name(bucket, key))

    def set(self, bucket, key, value):
        at_most("value", len(value), VALUE_MAX)
        self.values[self.name(bucket, key)] = value

    def delete(self, bucket, key):
        self.values.pop(self.name(bucket, key), None)

    def exists(self, bucket, key):
        return self.name(bucket, key) in self.values

    def list_keys(self, bucket, cursor, limit):
        limit = min(limit, PAGE_MAX)
        keys = (name[len(bucket):] for name in self.values if name.startswith(bucket))
        keys = sorted(key for key in keys if not cursor or key > cursor[0])
        page = keys[:limit]
        return {"keys": page, "cursor": page[-1:] if len(keys) > limit else []}

    def increment(self, bucket, key, delta):
        name = self.name(bucket, key)
        now = self.values.get(name, b"0")
        if not re.fullmatch(rb"-?[0-9]{1,19}", now) or not -(2**63) <= int(now) < 2**63:
            raise Failed(["not-a-number"])
        total = int(now) + delta
        if not -(2**63) <= total < 2**63:
            raise Failed(["out-of-range"])
        self.values[name] = str(total).encode()
        return total

    def compare_and_swap(self, bucket, key, expected, new):
        name = self.name(bucket, key)
        at_most("value", len(new), VALUE_MAX)
        if self.option(name) != expected:
            return ["changed", self.option(name)]
        self.values[name] = new
        return ["done"]

    def get_many(self, bucket, keys):
        at_most("batch of keys", len(keys), BATCH_MAX)
        values = [self.get(bucket, key) for key in keys]
        at_most("batch", sum(len(value[0]) for value in values if value), BATCH_BYTES_MAX)
        return values

    def set_many(self, bucket, entries):
        at_most("batch of keys", len(entries), BATCH_MAX)
        at_most("batch", sum(len(key) + len(value) for key, value in entries), BATCH_BYTES_MAX)
        for key, value in entries:
            self.name(bucket, key)
            at_most("value", len(value), VALUE_MAX)
        for key, value in entries:
            self.set(bucket, key, value)

    def delete_many(self, bucket, keys):
        at_most("batch of keys", len(keys), BATCH_MAX)
        for name in [self.name(bucket, key) for key in keys]:
            self.values.pop(name, None)

    FUNCTIONS = {
        "get": get, "set": set, "delete": delete, "exists": exists, "list-keys": list_keys,
        "increment": increment, "compare-and-swap": compare_and_swap, "get-many": get_many,
        "set-many": set_many, "delete-many": delete_many,
    }


def result(function, *args):
    """The results of a function, as CBOR: an array of one result."""
    try:
        done = function(*args)
    except Failed as failed:
        return cbor2.dumps([["err", failed.args[0]]], canonical=True)
    return cbor2.dumps([["ok"] if done is None else ["ok", done]], canonical=True)


class Provider:
    def __init__(self, message_max):
        self.store = Store()
        self.run = secrets.token_hex(8)
        self.body_max = message_max - ENVELOPE_MAX
        self.seen = {}  # Ids of calls, and until when they are kept.
        self.kept = {}  # What goes in parts: [whose, bytes, their length, when it was used].

    def keep(self, whose, data, length):
        now = time.monotonic()
        self.kept = {id: kept for id, kept in self.kept.items() if now - kept[3] < IDLE_S}
        if sum(kept[2] for kept in self.kept.values()) + length > ALL_PARTS_MAX:
            return None
        id = secrets.token_bytes(16)
        self.kept[id] = [whose, data, length, now]
        return id

    def mine(self, whose, id):
        kept = self.kept.get(id)
        if kept is None or kept[0] != whose:
            raise Failed("unknown")
        kept[3] = time.monotonic()
        return kept

    def that_fits(self, whose, results, limit):
        if len(results) <= limit:
            return results
        id = self.keep(whose, results, len(results))
        if id is None:
            raise Refused("overloaded", "no room for an answer in parts")
        return cbor2.dumps([["err", ["in-parts", {"run": self.run, "id": id, "len": len(results)}]]])

    def open(self, whose, length):
        if length > PARTS_MAX:
            raise Failed("too-long")
        id = self.keep(whose, bytearray(), length)
        if id is None:
            raise Failed("no-room")
        return {"run": self.run, "id": id}

    def write(self, whose, id, at, part):
        kept = self.mine(whose, id)
        if at != len(kept[1]) or at + len(part) > kept[2]:
            raise Failed("misplaced")
        kept[1] += part

    def run_kept(self, whose, id, interface, function):
        kept = self.mine(whose, id)
        if len(kept[1]) != kept[2]:
            raise Failed("misplaced")
        del self.kept[id]
        results = self.call(whose, interface, function, bytes(kept[1]))
        return self.that_fits(whose, results, self.body_max - 16)

    def read(self, whose, id, at, length):
        kept = self.mine(whose, id)
        part = kept[1][at : at + min(length, self.body_max - 16)]
        if not part:
            raise Failed("misplaced")
        if at + len(part) == kept[2]:
            del self.kept[id]
        return part

    PART_FUNCTIONS = {"open": open, "write": write, "run": run_kept, "read": read}

    def call(self, whose, interface, function, args):
        """Runs a function and gives its results as CBOR."""
        try:
            args = cbor2.loads(args)
            if interface == KEY_VALUE and function in Store.FUNCTIONS:
                return result(Store.FUNCTIONS[function], self.store, *args)
            if interface == PARTS and function in self.PART_FUNCTIONS:
                return result(self.PART_FUNCTIONS[function], self, whose, *args)
        except (cbor2.CBORDecodeError, TypeError, ValueError, AttributeError) as error:
            raise Refused("refused-by-guest", f"the arguments of `{function}`: {error}") from error
        raise Refused("not-found", f"no function `{function}` of `{interface}` here")

    def is_repeat(self, id):
        now = time.monotonic()
        while self.seen and (first := next(iter(self.seen))) and self.seen[first] <= now:
            del self.seen[first]
        return self.seen.setdefault(id, now + SEEN_S) != now + SEEN_S

    def answer(self, request):
        """The reply to a request; None for a repeat, which gets none."""
        reply = {"v": 1, "id": bytes(16), "load": 0}
        try:
            try:
                request = cbor2.loads(request)
                if request["v"] != 1:
                    raise Refused("unavailable", "only version 1 is known here")
                id, interface, function = request["id"], request["if"], request["fn"]
                whose, args, left_ms = request["by"], request["args"], request["ttl"]
            except (cbor2.CBORDecodeError, KeyError, TypeError) as error:
                raise Refused("unavailable", f"this is no request: {error}") from error
            reply["id"] = id
            if self.is_repeat(id):
                return None
            if left_ms <= 0:
                raise Refused("deadline", "the request has no time left")
            results = self.call(whose, interface, function, args)
            return reply | {"ok": self.that_fits(whose, results, self.body_max)}
        except Refused as refused:
            kind, detail = refused.args
            return reply | {"err": kind, "started": False, "detail": detail}


async def main(url, lattice, names):
    stop = asyncio.Event()
    complaints = []

    async def on_error(error):
        complaints.append(error)
        print(f"NATS: {error}", file=sys.stderr)
        if "permissions violation" in str(error).lower():
            stop.set()

    inbox = "_INBOX_" + names[0].rpartition("/")[2]
    client = await nats.connect(url, error_cb=on_error, inbox_prefix=inbox.encode(), max_reconnect_attempts=-1)
    for name in names:
        provider = Provider(client.max_payload)

        async def serve(message, provider=provider):
            # A reply subject is chosen by who asks: only an inbox is answered.
            if not message.reply.startswith("_INBOX"):
                return
            reply = provider.answer(message.data)
            if reply is not None:
                await client.publish(message.reply, cbor2.dumps(reply, canonical=True))

        subject = f"weft.{lattice}.p." + name.replace("/", ".")
        await client.subscribe(subject, queue="weft", cb=serve)
        await client.subscribe(f"{subject}.{provider.run}", queue="weft", cb=serve)
    await client.flush()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print("serving", *names, flush=True)
    await stop.wait()
    # Takes no more, answers what came, and goes.
    await client.drain()
    if complaints:
        sys.exit(f"failed to serve {', '.join(names)}: {complaints[0]}; what it may do, docs/providers.md says")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
