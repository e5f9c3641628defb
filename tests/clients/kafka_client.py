"""Another program's way into the exchange: orders put on Kafka by Python's confluent-kafka, fills read from there.

    kafka_client.py BROKERS PARTITIONS trade|misplaced|poison|outside

Prints one line of JSON, or fails with what was not as it must be.
"""

import json
import os
import sys
import time
import zlib

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

BROKERS, PARTITIONS, VERB = sys.argv[1], int(sys.argv[2]), sys.argv[3]
SYMBOLS = ["AAA", "BBB", "CCC"]
WITHIN_S = 60


def murmur2(data):
    """As in Apache Kafka's Utils.java, written anew from its description."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    for i in range(0, len(data) - len(data) % 4, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    rest = data[len(data) - len(data) % 4 :]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def right_partition(symbol):
    return (murmur2(symbol.encode()) & 0x7FFFFFFF) % PARTITIONS


class Outbox:
    """A producer that tells where each record lies."""

    def __init__(self, **settings):
        self.at = {}
        self.producer = Producer({"bootstrap.servers": BROKERS, "enable.idempotence": True, **settings})

    def put(self, name, value, key, partition=None):
        def delivered(error, message):
            assert error is None, error
            self.at[name] = (message.partition(), message.offset())

        where = {} if partition is None else {"partition": partition}
        self.producer.produce("orders", value, key, on_delivery=delivered, **where)

    def flush(self):
        assert self.producer.flush(WITHIN_S) == 0, "brokers do not acknowledge"


def read(topic, enough, partitions=None):
    """Reads a topic from its beginning until `enough` says so of all that was read."""
    consumer = Consumer({"bootstrap.servers": BROKERS, "group.id": "python", "enable.auto.commit": False})
    count = partitions or len(consumer.list_topics(topic).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(count)])
    found, until = [], time.monotonic() + WITHIN_S
    while not enough(found):
        assert time.monotonic() < until, f"{topic} has {len(found)} records after {WITHIN_S} s, and more were to come"
        message = consumer.poll(0.2)
        if message is not None:
            assert message.error() is None, message.error()
            found.append(message)
    consumer.close()
    return found


def minor(action, symbol, order_id, user_id, is_buy, price, quantity):
    """The shape with `is_buy`: prices in minor units."""
    return json.dumps({"action": action, "symbol": symbol, "order_id": order_id, "user_id": user_id, "is_buy": is_buy,
                       "price": price, "quantity": quantity, "timestamp": int(time.time())})


def decimal(symbol, order_id, user_id, side, price, quantity):
    """The shape with `side`: decimal prices, here as text so that Python's floats have no say."""
    return json.dumps({"order_id": order_id, "user_id": user_id, "symbol": symbol, "side": side, "order_type": "LIMIT",
                       "price": price, "quantity": quantity})


def pair(outbox, name, symbol, cents, quantity):
    """A sell in one shape and a buy in the other, at one price: a trade."""
    outbox.put(f"{name}-s", minor("ADD", symbol, f"{name}-s", "seller", False, cents, quantity), symbol)
    price = f"{cents // 100}.{cents % 100:02}"
    outbox.put(f"{name}-b", decimal(symbol, f"{name}-b", "buyer", "BUY", price, quantity), symbol)


def fills_of(names):
    """The fills of pairs, by name."""
    def by_name(messages):
        fills = (json.loads(m.value()) for m in messages)
        return {f["buyer"]["order_id"][:-2]: f for f in fills if f["buyer"]["order_id"][:-2] in names}

    return by_name(read("fills", lambda found: len(by_name(found)) == len(names), PARTITIONS))


