//! Builds the guests, of which each has a folder in `actors/`.
//!
//! A folder with an `app.js` is a guest in JavaScript, one with an `app.py` is one in Python; a crate of that
//! workspace that makes a cdylib is one in Rust. A stamp beside each guest tells what it was built of.

pub(crate) mod stamp;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::cache::{self, Cache};
use crate::project::Project;
use crate::setup::{js, python, wasm};
use crate::sh;
use stamp::Stamp;

const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The bytes that a component starts with, and a plain module does not.
const COMPONENT_MAGIC: &[u8] = b"\0asm\x0d\0\x01\0";
/// The actors of the shop, and the rule that it changes to.
pub(crate) const SHOP: [&str; 6] = [
    "catalog",
    "images",
    "orders",
    "pricing",
    "pricing-sale",
    "storefront",
];
/// The WASI that the engine inside componentize-js was built for; it exports its handler under no other.
const WASI_OF_JS: &str = "0.2.10";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    JavaScript,
    Python,
}

struct Guest {
    name: String,
    language: Language,
}

/// Builds the guests of these names, or all, and says which it built.
pub(crate) fn run(project: &Project, names: &[impl AsRef<str>]) -> anyhow::Result<()> {
    let cache = Cache::open()?;
    let known = known(project)?;
    let shared = shared_folders(project, &known)?;
    let wanted = wanted(known, names)?;
    let mut built = 0;
    for language in [Language::Rust, Language::JavaScript, Language::Python] {
        let guests: Vec<_> = wanted.iter().filter(|guest| guest.language == language).collect();
        if !guests.is_empty() {
            built += Batch {
                project,
                cache: &cache,
                shared: &shared,
                language,
                guests,
            }
            .build()?;
        }
    }
    let rest = wanted.len() - built;
    eprintln!(
        "guests: {built} built, {rest} up to date, in {}",
        project.guests().display()
    );
    Ok(())
}

/// Keeps the settings of a build that runs around this one from reaching another. Those of the network stay.
pub(crate) fn clear_cargo_env(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(interferes) {
            command.env_remove(name);
        }
    }
}

fn interferes(variable: &str) -> bool {
    const KEPT: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_TERM_",
    ];
    const OTHERS: [&str; 7] = [
        "LD_LIBRARY_PATH",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    let is_cargo = variable == "CARGO" || variable.starts_with("CARGO_");
    let is_kept = KEPT.iter().any(|kept| variable.starts_with(kept));
    (is_cargo && !is_kept) || OTHERS.contains(&variable)
}

fn known(project: &Project) -> anyhow::Result<Vec<Guest>> {
    let mut guests: Vec<_> = crates(project)?
        .into_iter()
        .filter(|(_, is_guest)| *is_guest)
        .map(|(name, _)| Guest {
            name,
            language: Language::Rust,
        })
        .collect();
    for entry in fs::read_dir(project.actors()).context("failed to list the folder actors")? {
        let folder = entry?.path();
        let language = match () {
            () if folder.join("app.js").is_file() => Language::JavaScript,
            () if folder.join("app.py").is_file() => Language::Python,
            () => continue,
        };
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        guests.push(Guest { name, language });
    }
    guests.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(guests)
}

/// The crates of the guests' workspace by name, and whether each is a guest.
fn crates(project: &Project) -> anyhow::Result<Vec<(String, bool)>> {
    let metadata = project.metadata(&project.actors())?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata names no packages")?;
    let described = packages.iter().map(|package| {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        let targets = package["targets"].as_array().into_iter().flatten();
        let mut kinds = targets.filter_map(|target| target["kind"].as_array()).flatten();
        let is_guest = kinds.any(|kind| kind == "cdylib");
        (name, is_guest)
    });
    Ok(described.collect())
}

