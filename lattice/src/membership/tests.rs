use super::*;

fn address(at: u64) -> Address {
    Address::new(&format!("h{at}"), 1).unwrap()
}

/// Hosts that hear each other at once, as long as they are not cut off.
struct Room {
    views: Vec<View>,
    cut: BTreeSet<usize>,
    dead: BTreeSet<usize>,
    now: Duration,
    changes: Vec<(usize, Member)>,
}

impl Room {
    fn new(len: u64) -> Self {
        let view = |at| View::new(address(at), "eu", false, Bytes::new(), Duration::ZERO);
        Self {
            views: (0..len).map(view).collect(),
            cut: BTreeSet::new(),
            dead: BTreeSet::new(),
            now: Duration::ZERO,
            changes: Vec::new(),
        }
    }

    fn seconds(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now += HEARTBEAT;
            for at in 0..self.views.len() {
                if !self.dead.contains(&at) {
                    let effects = self.views[at].tick(self.now);
                    self.apply(at, effects);
                }
            }
        }
    }

    fn apply(&mut self, from: usize, effects: Vec<Effect>) {
        for effect in effects {
            if let Effect::Changed(member) = effect {
                self.changes.push((from, member));
                continue;
            }
            if self.cut.contains(&from) {
                continue;
            }
            for to in 0..self.views.len() {
                if self.cut.contains(&to) || self.dead.contains(&to) {
                    continue;
                }
                let effects = match &effect {
                    Effect::Beat(_, beat) if self.hears(to, from) => {
                        self.views[to].heard(beat.clone(), self.now)
                    }
                    Effect::Tell(digest) => self.views[to].told(digest.clone(), self.now),
                    _ => Vec::new(),
                };
                self.apply(to, effects);
            }
        }
    }

    fn hears(&self, at: usize, of: usize) -> bool {
        match self.views[at].hears {
            Hears::Nothing => false,
            Hears::Own => at == of,
            Hears::All => true,
        }
    }

    fn alive(&self, at: usize) -> usize {
        let members = self.views[at].members();
        members
            .iter()
            .filter(|member| member.standing == Standing::Alive)
            .count()
    }

    fn standing(&self, at: usize, of: u64) -> Standing {
        let members = self.views[at].members();
        let found = members.iter().find(|member| member.address == address(of));
        found.map_or(Standing::Gone, |member| member.standing)
    }

    fn digesters(&self) -> Vec<usize> {
        (0..self.views.len())
            .filter(|at| self.views[*at].is_digester() && !self.dead.contains(at))
            .collect()
    }
}

#[test]
fn hosts_that_start_together_soon_know_each_other_and_one_digests() {
    let mut room = Room::new(10);
    room.seconds(6);
    for at in 0..10 {
        assert_eq!(room.alive(at), 10, "h{at}");
    }
    assert_eq!(room.digesters(), [0]);
    let hearing = |room: &Room, hears| -> Vec<_> {
        let of = |at: &usize| room.views[*at].hears == hears;
        (0..10).filter(of).collect()
    };
    assert_eq!(hearing(&room, Hears::All), [0]);
    room.seconds(10);
    assert_eq!(hearing(&room, Hears::Nothing), (1..10).collect::<Vec<_>>());
}

#[test]
fn a_digester_that_dies_is_suspect_as_soon_as_another_host_would_be_and_gone_as_soon() {
    let mut room = Room::new(5);
    room.seconds(20);
    room.dead.insert(0);
    room.seconds(4);
    assert_eq!(room.digesters(), [1]);
    assert_eq!(room.standing(3, 0), Standing::Suspect);
    assert_eq!(room.alive(3), 4);
    room.seconds(3);
    assert_eq!(room.standing(3, 0), Standing::Gone);
    assert_eq!(room.alive(3), 4);
}