def trade():
    outbox, wanted = Outbox(partitioner="murmur2_random"), {}
    for n in range(300):
        name, symbol = f"t{n}", SYMBOLS[n % 3]
        wanted[name] = (symbol, 10_000 + n, 1 + n % 9)
        pair(outbox, name, *wanted[name])
    # An order that is changed and taken back, in the first shape: it trades with nobody.
    outbox.put("add", minor("ADD", "AAA", "changed", "seller", True, 1, 5), "AAA")
    for action in ["REPLACE", "CANCEL"]:
        change = {"action": action, "symbol": "AAA", "order_id": "changed", "user_id": "seller"}
        outbox.put(action, json.dumps(change | ({"price": 2} if action == "REPLACE" else {})), "AAA")
    outbox.flush()
    for name, (partition, _) in outbox.at.items():
        symbol = wanted[name[:-2]][0] if name[:-2] in wanted else "AAA"
        assert partition == right_partition(symbol), f"{symbol} went to {partition}"
    fills = fills_of(wanted)
    for name, (symbol, cents, quantity) in wanted.items():
        fill = fills[name]
        told = (fill["symbol"], round(fill["price"] * 100), fill["quantity"], fill["seller"], fill["buyer"])
        sides = [{"order_id": f"{name}-{side}", "user_id": user} for side, user in (("s", "seller"), ("b", "buyer"))]
        assert told == (symbol, cents, quantity, *sides), f"{fill}, not {wanted[name]}"
        assert fill["trade_id"] == f"{symbol}-{fill['seq']}", fill
    for symbol in SYMBOLS:
        chain = sorted((f["seq"], f["prev_seq"]) for f in fills.values() if f["symbol"] == symbol)
        assert all(before[0] == after[1] for before, after in zip(chain, chain[1:])), f"{symbol} has a gap"
    ends = {}
    def ended(messages):
        for m in messages:
            for order in json.loads(m.value())["orders"]:
                ends[order["order_id"]] = order["status"]
        return ends.get("changed") == "CANCELED"
    read("order_status", ended, PARTITIONS)
    return {"fills": len(fills)}


def letters(at):
    """Dead letters by the names of the records that they are of."""
    names = {f"{partition}:{offset}": name for name, (partition, offset) in at.items()}

    def by_name(messages):
        return {names[m.key().decode()]: json.loads(m.value()) for m in messages if m.key().decode() in names}

    return lambda count: by_name(read("orders-dead-letter", lambda found: len(by_name(found)) == count, 1))


def misplaced():
    # CRC32 of the key, librdkafka's own way.
    outbox, wanted = Outbox(partitioner="consistent"), {}
    names = [(f"m{n}", SYMBOLS[n % 3]) for n in range(60)]
    for n, (name, symbol) in enumerate(names):
        wanted[name] = (symbol, 20_000 + n, 1)
        pair(outbox, name, *wanted[name])
    outbox.flush()
    is_right = {s: zlib.crc32(s.encode()) % PARTITIONS == right_partition(s) for s in SYMBOLS}
    assert not all(is_right.values()), "the two ways agree on every symbol: choose others"
    dead = {f"{name}-{side}" for name, symbol in names if not is_right[symbol] for side in "sb"}
    found = letters({name: outbox.at[name] for name in dead})(len(dead))
    assert {letter["code"] for letter in found.values()} == {"wrong_partition"}, found
    right = {name for name, symbol in names if is_right[symbol]}
    fills_of(right)
    return {"dead_letters": len(found), "fills": len(right)}


