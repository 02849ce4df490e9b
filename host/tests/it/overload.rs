//! More calls than an actor, an app or the pool has places for, and callers that leave.
//!
//! How fast is measured by `cargo xtask soak`; here is who is served, who is refused, and that all is as before at the
//! end.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::Value;

use crate::support::guests::{CALLEE, CALLER, FAULT, HELLO};
use crate::support::{AppFile, Weft, empty, guest, http1, over_unix, request, wait_until};

fn component(name: &str) -> String {
    guest(name).display().to_string()
}

/// What the host tells of an actor or an app.
fn told(weft: &Weft, of: &str, name: &str) -> Value {
    let path = weft.data.path().join("admin.sock");
    let all: Value = serde_json::from_str(&over_unix(&path, &format!("/v1/{of}?name={name}"))).unwrap();
    all[of][0].clone()
}

async fn wait_for(weft: &Weft, actor: &str, running: u64, waiting: u64) {
    wait_until(
        &format!("{running} calls of {actor} run and {waiting} wait"),
        || {
            let actor = told(weft, "actors", actor);
            actor["running"] == running && actor["waiting"] == waiting
        },
    )
    .await;
}

/// An actor that is called from outside and calls `callee`.
fn calls(caller_limits: &str, callee_limits: &str) -> AppFile {
    let (caller, callee) = (component(CALLER), component(CALLEE));
    AppFile::new(&format!(
        "
apiVersion: weft/v1
name: calls
actors:
  caller:
    component: {caller}
    limits: {{ {caller_limits} }}
    links:
      test:call: {{ actor: callee }}
  callee:
    component: {callee}
    limits: {{ {callee_limits} }}
    links:
      test:call/echo: {{ actor: callee }}
routes:
  - actor: caller
"
    ))
}

