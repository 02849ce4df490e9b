//! Programs out of Debian's packages, for one user: unpacked into a folder, never installed.
//!
//! apt itself fetches them and checks their signatures, with folders of its own and the machine's own source, of
//! which only the suite is changed. A program then runs with the C library that came with it, as the machine's
//! may be older.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use crate::cache;
use crate::sh;

/// The first of Debian's suites whose Rust knows wasm32-wasip2.
const SUITE: &str = "forky";
const UPDATE_LIMIT: Duration = Duration::from_secs(5 * 60);
const LOOKUP_LIMIT: Duration = Duration::from_secs(60);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(30 * 60);
const UNPACK_LIMIT: Duration = Duration::from_secs(5 * 60);
const PROGRAMS: [&str; 3] = ["apt-get", "apt-cache", "dpkg-deb"];

/// Which packages to unpack.
pub(crate) struct Packages<'a> {
    /// These, with all that they depend on.
    pub(crate) with_dependencies: &'a [&'a str],
    /// These alone.
    pub(crate) alone: &'a [&'a str],
}

/// Unpacks packages into `to`. What apt gets is in `work` meanwhile, and is still there for another try if this fails.
pub(crate) fn unpack(what: &str, packages: &Packages<'_>, work: &Path, to: &Path) -> anyhow::Result<()> {
    for program in PROGRAMS {
        ensure!(
            sh::which(program).is_some(),
            "{program} is not there, as this is no Debian"
        );
    }
    let apt = Apt::prepare(work)?;
    apt.update()?;
    let names = apt.names(packages)?;
    apt.download(what, &names)?;
    // One step for a person to wait for, though it is a program a package.
    let mut shell = Command::new("sh");
    shell
        .args([
            "-e",
            "-c",
            "for package; do dpkg-deb -x \"$package\" \"$0\"; done",
        ])
        .arg(to)
        .args(apt.files()?);
    sh::run("Unpacking them", UNPACK_LIMIT, &mut shell)?;
    cache::remove(work)
}

/// Writes a script that starts `program` of what was unpacked into `root`. Both are relative: `root` to the script's own
/// folder, `program` to `root`.
pub(crate) fn write_starter(script: &Path, root: &str, program: &str) -> anyhow::Result<()> {
    let folder = script.parent().context("a script is in a folder")?;
    let loader = loader(&folder.join(root))?;
    let libraries = library_folder()?;
    let text = format!(
        "#!/bin/sh\n\
         root=\"${{0%/*}}/{root}\"\n\
         exec \"$root/{loader}\" --library-path \"$root/usr/lib/{libraries}\" \"$root/{program}\" \"$@\"\n"
    );
    write_script(script, &text)
}

fn write_script(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let context = || format!("failed to write {}", path.display());
    fs::write(path, text).with_context(context)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).with_context(context)
}

/// Debian's name for this machine's kind, as its library folder has it.
fn library_folder() -> anyhow::Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("x86_64-linux-gnu"),
        "aarch64" => Ok("aarch64-linux-gnu"),
        other => bail!("Debian's packages for {other} are not known to xtask"),
    }
}

/// The dynamic loader, relative to `root`.
fn loader(root: &Path) -> anyhow::Result<String> {
    let libraries = library_folder()?;
    let folders = [
        format!("usr/lib/{libraries}"),
        "usr/lib64".to_owned(),
        "usr/lib".to_owned(),
    ];
    for folder in folders {
        let Ok(entries) = fs::read_dir(root.join(&folder)) else {
            continue;
        };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with("ld-linux-") {
                return Ok(format!("{folder}/{name}"));
            }
        }
    }
    bail!(
        "there is no dynamic loader in what was unpacked into {}",
        root.display()
    )
}

/// apt with folders of its own.
struct Apt {
    work: PathBuf,
}