def poison():
    outbox, symbol = Outbox(partitioner="murmur2_random"), "AAA"
    here = right_partition(symbol)
    elsewhere = (here + 1) % PARTITIONS
    # What the exchange itself wrote: a HALT that was good once. MessagePack says its action in plain text.
    halts = read("orders", lambda found: any(b"\xa4HALT" in (m.value() or b"") for m in found), PARTITIONS)
    halt = next(m for m in halts if b"\xa4HALT" in (m.value() or b""))
    assert (halt.partition(), halt.key()) == (here, symbol.encode())
    forged = bytearray(halt.value())
    forged[-1] ^= 1
    good = minor("ADD", symbol, "x", "x", True, 1, 1)
    kinds = {
        "nothing": (None, symbol, here, "malformed"),
        "noise": (os.urandom(300), symbol, here, "malformed"),
        "a lot of noise": (b"\xc1" + os.urandom(900_000), symbol, here, "malformed"),
        "cut short": (good[:-9], symbol, here, "malformed"),
        "another shape": ("[1,2,3]", symbol, here, "malformed"),
        "deep": ("{" + '"symbol":' + "[" * 100_000, symbol, here, "malformed"),
        "a field too many": (good.replace('"action"', '"leverage": 50, "action"'), symbol, here, "malformed"),
        "unknown action": (good.replace("ADD", "GIVE"), symbol, here, "unknown_action"),
        "no user": (json.dumps({"action": "CANCEL", "symbol": symbol, "order_id": "x"}), symbol, here, "missing_field"),
        "too precise": (decimal(symbol, "x", "x", "BUY", "1.001", 1), symbol, here, "invalid_field"),
        "not a number": (decimal(symbol, "x", "x", "BUY", "NaN", 1), symbol, here, "invalid_field"),
        "a halt as json": (json.dumps({"action": "HALT", "symbol": symbol, "order_id": "x", "user_id": "x"}), symbol,
                           here, "unknown_action"),
        "another's key": (good, "BBB", right_partition("BBB"), "key_mismatch"),
        "no key": (good, None, here, "key_mismatch"),
        "wrong partition": (good, symbol, elsewhere, "wrong_partition"),
        "not listed": (good.replace(symbol, "ZZZ"), "ZZZ", right_partition("ZZZ"), "unknown_symbol"),
        "forged halt": (bytes(forged), symbol, here, "forged"),
        "halt played again": (halt.value(), symbol, here, "void"),
        "halt played elsewhere": (halt.value(), symbol, elsewhere, "forged"),
    }
    for n, (kind, (value, key, partition, _)) in enumerate(kinds.items()):
        outbox.put(kind, value, key, partition)
        pair(outbox, f"p{n}", symbol, 30_000 + n, 2)
    outbox.flush()
    found = letters({kind: outbox.at[kind] for kind in kinds})(len(kinds))
    told = {kind: letter["code"] for kind, letter in found.items()}
    assert told == {kind: code for kind, (_, _, _, code) in kinds.items()}, told
    fills = fills_of({f"p{n}" for n in range(len(kinds))})
    return {"dead_letters": told, "fills": len(fills)}


def outside():
    """Tries to trade in GATE, which takes orders from gateways only, with `held`, which rests there."""
    outbox, symbol = Outbox(partitioner="murmur2_random"), "GATE"
    here = right_partition(symbol)

    def of_gateways(messages):
        return [m for m in messages if m.key() == symbol.encode() and b"\xa3mac" in m.value() and b"\xa3ADD" in m.value()]

    signed = of_gateways(read("orders", of_gateways, PARTITIONS))[0].value()
    changed = bytearray(signed)
    changed[len(changed) // 2] ^= 1
    for name, value in {
        "minor": minor("ADD", symbol, "m", "mallory", True, 10_000, 1),
        "decimal": decimal(symbol, "d", "mallory", "BUY", "100.00", 1),
        "replace": json.dumps({"action": "REPLACE", "symbol": symbol, "order_id": "held", "user_id": "seller", "price": 1}),
        "copied": signed,
    }.items():
        outbox.put(name, value, symbol)
    outbox.put("changed", bytes(changed), symbol, here)
    outbox.put("elsewhere", signed, symbol, (here + 1) % PARTITIONS)
    outbox.flush()
    forged = {name: outbox.at[name] for name in ["changed", "elsewhere"]}
    found = letters(forged)(len(forged))
    assert {letter["code"] for letter in found.values()} == {"forged"}, found
    return {"dead_letters": len(found)}


print(json.dumps({"trade": trade, "misplaced": misplaced, "poison": poison, "outside": outside}[VERB]()))