/// A host took over as the digester's messages were late, and judged others. When it heard digests again, it first took them
/// for those of one that ranks behind, and noted their number. So the next one, which ended its turn, followed what it knew,
/// and what it had judged stayed: the digester had nothing new to tell of those hosts.
#[test]
fn who_gives_up_its_turn_keeps_nothing_of_what_it_judged() {
    let mut room = Room::new(3);
    room.seconds(6);
    let (first, last) = (room.views[0].beat("eu"), room.views[0].digests);
    let mut view = room.views.remove(2);
    let mut now = room.now;
    for _ in 0..8 {
        now += HEARTBEAT;
        for effect in view.tick(now) {
            if let Effect::Beat(_, beat) = effect {
                view.heard(beat, now);
            }
        }
    }
    assert!(view.is_digester());
    let standing = |view: &View, at: u64| {
        let members = view.members();
        let found = members.iter().find(|member| member.address == address(at));
        found.map(|member| member.standing)
    };
    assert_eq!(standing(&view, 1), Some(Standing::Suspect));
    let digest = |number, all, hosts: &[u64]| Digest {
        by: address(0),
        region: "eu".to_owned(),
        number: last + number,
        all,
        hosts: hosts
            .iter()
            .map(|at| Record {
                address: address(*at),
                standing: Standing::Alive,
                edition: 1,
                details: Bytes::new(),
                controller: false,
            })
            .collect(),
    };
    view.told(digest(8, false, &[]), now);
    let number = first.number + 8;
    view.heard(Heartbeat { number, ..first }, now);
    view.told(digest(9, false, &[]), now);
    assert!(!view.is_digester() && view.asks.contains("eu"));
    view.told(digest(10, true, &[0, 1, 2]), now);
    assert_eq!(standing(&view, 1), Some(Standing::Alive));
    assert!(!view.asks.contains("eu"));
}

#[test]
fn a_host_that_is_silent_is_suspect_and_then_gone_and_back_when_it_is_heard() {
    let mut room = Room::new(5);
    room.seconds(6);
    room.dead.insert(4);
    room.seconds(3);
    assert_eq!(room.standing(2, 4), Standing::Alive);
    room.seconds(1);
    assert_eq!(room.standing(2, 4), Standing::Suspect);
    room.seconds(3);
    assert_eq!(room.standing(2, 4), Standing::Gone);
    room.dead.remove(&4);
    room.seconds(4);
    assert_eq!(room.standing(2, 4), Standing::Alive);
}

#[test]
fn when_the_digesters_go_the_next_takes_over() {
    let mut room = Room::new(5);
    room.seconds(6);
    room.dead.extend([0, 1]);
    room.seconds(12);
    assert_eq!(room.digesters(), [2]);
    for at in 2..5 {
        assert_eq!(room.alive(at), 3, "h{at}");
    }
    room.dead.clear();
    room.seconds(8);
    assert_eq!(room.digesters(), [0]);
    assert_eq!(room.alive(4), 5);
}

#[test]
fn a_host_that_is_cut_off_is_blind_and_judges_nobody() {
    let mut room = Room::new(5);
    room.seconds(6);
    for at in [0, 3] {
        room.cut = BTreeSet::from([at]);
        room.changes.clear();
        room.seconds(30);
        assert!(room.views[at].is_blind());
        assert_eq!(room.alive(at), 5, "h{at} judged others");
        assert!(room.changes.iter().all(|(by, _)| *by != at));
        assert_eq!(room.alive((at + 1) % 5), 4);
        room.cut.clear();
        room.changes.clear();
        room.seconds(8);
        for at in 0..5 {
            assert_eq!(room.alive(at), 5);
        }
        let gone = |(_, member): &(usize, Member)| member.standing == Standing::Gone;
        assert!(
            !room.changes.iter().any(gone),
            "somebody was gone after the cut healed"
        );
    }
}

#[test]
fn all_are_cut_off_at_once_and_nobody_is_gone() {
    let mut room = Room::new(8);
    room.seconds(6);
    room.changes.clear();
    room.cut = (0..8).collect();
    room.seconds(60);
    room.cut.clear();
    room.seconds(10);
    assert_eq!(room.changes, []);
    assert_eq!(room.digesters(), [0]);
}

#[test]
fn who_leaves_says_so_and_is_gone_at_once() {
    let mut room = Room::new(4);
    room.seconds(6);
    room.views[3].set_standing(Standing::Leaving);
    room.seconds(2);
    assert_eq!(room.standing(1, 3), Standing::Leaving);
    room.views[3].set_standing(Standing::Gone);
    room.seconds(1);
    room.dead.insert(3);
    room.seconds(1);
    assert_eq!(room.standing(1, 3), Standing::Gone);
}

#[test]
fn what_a_host_says_of_itself_reaches_all_and_a_controller_digests_first() {
    let mut room = Room::new(4);
    room.views[2].me.controller = true;
    room.seconds(6);
    room.views[3].set_details(Bytes::from_static(b"zone=b"));
    room.seconds(2);
    assert_eq!(room.digesters(), [2]);
    let members = room.views[1].members();
    assert_eq!(members[3].details, "zone=b");
    assert!(members[2].controller);
}

