//! One end of a stream: what came, what may be sent, and whether it is over.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{ALIVE_EACH, BEHIND_MAX, FRAME_COST_MIN, SILENCE_MAX, Shared, StreamError, WINDOW_MIN};
use crate::envelope::{Frame, FrameKind, Side, StreamId};
use crate::subject::{Address, Subject};

pub(super) struct End {
    pub(super) shared: Arc<Shared>,
    /// Counts the ends of this host.
    pub(super) opened: u64,
    side: Side,
    window: u64,
    state: Mutex<State>,
    /// Something came, or it is over.
    pub(super) readable: Notify,
    /// There is credit, or it is over.
    pub(super) writable: Notify,
}

/// To whom it goes.
#[derive(Clone)]
struct Route {
    id: StreamId,
    peer: Address,
    subject: Subject,
}

struct State {
    route: Option<Route>,
    /// Halves in the hands of a user.
    held: u8,
    reset: Option<Arc<str>>,

    /// Data that came and was not read.
    unread: VecDeque<Bytes>,
    /// The number of the next frame with data.
    expected: u64,
    /// What came, what was read and what may come, since the beginning.
    came: u64,
    read: u64,
    granted: u64,
    /// No more comes.
    ended: bool,

    next: u64,
    sent: u64,
    credit: u64,
    finished: bool,

    /// Whether anything came.
    touched: bool,
    /// The call that it goes with has not ended: a callee may take it late or never, and the call has a deadline.
    called: bool,
    /// When something came last, or it was opened.
    heard: Instant,
    told: Instant,
    /// A number that the other says it has sent all frames below, and where this end was then.
    behind: Option<Behind>,
}

struct Behind {
    claimed: u64,
    at: u64,
    since: Instant,
}

/// What a frame of `len` bytes counts.
pub(super) fn cost(len: usize) -> u64 {
    (len as u64).max(FRAME_COST_MIN)
}

