//! `GET /v1/logs`: the last lines of the log, and those that come; of this host, of another one or of all.
//!
//! Owns whose lines are seen, and how those of several hosts become one answer. What a reader does not take in time it is
//! told the number of; a reader that has gone is known by what can't be written to it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use weft_compose::{ActorName, HostName};

use super::access::Sender;
use super::problem::{Checked, Problem};
use super::scope::{NAMESPACE, Scope};
use super::{Admin, lattice};
use crate::logs::LogRecord;
use crate::mesh::Mesh;
use crate::mesh::service::HOST_TARGET;

/// How long another host may take to begin.
const HOST_BEGINS: Duration = Duration::from_secs(5);
/// Other hosts that are read for one answer, each over a stream of its own.
const HOSTS_MAX: usize = 64;
/// The longest line of another host; it cuts guests' lines far below.
const LINE_LEN_MAX: usize = 1 << 20;
/// When nothing comes for so long, an empty line is sent between hosts: that a reader has gone shows in writing to it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(serde::Deserialize)]
pub(super) struct LogQuery {
    /// Goes on with new lines until the host drains.
    #[serde(default)]
    follow: bool,
    /// Only lines of this actor; a short name if it is unique.
    actor: Option<String>,
    /// At most so many lines of the past, of each host.
    tail: Option<usize>,
    /// Those of this host. Each line then says whose it is.
    host: Option<String>,
    /// The same of all hosts.
    #[serde(default)]
    hosts: bool,
}

/// Lines, each with its end.
type Lines = BoxStream<'static, Bytes>;

/// Lines of the log as JSON objects, one a line.
pub(super) async fn read(
    State(admin): State<Admin>,
    scope: Scope,
    sender: Sender,
    Checked(Query(query)): Checked<Query<LogQuery>>,
) -> Result<Response, Problem> {
    let wanted = Wanted {
        follow: query.follow,
        actor: query
            .actor
            .map(|actor| actor_of(&admin, &scope, &actor))
            .transpose()?,
        tail: query.tail,
        scope,
        sender: sender.as_str().into(),
    };
    let own = &admin.status.host_id;
    let lines = match (&admin.status.mesh, query.host) {
        (_, Some(host)) if host == *own => of_this(&admin, &wanted, Some(host.into())),
        (Some(mesh), Some(host)) => {
            let host = known(mesh, &host)?;
            of_other(mesh.clone(), host, wanted.clone())
        }
        (None, Some(host)) => return Err(unknown(&host)),
        (Some(mesh), None) if query.hosts => of_all(&admin, mesh, &wanted),
        (None, None) if query.hosts => of_this(&admin, &wanted, Some(own.as_str().into())),
        (_, None) => {
            let lines = of_this(&admin, &wanted, None);
            return Ok(answer(&admin, &wanted, lines));
        }
    };
    let lines = if wanted.follow { kept_alive(lines) } else { lines };
    Ok(answer(&admin, &wanted, lines))
}