impl Apt {
    fn prepare(work: &Path) -> anyhow::Result<Self> {
        for folder in ["state/lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(work.join(folder))?;
        }
        fs::write(work.join("status"), "")?;
        fs::write(work.join("debian.sources"), own_source()?)?;
        Ok(Self {
            work: work.to_owned(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |key: &str, name: &str| format!("{key}={}", self.work.join(name).display());
        for option in [
            at("Dir::Etc::sourcelist", "debian.sources"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            at("Dir::State", "state"),
            at("Dir::State::status", "status"),
            at("Dir::Cache", "cache"),
            // If root runs this, apt would otherwise become a user that can't write here.
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=2".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command.current_dir(self.work.join("packages"));
        command
    }

    fn update(&self) -> anyhow::Result<()> {
        let mut update = self.command("apt-get");
        // Without this option a list that could not be had is only a warning.
        update.args(["update", "--error-on=any"]);
        sh::run(&format!("Reading Debian's list of packages ({SUITE})"), UPDATE_LIMIT, &mut update).context(
            "if a signature could not be checked, install a newer debian-archive-keyring, as the suite's keys may be \
             newer than the machine's",
        )
    }

    fn names(&self, packages: &Packages<'_>) -> anyhow::Result<Vec<String>> {
        let mut depends = self.command("apt-cache");
        depends
            .args(["depends", "--recurse", "--important"])
            .args(packages.with_dependencies);
        let answer = sh::read(LOOKUP_LIMIT, &mut depends)?;
        let mut names: Vec<_> = packages.alone.iter().map(|name| (*name).to_owned()).collect();
        names.extend(closure(&answer));
        Ok(names)
    }

    fn download(&self, what: &str, names: &[String]) -> anyhow::Result<()> {
        let what = format!("Downloading {what} ({} of Debian's packages)", names.len());
        sh::run(
            &what,
            DOWNLOAD_LIMIT,
            self.command("apt-get").arg("download").args(names),
        )
    }

    fn files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.work.join("packages"))?;
        let files = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(files
            .into_iter()
            .filter(|file| file.extension().is_some_and(|name| name == "deb"))
            .collect())
    }
}

/// The packages of an answer of `apt-cache depends --recurse`: dependencies are indented, virtual ones in brackets.
fn closure(answer: &str) -> impl Iterator<Item = String> {
    answer
        .lines()
        .filter(|line| !line.starts_with([' ', '<', '|']))
        .map(str::to_owned)
}

/// The machine's own source of Debian packages, with the suite changed.
fn own_source() -> anyhow::Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("failed to read /etc/os-release")?;
    let codename = codename(&release).context("this is no Debian")?;
    let apt = Path::new("/etc/apt");
    let mut files = vec![apt.join("sources.list")];
    let parts = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten();
    files.extend(parts.filter_map(|entry| Some(entry.ok()?.path())));
    let sources = files.iter().filter_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        match file.extension()?.to_str()? {
            "list" => source_of_lines(&text, &codename),
            "sources" => source_of_stanzas(&text, &codename),
            _ => None,
        }
    });
    let source = sources.into_iter().next();
    source.with_context(|| format!("apt's sources name no mirror of Debian's {codename}"))
}

fn codename(release: &str) -> Option<String> {
    let value = |key| {
        release
            .lines()
            .find_map(|line| Some(line.strip_prefix(key)?.trim_matches('"').to_owned()))
    };
    value("ID=").filter(|id| id == "debian")?;
    value("VERSION_CODENAME=")
}

/// Whether a suite is the machine's own, and not its updates, its security fixes or another vendor's.
fn is_own_suite(suite: &str, codename: &str) -> bool {
    [codename, "stable", "testing", "unstable", "sid"].contains(&suite)
}

/// Of the one-line format: `deb [options] URI suite component...`.
fn source_of_lines(text: &str, codename: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let is_main = words.any(|component| component == "main");
        if !is_main || !is_own_suite(suite, codename) {
            return None;
        }
        let key = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="));
        Some(stanza(uri, key.map(|key| key.replace(',', " ")).as_deref()))
    })
}

