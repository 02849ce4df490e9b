//! What the kernel grants this process.
//!
//! Owns the reading of limits under `/proc` and of the cgroup. It decides nothing: [`crate::engine`] sizes its pool
//! from these facts, and `weft doctor` explains them. On a system without `/proc` a fact is `None`.

use std::path::Path;

/// Facts that the engine's pool and the ingress depend on, read once at start.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SystemFacts {
    /// Processors that this process may use.
    pub cpus: usize,
    /// `vm.max_map_count`: memory mappings that one process may have.
    pub max_map_count: Option<u64>,
    /// Whether a page of this process can be written to swap. `None` if it could not be found out.
    pub may_swap: Option<bool>,
    /// Whether the kernel can list dirty pages (`PAGEMAP_SCAN`, Linux 6.7).
    pub pagemap_scan: bool,
    /// `vm.overcommit_memory`; 2 refuses the pool's reservations.
    pub overcommit_memory: Option<u64>,
    /// The soft limit on open files; see [`raise_open_files`].
    pub open_files: Option<u64>,
    /// Bytes of memory that this process can have: the machine's, or fewer if its cgroup may hold fewer.
    pub memory: Option<u64>,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: Option<String>,
}

impl SystemFacts {
    /// Reads them from the running kernel. A fact that can't be read is `None`, and is never guessed.
    pub fn read() -> Self {
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            max_map_count: read_number("/proc/sys/vm/max_map_count"),
            may_swap: may_swap(),
            pagemap_scan: wasmtime::PoolingAllocationConfig::is_pagemap_scan_available(),
            overcommit_memory: read_number("/proc/sys/vm/overcommit_memory"),
            open_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            memory: memory(),
            kernel: read_line("/proc/sys/kernel/osrelease"),
        }
    }

    /// Whether the pool may reset an instance's memory by scanning for dirty pages.
    ///
    /// In wasmtime 48 the scan passes over a page that was swapped out, so that the next instance would read what
    /// the last one wrote (wasmtime #14357, fixed in 50). It is only used where that can't happen.
    pub fn may_scan_pagemap(&self) -> bool {
        self.pagemap_scan && self.may_swap == Some(false)
    }
}

/// Raises the soft limit on open files to the hard one, which it is mostly far below: each connection is an open file.
pub fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Refused, the limit stays as it was, which the report tells.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().trim_end_matches(" kB").parse().ok()?;
    let machine = kib * 1024;
    Some(cgroup_number("memory.max").map_or(machine, |cgroup| cgroup.min(machine)))
}

fn may_swap() -> Option<bool> {
    let swaps = std::fs::read_to_string("/proc/swaps").ok()?;
    if swap_devices(&swaps) == 0 {
        return Some(false);
    }
    // A cgroup that may hold nothing in swap is as good as no swap device.
    Some(cgroup_number("memory.swap.max") != Some(0))
}

/// Number of devices in the text of `/proc/swaps`, whose first line is a heading.
fn swap_devices(swaps: &str) -> usize {
    swaps
        .lines()
        .skip(1)
        .filter(|line| !line.trim().is_empty())
        .count()
}

/// A number of this process's own cgroup; `None` also if it says that there is no bound.
fn cgroup_number(file: &str) -> Option<u64> {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    read_number(Path::new("/sys/fs/cgroup").join(path).join(file))
}

fn read_line(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn read_number(path: impl AsRef<Path>) -> Option<u64> {
    read_line(path)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_swap_devices_below_the_heading() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert_eq!(swap_devices(heading), 0);
        assert_eq!(
            swap_devices(&format!("{heading}/dev/vdb partition 1048572 0 -2\n")),
            1
        );
    }

    #[test]
    fn scans_the_pagemap_only_where_nothing_can_be_swapped_out() {
        let mut facts = SystemFacts::read();
        facts.pagemap_scan = true;
        for (may_swap, expected) in [(Some(false), true), (Some(true), false), (None, false)] {
            facts.may_swap = may_swap;
            assert_eq!(facts.may_scan_pagemap(), expected);
        }
    }
}
