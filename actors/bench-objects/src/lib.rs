//! Reads a large object inside one invocation, and tells how long that took: `cargo xtask bench` calls it.

wit_bindgen::generate!({
    world: "weft:bench/bench",
    path: ["../../wit/deps/io.wit", "../../wit/deps/blobstore.wit", "wit"],
    with: {
        "wasi:io/error@0.2.12": wasip2::io::error,
        "wasi:io/poll@0.2.12": wasip2::io::poll,
        "wasi:io/streams@0.2.12": wasip2::io::streams,
    },
    generate_all,
});

use std::io::Write as _;
use std::time::Instant;

use exports::weft::bench::measure::Guest;
use wasi::blobstore::blobstore;
use wasi::blobstore::types::{IncomingValue, OutgoingValue};
use wasip2::io::streams::StreamError;

struct Bench;

export!(Bench);

const CONTAINER: &str = "objects";
const OBJECT: &str = "large";
/// Bytes of one read or write, as a guest's own buffer mostly has.
const PIECE_LEN: usize = 64 << 10;

impl Guest for Bench {
    fn fill(mib: u32) -> u32 {
        let container = blobstore::create_container(CONTAINER).expect("the store is empty");
        let value = OutgoingValue::new_outgoing_value();
        let mut body = value.outgoing_value_write_body().expect("a value has a stream");
        container
            .write_data(OBJECT, &value)
            .expect("the container is there");
        for _ in 0..u64::from(mib) * 16 {
            body.write_all(&[7; PIECE_LEN]).expect("the store takes bytes");
        }
        drop(body);
        OutgoingValue::finish(value).expect("the store takes an object");
        mib
    }

    fn read(mib: u32) -> u64 {
        let start = Instant::now();
        let container = blobstore::get_container(CONTAINER).expect("the container is there");
        let value = container
            .get_data(OBJECT, 0, u64::MAX)
            .expect("the object is there");
        let body = IncomingValue::incoming_value_consume_async(value).expect("a value has a stream");
        let mut len = 0;
        loop {
            match body.blocking_read(PIECE_LEN as u64) {
                Ok(piece) => len += piece.len() as u64,
                Err(StreamError::Closed) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(len, u64::from(mib) << 20);
        u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
