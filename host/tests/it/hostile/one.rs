//! One invocation that takes more than its share.

use http_body_util::BodyExt as _;

use super::{A_WHILE, Arena, ended};
use crate::support::{empty, http1, http2, request};

#[tokio::test]
async fn loops_end_with_their_processor_time_also_where_one_instruction_takes_many_ticks() {
    let arena = Arena::open().await;
    for path in ["/loop", "/fill", "/copy"] {
        assert_eq!(arena.problem(path).await, ended(500, "cpu"), "{path}");
    }
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn recursion_and_memory_bombs_end_at_their_limits() {
    let arena = Arena::open().await;
    assert_eq!(arena.problem("/recursion").await, ended(500, "trap"));
    assert_eq!(arena.problem("/grows").await, ended(500, "memory"));
    // On a slow machine its time is over before its memory.
    let (status, code) = arena.problem("/memory").await;
    assert!(
        status == 500 && (code == "memory" || code == "cpu"),
        "{status} {code}"
    );
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn handles_that_are_never_dropped_end_the_guest_and_bound_what_the_host_keeps_for_them() {
    let arena = Arena::open().await;
    for of in ["fields", "streams", "pollables", "requests", "big-fields"] {
        let (status, code) = arena.problem(&format!("/handles?of={of}")).await;
        assert!(
            status == 500 && (code == "trap" || code == "cpu"),
            "{of}: {status} {code}"
        );
    }
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn timers_and_lists_of_pollables_are_bounded() {
    let arena = Arena::with("", &["--drain-timeout", "1s"]).await;
    assert_eq!(arena.problem("/timers?n=4096").await, ended(500, "trap"));
    assert_eq!(arena.problem("/poll-one").await, ended(500, "trap"));
    assert_eq!(arena.problem("/timers?n=500").await, ended(504, "deadline"));
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn random_bytes_are_given_in_small_amounts() {
    let arena = Arena::open().await;
    assert_eq!(arena.problem("/random").await, ended(500, "trap"));
    assert_eq!(arena.problem("/random?len=65537").await, ended(500, "trap"));
    assert_eq!(
        arena.attack("/random?len=65536").await.text(),
        "65536 random bytes\n"
    );
}

#[tokio::test]
async fn huge_lines_and_floods_are_cut_and_the_log_stays_readable() {
    let arena = Arena::open().await;
    let reply = arena.attack("/log-line").await;
    assert!(
        reply.status == 200 || reply.problem() == ended(500, "cpu"),
        "{}",
        reply.text()
    );
    arena.weft.wait_for_log("log cut: this invocation").await;
    assert_eq!(arena.problem("/log-flood").await, ended(500, "cpu"));
    let longest = arena.weft.log().lines().map(str::len).max().unwrap_or(0);
    assert!(longest < 64 << 10, "a line of {longest} bytes");
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn too_many_headers_and_trailers_are_refused_and_malformed_ones_never_taken() {
    let arena = Arena::open().await;
    for path in [
        "/headers?n=10000",
        "/headers?n=1000&len=4000",
        "/trailers?len=1048576",
    ] {
        assert_eq!(arena.problem(path).await, ended(500, "trap"), "{path}");
    }
    assert_eq!(arena.attack("/bad-headers").await.text(), "taken: [] []\n");
    assert_eq!(arena.attack("/headers?n=90").await.text(), "0 refused\n");
}

#[tokio::test]
async fn a_status_that_ends_no_exchange_is_refused() {
    let arena = Arena::open().await;
    for code in [0, 99, 1_000, 65_536] {
        let reply = arena.attack(&format!("/status?code={code}")).await;
        assert_eq!(reply.text(), "the status was refused\n", "{code}");
    }
    // After 101 a proxy before this host would pass on whatever comes, as if it were no HTTP any more.
    for code in [100, 101, 103, 199] {
        let path = format!("/status?code={code}");
        assert_eq!(
            arena.problem(&path).await,
            ended(502, "refused-by-guest"),
            "{code}"
        );
        let mut client = http2(arena.weft.http).await;
        let sent = request("GET", &format!("http://weft.test/hostile{path}"))
            .body(empty())
            .unwrap();
        assert_eq!(client.send_request(sent).await.unwrap().status(), 502, "{code}");
    }
    for code in [200, 599, 999] {
        let reply = arena.attack(&format!("/status?code={code}")).await;
        assert_eq!((reply.status, reply.text()), (code, "twelve bytes"));
    }
}

#[tokio::test]
async fn an_announced_length_is_kept_or_the_answer_breaks_off() {
    let arena = Arena::open().await;
    for length in ["abc", "-1", "12,12", "99999999999999999999"] {
        let reply = arena.attack(&format!("/status?code=200&length={length}")).await;
        assert_eq!(reply.text(), "the length was refused\n", "{length}");
    }
    let whole = arena.attack("/status?code=200&length=12").await;
    assert_eq!(whole.text(), "twelve bytes");
    let empty = arena.attack("/status?code=204&length=12").await;
    assert_eq!(
        (empty.status, empty.header("content-length"), empty.text()),
        (204, "", "")
    );
    // Too much is cut at what was announced; too little must not look whole.
    let path = "/hostile/status?code=200&length=20";
    let short = arena.beside(arena.weft.try_send("GET", path, "")).await;
    assert!(short.is_none(), "{short:?}");
}

#[tokio::test]
async fn a_guest_that_drops_all_it_was_given_is_a_bad_gateway() {
    let arena = Arena::open().await;
    assert_eq!(arena.problem("/nothing").await, ended(502, "refused-by-guest"));
}

#[tokio::test]
async fn bodies_without_an_end_go_with_their_client_or_with_their_time() {
    let arena = Arena::open().await;
    for path in ["/endless-body", "/stalled-body"] {
        let leaves = async {
            let mut connection = http1(arena.weft.http).await;
            let sent = request("GET", &format!("/hostile{path}")).body(empty()).unwrap();
            let response = connection.sender.send_request(sent).await.unwrap();
            let body = tokio::time::timeout(A_WHILE, response.into_body().collect()).await;
            assert!(
                body.is_err() || body.is_ok_and(|body| body.is_err()),
                "{path} ended well"
            );
        };
        arena.beside(leaves).await;
    }
    for path in ["/stalled-body", "/trap-mid-body"] {
        let cut = arena
            .beside(arena.weft.try_send("GET", &format!("/hostile{path}"), ""))
            .await;
        assert!(cut.is_none(), "{path}: a body that was cut looked whole");
    }
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn a_body_that_is_read_byte_by_byte_costs_its_reader_alone() {
    let arena = Arena::open().await;
    let small = arena.weft.send("POST", "/hostile/byte-by-byte", vec![0; 1_000]);
    assert_eq!(arena.beside(small).await.text(), "1000 bytes\n");
    // Its answer comes before its body was taken, so the client may be cut off in the middle of sending.
    let large = arena
        .weft
        .try_send("POST", "/hostile/byte-by-byte", vec![0; 64 << 20]);
    if let Some(reply) = arena.beside(large).await {
        assert_eq!(reply.problem(), ended(500, "cpu"));
    }
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn an_actor_that_calls_itself_without_end_is_stopped_at_the_bound_of_a_chain() {
    let arena = Arena::open().await;
    assert_eq!(arena.problem("/calls-deep").await, ended(500, "denied"));
    assert_eq!(arena.attack("/calls-deep?n=10").await.text(), "10\n");
}