/// What any guest may be made of beside its own folder: the project's WIT, and folders of the workspace that are no guest.
fn shared_folders(project: &Project, guests: &[Guest]) -> anyhow::Result<Vec<PathBuf>> {
    let mut folders = vec![project.wit()];
    for entry in fs::read_dir(project.actors()).context("failed to list the folder actors")? {
        let path = entry?.path();
        let is_guest = guests.iter().any(|guest| path.ends_with(&guest.name));
        let is_output = path.ends_with("target");
        if path.is_dir() && !is_guest && !is_output {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn wanted(known: Vec<Guest>, names: &[impl AsRef<str>]) -> anyhow::Result<Vec<Guest>> {
    let names: BTreeSet<_> = names.iter().map(AsRef::as_ref).collect();
    let unknown = names
        .iter()
        .find(|name| !known.iter().any(|guest| guest.name == **name));
    if let Some(name) = unknown {
        let all: Vec<_> = known.iter().map(|guest| guest.name.as_str()).collect();
        bail!("there is no guest `{name}`; there are {}", all.join(", "));
    }
    Ok(known
        .into_iter()
        .filter(|guest| names.is_empty() || names.contains(guest.name.as_str()))
        .collect())
}

/// The guests of one language, which are built with the same tools.
struct Batch<'a> {
    project: &'a Project,
    cache: &'a Cache,
    shared: &'a [PathBuf],
    language: Language,
    guests: Vec<&'a Guest>,
}

impl Batch<'_> {
    /// Builds what changed, and returns how many that were.
    fn build(&self) -> anyhow::Result<usize> {
        let tools = self.tools()?;
        let mut changed = Vec::new();
        for guest in &self.guests {
            let stamp = self.stamp(guest, &tools)?.to_string();
            if !self.is_built(guest, &stamp) {
                changed.push((*guest, stamp));
            }
        }
        if changed.is_empty() {
            return Ok(0);
        }
        let names: Vec<_> = changed.iter().map(|(guest, _)| guest.name.as_str()).collect();
        match self.language {
            Language::Rust => self.build_rust(&names)?,
            Language::JavaScript => self.build_js(&names)?,
            Language::Python => self.build_python(&names)?,
        }
        for (guest, stamp) in &changed {
            fs::write(self.stamp_file(guest), stamp)
                .with_context(|| format!("failed to note what {} was built of", guest.name))?;
        }
        Ok(changed.len())
    }

    /// A name for the tools, which changes with them. Rust's have to be there for it, the others' files name them.
    fn tools(&self) -> anyhow::Result<String> {
        match self.language {
            Language::Rust => Ok(wasm::ensure(self.cache)?.version),
            Language::JavaScript => js::version(self.project),
            Language::Python => python::version(self.project),
        }
    }

    fn stamp(&self, guest: &Guest, tools: &str) -> anyhow::Result<Stamp> {
        let actors = self.project.actors();
        let mut stamp = Stamp::new();
        stamp.text(tools);
        stamp.text(WASI_OF_JS);
        if self.language == Language::Rust {
            stamp.file(&actors.join("Cargo.toml"))?;
            stamp.file(&actors.join("Cargo.lock"))?;
        }
        stamp.folder(&actors.join(&guest.name))?;
        // Guests in other languages are made of WIT alone.
        let shared = self.shared.iter();
        for folder in shared.filter(|folder| self.language == Language::Rust || folder.ends_with("wit")) {
            stamp.folder(folder)?;
        }
        if SHOP.contains(&guest.name.as_str()) {
            stamp.folder(&self.project.shop().join("wit"))?;
        }
        Ok(stamp)
    }

    fn is_built(&self, guest: &Guest, stamp: &str) -> bool {
        let noted = fs::read_to_string(self.stamp_file(guest)).unwrap_or_default();
        noted == stamp && self.component(&guest.name).is_file()
    }

    fn component(&self, name: &str) -> PathBuf {
        self.project.guests().join(format!("{name}.wasm"))
    }

    fn stamp_file(&self, guest: &Guest) -> PathBuf {
        self.project.guests().join(format!("{}.stamp", guest.name))
    }

    fn build_rust(&self, names: &[&str]) -> anyhow::Result<()> {
        let target = self.project.guest_build();
        let mut cargo = wasm::ensure(self.cache)?.cargo();
        cargo
            .current_dir(self.project.actors())
            .env("CARGO_TARGET_DIR", &target);
        cargo.args(["build", "--release", "--locked", "--target", "wasm32-wasip2"]);
        for name in names {
            cargo.args(["--package", name]);
        }
        sh::run(&format!("Building {}", names.join(", ")), BUILD_LIMIT, &mut cargo)?;
        for name in names {
            let file = format!("wasm32-wasip2/release/{}.wasm", name.replace('-', "_"));
            self.place(name, &target.join(file))?;
        }
        Ok(())
    }

    fn build_js(&self, names: &[&str]) -> anyhow::Result<()> {
        let tools = js::ensure(self.project, self.cache)?;
        let wit = self.stage_wit("wit-js", Some(WASI_OF_JS))?;
        for name in names {
            let output = self.project.guest_build().join(format!("{name}.wasm"));
            let mut node = Command::new("node");
            node.arg(&tools.build_script)
                .arg(self.project.actors().join(name).join("app.js"));
            sh::run(
                &format!("Building {name}"),
                BUILD_LIMIT,
                node.arg(&wit).arg(self.world(name)?).arg(&output),
            )?;
            self.place(name, &output)?;
        }
        Ok(())
    }

    fn build_python(&self, names: &[&str]) -> anyhow::Result<()> {
        let tools = python::ensure(self.project, self.cache)?;
        let wit = self.stage_wit("wit-python", None)?;
        for name in names {
            let output = self.project.guest_build().join(format!("{name}.wasm"));
            let mut componentize = tools.componentize_py();
            componentize.arg("--wit-path").arg(&wit);
            componentize.args(["--world", self.world(name)?, "componentize", "--python-path"]);
            componentize
                .arg(self.project.actors().join(name))
                .args(["app", "--output"])
                .arg(&output);
            // Without it Python leaves a folder beside the source.
            componentize.env("PYTHONDONTWRITEBYTECODE", "1");
            sh::run(&format!("Building {name}"), BUILD_LIMIT, &mut componentize)?;
            self.place(name, &output)?;
        }
        Ok(())
    }

    /// The world that a guest in JavaScript or Python is built against: that of its own name, if there is one.
    fn world<'n>(&self, guest: &'n str) -> anyhow::Result<&'n str> {
        let worlds = read(&self.project.actors().join("wit/guests.wit"))?;
        let is_own = worlds.lines().any(|line| line == format!("world {guest} {{"));
        Ok(if is_own { guest } else { "http" })
    }

    /// One folder with the WIT of the guests and all that it depends on, of another WASI if one is named.
    fn stage_wit(&self, name: &str, wasi: Option<&str>) -> anyhow::Result<PathBuf> {
        let stage = self.project.guest_build().join(name);
        cache::remove(&stage)?;
        let dependencies = self.project.wit().join("deps");
        let own = wasi_version(&read(&dependencies.join("http.wit"))?)?;
        let wasi = wasi.unwrap_or(&own);
        for (from, to) in [
            (self.project.actors().join("wit"), stage.clone()),
            (dependencies, stage.join("deps")),
        ] {
            fs::create_dir_all(&to).with_context(|| format!("failed to make {}", to.display()))?;
            for entry in fs::read_dir(&from).with_context(|| format!("failed to list {}", from.display()))? {
                let entry = entry?;
                let text = read(&entry.path())?.replace(&own, wasi);
                fs::write(to.join(entry.file_name()), text).context("failed to copy the WIT")?;
            }
        }
        Ok(stage)
    }

    /// Puts a component where tests look for it, in one step, as a test may be reading the one before.
    fn place(&self, name: &str, built: &Path) -> anyhow::Result<()> {
        let bytes = fs::read(built).with_context(|| format!("failed to read {}", built.display()))?;
        ensure!(
            bytes.starts_with(COMPONENT_MAGIC),
            "{} is no component",
            built.display()
        );
        let to = self.component(name);
        let context = || format!("failed to write {}", to.display());
        fs::create_dir_all(self.project.guests()).with_context(context)?;
        let partial = to.with_extension("partial");
        fs::write(&partial, bytes).with_context(context)?;
        fs::rename(&partial, &to).with_context(context)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// 0.2.12, of the line `package wasi:http@0.2.12;`.
fn wasi_version(http_wit: &str) -> anyhow::Result<String> {
    let version = http_wit
        .lines()
        .find_map(|line| line.strip_prefix("package wasi:http@")?.strip_suffix(';'));
    Ok(version
        .context("http.wit has no line `package wasi:http@VERSION;`")?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_build_around_are_cleared_and_those_of_the_network_are_not() {
        for name in [
            "CARGO",
            "CARGO_MANIFEST_DIR",
            "CARGO_TARGET_DIR",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(interferes(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_HTTP_PROXY",
            "PATH",
            "RUSTUP_HOME",
            "CARGOX",
        ] {
            assert!(!interferes(name), "{name}");
        }
    }

    #[test]
    fn an_unknown_guest_is_told_the_known_ones() {
        let known = || {
            vec![Guest {
                name: "hello".to_owned(),
                language: Language::Rust,
            }]
        };
        let error = wanted(known(), &["helo"]).err().unwrap().to_string();
        assert!(
            error.contains("helo") && error.contains("there are hello"),
            "{error}"
        );
        assert_eq!(wanted(known(), &[] as &[&str]).unwrap().len(), 1);
    }

    #[test]
    fn reads_the_version_of_wasi() {
        assert_eq!(wasi_version("package wasi:http@0.2.12;\n").unwrap(), "0.2.12");
        assert!(wasi_version("interface types {}\n").is_err());
    }
}
