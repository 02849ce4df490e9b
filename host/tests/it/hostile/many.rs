//! Many hostile invocations at once: together they take no more than their actor's share.

use futures::future::join_all;

use super::{Arena, ended};
use crate::support::guests::{HELLO, HOSTILE};
use crate::support::{AppFile, Weft, guest};

const CROWD: usize = 64;

#[tokio::test]
async fn sixty_four_busy_loops_leave_time_for_another_actor_that_computes_and_for_one_that_does_not() {
    let arena = Arena::open().await;
    let attack = async {
        let replies = join_all((0..CROWD).map(|_| arena.weft.get("/hostile/loop"))).await;
        for reply in replies {
            let (status, code) = reply.problem();
            // Their time is over before they have had all of their processor time, if the machine is slow.
            assert!(
                (status, code.as_str()) == (500, "cpu") || code == "deadline",
                "{status} {code}"
            );
        }
    };
    arena.beside(attack).await;
}

#[tokio::test]
async fn many_callers_cannot_make_one_actor_fill_the_log() {
    let arena = Arena::open().await;
    let attack = async {
        for _ in 0..4 {
            for reply in join_all((0..16).map(|_| arena.weft.get("/hostile/log-flood?n=20000"))).await {
                // A slow machine's processor time is over before the flood.
                assert!(
                    reply.status == 200 || reply.problem() == ended(500, "cpu"),
                    "{}",
                    reply.text()
                );
            }
        }
    };
    arena.beside(attack).await;
    arena
        .weft
        .wait_for_log("log cut: this actor wrote more than")
        .await;
}

#[tokio::test]
async fn a_crowd_that_holds_a_small_pool_is_shed_and_gives_all_of_it_back() {
    let arena = Arena::with("", &["--instances", "32"]).await;
    let crowd = async {
        let paths = ["/calls-deep", "/loop", "/handles", "/recursion", "/nothing"];
        let attack = async |path: &str| arena.weft.get(&format!("/hostile{path}")).await;
        let attacks = (0..CROWD).map(|at| attack(paths[at % paths.len()]));
        for reply in join_all(attacks).await {
            assert!(reply.status >= 500, "{}", reply.text());
        }
    };
    crowd.await;
    arena.is_as_before().await;
    assert_eq!(
        arena.attack("/calls-deep?n=20").await.text(),
        "20\n",
        "the pool lost slots"
    );
}

#[tokio::test]
async fn a_circle_of_two_actors_is_stopped_at_the_bound_of_a_chain() {
    let (hostile, hello) = (
        guest(HOSTILE).display().to_string(),
        guest(HELLO).display().to_string(),
    );
    let actor = |name: &str, other: &str| {
        format!(
            "  {name}:\n    component: {hostile}\n    links: {{ test:hostile: {{ actor: {other} }}, wasi:keyvalue: {{ provider: values }}, weft:sql: {{ provider: database }} }}\n"
        )
    };
    let app = AppFile::new(&format!(
        "
apiVersion: weft/v1
name: circle
actors:
{}{}  hello:
    component: {hello}
providers:
  values: {{ capability: key-value, backend: memory }}
  database: {{ capability: sql, backend: sqlite }}
routes:
  - {{ actor: one, path: /one, stripPrefix: true }}
  - {{ actor: hello, path: /hello, stripPrefix: true }}
",
        actor("one", "two"),
        actor("two", "one")
    ));
    let weft = Weft::app(&app, &["--instances", "64"]);
    for _ in 0..3 {
        let circles = join_all((0..8).map(|_| weft.get("/one/cycle")));
        let others = async {
            for _ in 0..20 {
                // In a pool that the circles may fill, others are shed; they are never kept waiting.
                let reply = weft.get("/hello/plain").await;
                assert!(
                    reply.status == 200 || reply.problem() == ended(503, "overloaded"),
                    "{}",
                    reply.text()
                );
            }
        };
        let (circles, ()) = tokio::join!(circles, others);
        for reply in circles {
            let (status, code) = reply.problem();
            assert!(
                matches!(code.as_str(), "denied" | "unavailable" | "overloaded"),
                "{status} {code}"
            );
        }
        weft.wait_until_idle().await;
    }
    assert_eq!(
        weft.get("/one/cycle?n=30").await.text(),
        "30\n",
        "the pool lost slots"
    );
}
