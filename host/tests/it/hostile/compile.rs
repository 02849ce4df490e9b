//! Compiling beside serving: many components at once, and children that are lost.

use std::process::{Command, Output};

use super::{Arena, handmade};
use crate::support::guests::{HELLO, HELLO_JS};
use crate::support::{AppFile, Weft, guest, wait_until};

/// Some: `cargo xtask bench --only compile` deploys 200.
const COMPONENTS: usize = 24;

#[tokio::test]
async fn deploying_many_components_fails_no_request() {
    let mut arena = Arena::open().await;
    // Each component that is loaded keeps the file of its machine code open.
    arena.files += COMPONENTS;
    let mut actors = String::new();
    let mut routes = String::new();
    let app = AppFile::new("");
    for number in 0..COMPONENTS {
        // Each differs from the others, so that each is compiled.
        let bytes = handmade::component(&format!(
            r#"(core module $module (func (export "handle") (param i32 i32) (drop (i32.const {number})) unreachable))
               (core instance $main (instantiate $module))"#
        ));
        let path = app.beside(&format!("part-{number}.wasm"), bytes);
        actors.push_str(&format!("  part-{number}: {{ component: {} }}\n", path.display()));
        routes.push_str(&format!("  - {{ actor: part-{number}, path: /part-{number} }}\n"));
    }
    app.write(&format!(
        "apiVersion: weft/v1\nname: parts\nactors:\n{actors}routes:\n{routes}"
    ));
    arena
        .beside(arena.weft.cli(&["deploy", app.path().to_str().unwrap()]))
        .await;
    for number in 0..COMPONENTS {
        assert_eq!(
            arena.weft.get(&format!("/part-{number}")).await.problem().1,
            "trap"
        );
    }
}

/// Starts to deploy a component that takes long to compile, does `harm` to the process that compiles it, and gives how
/// the deploy ended. The host serves meanwhile, and after it.
async fn deploy_and(weft: &Weft, harm: impl Fn(u32)) -> Output {
    let component = guest(HELLO_JS).display().to_string();
    let app = AppFile::new(&format!(
        "apiVersion: weft/v1\nname: slow\nactors:\n  slow: {{ component: {component} }}\nroutes:\n  - {{ actor: slow, path: /slow }}\n"
    ));
    let path = app.path();
    let arguments = ["deploy", path.to_str().unwrap()];
    let deploying = weft.try_cli(&arguments);
    let harming = async {
        wait_until("a process compiles", || {
            !weft.children("compile-child").is_empty()
        })
        .await;
        weft.children("compile-child").into_iter().for_each(&harm);
        for _ in 0..20 {
            assert_eq!(weft.get("/plain").await.status, 200);
        }
    };
    let (output, ()) = tokio::join!(deploying, harming);
    assert_eq!(weft.get("/plain").await.status, 200);
    wait_until("no process compiles", || {
        weft.children("compile-child").is_empty()
    })
    .await;
    output
}

fn run(command: &str, arguments: &[&str]) {
    assert!(Command::new(command).args(arguments).status().unwrap().success());
}

#[tokio::test]
async fn a_compile_process_that_is_killed_or_gets_no_memory_fails_its_deploy_alone() {
    let weft = Weft::start(&[HELLO], &[]);
    let killed = deploy_and(&weft, |pid| run("kill", &["-KILL", &pid.to_string()])).await;
    let error = String::from_utf8(killed.stderr).unwrap();
    assert!(
        !killed.status.success() && error.contains("the compile process was ended"),
        "{error}"
    );
    assert!(error.contains("signal: 9"), "{error}");

    let starved = deploy_and(&weft, |pid| {
        run("prlimit", &["--pid", &pid.to_string(), "--as=100000000"]);
    })
    .await;
    let error = String::from_utf8(starved.stderr).unwrap();
    assert!(
        !starved.status.success() && error.contains("the compile process was ended"),
        "{error}"
    );
    // Nothing half-made is left to be loaded.
    let left = std::fs::read_dir(weft.data.path().join("aot")).unwrap().flatten();
    let left = left.flat_map(|engine| std::fs::read_dir(engine.path()).unwrap().flatten());
    let names: Vec<_> = left.map(|file| file.file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.ends_with(".new")), "{names:?}");
}
