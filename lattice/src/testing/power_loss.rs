//! A disk that loses what was not synced: a `redb::StorageBackend` for crash tests.
//!
//! Owns an image of what is safe and the list of writes since the last sync. The power can be cut at any step; what is
//! there at the next start is the safe image, with none, all or a random part of the writes that came after, sector by
//! sector, as a real disk may leave it. Knows nothing of what is stored.
//!
//! A test runs its work once to count the [`Disk::steps`], then again for each step with [`Disk::cut_power_at`], and
//! looks at what a [`Disk::restart`] gives.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;

/// What a disk writes in one piece, in bytes. Smaller than a page of redb, so that pages are torn too.
const SECTOR_LEN: usize = 512;

/// How long a test waits for a sync that never comes before it fails.
const SYNC_WAIT_MAX: Duration = Duration::from_secs(10);

/// A disk with a power switch. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What survives a loss of power.
    safe: Vec<u8>,
    /// What a reader sees: `safe` with `unsynced` on top.
    seen: Vec<u8>,
    unsynced: Vec<Write>,
    steps: u64,
    cut_at: Option<u64>,
    syncs_held: bool,
    syncs_waiting: u32,
}

#[derive(Debug)]
enum Write {
    Len(usize),
    Bytes { offset: usize, data: Vec<u8> },
}

/// What of the writes since the last sync is there after a restart.
#[derive(Debug, Clone, Copy)]
pub enum Unsynced {
    /// Nothing: all of it was still in the disk's cache.
    Lost,
    /// Everything, though nobody had asked for it.
    Kept,
    /// Each sector or not, by the bits of a generator with this seed.
    Some(u64),
}

impl Disk {
    /// A disk with `image` on it, as [`Disk::image`] gave it.
    pub fn with_image(image: Vec<u8>) -> Self {
        let disk = Self::default();
        {
            let mut state = disk.lock();
            state.seen.clone_from(&image);
            state.safe = image;
        }
        disk
    }

    /// What a reader sees now.
    pub fn image(&self) -> Vec<u8> {
        self.lock().seen.clone()
    }

    /// Writes, changes of length and syncs so far.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Cuts the power when step number `step` begins (the first is 0): that step and all that follows fail.
    pub fn cut_power_at(&self, step: u64) {
        self.lock().cut_at = Some(step);
    }

    /// Ends that everything fails: what failed was not done, as on a disk that was full.
    pub fn mend(&self) {
        self.lock().cut_at = None;
    }

    /// The disk at the next start: what was safe, and of the rest what `unsynced` says.
    pub fn restart(&self, unsynced: Unsynced) -> Self {
        let state = self.lock();
        let mut image = state.safe.clone();
        let mut bits = match unsynced {
            Unsynced::Some(seed) => Bits(seed),
            _ => Bits(0),
        };
        let mut keep = || match unsynced {
            Unsynced::Lost => false,
            Unsynced::Kept => true,
            Unsynced::Some(_) => bits.next(),
        };
        for write in &state.unsynced {
            match write {
                Write::Len(len) if keep() => image.resize(*len, 0),
                Write::Len(_) => {}
                Write::Bytes { offset, data } => {
                    for (at, sector) in data.chunks(SECTOR_LEN).enumerate() {
                        if keep() {
                            put(&mut image, offset + at * SECTOR_LEN, sector);
                        }
                    }
                }
            }
        }
        Self::with_image(image)
    }

    /// From now on a sync does not return, until [`Disk::release_syncs`].
    pub fn hold_syncs(&self) {
        self.lock().syncs_held = true;
    }

    /// Lets held syncs go on.
    pub fn release_syncs(&self) {
        self.lock().syncs_held = false;
        self.0.changed.notify_all();
    }

    /// Waits (on this thread) until a sync is being held; whether one came in ten seconds.
    pub fn wait_for_held_sync(&self) -> bool {
        let none = |state: &mut State| state.syncs_waiting == 0;
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.lock(), SYNC_WAIT_MAX, none);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn powered(&self) -> io::Result<()> {
        match self.cut_at {
            Some(step) if self.steps > step => Err(io::Error::other("the power is off")),
            _ => Ok(()),
        }
    }

    /// Counts a step. Whether what it writes may reach the disk, and whether it succeeds: the step at which the power
    /// goes fails, and may yet have left something.
    fn step(&mut self) -> (bool, io::Result<()>) {
        let reaches = self.powered().is_ok();
        self.steps += 1;
        (reaches, self.powered())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        let state = self.lock();
        state.powered()?;
        Ok(state.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        state.powered()?;
        let offset = in_memory(offset)?;
        let bytes = state.seen.get(offset..offset + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        let len = in_memory(len)?;
        let (reaches, done) = state.step();
        if reaches {
            state.seen.resize(len, 0);
            state.unsynced.push(Write::Len(len));
        }
        done
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.step().1?;
        state.syncs_waiting += 1;
        self.0.changed.notify_all();
        let held = self.0.changed.wait_while(state, |state| state.syncs_held);
        let mut state = held.unwrap_or_else(PoisonError::into_inner);
        state.syncs_waiting -= 1;
        state.powered()?;
        let State { safe, unsynced, .. } = &mut *state;
        for write in unsynced.drain(..) {
            match write {
                Write::Len(len) => safe.resize(len, 0),
                Write::Bytes { offset, data } => put(safe, offset, &data),
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let offset = in_memory(offset)?;
        let (reaches, done) = state.step();
        if reaches {
            put(&mut state.seen, offset, data);
            state.unsynced.push(Write::Bytes {
                offset,
                data: data.to_vec(),
            });
        }
        done
    }
}

fn put(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(data);
}

fn in_memory(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(io::Error::other)
}

/// A generator of bits (splitmix64): the same seed gives the same loss.
struct Bits(u64);

impl Bits {
    fn next(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed >> 63 == 1
    }
}
