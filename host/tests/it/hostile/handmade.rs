//! Components that no compiler makes: several memories, tables without end, a start that never ends.

use futures::future::join_all;

use super::{Arena, ended};
use crate::support::{AppFile, weft};

/// A component that serves HTTP by `handle` of the core instance `$main`, which `core` defines.
pub(super) fn component(core: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            {core}
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $main "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    wat::parse_str(text).unwrap()
}

/// `main` with what it imports from `count` core instances of a module with this `body`, which exports `step`.
fn of_many(count: usize, body: &str, main: impl Fn(&str) -> String) -> Vec<u8> {
    let all = |line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let instances = all(&|at| format!("(core instance $part-{at} (instantiate $part)) "));
    let arguments = all(&|at| format!(r#"(with "part-{at}" (instance $part-{at})) "#));
    let imports = all(&|at| format!(r#"(import "part-{at}" "step" (func $step-{at} (result i32))) "#));
    let steps = all(&|at| format!("(local.set 2 (i32.or (local.get 2) (call $step-{at}))) "));
    let main = main(&steps);
    component(&format!(
        r#"(core module $part {body})
           {instances}
           (core module $module {imports} (func (export "handle") (param i32 i32) (local i32) {main}))
           (core instance $main (instantiate $module {arguments}))"#
    ))
}

/// Takes steps until none gets on, then traps.
fn until_refused(steps: &str) -> String {
    format!("(loop $again (local.set 2 (i32.const 0)) {steps} (br_if $again (local.get 2))) unreachable")
}

async fn arena(component: &[u8]) -> Arena {
    let file = AppFile::new("");
    let path = file.beside("hostile.wasm", component);
    Arena::serve(&path.display().to_string(), "", &[]).await
}

#[tokio::test]
async fn a_bomb_over_seven_memories_ends_at_the_bound_of_their_sum() {
    // 16 MiB a step: each of the memories alone would stay below the bound for a while.
    let part = r#"(memory 1) (func (export "step") (result i32) (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))"#;
    let arena = arena(&of_many(7, part, until_refused)).await;
    assert_eq!(arena.problem("/").await, ended(500, "memory"));
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn a_bomb_over_several_tables_ends_at_the_bound_of_their_sum() {
    let part = r#"(table 1 funcref)
        (func (export "step") (result i32)
            (i32.ne (table.grow (ref.null func) (i32.const 1000)) (i32.const -1)))"#;
    let arena = arena(&of_many(6, part, until_refused)).await;
    assert_eq!(arena.problem("/").await, ended(500, "memory"));
    arena.assert_peak_is_bounded();
}

#[tokio::test]
async fn an_instance_whose_start_never_ends_ends_with_its_processor_time() {
    let arena = arena(&component(
        r#"(core module $module
               (func $start (loop $again (br $again)))
               (start $start)
               (func (export "handle") (param i32 i32)))
           (core instance $main (instantiate $module))"#,
    ))
    .await;
    assert_eq!(arena.problem("/").await, ended(500, "cpu"));
}

#[tokio::test]
async fn an_instance_that_needs_all_that_one_may_have_leaves_room_for_others() {
    // Eight memories that start with 64 MiB in all, twelve tables in eight instances and the main one.
    let part = r#"(memory 128) (table 5000 funcref) (func (export "step") (result i32) (i32.const 0))"#;
    let arena = arena(&of_many(8, part, until_refused)).await;
    let crowd = async { join_all((0..16).map(|_| arena.weft.get("/hostile/"))).await };
    for reply in arena.beside(crowd).await {
        assert_eq!(reply.problem(), ended(500, "trap"));
    }
    arena.assert_peak_is_bounded();
}

#[test]
fn a_component_with_more_memories_than_a_slot_has_is_refused_by_name() {
    let part = r#"(memory 1) (func (export "step") (result i32) (i32.const 0))"#;
    let file = AppFile::new("");
    let path = file.beside("greedy.wasm", of_many(9, part, until_refused));
    let data = tempfile::tempdir().unwrap();
    let output = weft(&[
        "up",
        path.to_str().unwrap(),
        "--http",
        "127.0.0.1:0",
        "--data",
        data.path().to_str().unwrap(),
    ]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(
        error.contains("greedy.wasm") && error.contains("memories"),
        "{error}"
    );
}