/// Two digests that were overtaken came one after the other. As the second followed the first, nothing seemed to be
/// missing, and what they said of the past stayed. Late ones count for nothing now, and only everything makes up for what
/// was missed.
#[test]
fn digests_that_come_late_don_t_bring_the_past_back() {
    let mut view = View::new(address(1), "eu", false, Bytes::new(), Duration::ZERO);
    let now = Duration::from_secs(1);
    let digest = |number, all, standing| Digest {
        by: address(9),
        region: "us".to_owned(),
        number,
        all,
        hosts: vec![Record {
            address: address(5),
            standing,
            edition: 1,
            details: Bytes::new(),
            controller: false,
        }],
    };
    let sees = |view: &View| view.members().iter().any(|member| member.address == address(5));
    view.told(digest(1, true, Standing::Alive), now);
    view.told(digest(4, false, Standing::Gone), now);
    view.told(digest(2, false, Standing::Alive), now);
    view.told(digest(3, false, Standing::Alive), now);
    assert!(!sees(&view));
    assert!(view.asks.contains("us"));
    view.told(digest(5, false, Standing::Gone), now);
    assert!(view.asks.contains("us"));
    view.told(digest(6, true, Standing::Alive), now);
    assert!(sees(&view) && !view.asks.contains("us"));
}

/// A host that was to be ready stood still, and then got a digest that a host is gone and an older heartbeat of that host,
/// which it took over. As it judges nobody, and the first had nothing new to tell, the host was there for it for ever.
#[test]
fn who_does_not_tell_does_not_bring_back_who_is_gone() {
    let mut room = Room::new(4);
    room.seconds(6);
    let last = room.views[3].beat("eu");
    room.dead.insert(3);
    room.seconds(8);
    assert_eq!(room.standing(1, 3), Standing::Gone);
    // As in the second in which it is first and its turn has not begun.
    room.views[1].hears = Hears::All;
    let late = Heartbeat {
        number: last.number + 1,
        ..last
    };
    let now = room.now;
    room.views[1].heard(late, now);
    assert_eq!(room.standing(1, 3), Standing::Gone);
}

#[test]
fn who_is_not_told_listens_for_its_own_echo_before_it_takes_over() {
    let mut room = Room::new(3);
    room.seconds(20);
    assert_eq!(room.views[1].hears, Hears::Nothing);
    room.dead.insert(0);
    room.seconds(2);
    assert_eq!(room.views[1].hears, Hears::Own);
    assert!(!room.views[1].is_blind());
    room.seconds(1);
    assert_eq!(room.digesters(), [1]);
}

#[test]
fn another_region_without_digests_is_suspect_and_comes_back() {
    let mut view = View::new(address(1), "eu", false, Bytes::new(), Duration::ZERO);
    let other = Record {
        address: address(9),
        standing: Standing::Alive,
        edition: 1,
        details: Bytes::new(),
        controller: false,
    };
    let digest = |number, all| Digest {
        by: address(9),
        region: "us".to_owned(),
        number,
        all,
        hosts: if all { vec![other.clone()] } else { Vec::new() },
    };
    let second = Duration::from_secs(1);
    let beats = |view: &mut View, from: u32, to: u32| {
        for at in from..to {
            for effect in view.tick(second * at) {
                if let Effect::Beat(_, beat) = effect {
                    view.heard(beat, second * at);
                }
            }
        }
    };
    let standing = |view: &View| view.members().last().unwrap().standing;
    view.told(digest(1, true), second);
    assert_eq!(standing(&view), Standing::Alive);
    beats(&mut view, 1, 10);
    assert_eq!(standing(&view), Standing::Suspect);
    // A number was missed, so everything is asked for in that region.
    view.told(digest(7, false), second * 10);
    assert_eq!(standing(&view), Standing::Alive);
    let asks = view.tick(second * 10);
    assert!(
        asks.iter()
            .any(|effect| matches!(effect, Effect::Beat(region, beat) if region == "us" && beat.wants_all))
    );
    view.told(digest(8, true), second * 11);
    let asks = view.tick(second * 11);
    assert!(
        !asks
            .iter()
            .any(|effect| matches!(effect, Effect::Beat(region, _) if region == "us"))
    );
}
