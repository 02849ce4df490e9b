//! The lattice on a real nats-server, that is killed, cut off, and asks who one is.

mod batches;
mod cluster;
mod credentials;
mod flood;
mod idle;
mod regions;
mod server;
mod stopped;
mod strangers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_lattice::envelope::FailureKind;
use weft_lattice::stream::Duplex;
use weft_lattice::transport::Transport;
use weft_lattice::transport::nats::{NatsSettings, NatsTransport, Role};

use self::server::{Mode, Proxy, Server};
use crate::artifact::{bytes, holder};
use crate::hosts::{Echo, Host, call};
use crate::transport::conforms;

const LONG: Duration = Duration::from_secs(30);

/// A call may end this much after its deadline on a machine that does much else.
const SLACK: Duration = Duration::from_secs(10);

/// `long` if `WEFT_FAULTS_LONG` is set, as `cargo xtask faults` does, else `short`.
fn long_or(long: Duration, short: Duration) -> Duration {
    match std::env::var_os("WEFT_FAULTS_LONG") {
        Some(_) => long,
        None => short,
    }
}

#[tokio::test]
async fn over_nats_it_conforms() {
    let server = Server::start("");
    conforms(&server.join("h1").await, &server.join("h2").await).await;
}

#[tokio::test]
async fn a_smaller_limit_of_the_server_is_honoured() {
    let server = Server::start("max_payload: 65536");
    let transport = server.join("h1").await;
    assert_eq!(transport.payload_len_max(), 65_536);
    let (a, b) = (
        Host::start(transport, "one", "h1").await,
        Host::start(server.join("h2").await, "one", "h2").await,
    );
    let targets = a.targets(&[&b]);
    assert_eq!(
        a.call(&targets, "large", "60000", LONG).await.unwrap().body.len(),
        60_000
    );
    let failure = a.call(&targets, "large", "70000", LONG).await.unwrap_err();
    assert!(
        failure.may_have_started && failure.detail.contains("65536"),
        "{failure}"
    );
    let failure = a.call(&targets, "echo", vec![0; 70_000], LONG).await.unwrap_err();
    assert!(
        !failure.may_have_started && failure.detail.contains("stream"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_call_takes_two_messages_and_the_first_to_a_host_four() {
    let server = Server::start("");
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let targets = a.targets(&[&b]);
    for number in 0..10 {
        let answer = a.call(&targets, "echo", number.to_string(), LONG).await.unwrap();
        assert_eq!(
            (answer.body, answer.host),
            (Bytes::from(number.to_string()), b.address.clone())
        );
    }
    assert_eq!((a.client.stats().resent, b.server.stats().asked), (1, 1));
    assert_eq!(b.server.stats().started, 10);
}

/// Each is asked for the callee's clock, and each has to send back the stamp that it was given: without one it is a
/// repeat, which gets no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_are_the_first_to_a_host_at_once_are_all_answered() {
    let server = Server::start("");
    let a = Arc::new(Host::start(server.join("h1").await, "one", "h1").await);
    for run in 0..20 {
        let b = Host::start(server.join("h2").await, "one", &format!("h2-{run}")).await;
        let targets = Arc::new(a.targets(&[&b]));
        let mut calls = JoinSet::new();
        for _ in 0..32 {
            let (a, targets) = (a.clone(), targets.clone());
            calls.spawn(async move {
                a.call(&targets, "echo", "x", LONG)
                    .await
                    .map(|answer| answer.body)
            });
        }
        while let Some(answer) = calls.join_next().await {
            assert_eq!(answer.unwrap(), Ok(Bytes::from("x")));
        }
    }
}

#[tokio::test]
async fn two_lattices_on_one_server_don_t_meet() {
    let server = Server::start("");
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(server.join("h2").await, "two", "h2").await;
    let failure = a.call(&a.targets(&[&b]), "echo", "x", LONG).await.unwrap_err();
    assert_eq!(
        (failure.kind, failure.may_have_started),
        (FailureKind::Unavailable, false)
    );
}

#[tokio::test]
async fn while_the_server_is_away_calls_are_refused_and_then_they_work_again() {
    let mut server = Server::start("");
    let transport = server.join("h1").await;
    let a = Host::start(transport.clone(), "one", "h1").await;
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let targets = a.targets(&[&b]);
    a.call(&targets, "echo", "x", LONG).await.unwrap();
    let in_flight = a.call(&targets, "sleep", "25000", LONG);
    let killed = async {
        while b.echo.executed.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.kill();
    };
    let begin = Instant::now();
    let (failure, ()) = futures::future::join(in_flight, killed).await;
    let failure = failure.unwrap_err();
    // Not at its deadline, but when the connection was lost.
    assert!(
        failure.may_have_started && failure.kind == FailureKind::Unavailable,
        "{failure}"
    );
    assert!(begin.elapsed() < Duration::from_secs(25));
    // Nothing is queued for later.
    for _ in 0..5_000 {
        let refused = a.call(&targets, "echo", "y", LONG).await.unwrap_err();
        assert!(!refused.may_have_started, "{refused}");
    }
    assert!(!transport.stats().connected && transport.stats().waiting == 0);
    server.restart();
    let mut answered = None;
    for _ in 0..600 {
        answered = a.call(&targets, "echo", "z", LONG).await.ok();
        if answered.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(answered.unwrap().body, "z");
    let bodies = b.echo.bodies.lock().unwrap();
    assert_eq!(bodies.get(&b"y"[..]), None, "what was refused was run");
    assert!(transport.stats().disconnects >= 1 && transport.stats().connects >= 2);
}

#[tokio::test]
async fn each_call_ends_by_its_deadline_when_the_line_is_cut_without_a_word() {
    let server = Server::start("");
    let proxy = Proxy::to(server.port).await;
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let far = NatsSettings::new(vec![format!("nats://{}", proxy.address)], "h2", Role::Calls);
    let b = Host::start(NatsTransport::connect(&far).await.unwrap(), "one", "h2").await;
    let targets = Arc::new(a.targets(&[&b]));
    a.call(&targets, "echo", "x", LONG).await.unwrap();
    proxy.set(Mode::Drop);
    let mut calls = JoinSet::new();
    for number in 0..100_u32 {
        let (client, targets) = (a.client.clone(), targets.clone());
        calls.spawn(async move {
            let ttl = Duration::from_millis(300 + 10 * u64::from(number));
            let call = call("echo", number.to_string().into(), ttl, None);
            let deadline = call.deadline;
            (client.call(&targets, call).await, deadline)
        });
    }
    while let Some(ended) = calls.join_next().await {
        let (outcome, deadline) = ended.unwrap();
        let failure = outcome.unwrap_err();
        assert!(
            failure.may_have_started && failure.kind == FailureKind::Deadline,
            "{failure}"
        );
        assert!(Instant::now() < deadline + SLACK);
    }
    assert!(
        a.client.is_ejected(&b.address),
        "a host that answers nothing is still chosen"
    );
    proxy.set(Mode::Pass);
    // Its client notices, connects anew, and the callee is asked whether it is back.
    for _ in 0..600 {
        if !a.client.is_ejected(&b.address) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(a.call(&targets, "echo", "y", LONG).await.unwrap().body, "y");
}

#[tokio::test]
async fn a_host_that_stands_still_is_passed_over_and_runs_nothing_expired_afterwards() {
    let server = Server::start("");
    let proxy = Proxy::to(server.port).await;
    let begin = Instant::now();
    let echo = || Echo {
        begin: Some(begin),
        ..Echo::default()
    };
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let far = NatsSettings::new(vec![format!("nats://{}", proxy.address)], "h2", Role::Calls);
    let far = NatsTransport::connect(&far).await.unwrap();
    let b = Host::start_with(far, "one", "h2", echo()).await;
    let c = Host::start_with(server.join("h3").await, "one", "h3", echo()).await;
    let targets = Arc::new(a.targets(&[&b, &c]));
    let stamped = |ttl: Duration| (begin.elapsed() + ttl).as_millis().to_string();
    for _ in 0..20 {
        a.call(&targets, "stamped", stamped(LONG), LONG).await.unwrap();
    }
    proxy.set(Mode::Hold);
    let ttl = Duration::from_millis(1_500);
    let mut unanswered = 0;
    let held = Instant::now();
    let mut calls = JoinSet::new();
    while held.elapsed() < Duration::from_secs(4) {
        let (client, targets, body) = (a.client.clone(), targets.clone(), stamped(ttl));
        calls.spawn(async move {
            client
                .call(&targets, call("stamped", body.into(), ttl, None))
                .await
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        // Long before the first of these calls has ended: it was asked, and did not answer.
        if a.client.is_ejected(&b.address) && unanswered == 0 {
            unanswered = calls.len();
        }
    }
    assert!(unanswered > 0, "it was not passed over");
    let failed = calls
        .join_all()
        .await
        .iter()
        .filter(|outcome| outcome.is_err())
        .count();
    assert!(
        failed <= unanswered,
        "{failed} calls went to it, though it was passed over after {unanswered}"
    );
    proxy.set(Mode::Pass);
    let ran = |host: &Host| host.server.stats().late + host.server.stats().started;
    let before = ran(&b);
    for _ in 0..200 {
        if ran(&b) > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(a.call(&targets, "echo", "y", LONG).await.unwrap().body, "y");
    assert_eq!(b.echo.late.load(Ordering::Relaxed), 0, "it ran what had expired");
    assert!(b.server.stats().late > 0, "nothing expired came");
}

#[tokio::test]
async fn a_host_that_drains_under_load_loses_no_call() {
    let server = Server::start("");
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let c = Host::start(server.join("h3").await, "one", "h3").await;
    let targets = Arc::new(a.targets(&[&b, &c]));
    let mut callers = JoinSet::new();
    let stop = tokio_util::sync::CancellationToken::new();
    for caller in 0..32 {
        let (client, targets, stop) = (a.client.clone(), targets.clone(), stop.clone());
        callers.spawn(async move {
            let mut made = 0_u32;
            while !stop.is_cancelled() {
                let body = format!("{}", 5 + caller % 7);
                client
                    .call(&targets, call("sleep", body.into(), LONG, None))
                    .await
                    .unwrap();
                made += 1;
            }
            made
        });
    }
    while b.echo.executed.load(Ordering::Relaxed) < 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(b.server.drain(LONG).await);
    // One that has not heard of it is told, and that its call did not start.
    let d = Host::start(server.join("h4").await, "one", "h4").await;
    let refused = d.call(&d.targets(&[&b]), "echo", "x", LONG).await.unwrap_err();
    assert!(
        !refused.may_have_started && refused.detail.contains("drains"),
        "{refused}"
    );
    let at_the_end = b.echo.executed.load(Ordering::Relaxed);
    drop(b.served);
    let of_c = c.echo.executed.load(Ordering::Relaxed);
    while c.echo.executed.load(Ordering::Relaxed) < of_c + 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    let made: u32 = callers.join_all().await.into_iter().sum();
    let executed = b.echo.executed.load(Ordering::Relaxed) + c.echo.executed.load(Ordering::Relaxed);
    assert_eq!(
        (made, b.echo.executed.load(Ordering::Relaxed)),
        (executed, at_the_end)
    );
}

#[tokio::test]
async fn a_caller_that_goes_frees_the_callee() {
    let server = Server::start("");
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let targets = a.targets(&[&b]);
    a.call(&targets, "echo", "x", LONG).await.unwrap();
    let gives_up = tokio::time::timeout(
        Duration::from_millis(300),
        a.call(&targets, "sleep", "60000", LONG * 4),
    );
    assert!(gives_up.await.is_err());
    while b.server.stats().running > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(b.server.stats().cancelled, 1);
}

#[tokio::test]
async fn what_is_too_long_for_a_message_goes_as_a_stream_both_ways_at_once() {
    let server = Server::start("");
    let a = Host::start(server.join("h1").await, "one", "h1").await;
    let b = Host::start(server.join("h2").await, "one", "h2").await;
    let targets = a.targets(&[&b]);
    let (
        Duplex {
            mut reader,
            mut writer,
        },
        binder,
    ) = a.streams.prepare().unwrap();
    // Another stream, whose reader never reads, is not in the way.
    let (stalled, stalled_binder) = a.streams.prepare().unwrap();
    let stalls = a
        .client
        .call(&targets, call("copy", Bytes::new(), LONG, Some(stalled_binder)));
    let Duplex {
        reader: _unread,
        writer: mut fills,
    } = stalled;
    let fill = async {
        loop {
            fills.write(Bytes::from_static(&[0; 10_000])).await.unwrap();
        }
    };
    const LEN: usize = 20 << 20;
    let copied = a
        .client
        .call(&targets, call("copy", Bytes::new(), LONG * 4, Some(binder)));
    let write = async {
        let chunk = Bytes::from((0..=255).cycle().take(100_000).collect::<Vec<u8>>());
        let mut left = LEN;
        while left > 0 {
            let part = chunk.slice(..chunk.len().min(left));
            left -= part.len();
            writer.write(part).await.unwrap();
        }
        writer.finish().await.unwrap();
    };
    let read = async {
        let mut len = 0;
        while let Some(data) = reader.read().await.unwrap() {
            for byte in data {
                assert_eq!(usize::from(byte), len % 100_000 % 256);
                len += 1;
            }
        }
        len
    };
    let work = futures::future::join3(copied, write, read);
    let (answer, (), len) = tokio::select! {
        done = work => done,
        _ = stalls => panic!("it can't end"),
        () = fill => panic!("it can't be written"),
    };
    assert_eq!((answer.unwrap().body, len), (Bytes::from(LEN.to_string()), LEN));
}

#[tokio::test]
async fn an_artifact_comes_over_nats_and_from_the_next_holder_when_the_first_is_cut_off() {
    let server = Server::start("");
    let proxy = Proxy::to(server.port).await;
    let far = NatsSettings::new(vec![format!("nats://{}", proxy.address)], "h1", Role::Bulk);
    let far = holder(NatsTransport::connect(&far).await.unwrap(), "h1").await;
    let near = holder(server.join("h2").await, "h2").await;
    let host = holder(server.join("h3").await, "h3").await;
    let whole = bytes(20_000_000);
    let digest = near.store.put(whole.clone());
    far.store.put(whole.clone());
    let (cut, mode) = (Arc::new(proxy), Mode::Drop);
    let proxy = cut.clone();
    far.store.on_read(move |number| {
        if number == 30 {
            cut.set(mode);
        }
    });
    let sources = [far.address.clone(), near.address.clone()];
    host.artifacts.fetch(digest, &sources).await.unwrap();
    assert_eq!(host.store.get(digest).unwrap(), whole);
    assert!(far.store.reads() >= 30 && near.store.reads() > 0);
    proxy.set(Mode::Pass);

    let fourth = holder(server.join("h4").await, "h4").await;
    host.artifacts.replicate(digest, &fourth.address).await.unwrap();
    assert_eq!(fourth.store.get(digest).unwrap(), whole);
}
