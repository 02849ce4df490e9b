"""The smallest actor in Python: componentize-py makes classes of wasi:http's interfaces."""

from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingRequest,
    OutgoingBody,
    OutgoingResponse,
    ResponseOutparam,
)

TEXT = b"Hello from Python\n"


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        headers = Fields.from_list(
            [
                ("content-type", b"text/plain; charset=utf-8"),
                ("content-length", str(len(TEXT)).encode()),
            ]
        )
        response = OutgoingResponse(headers)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        # The stream has to go before its body is finished.
        with body.write() as stream:
            stream.blocking_write_and_flush(TEXT)
        OutgoingBody.finish(body, None)