/// Sends a request and leaves once `until` is so.
async fn leave(weft: &Weft, path: &str, until: impl Future<Output = ()>) {
    let mut connection = http1(weft.http).await;
    let request = request("GET", path).body(empty()).unwrap();
    let mut until = std::pin::pin!(until);
    {
        let mut answer = std::pin::pin!(connection.sender.send_request(request));
        // The request is driven for as long as it takes to arrive.
        if let futures::future::Either::Left((answer, _)) =
            futures::future::select(&mut answer, &mut until).await
        {
            panic!("it was answered: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_places_of_the_whole_chain_and_those_behind_it_go_on() {
    let weft = Weft::app(&calls("", "concurrency: 1, queueWait: 60s"), &[]);
    let first = leave(&weft, "/wait?ms=60000", async {
        wait_for(&weft, "callee", 1, 1).await;
    });
    let second = async {
        wait_for(&weft, "callee", 1, 0).await;
        weft.get("/wait?ms=1").await
    };
    let ((), second) = tokio::join!(first, second);
    assert_eq!(second.status, 200);
    weft.wait_until_idle().await;
    for actor in ["caller", "callee"] {
        wait_for(&weft, actor, 0, 0).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_its_call_waits_frees_the_seat() {
    let weft = Weft::app(&calls("", "concurrency: 1, queueWait: 60s"), &[]);
    let running = leave(&weft, "/wait?ms=60000", async {
        wait_for(&weft, "callee", 1, 0).await;
        // One waits behind it, and leaves before it.
        leave(&weft, "/wait?ms=1", wait_for(&weft, "callee", 1, 1)).await;
        wait_for(&weft, "callee", 1, 0).await;
        wait_for(&weft, "caller", 1, 0).await;
    });
    running.await;
    weft.wait_until_idle().await;
}

#[tokio::test]
async fn a_caller_whose_time_is_up_frees_its_callees_place_or_seat() {
    let weft = Weft::app(
        &calls("timeout: 300ms", "concurrency: 1, queue: 4, queueWait: 60s"),
        &[],
    );
    let late = join_all((0..3).map(|_| weft.get("/wait?ms=60000")));
    for reply in late.await {
        assert_eq!(reply.problem(), (504, "deadline".to_owned()));
    }
    wait_for(&weft, "callee", 0, 0).await;
    assert_eq!(weft.get("/wait?ms=1").await.status, 200);
}

#[tokio::test]
async fn a_flood_is_served_as_far_as_there_are_places_the_rest_is_refused_and_all_is_as_before() {
    const CLIENTS: usize = 40;
    let weft = Weft::start(
        &[FAULT, HELLO],
        &["--concurrency", "10", "--queue", "10", "--queue-wait", "100ms"],
    );
    let (served, refused) = (Cell::new(0), Cell::new(0));
    let until = Instant::now() + Duration::from_secs(2);
    let client = async || {
        let mut connection = http1(weft.http).await;
        // The time bounds the flood; what is asserted does not hang on it.
        while Instant::now() < until || refused.get() == 0 {
            let request = request("GET", "/fault/sleep?ms=20").body(empty()).unwrap();
            let response = connection.sender.send_request(request).await.unwrap();
            match crate::support::Reply::read(response).await {
                reply if reply.status == 200 => served.set(served.get() + 1),
                reply => {
                    assert_eq!(reply.problem(), (503, "overloaded".to_owned()));
                    assert_eq!(reply.header("retry-after"), "1");
                    refused.set(refused.get() + 1);
                }
            }
        }
    };
    let beside = async {
        for _ in 0..50 {
            assert_eq!(weft.get("/hello/plain").await.status, 200);
        }
    };
    tokio::join!(join_all((0..CLIENTS).map(|_| client())), beside);
    assert!(served.get() >= 10 && refused.get() > 0, "{served:?} {refused:?}");
    weft.wait_until_idle().await;
    let (actor, app) = (told(&weft, "actors", "fault"), told(&weft, "apps", "fault"));
    assert_eq!((&actor["running"], &actor["waiting"]), (&0.into(), &0.into()));
    assert_eq!(app["used"], 0);
    assert_eq!(weft.get("/fault/sleep?ms=1").await.status, 200);
}

#[tokio::test]
async fn an_app_gets_the_places_that_it_reserved_while_another_takes_all_it_can() {
    let (fault, hello) = (component(FAULT), component(HELLO));
    let app = |name: &str, reserve: &str, guest: &str| {
        AppFile::new(&format!(
            "apiVersion: weft/v1\nname: {name}\n{reserve}actors:\n  only:\n    component: {guest}\n\
             \x20   limits: {{ queueWait: 60s }}\nroutes:\n  - {{ actor: only, path: /{name}, stripPrefix: true }}\n"
        ))
    };
    let (greedy, modest) = (app("greedy", "", &fault), app("modest", "reserve: 2\n", &hello));
    let data = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let weft = Weft::up(&[greedy.path(), modest.path()], &["--instances", "10"], &[], data);
    assert_eq!(told(&weft, "apps", "modest")["reserved"], 2);
    let flood = join_all((0..8).map(|_| weft.get("/greedy/sleep?ms=60000")));
    let beside = async {
        // Five of seven: two are kept.
        wait_for(&weft, "greedy/only", 5, 3).await;
        weft.get("/modest/plain").await
    };
    match futures::future::select(std::pin::pin!(flood), std::pin::pin!(beside)).await {
        futures::future::Either::Left(_) => panic!("the flood was answered"),
        // All of the flood leave at once, those that run and those that wait.
        futures::future::Either::Right((beside, _)) => assert_eq!(beside.status, 200),
    }
    wait_for(&weft, "greedy/only", 0, 0).await;
}

#[tokio::test]
async fn a_reservation_that_does_not_fit_is_cut_and_told() {
    let hello = component(HELLO);
    let app = AppFile::new(&format!(
        "apiVersion: weft/v1\nname: large\nreserve: 1000\nactors:\n  only: {{ component: {hello} }}\nroutes:\n  - actor: only\n"
    ));
    let weft = Weft::app(&app, &["--instances", "10"]);
    weft.wait_for_log("fewer places are reserved than asked for")
        .await;
    let told = told(&weft, "apps", "large");
    assert_eq!((&told["reserve"], &told["reserved"]), (&1_000.into(), &7.into()));
    assert_eq!(weft.get("/plain").await.status, 200);
}
