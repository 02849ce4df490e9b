//! A blob store over HTTP, by `wasi:blobstore@0.2.0-draft`.
//!
//! The query names the container as `container` and the object as `name`.
//!
//! - `POST`, `GET`, `DELETE /container`: creates it, tells when it was created, deletes it.
//! - `PUT /object?order=`: writes the body. `early` (the default) says first where it goes, `late` says it after the
//!   body while its stream is open, and `whole` after the stream was dropped. With `abort=1` it is not finished.
//! - `GET /object?start=&end=`: reads; with `list=1` as one list of bytes. `HEAD`, `DELETE`, and `GET /info`.
//! - `GET /list?len=&skip=`, `POST /clear`, and `POST /copy` and `/move` with `to-container` and `to`.
//! - `POST /fill?mib=` writes bytes of its own, `GET /check?mib=` reads them, and `GET /hold` reads one object until it is
//!   refused, and tells how many reads it got.

wit_bindgen::generate!({
    world: "weft:blob/blob",
    path: ["../../wit/deps/io.wit", "../../wit/deps/blobstore.wit", "wit"],
    with: {
        "wasi:io/error@0.2.12": wasip2::io::error,
        "wasi:io/poll@0.2.12": wasip2::io::poll,
        "wasi:io/streams@0.2.12": wasip2::io::streams,
    },
    generate_all,
});

use std::io::Write as _;

use wasi::blobstore::blobstore;
use wasi::blobstore::container::Container;
use wasi::blobstore::types::{IncomingValue, ObjectId, OutgoingValue};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{IncomingRequest, Method, ResponseOutparam};
use wasip2::io::streams::{InputStream, StreamError};
use weft_guest_support::{Body, TEXT, Target, respond};

wasip2::http::proxy::export!(Blob);

struct Blob;

/// Bytes of one write of `fill`.
const FILL_LEN: usize = 64 << 10;

type Answer = Result<String, String>;

impl Guest for Blob {
    fn handle(request: IncomingRequest, response_out: ResponseOutparam) {
        let target = Target::of(&request);
        if let ("/object", Method::Get) = (target.path.as_str(), request.method()) {
            return read(&target, response_out);
        }
        match answer(&request, &target) {
            Ok(text) => respond(response_out, 200, &text),
            Err(error) => respond(response_out, 500, &error),
        }
    }
}

fn answer(request: &IncomingRequest, target: &Target) -> Answer {
    let at = |key: &str| target.text(key).unwrap_or_default();
    let (container, name) = (at("container"), at("name"));
    let open = || blobstore::get_container(&container);
    match (target.path.as_str(), request.method()) {
        ("/container", Method::Post) => blobstore::create_container(&container)?.name(),
        ("/container", Method::Delete) => blobstore::delete_container(&container).map(|()| String::new()),
        ("/container", _) => {
            if !blobstore::container_exists(&container)? {
                return Ok("none".to_owned());
            }
            let info = open()?.info()?;
            Ok(format!("{} {}", info.name, info.created_at))
        }
        ("/object", Method::Put) => write(&open()?, &name, request, target),
        ("/object", Method::Head) => Ok(open()?.has_object(&name)?.to_string()),
        ("/object", Method::Delete) => match target.text("names") {
            Some(names) => {
                let names: Vec<_> = names.split(',').map(str::to_owned).collect();
                open()?.delete_objects(&names).map(|()| String::new())
            }
            None => open()?.delete_object(&name).map(|()| String::new()),
        },
        ("/info", _) => {
            let info = open()?.object_info(&name)?;
            Ok(format!(
                "{}/{} {} {}",
                info.container, info.name, info.size, info.created_at
            ))
        }
        ("/list", _) => list(&open()?, target),
        ("/clear", _) => open()?.clear().map(|()| String::new()),
        ("/copy" | "/move", _) => {
            let to = ObjectId {
                container: at("to-container"),
                object: at("to"),
            };
            let from = ObjectId {
                container,
                object: name,
            };
            match target.path.as_str() {
                "/copy" => blobstore::copy_object(&from, &to),
                _ => blobstore::move_object(&from, &to),
            }
            .map(|()| String::new())
        }
        ("/fill", _) => fill(&open()?, &name, target.number("mib", 1)),
        ("/check", _) => check(&open()?, &name, target.number("mib", 1)),
        ("/hold", _) => {
            let container = open()?;
            let mut held = Vec::new();
            loop {
                match container.get_data(&name, 0, u64::MAX) {
                    Ok(value) => held.push(value),
                    Err(error) => return Ok(format!("{} reads, then: {error}", held.len())),
                }
            }
        }
        _ => Err("There is nothing here; see blob/src/lib.rs.".to_owned()),
    }
}