/// Of the format with fields; stanzas are parted by empty lines.
fn source_of_stanzas(text: &str, codename: &str) -> Option<String> {
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    text.split("\n\n").find_map(|stanza_text| {
        let field = |name| field(stanza_text, name);
        let has = |name, word: &str| {
            field(name).is_some_and(|value| value.split_whitespace().any(|one| one == word))
        };
        let suites = field("suites")?;
        let is_own = suites
            .split_whitespace()
            .any(|suite| is_own_suite(suite, codename));
        if has("enabled", "no") || !has("types", "deb") || !has("components", "main") || !is_own {
            return None;
        }
        let uris = field("uris")?;
        Some(stanza(
            uris.split_whitespace().next()?,
            field("signed-by").as_deref(),
        ))
    })
}

/// A field's value with its continuation lines, which a key that stands in the file itself has.
fn field(stanza: &str, name: &str) -> Option<String> {
    let mut lines = stanza.lines().skip_while(|line| {
        let key = line.split(':').next().unwrap_or_default();
        !key.eq_ignore_ascii_case(name)
    });
    let (_, first) = lines.next()?.split_once(':')?;
    let rest = lines.take_while(|line| line.starts_with([' ', '\t']));
    let value: Vec<_> = std::iter::once(first.trim()).chain(rest).collect();
    Some(value.join("\n"))
}

fn stanza(uri: &str, signed_by: Option<&str>) -> String {
    let key = signed_by
        .map(|key| format!("Signed-By: {key}\n"))
        .unwrap_or_default();
    format!("Types: deb\nURIs: {uri}\nSuites: {SUITE}\nComponents: main\n{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewrites_a_source_with_fields() {
        let text = "\
# other vendors come first
Types: deb
URIs: http://vendor.test/tools
Suites: nodistro
Components: main

Types: deb
# a note
URIs: http://mirror.test/debian http://second.test/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
";
        let expected = "\
Types: deb
URIs: http://mirror.test/debian
Suites: forky
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";
        assert_eq!(source_of_stanzas(text, "bookworm").as_deref(), Some(expected));
    }

    #[test]
    fn keeps_a_key_that_stands_in_the_file() {
        let text = "Types: deb\nURIs: http://mirror.test/debian\nSuites: stable\nComponents: main\n\
                    Signed-By:\n -----BEGIN-----\n .\n abc\n";
        let source = source_of_stanzas(text, "trixie").unwrap();
        assert!(
            source.ends_with("Signed-By: \n -----BEGIN-----\n .\n abc\n"),
            "{source}"
        );
    }

    #[test]
    fn leaves_a_disabled_source() {
        let text =
            "Enabled: no\nTypes: deb\nURIs: http://mirror.test/debian\nSuites: trixie\nComponents: main\n";
        assert_eq!(source_of_stanzas(text, "trixie"), None);
    }

    #[test]
    fn rewrites_a_source_of_one_line() {
        let text = "\
# deb http://old.test/debian trixie main
deb-src http://mirror.test/debian trixie main
deb http://mirror.test/debian-security trixie-security main
deb [arch=amd64 signed-by=/etc/key.gpg] http://mirror.test/debian trixie main contrib
";
        let expected = "Types: deb\nURIs: http://mirror.test/debian\nSuites: forky\nComponents: main\nSigned-By: /etc/key.gpg\n";
        assert_eq!(source_of_lines(text, "trixie").as_deref(), Some(expected));
    }

    #[test]
    fn reads_the_codename_of_debian_only() {
        let debian = "PRETTY_NAME=\"Debian\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(codename(debian).as_deref(), Some("bookworm"));
        assert_eq!(codename("ID=other\nVERSION_CODENAME=bookworm\n"), None);
    }

    #[test]
    fn reads_the_packages_of_a_closure() {
        let answer = "one\n  Depends: two\n |Depends: <three>\n  Depends: four\ntwo\n<three>\nfour\n";
        assert_eq!(closure(answer).collect::<Vec<_>>(), ["one", "two", "four"]);
    }
}
