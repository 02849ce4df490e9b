"""An actor in Python with what components of wasmCloud 1.x import, unchanged: stores, objects, secrets, messages, Postgres.

`GET /` uses each of them once and answers a line for each; `GET /heard` answers the last message that it handled.
"""

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports import (
    atomics,
    blobstore,
    consumer,
    lattice,
    query,
    reveal,
    wasi_keyvalue_store as store,
    wasmcloud_secrets_store as secrets,
)
from wit_world.imports.wasi_blobstore_types import IncomingValue, OutgoingValue
from wit_world.imports.wasi_http_types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)
from wit_world.imports.wasmcloud_messaging_types import BrokerMessage
from wit_world.imports.wasmcloud_postgres_types import PgValue_Int4


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        try:
            text = heard() if request.path_with_query() == "/heard" else everything()
        except Err as error:
            text = f"error: {error.value}"
        answer(response_out, text.encode())


class Handler(exports.Handler):
    def handle_message(self, msg: BrokerMessage) -> None:
        store.open("foreign").set("heard", msg.body)


def everything() -> str:
    return "\n".join(
        [
            f"key-value: {keys()}",
            f"blob-store: {objects()}",
            f"secrets: {secret()}",
            f"messaging: {say()}",
            f"postgres: {table()}",
            f"links: {links()}",
        ]
    )


def heard() -> str:
    return (store.open("foreign").get("heard") or b"nothing").decode()


def keys() -> str:
    bucket = store.open("foreign")
    bucket.set("word", b"kept")
    atomics.increment(bucket, "count", 2)
    return f"{bucket.get('word').decode()} {atomics.increment(bucket, 'count', 1)} {bucket.get('none')}"


def objects() -> str:
    if blobstore.container_exists("foreign"):
        container = blobstore.get_container("foreign")
    else:
        container = blobstore.create_container("foreign")
    value = OutgoingValue.new_outgoing_value()
    container.write_data("object", value)
    # The stream has to go before the value is finished.
    with value.outgoing_value_write_body() as stream:
        stream.blocking_write_and_flush(b"an object")
    OutgoingValue.finish(value)
    return IncomingValue.incoming_value_consume_sync(container.get_data("object", 3, 100)).decode()


def secret() -> str:
    return reveal.reveal(secrets.get("api-key")).value


def say() -> str:
    consumer.publish(BrokerMessage("foreign", b"said in Python", None))
    return "said"


def table() -> str:
    [[entry]] = query.query("SELECT $1::int4 + 1 AS n", [PgValue_Int4(6)])
    return f"{entry.column_name} {entry.value.value}"


def links() -> str:
    lattice.set_link_name("other", [lattice.CallTargetInterface("wasi", "keyvalue", "store")])
    return str(store.open("foreign").get("word"))


def answer(response_out: ResponseOutparam, text: bytes) -> None:
    headers = Fields.from_list(
        [("content-type", b"text/plain; charset=utf-8"), ("content-length", str(len(text)).encode())]
    )
    response = OutgoingResponse(headers)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        stream.blocking_write_and_flush(text)
    OutgoingBody.finish(body, None)
