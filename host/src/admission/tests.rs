//! Places and queues as their callers see them.

use std::collections::BTreeMap;
use std::task::Waker;

use proptest::prelude::*;

use super::*;

fn name(app: &str) -> AppName {
    AppName::new("default", app).unwrap()
}

fn limits(concurrency: u32, queue_len: u32) -> Limits {
    Limits {
        concurrency,
        queue_len,
        queue_wait: Duration::from_millis(50),
        ..Limits::default()
    }
}

fn admission(concurrency: u32, queue_len: u32, slots: u32) -> Arc<Admission> {
    Admission::new(
        &limits(concurrency, queue_len),
        &name("a"),
        Places::of_pool(slots),
    )
}

type Waiting = Pin<Box<dyn Future<Output = Result<Place, ShedReason>>>>;

/// A call that was polled once and waits.
fn waiting(admission: &Arc<Admission>, is_root: bool) -> Waiting {
    let admission = admission.clone();
    let mut call: Waiting = Box::pin(async move { admission.admit(is_root).await });
    assert!(polled(&mut call).is_none(), "it does not wait");
    call
}

fn polled(call: &mut Waiting) -> Option<Result<Place, ShedReason>> {
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn sheds_at_once_when_the_queue_is_full() {
    let admission = admission(1, 0, 100);
    let _held = admission.admit(true).await.unwrap();
    assert_eq!(admission.admit(true).await.err(), Some(ShedReason::QueueFull));
    assert_eq!(admission.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn sheds_a_call_whose_wait_is_over() {
    let admission = admission(1, 1, 100);
    let _held = admission.admit(true).await.unwrap();
    assert_eq!(admission.admit(true).await.err(), Some(ShedReason::QueueTimeout));
    assert_eq!(admission.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_call_takes_the_place_that_comes_free() {
    let admission = admission(1, 1, 100);
    let held = admission.admit(true).await.unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        drop(held);
    };
    let (admitted, ()) = tokio::join!(admission.admit(true), release);
    assert!(admitted.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_frees_its_seat() {
    let admission = admission(1, 1, 100);
    let _held = admission.admit(true).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_millis(1), admission.admit(true)).await;
    assert!(gone.is_err());
    assert_eq!(admission.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn calls_that_root_calls_make_take_the_share_that_is_left_to_them() {
    let admission = admission(100, 0, 10);
    let mut held = Vec::new();
    while let Ok(place) = admission.admit(true).await {
        held.push(place);
    }
    assert!(admission.admit(false).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn root_calls_leave_a_share_of_the_pool_for_the_calls_they_make() {
    let admission = admission(100, 0, 10);
    let mut held = Vec::new();
    while let Ok(place) = admission.admit(true).await {
        held.push(place);
    }
    assert_eq!(held.len(), 7);
    held.clear();
    assert!(admission.admit(true).await.is_ok(), "a refused call kept a place");
}

#[tokio::test(start_paused = true)]
async fn a_flooded_app_leaves_others_what_they_reserved() {
    let places = Places::of_pool(100);
    places.reserve(&BTreeMap::from([
        (name("flooded"), None),
        (name("other"), Some(20)),
    ]));
    let flooded = Admission::new(&limits(1_000, 1_000), &name("flooded"), places.clone());
    let other = Admission::new(&limits(1_000, 0), &name("other"), places.clone());
    let held: Vec<_> = std::iter::from_fn(|| flooded.try_admit(true)).collect();
    assert_eq!(held.len(), 50, "what is left of 70");
    let _waits = waiting(&flooded, true);
    let others: Vec<_> = std::iter::from_fn(|| other.try_admit(true)).collect();
    assert_eq!(others.len(), 20);
    let called = Admission::new(&limits(1_000, 0), &name("flooded"), places.clone());
    let nested: Vec<_> = std::iter::from_fn(|| called.try_admit(false)).collect();
    assert_eq!(nested.len(), 22, "8 of 30 are the other's");
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_call_that_finds_the_pool_full_is_refused_at_once() {
    let admission = admission(100, 100, 10);
    let _held: Vec<_> = std::iter::from_fn(|| admission.try_admit(false)).collect();
    assert_eq!(admission.admit(false).await.err(), Some(ShedReason::PoolFull));
}

#[tokio::test(start_paused = true)]
async fn a_call_of_a_call_does_not_wait_behind_a_root_call_that_lacks_a_root_place() {
    let admission = admission(8, 10, 10);
    let _held: Vec<_> = (0..7).map(|_| admission.try_admit(true).unwrap()).collect();
    let _root = waiting(&admission, true);
    assert!(admission.admit(false).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn actors_that_wait_for_root_places_take_turns_however_long_their_queues_are() {
    let places = Places::of_pool(10);
    let [long, short, elsewhere] =
        ["a", "a", "b"].map(|app| Admission::new(&limits(100, 100), &name(app), places.clone()));
    let mut held: Vec<_> = std::iter::from_fn(|| long.try_admit(true)).collect();
    let mut calls = Vec::new();
    for _ in 0..8 {
        calls.push(("long", waiting(&long, true)));
    }
    calls.push(("short", waiting(&short, true)));
    calls.push(("elsewhere", waiting(&elsewhere, true)));
    let mut order = Vec::new();
    while let Some(place) = held.pop() {
        drop(place);
        let next = calls.iter_mut().position(|(_, call)| match polled(call) {
            Some(place) => {
                // It goes on holding its place.
                std::mem::forget(place.ok());
                true
            }
            None => false,
        });
        order.push(calls.remove(next.unwrap()).0);
    }
    assert_eq!(order[..4], ["long", "elsewhere", "short", "long"]);
}

#[tokio::test(start_paused = true)]
async fn a_place_that_was_given_to_a_caller_who_left_goes_to_the_next() {
    let admission = admission(1, 10, 100);
    let held = admission.try_admit(true).unwrap();
    let first = waiting(&admission, true);
    let mut second = waiting(&admission, true);
    drop(held);
    drop(first);
    assert!(matches!(polled(&mut second), Some(Ok(_))));
}

#[tokio::test(start_paused = true)]
async fn raising_a_reservation_serves_those_who_wait() {
    let places = Places::of_pool(10);
    let both = |a, b| places.reserve(&BTreeMap::from([(name("a"), Some(a)), (name("b"), Some(b))]));
    both(1, 6);
    let admission = Admission::new(&limits(100, 100), &name("a"), places.clone());
    let _held = admission.try_admit(true).unwrap();
    let mut call = waiting(&admission, true);
    both(2, 5);
    assert!(matches!(polled(&mut call), Some(Ok(_))));
}

#[derive(Debug, Clone)]
enum Step {
    Call { actor: usize, is_root: bool },
    End(usize),
    Leave(usize),
    Reserve([Option<u32>; 2]),
}

fn step() -> impl Strategy<Value = Step> {
    let call = (0..ACTORS.len(), prop::bool::weighted(0.7))
        .prop_map(|(actor, is_root)| Step::Call { actor, is_root });
    let reserve = prop::array::uniform2(prop::option::of(0..8u32)).prop_map(Step::Reserve);
    prop_oneof![
        12 => call,
        6 => any::<usize>().prop_map(Step::End),
        3 => any::<usize>().prop_map(Step::Leave),
        1 => reserve,
    ]
}

/// App and concurrency.
const ACTORS: [(&str, u32); 4] = [("a", 2), ("a", 6), ("b", 5), ("b", 1)];
const SLOTS: u32 = 14;
const ROOT: u32 = 9;

struct Model {
    places: Places,
    actors: Vec<Arc<Admission>>,
    running: Vec<Place>,
    calls: Vec<(usize, bool, Waiting)>,
    reserved_anew: bool,
}

impl Model {
    /// Takes over those who were given a place.
    fn collect(&mut self) -> Result<(), TestCaseError> {
        let mut at = 0;
        while at < self.calls.len() {
            match polled(&mut self.calls[at].2) {
                None => at += 1,
                Some(answer) => {
                    let (_, is_root, _) = self.calls.remove(at);
                    match answer {
                        Ok(place) => self.running.push(place),
                        Err(reason) => prop_assert!(reason == ShedReason::QueueFull || !is_root),
                    }
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let report = self.places.report();
        let sum =
            |of: fn(&weft_observability::metrics::AppPlacesReport) -> u64| report.iter().map(of).sum::<u64>();
        // What ran before a reservation was raised may be over.
        prop_assert!(self.reserved_anew || sum(|app| app.nested_used) <= u64::from(SLOTS - ROOT));
        prop_assert!(self.reserved_anew || sum(|app| app.root_used) <= u64::from(ROOT));
        prop_assert_eq!(
            sum(|app| app.root_used + app.nested_used),
            self.running.len() as u64
        );
        prop_assert!(sum(|app| app.root_reserved) <= u64::from(ROOT));
        for (actor, admission) in self.actors.iter().enumerate() {
            let own = self
                .running
                .iter()
                .filter(|place| Arc::ptr_eq(&place.admission, admission));
            prop_assert_eq!(own.count(), admission.running() as usize);
            prop_assert!(admission.running() <= ACTORS[actor].1);
            let waiting = self.calls.iter().filter(|(of, ..)| *of == actor).count();
            prop_assert_eq!(waiting, admission.waiting() as usize);
            if admission.running() == ACTORS[actor].1 {
                continue;
            }
            // Who waits lacks a root place: its app has used all of its own, and nothing is left for all.
            let app = &report[usize::from(ACTORS[actor].0 == "b")];
            for (_, is_root, _) in self.calls.iter().filter(|(of, ..)| *of == actor) {
                prop_assert!(is_root, "a nested call waits though its actor has a place");
                prop_assert!(app.root_used >= app.root_reserved);
                prop_assert!(self.places.root().free() <= 0);
            }
        }
        Ok(())
    }
}

proptest! {
    /// Calls come, end, leave while they wait, and reservations change: the bounds hold, nobody waits for what is
    /// there, and at the end nothing is left over.
    #[test]
    fn nobody_waits_for_a_place_that_is_free_and_none_is_lost(steps in prop::collection::vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _entered = runtime.enter();
        let places = Places::of_pool(SLOTS);
        places.reserve(&BTreeMap::from([(name("a"), None), (name("b"), None)]));
        let actors = ACTORS.iter().map(|(app, concurrency)| Admission::new(&limits(*concurrency, 4), &name(app), places.clone()));
        let actors = actors.collect();
        let mut model = Model { places, actors, running: Vec::new(), calls: Vec::new(), reserved_anew: false };
        for step in steps {
            match step {
                Step::Call { actor, is_root } => {
                    let admission = model.actors[actor].clone();
                    let call: Waiting = Box::pin(async move { admission.admit(is_root).await });
                    model.calls.push((actor, is_root, call));
                }
                Step::End(which) if !model.running.is_empty() => {
                    let at = which % model.running.len();
                    drop(model.running.swap_remove(at));
                    // What is next may leave before it hears of it: see `Leave`.
                    continue;
                }
                Step::Leave(which) if !model.calls.is_empty() => {
                    let at = which % model.calls.len();
                    drop(model.calls.remove(at));
                }
                Step::End(_) | Step::Leave(_) => {}
                Step::Reserve([a, b]) => {
                    model.reserved_anew = true;
                    model.places.reserve(&BTreeMap::from([(name("a"), a), (name("b"), b)]));
                }
            }
            model.collect()?;
            model.check()?;
        }
        model.collect()?;
        model.check()?;
        let Model { places, actors, running, calls, .. } = model;
        drop((running, calls));
        prop_assert!(actors.iter().all(|actor| actor.running() == 0 && actor.waiting() == 0));
        prop_assert_eq!(places.apps_waiting().load(SeqCst), 0);
        places.reserve(&BTreeMap::new());
        prop_assert_eq!((places.root().free(), places.nested().free()), (i64::from(ROOT), i64::from(SLOTS - ROOT)));
    }
}

/// Threads that meet at the same places: no call is forgotten, which would hang here, and nothing is left over.
#[test]
fn threads_that_meet_forget_no_caller() {
    const CALLS: u32 = 4_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let places = Places::of_pool(7);
    places.reserve(&BTreeMap::from([(name("a"), Some(1)), (name("b"), None)]));
    let actors = ["a", "a", "b"].map(|app| {
        let limits = Limits {
            concurrency: 2,
            queue_len: 1_000,
            queue_wait: Duration::from_secs(600),
            ..Limits::default()
        };
        Admission::new(&limits, &name(app), places.clone())
    });
    runtime.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for caller in 0..24u32 {
            let actor = actors[caller as usize % 3].clone();
            calls.spawn(async move {
                for call in 0..CALLS / 24 {
                    if (call + caller) % 7 == 0 {
                        // One that leaves at once, be it served or not.
                        let mut leaves = std::pin::pin!(actor.admit(true));
                        std::future::poll_fn(|cx| {
                            let _ = leaves.as_mut().poll(cx);
                            Poll::Ready(())
                        })
                        .await;
                        continue;
                    }
                    let place = actor.admit(!call.is_multiple_of(3)).await;
                    if call.is_multiple_of(2) {
                        tokio::task::yield_now().await;
                    }
                    drop(place);
                }
            });
        }
        while let Some(done) = calls.join_next().await {
            done.unwrap();
        }
    });
    assert!(
        actors
            .iter()
            .all(|actor| actor.running() == 0 && actor.waiting() == 0)
    );
    assert_eq!(places.apps_waiting().load(SeqCst), 0);
    places.reserve(&BTreeMap::new());
    assert_eq!((places.root().free(), places.nested().free()), (4, 3));
}