fn write(container: &Container, name: &str, request: &IncomingRequest, target: &Target) -> Answer {
    let order = target.text("order").unwrap_or_default();
    let incoming = request.consume().expect("the body of a request is taken once");
    let mut from = incoming.stream().expect("the stream of a body is taken once");
    let value = OutgoingValue::new_outgoing_value();
    let mut to = value
        .outgoing_value_write_body()
        .map_err(|()| "there is no stream".to_owned())?;
    if !matches!(order.as_str(), "late" | "whole") {
        container.write_data(name, &value)?;
    }
    std::io::copy(&mut from, &mut to).map_err(|error| error.to_string())?;
    match order.as_str() {
        "late" => {
            container.write_data(name, &value)?;
            drop(to);
        }
        "whole" => {
            drop(to);
            container.write_data(name, &value)?;
        }
        _ => drop(to),
    }
    if target.number("abort", 0) == 1 {
        return Ok("aborted".to_owned());
    }
    OutgoingValue::finish(value).map(|()| String::new())
}

fn read(target: &Target, response_out: ResponseOutparam) {
    let at = |key: &str| target.text(key).unwrap_or_default();
    let (start, end) = (target.number("start", 0), target.number("end", u64::MAX));
    let value = blobstore::get_container(&at("container"))
        .and_then(|container| container.get_data(&at("name"), start, end));
    let value = match value {
        Ok(value) => value,
        Err(error) => return respond(response_out, 404, &error),
    };
    let length = value.size().to_string();
    let headers = [
        ("content-type", TEXT.as_bytes()),
        ("content-length", length.as_bytes()),
    ];
    if target.number("list", 0) == 1 {
        return match IncomingValue::incoming_value_consume_sync(value) {
            Ok(list) => {
                let mut body = Body::start(response_out, 200, &headers);
                if body.write(&list).is_ok() {
                    body.finish(None);
                }
            }
            Err(error) => respond(response_out, 500, &error),
        };
    }
    match IncomingValue::incoming_value_consume_async(value) {
        Ok(stream) => {
            let mut body = Body::start(response_out, 200, &headers);
            let sent = each_chunk(&stream, |chunk| {
                body.write(chunk).map_err(|error| error.to_string())
            });
            if sent.is_ok() {
                body.finish(None);
            }
        }
        Err(error) => respond(response_out, 500, &error),
    }
}

fn each_chunk(stream: &InputStream, mut seen: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
    loop {
        match stream.blocking_read(FILL_LEN as u64) {
            Ok(chunk) => seen(&chunk)?,
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

/// `len` names a call, one a line; then whether the last call said that they were all.
fn list(container: &Container, target: &Target) -> Answer {
    let names = container.list_objects()?;
    let len = target.number("len", 1_000);
    let mut lines = Vec::new();
    let skip = target.number("skip", 0);
    if skip > 0 {
        let (skipped, ended) = names.skip_stream_object_names(skip)?;
        lines.push(format!("skipped {skipped} {ended}"));
    }
    loop {
        let (page, ended) = names.read_stream_object_names(len)?;
        lines.extend(page);
        if ended {
            return Ok(lines.join("\n"));
        }
    }
}

/// The byte at a place of what `fill` writes.
fn byte(place: u64) -> u8 {
    (place % 251) as u8
}

fn fill(container: &Container, name: &str, mib: u64) -> Answer {
    let value = OutgoingValue::new_outgoing_value();
    let mut stream = value
        .outgoing_value_write_body()
        .map_err(|()| "there is no stream".to_owned())?;
    container.write_data(name, &value)?;
    let mut place = 0;
    while place < mib << 20 {
        let chunk: Vec<u8> = (place..place + FILL_LEN as u64).map(byte).collect();
        stream.write_all(&chunk).map_err(|error| error.to_string())?;
        place += FILL_LEN as u64;
    }
    drop(stream);
    OutgoingValue::finish(value).map(|()| place.to_string())
}

fn check(container: &Container, name: &str, mib: u64) -> Answer {
    let value = container.get_data(name, 0, u64::MAX)?;
    let stream = IncomingValue::incoming_value_consume_async(value)?;
    let mut place = 0;
    each_chunk(&stream, |chunk| {
        for found in chunk {
            if *found != byte(place) {
                return Err(format!("byte {place} is another"));
            }
            place += 1;
        }
        Ok(())
    })?;
    if place == mib << 20 {
        Ok(place.to_string())
    } else {
        Err(format!("it has {place} bytes"))
    }
}