impl End {
    pub(super) fn new(shared: Arc<Shared>, side: Side, window: u64) -> Self {
        Self {
            opened: shared.opened.fetch_add(1, Relaxed),
            shared,
            side,
            window,
            state: Mutex::new(State {
                route: None,
                held: 2,
                reset: None,
                unread: VecDeque::new(),
                expected: 0,
                came: 0,
                read: 0,
                // That is what the other end takes for granted, if it is the callee.
                granted: if side == Side::Caller { WINDOW_MIN } else { 0 },
                ended: false,
                next: 0,
                sent: 0,
                credit: if side == Side::Callee { WINDOW_MIN } else { 0 },
                finished: false,
                touched: false,
                called: side == Side::Caller,
                heard: Instant::now(),
                told: Instant::now(),
                behind: None,
            }),
            readable: Notify::new(),
            writable: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens it as the stream `id` with `peer`, in place of what it was; not if there is one of that name already.
    pub(super) fn route_to(self: &Arc<Self>, id: StreamId, peer: &Address) -> bool {
        let subject = self.shared.subjects.stream(peer.as_str());
        let subject = subject.expect("an address is a token, as it was made as one");
        let mut state = self.lock();
        let mut table = self.shared.table();
        if let Some(old) = state.route.take() {
            table.remove(&(old.id, self.side));
        }
        if state.held == 0 {
            return true;
        }
        let std::collections::btree_map::Entry::Vacant(entry) = table.entry((id, self.side)) else {
            return false;
        };
        entry.insert(self.clone());
        let peer = peer.clone();
        state.route = Some(Route { id, peer, subject });
        (state.told, state.heard) = (Instant::now(), Instant::now());
        true
    }

    pub(super) fn is_with(&self, peer: &Address) -> bool {
        self.lock()
            .route
            .as_ref()
            .is_some_and(|route| route.peer == *peer)
    }

    pub(super) fn is_untouched(&self) -> bool {
        let state = self.lock();
        !state.touched && state.reset.is_none()
    }

    /// Lets the other send as much as there is room for.
    pub(super) fn grant(&self) {
        let mut state = self.lock();
        state.granted = state.granted.max(state.read + self.window);
        self.say(&mut state, FrameKind::Credit, None);
    }

    /// Sends what needs no order: a credit or a reset.
    fn say(&self, state: &mut State, kind: impl FnOnce(u64) -> FrameKind, number: Option<u64>) {
        let Some(route) = &state.route else { return };
        let frame = Frame {
            stream: route.id,
            side: self.side,
            number: number.unwrap_or(state.next),
            kind: kind(state.granted),
        };
        state.told = Instant::now();
        // Without room it is said again with the next sign of life; a reset shows by silence.
        let _ = self
            .shared
            .signs
            .try_send((route.subject.clone(), frame.encode()));
    }

    /// Takes over a frame of the other end.
    pub(super) fn arrived(&self, number: u64, kind: FrameKind) {
        let mut state = self.lock();
        if state.reset.is_some() {
            return;
        }
        state.heard = Instant::now();
        if !std::mem::replace(&mut state.touched, true) && self.side == Side::Caller {
            state.granted = state.granted.max(state.read + self.window);
            self.say(&mut state, FrameKind::Credit, None);
        }
        match kind {
            FrameKind::Credit(up_to) => {
                state.credit = state.credit.max(up_to);
                self.writable.notify_one();
                self.look_behind(&mut state, number);
            }
            FrameKind::Reset(why) => self.over(&mut state, &why),
            FrameKind::Data(_) | FrameKind::End if number < state.expected || state.ended => {}
            FrameKind::Data(_) | FrameKind::End if number > state.expected => {
                self.fail(&mut state, "a part of it was lost");
            }
            FrameKind::Data(data) => {
                state.expected += 1;
                state.came += cost(data.len());
                if state.came > state.granted {
                    return self.fail(&mut state, "more was sent than there was credit for");
                }
                self.shared.received.fetch_add(data.len() as u64, Relaxed);
                state.unread.push_back(data);
                self.readable.notify_one();
            }
            FrameKind::End => {
                state.expected += 1;
                state.ended = true;
                self.readable.notify_one();
            }
            FrameKind::Other => {}
        }
    }

    /// Signs of life tell for a while of frames that do not come: the last ones were lost.
    fn look_behind(&self, state: &mut State, number: u64) {
        let at = state.expected;
        match &state.behind {
            _ if number <= at => state.behind = None,
            Some(behind) if behind.at == at && behind.claimed <= number => {
                if behind.since.elapsed() >= BEHIND_MAX {
                    self.fail(state, "its last part was lost");
                }
            }
            _ => {
                state.behind = Some(Behind {
                    claimed: number,
                    at,
                    since: Instant::now(),
                });
            }
        }
    }

    fn fail(&self, state: &mut State, why: &str) {
        self.say(state, |_| FrameKind::Reset(why.to_owned()), None);
        self.over(state, why);
    }

    fn over(&self, state: &mut State, why: &str) {
        if state.reset.is_none() {
            state.reset = Some(why.into());
            state.unread.clear();
            self.shared.resets.fetch_add(1, Relaxed);
            self.readable.notify_one();
            self.writable.notify_one();
        }
    }

    /// Ends it in both directions, and tells the other end.
    pub(super) fn reset_here(&self, why: &str) {
        let mut state = self.lock();
        if state.reset.is_none() {
            self.fail(&mut state, why);
        }
    }

    /// The call that it goes with has ended: from now on silence means that the other end has gone.
    pub(super) fn call_ended(&self) {
        let mut state = self.lock();
        state.called = false;
        state.heard = Instant::now();
    }

    /// Ends it without a word, if the other end never knew of it.
    pub(super) fn discard(&self) {
        let mut state = self.lock();
        if !state.touched && state.reset.is_none() {
            state.reset = Some("it was not taken".into());
        }
    }

    /// Each second: says that it is there, and notices that the other is not.
    pub(super) fn look(&self, now: Instant) {
        let mut state = self.lock();
        if state.reset.is_some() {
            return;
        }
        if state.called && !state.touched {
            return;
        }
        if now.saturating_duration_since(state.heard) > SILENCE_MAX {
            self.fail(&mut state, "nothing was heard of its other end");
        } else if now.saturating_duration_since(state.told) >= ALIVE_EACH {
            self.say(&mut state, FrameKind::Credit, None);
        }
    }

    /// The next data, if there is some; `None` inside at the end.
    pub(super) fn take(&self) -> Option<Result<Option<Bytes>, StreamError>> {
        let mut state = self.lock();
        if let Some(why) = &state.reset {
            return Some(Err(StreamError::Reset(why.clone())));
        }
        let Some(data) = state.unread.pop_front() else {
            return state.ended.then_some(Ok(None));
        };
        state.read += cost(data.len());
        // Half a window at a time, so that a credit goes for several frames.
        if !state.ended && state.read + self.window >= state.granted + self.window / 2 {
            state.granted = state.read + self.window;
            self.say(&mut state, FrameKind::Credit, None);
        }
        Some(Ok(Some(data)))
    }

    /// The message of the next frame with `data`, once there is credit for it, and where it goes.
    pub(super) fn put(&self, data: &Bytes) -> Option<Result<(Subject, Bytes), StreamError>> {
        let mut state = self.lock();
        if let Some(why) = &state.reset {
            return Some(Err(StreamError::Reset(why.clone())));
        }
        let sent = state.sent + cost(data.len());
        if sent > state.credit {
            return None;
        }
        state.sent = sent;
        self.next_frame(&mut state, FrameKind::Data(data.clone())).map(Ok)
    }

    /// The message that ends this direction. It needs no credit, but the other end to be there.
    pub(super) fn finish(&self) -> Option<Result<(Subject, Bytes), StreamError>> {
        let mut state = self.lock();
        if let Some(why) = &state.reset {
            return Some(Err(StreamError::Reset(why.clone())));
        }
        if state.credit == 0 {
            return None;
        }
        let frame = self.next_frame(&mut state, FrameKind::End)?;
        state.finished = true;
        Some(Ok(frame))
    }

    fn next_frame(&self, state: &mut State, kind: FrameKind) -> Option<(Subject, Bytes)> {
        let route = state.route.as_ref()?;
        let frame = Frame {
            stream: route.id,
            side: self.side,
            number: state.next,
            kind,
        };
        let message = (route.subject.clone(), frame.encode());
        state.next += 1;
        Some(message)
    }

    /// A user lets go of the reading half: what still comes is not wanted.
    pub(super) fn let_go_of_reading(&self) {
        let mut state = self.lock();
        if state.reset.is_none() && !(state.ended && state.unread.is_empty()) {
            self.fail(&mut state, "its reader has gone");
        }
        self.let_go(state);
    }

    /// A user lets go of the writing half: without an end it is no whole stream.
    pub(super) fn let_go_of_writing(&self) {
        let mut state = self.lock();
        if state.reset.is_none() && !state.finished {
            self.fail(&mut state, "its writer has gone");
        }
        self.let_go(state);
    }

    fn let_go(&self, mut state: MutexGuard<'_, State>) {
        state.held -= 1;
        if state.held > 0 {
            return;
        }
        let route = state.route.take();
        drop(state);
        if let Some(route) = route {
            let end = self.shared.table().remove(&(route.id, self.side));
            drop(end);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.reserved.fetch_sub(self.window, Relaxed);
    }
}
