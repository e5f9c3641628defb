"""A client that grpcio-tools makes from proto/: names the services, copies a book, restores the copy as a shadow, removes it.

usage: grpc_client.py HOST:PORT PROTO_FOLDER SYMBOL TOKEN
Prints one line of JSON; ends with a traceback if anything is not as the file says.
"""

import json
import pathlib
import sys
import tempfile

import grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

address, protos, symbol, token = sys.argv[1:]

with tempfile.TemporaryDirectory() as made:
    names = [str(p) for p in sorted(pathlib.Path(protos).rglob("*.proto"))]
    well_known = str(pathlib.Path(protoc.__file__).parent / "_proto")
    code = protoc.main(["", f"-I{protos}", f"-I{well_known}", f"--python_out={made}", f"--grpc_python_out={made}", *names])
    assert code == 0, "proto/ cannot be compiled"
    sys.path.insert(0, made)
    from hotbook.v1 import engine_pb2, engine_pb2_grpc

    channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 256 << 20)])
    engine = engine_pb2_grpc.OrderBookEngineStub(channel)

    # Not open to the world.
    try:
        engine.GetOrderBook(engine_pb2.GetOrderBookRequest(symbol=symbol))
        raise AssertionError("a call without a token was answered")
    except grpc.RpcError as e:
        assert e.code() == grpc.StatusCode.UNAUTHENTICATED, e

    metadata = [("authorization", f"Bearer {token}")]

    class Details(grpc.ClientCallDetails):
        def __init__(self, of):
            self.method, self.timeout, self.metadata = of.method, of.timeout, metadata
            self.credentials, self.wait_for_ready, self.compression = of.credentials, None, None

    class SignedCalls(grpc.StreamStreamClientInterceptor):
        def intercept_stream_stream(self, next_call, details, requests):
            return next_call(Details(details), requests)

    services = sorted(ProtoReflectionDescriptorDatabase(grpc.intercept_channel(channel, SignedCalls())).get_services())
    assert "hotbook.v1.OrderBookEngine" in services, services

    request = engine_pb2.SnapshotOrderBookRequest(symbol=symbol, include_data=True)
    copy = engine.SnapshotOrderBook(request, metadata=metadata)
    assert copy.bytes == len(copy.data) > 0, copy.key
    restored = engine.RestoreOrderBook(
        engine_pb2.RestoreOrderBookRequest(symbol=symbol, data=copy.data), metadata=metadata
    )
    assert restored.state_digest == copy.state_digest, (restored, copy.key)
    book = engine.GetOrderBook(engine_pb2.GetOrderBookRequest(symbol=symbol), metadata=metadata)
    assert restored.node != book.node, "a shadow on the owner"
    removed = engine.RemoveOrderBook(engine_pb2.RemoveOrderBookRequest(symbol=symbol), metadata=metadata)
    assert removed.node == restored.node, removed
    print(json.dumps({
        "services": services,
        "bytes": copy.bytes,
        "node": restored.node,
        "bids": [[level.price, level.quantity] for level in book.bids],
    }))
