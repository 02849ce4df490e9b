//! Where the project's files are, and how its own cargo is called.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::sh;

/// Reading a manifest asks nothing of the network, so that more than this is a hang.
const METADATA_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Project {
    root: PathBuf,
}

impl Project {
    /// `cargo run` names xtask's folder at run time. What the compiler was told may be another checkout's, if
    /// several share a target folder, so it is only for an xtask that was started by hand.
    pub(crate) fn find() -> anyhow::Result<Self> {
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let xtask = xtask.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = xtask
            .parent()
            .context("failed to find the project: xtask has no parent folder")?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The guests' workspace.
    pub(crate) fn actors(&self) -> PathBuf {
        self.root.join("actors")
    }

    pub(crate) fn wit(&self) -> PathBuf {
        self.root.join("wit")
    }

    /// The example app that `cargo xtask up` serves.
    pub(crate) fn shop(&self) -> PathBuf {
        self.root.join("compose/apps/shop")
    }

    /// Where the finished guests are. Tests look for them here, so this does not follow `CARGO_TARGET_DIR`.
    pub(crate) fn guests(&self) -> PathBuf {
        self.root.join("target/guests")
    }

    /// Where the guests are built.
    pub(crate) fn guest_build(&self) -> PathBuf {
        self.root.join("target/guest-build")
    }

    /// Where the guests' own tests are built, for this machine.
    pub(crate) fn guest_tests(&self) -> PathBuf {
        self.root.join("target/guest-tests")
    }

    /// Cargo for the host's own workspace, with the environment as it is.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root);
        // What `cargo run` says of xtask itself. Build scripts that look at it (ring's) would run again, and all that
        // depends on them be compiled again, whenever cargo is called in another way.
        for (name, _) in std::env::vars_os() {
            let of_package =
                |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
            if name.to_str().is_some_and(of_package) {
                cargo.env_remove(name);
            }
        }
        cargo
    }

    /// Where cargo puts the host's build, whatever moved it.
    pub(crate) fn target_dir(&self) -> anyhow::Result<PathBuf> {
        let metadata = self.metadata(&self.root)?;
        let folder = metadata["target_directory"]
            .as_str()
            .context("cargo metadata names no target folder")?;
        Ok(folder.into())
    }

    /// What the manifests of a workspace say, without its dependencies.
    pub(crate) fn metadata(&self, workspace: &Path) -> anyhow::Result<serde_json::Value> {
        let mut cargo = self.cargo();
        cargo.args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"]);
        let text = sh::read(METADATA_LIMIT, cargo.arg(workspace.join("Cargo.toml")))?;
        serde_json::from_str(&text).context("failed to read the answer of cargo metadata")
    }
}
