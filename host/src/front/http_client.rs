//! `wasi:http/outgoing-handler`: every request is denied until an actor is allowed to make it.

use http::{HeaderName, Request, Response};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Bytes of one write to a response's body. A guest asks how much it may write, and writes again.
const CHUNK_LEN_MAX: usize = 64 << 10;
/// Writes that wait for the client, so that a stream keeps flowing while one chunk is on its way.
const CHUNKS_BUFFERED: usize = 4;

type SendFuture = Box<
    dyn Future<
            Output = Result<
                (
                    Response<WasiBody>,
                    Box<dyn Future<Output = Result<(), Error>> + Send>,
                ),
                Error,
            >,
        > + Send,
>;

/// How `wasi:http` behaves for one instance.
#[derive(Debug, Default)]
pub struct HttpHooks;

impl WasiHttpHooks for HttpHooks {
    // The default makes a closure on the heap for each header.
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS.contains(name)
    }

    fn send_request(
        &mut self,
        _request: Request<WasiBody>,
        _options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> SendFuture {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        CHUNKS_BUFFERED
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_LEN_MAX
    }
}