fn answer(admin: &Admin, wanted: &Wanted, lines: Lines) -> Response {
    let lines = lines.map(Ok::<_, Infallible>);
    let body = if wanted.follow {
        let drain = admin.shutdown.drain.clone().cancelled_owned();
        Body::from_stream(lines.take_until(drain))
    } else {
        Body::from_stream(lines)
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// What is asked of each host.
#[derive(Clone)]
struct Wanted {
    follow: bool,
    actor: Option<ActorName>,
    tail: Option<usize>,
    scope: Scope,
    sender: Arc<str>,
}

impl Wanted {
    fn has(&self, record: &LogRecord) -> bool {
        let actor = record.actor.as_deref();
        let of = self.actor.as_ref();
        of.is_none_or(|of| actor == Some(of.as_str())) && self.scope.has_lines_of(actor)
    }

    /// The same for `host`, as a request.
    fn request(&self, host: &HostName) -> Option<Request<Body>> {
        let mut uri = format!("/v1/logs?host={host}&follow={}", self.follow);
        if let Some(actor) = &self.actor {
            uri.push_str(&format!("&actor={actor}"));
        }
        if let Some(tail) = self.tail {
            uri.push_str(&format!("&tail={tail}"));
        }
        let mut request = Request::get(uri).header("host", "localhost");
        if let Some(namespace) = self.scope.namespace() {
            request = request.header(NAMESPACE, namespace);
        }
        request.body(Body::empty()).ok()
    }
}

/// An actor by its name: in full also one that is not deployed any more.
fn actor_of(admin: &Admin, scope: &Scope, name: &str) -> Result<ActorName, Problem> {
    match name.parse::<ActorName>() {
        Ok(actor) if name.split('/').count() == 3 => {
            scope.allows(actor.namespace())?;
            Ok(actor)
        }
        _ => scope.complete("actor", name, admin.progress(scope).desired.actors.keys()),
    }
}

fn known(mesh: &Arc<Mesh>, host: &str) -> Result<HostName, Problem> {
    let members = mesh.members();
    let is_there = members.iter().any(|member| member.host.name == host);
    let name = host.parse().ok().filter(|_| is_there);
    name.ok_or_else(|| unknown(host))
}

fn unknown(host: &str) -> Problem {
    let detail = format!("there is no host `{host}`: `weft get hosts` lists those of this lattice");
    Problem::new(StatusCode::NOT_FOUND, "unknown-name", detail)
}

/// The lines of this host, which say so if it is `named`.
fn of_this(admin: &Admin, wanted: &Wanted, named: Option<Arc<str>>) -> Lines {
    let (kept, next) = admin.logs.follow();
    let kept: Vec<_> = kept.into_iter().filter(|record| wanted.has(record)).collect();
    let skipped = wanted.tail.map_or(0, |tail| kept.len().saturating_sub(tail));
    let past = stream::iter(kept.into_iter().skip(skipped).map(|record| record.json));
    let line = move |json: Arc<str>| line(&json, named.as_deref());
    if !wanted.follow {
        return past.map(line).boxed();
    }
    let coming = stream::unfold((next, wanted.clone()), |(mut next, wanted)| async move {
        loop {
            match next.recv().await {
                Ok(record) if wanted.has(&record) => return Some((record.json, (next, wanted))),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let text = format!("{missed} lines were missed: this reader is too slow");
                    return Some((warning(&text), (next, wanted)));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    past.chain(coming).map(line).boxed()
}

/// The lines of this host and of all others, each as it comes.
fn of_all(admin: &Admin, mesh: &Arc<Mesh>, wanted: &Wanted) -> Lines {
    let own: Arc<str> = admin.status.host_id.as_str().into();
    let members = mesh.members();
    let others = members.iter().filter(|member| *member.host.name != *own);
    let mut others: Vec<HostName> = others
        .filter_map(|member| member.host.name.parse().ok())
        .collect();
    others.dedup();
    let beyond = others.len().saturating_sub(HOSTS_MAX);
    others.truncate(HOSTS_MAX);
    let mut all = vec![of_this(admin, wanted, Some(own.clone()))];
    if beyond > 0 {
        let text = format!("{beyond} more hosts are not read: ask for one by its name");
        all.push(stream::iter([line(&warning(&text), Some(&own))]).boxed());
    }
    all.extend(
        others
            .into_iter()
            .map(|host| of_other(mesh.clone(), host, wanted.clone())),
    );
    stream::select_all(all).boxed()
}

/// The lines of another host. What becomes of them is a line too.
fn of_other(mesh: Arc<Mesh>, host: HostName, wanted: Wanted) -> Lines {
    let lines = async move {
        let failed = |why: String| {
            let text = format!("the log of {host} can't be read: {why}");
            stream::iter([line(&warning(&text), Some(host.as_str()))]).boxed()
        };
        let (Some(reach), Some(request)) = (mesh.host(&host).reach(), wanted.request(&host)) else {
            return failed("it can't be reached".to_owned());
        };
        let asked = lattice::pass_to(&reach, HOST_TARGET, &wanted.sender, request);
        match tokio::time::timeout(HOST_BEGINS, asked).await {
            Err(_) => failed(format!("it does not answer in {} s", HOST_BEGINS.as_secs())),
            Ok(answer) if answer.status() != StatusCode::OK => {
                failed(format!("it answers {}", answer.status()))
            }
            Ok(answer) => lines_of(answer.into_body(), host, wanted.follow),
        }
    };
    lines.flatten_stream().boxed()
}

/// A body that comes from `host`, line by line, without the empty ones.
fn lines_of(body: Body, host: HostName, follows: bool) -> Lines {
    struct Reading {
        body: Body,
        read: BytesMut,
        over: bool,
    }
    let reading = Reading {
        body,
        read: BytesMut::new(),
        over: false,
    };
    let lines = stream::unfold((reading, host), move |(mut reading, host)| async move {
        loop {
            if reading.over {
                return None;
            }
            if let Some(end) = reading.read.iter().position(|byte| *byte == b'\n') {
                let line = reading.read.split_to(end + 1).freeze();
                if line.len() > 1 {
                    return Some((line, (reading, host)));
                }
                continue;
            }
            let ended = match reading.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        reading.read.extend_from_slice(&data);
                    }
                    let too_long = reading.read.len() > LINE_LEN_MAX && !reading.read.contains(&b'\n');
                    too_long.then_some("has a line that is too long")
                }
                Some(Err(_)) => Some("broke off"),
                None if follows => Some("has ended: it drains"),
                None => return None,
            };
            if let Some(how) = ended {
                reading.over = true;
                let text = format!("the log of {host} {how}");
                let last = line(&warning(&text), Some(host.as_str()));
                return Some((last, (reading, host)));
            }
        }
    });
    lines.boxed()
}

/// With an empty line where nothing comes for a while.
fn kept_alive(lines: Lines) -> Lines {
    let lines = stream::unfold(lines, |mut lines| async move {
        match tokio::time::timeout(KEEP_ALIVE, lines.next()).await {
            Ok(line) => line.map(|line| (line, lines)),
            Err(_) => Some((Bytes::from_static(b"\n"), lines)),
        }
    });
    lines.boxed()
}

/// An object as a line, which says which host it is of.
fn line(json: &str, host: Option<&str>) -> Bytes {
    let named = host.and_then(|host| {
        let rest = json.strip_prefix('{')?;
        Some(format!("{{\"logged_by\":{},{rest}\n", Value::from(host)))
    });
    Bytes::from(named.unwrap_or_else(|| format!("{json}\n")))
}

fn warning(text: &str) -> Arc<str> {
    let timestamp = jiff::Timestamp::now().to_string();
    let line = json!({ "timestamp": timestamp, "level": "WARN", "target": "weft", "message": text });
    line.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostName {
        "h2".parse().unwrap()
    }

    #[test]
    fn a_line_says_whose_it_is_and_stays_an_object() {
        let named = line(r#"{"message":"hi","host":"h9"}"#, Some("h1"));
        let named: Value = serde_json::from_slice(&named).unwrap();
        assert_eq!(named, json!({ "logged_by": "h1", "message": "hi", "host": "h9" }));
        assert_eq!(line("{}", None), "{}\n");
    }

    #[tokio::test]
    async fn lines_of_another_host_are_whole_however_they_come_and_what_ends_them_is_one() {
        let pieces = ["{\"a\"", ":1}\n\n{\"b\":2}\n{", "\"c\":3}\n"].map(Ok::<_, Infallible>);
        let body = Body::from_stream(stream::iter(pieces));
        let lines: Vec<_> = lines_of(body, host(), false).collect().await;
        assert_eq!(lines, ["{\"a\":1}\n", "{\"b\":2}\n", "{\"c\":3}\n"]);
        let body = Body::from_stream(stream::iter(pieces));
        let lines: Vec<_> = lines_of(body, host(), true).collect().await;
        assert_eq!(lines.len(), 4);
        let last: Value = serde_json::from_slice(&lines[3]).unwrap();
        assert_eq!(last["message"], "the log of h2 has ended: it drains");
        let broken = [
            Ok(Bytes::from_static(b"{\"a\":1}\n{\"b\"")),
            Err(std::io::Error::other("gone")),
        ];
        let lines: Vec<_> = lines_of(Body::from_stream(stream::iter(broken)), host(), false)
            .collect()
            .await;
        let last: Value = serde_json::from_slice(&lines[1]).unwrap();
        assert_eq!(last["message"], "the log of h2 broke off");
        let endless = stream::repeat(Ok::<_, Infallible>(Bytes::from(vec![b'x'; 64 << 10])));
        let lines: Vec<_> = lines_of(Body::from_stream(endless), host(), true).collect().await;
        assert_eq!(lines.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nothing_comes_an_empty_line_does() {
        let begin = tokio::time::Instant::now();
        let mut lines = kept_alive(stream::pending().boxed());
        assert_eq!(lines.next().await.unwrap(), "\n");
        assert_eq!(begin.elapsed(), KEEP_ALIVE);
        assert!(kept_alive(stream::empty().boxed()).next().await.is_none());
    }
}
