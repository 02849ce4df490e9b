//! A number for the content of files, by which a change is noticed.

use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use anyhow::Context as _;

/// What an editor, npm or Python leaves among the sources.
const IGNORED: [&str; 3] = ["node_modules", "__pycache__", "target"];

/// Not a secure hash, and another Rust may compute another: then things are made again once.
#[derive(Clone)]
pub(crate) struct Stamp(DefaultHasher);

impl Stamp {
    pub(crate) fn new() -> Self {
        Self(DefaultHasher::new())
    }

    pub(crate) fn text(&mut self, text: &str) {
        text.hash(&mut self.0);
    }

    pub(crate) fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let bytes = fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        bytes.hash(&mut self.0);
        Ok(())
    }

    /// All files in a folder, with their names. Where the folder is does not count.
    pub(crate) fn folder(&mut self, folder: &Path) -> anyhow::Result<()> {
        let context = || format!("failed to list {}", folder.display());
        let entries = fs::read_dir(folder).with_context(context)?;
        let mut entries = entries.collect::<Result<Vec<_>, _>>().with_context(context)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if IGNORED.contains(&name.as_str()) {
                continue;
            }
            self.text(&name);
            match entry.file_type().with_context(context)?.is_dir() {
                true => self.folder(&entry.path())?,
                false => self.file(&entry.path())?,
            }
        }
        // So that a file can't seem to be in the folder before.
        self.text("");
        Ok(())
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp_of(files: &[(&str, &str)]) -> String {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("weft-stamp-{}-{number}", std::process::id()));
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut stamp = Stamp::new();
        stamp.folder(&root).unwrap();
        fs::remove_dir_all(&root).unwrap();
        stamp.to_string()
    }

    #[test]
    fn equal_files_have_one_stamp() {
        let files = [("a", "1"), ("b/c", "2")];
        assert_eq!(stamp_of(&files), stamp_of(&files));
    }

    #[test]
    fn content_names_and_places_count() {
        let stamps = [
            stamp_of(&[("a", "1"), ("b/c", "2")]),
            stamp_of(&[("a", "1"), ("b/c", "3")]),
            stamp_of(&[("a", "1"), ("b/d", "2")]),
            stamp_of(&[("a", "1"), ("c", "2")]),
        ];
        let unlike: std::collections::HashSet<_> = stamps.iter().collect();
        assert_eq!(unlike.len(), stamps.len());
    }

    #[test]
    fn what_tools_leave_does_not_count() {
        let left = [("a", "1"), ("node_modules/x", "2"), ("__pycache__/y", "3")];
        assert_eq!(stamp_of(&left), stamp_of(&left[..1]));
    }
}
