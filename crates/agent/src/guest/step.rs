//! What to do next about a guest. Pure.

use super::Document;
use perigee_model::{Phase, Power, Timestamp};

/// What is so, beside the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its VMM lives.
    pub alive: bool,
    /// Its CPUs are stopped.
    pub paused: bool,
    /// They are for want of room on its host's disk.
    pub starved: bool,
    /// Its session is open, or there is none to open.
    pub connected: bool,
    /// Now.
    pub now: Timestamp,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Take it over from whoever made it.
    Adopt,
    /// Bring it up.
    Boot,
    /// Wait for the hello of one that boots already.
    Resume,
    /// Open its session again.
    Connect,
    /// It ended by itself.
    Fell,
    /// Leave nothing.
    Remove,
    /// Stop it, and keep what can be started again.
    Halt,
    /// Stop it, to bring it up again.
    Restart,
    /// Stop its CPUs.
    Pause,
    /// Let its CPUs run again.
    Unpause,
    /// Somebody else brought it there: say so.
    Notice(Phase),
    /// It has a card, and what is wanted of it may be another by now.
    Card,
    /// It should have other volumes than it has.
    Plug,
    /// It stands for want of room on its host's disk.
    Starve,
    /// It stood for want of room, and does not any more.
    Fed,
    /// Do the long work that is due.
    Operate,
    /// Say again what is so, for the newer generation.
    Confirm,
    /// Nothing, until mail or this time.
    Rest(Option<Timestamp>),
}

impl Document {
    /// Its time is over.
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.order.desired.expires_at.is_some_and(|at| at <= now)
    }
    /// It should run now, or be in memory at least.
    pub(super) fn wants_running(&self, now: Timestamp) -> bool {
        matches!(self.order.desired.power, Power::Running | Power::Paused) && !self.is_expired(now)
    }

    /// Compares desired with what is so. Long work waits until there is nothing else to do; what stands for want
    /// of room does not keep it waiting: it may make some, or is refused for that want.
    pub(super) fn next(&self, seen: Seen) -> Step {
        match self.next_of_life(seen) {
            Step::Rest(_) | Step::Connect if self.operations.is_due() => Step::Operate,
            Step::Starve if self.is_starved() && self.operations.is_due() => Step::Operate,
            step => step,
        }
    }

    fn next_of_life(&self, seen: Seen) -> Step {
        let phase = self.observed.phase;
        if phase == Phase::Gone {
            return self.settled(); // final: a gone guest never comes back under its id
        }
        if self.is_expired(seen.now) {
            return Step::Remove;
        }
        let wanted = self.order.desired.power != Power::Absent;
        if wanted && !self.taken_over && self.is_adopted() {
            return if phase == Phase::Failed && !self.is_behind() { self.settled() } else { Step::Adopt };
        }
        match self.order.desired.power {
            Power::Absent => Step::Remove,
            Power::Stopped if phase == Phase::Stopped && !seen.alive => self.settled(),
            Power::Stopped => Step::Halt,
            Power::Running | Power::Paused => match (phase, seen.alive) {
                (Phase::Failed | Phase::Stopped, false) if !self.is_behind() => self.settled(), // no silent restart
                (Phase::Failed | Phase::Stopped, true) => Step::Notice(Phase::Running),
                (Phase::Running | Phase::Paused, true) => self.next_of_living(seen),
                (Phase::Running | Phase::Paused, false) => Step::Fell,
                (Phase::Booting, true) => Step::Resume,
                // It could not be stopped yet.
                (Phase::Stopping, true) if self.is_to_restart() => Step::Restart,
                (
                    Phase::Waiting
                    | Phase::Fetching
                    | Phase::Booting
                    | Phase::Stopping
                    | Phase::Stopped
                    | Phase::Failed
                    | Phase::Gone,
                    _,
                ) => Step::Boot,
            },
        }
    }

    /// Of one that is up and should be.
    fn next_of_living(&self, seen: Seen) -> Step {
        let (desired, phase) = (&self.order.desired, self.observed.phase);
        if self.is_to_restart() {
            return Step::Restart;
        }
        let pause = desired.power == Power::Paused;
        if phase == Phase::Running && !pause && seen.starved {
            return Step::Starve;
        }
        if self.is_starved() && !seen.starved {
            return Step::Fed;
        }
        match (phase == Phase::Paused, seen.paused) {
            (false, true) if pause || !self.is_behind() => Step::Notice(Phase::Paused),
            (_, true) if !pause && self.is_behind() => Step::Unpause,
            (true, true) => self.settled(),
            (_, false) if pause && self.is_behind() => Step::Pause,
            // Up again after it fell.
            (false, false) if pause && !self.let_go => Step::Pause,
            (true, false) => Step::Notice(Phase::Running),
            (false, false) if seen.connected => self.settled(),
            (false, _) => Step::Connect,
        }
    }

    fn is_to_restart(&self) -> bool {
        self.order.desired.restarts > self.observed.restarts
    }
    /// Something was asked for that is not brought about yet.
    pub(super) fn is_behind(&self) -> bool {
        self.acting || self.observed.generation < self.order.desired.generation
    }
    /// It was taken over: what it is made of is its owner's.
    pub(super) fn is_adopted(&self) -> bool {
        self.order.spec.vm.as_ref().is_some_and(|vm| vm.adopted)
    }
    fn settled(&self) -> Step {
        if self.observed.phase != Phase::Gone && self.is_to_plug() {
            return Step::Plug;
        }
        let until = self.order.desired.expires_at.filter(|_| self.observed.phase != Phase::Gone);
        let is_up = matches!(self.observed.phase, Phase::Running | Phase::Paused);
        match self.is_behind() {
            true if is_up && self.address.is_some() => Step::Card,
            true => Step::Confirm,
            false => Step::Rest(until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::volumes::plugged;
    use perigee_agent_api::DesiredGuest;
    use perigee_model::guest::Problem;
    use perigee_model::{
        Code, Desired, Firmware, GuestId, GuestKind, GuestSpec, ImageId, Labels, Mac, Name, Resources, RestartPolicy,
        VmSpec, VolumeId,
    };
    use uuid::Uuid;

    fn document(power: Power, phase: Phase, behind: bool) -> Document {
        let name = Name::parse("g").unwrap();
        let spec = GuestSpec {
            image: ImageId::new(Uuid::nil()),
            image_name: name.clone(),
            parts: Vec::new(),
            resources: Resources { cpus: 1, memory_bytes: 64 << 20 },
            env: Default::default(),
            ttl_ms: None,
            host_wanted: None,
            vm: None,
            egress: None,
            egress6: None,
            forwards: Vec::new(),
        };
        let expires_at = Some(Timestamp::from_micros(100));
        let desired =
            Desired { generation: 2, host: None, power, expires_at, restarts: 0, grace_ms: 0, release: false };
        let order = DesiredGuest {
            id: GuestId::new(Uuid::nil()),
            name,
            labels: Labels::new(),
            kind: GuestKind::Sandbox,
            spec,
            desired,
        };
        let mut document = Document::new(order, 1, Timestamp::from_micros(0));
        document.observed.phase = phase;
        document.observed.generation = if behind { 1 } else { 2 };
        document
    }

    fn vm(volumes: Vec<VolumeId>) -> VmSpec {
        VmSpec {
            description: String::new(),
            metadata: Default::default(),
            disk_bytes: None,
            network: None,
            mac: Mac::from_bits(1),
            ssh_keys: Vec::new(),
            firmware: Firmware::Bios,
            tpm: false,
            restart: RestartPolicy::Never,
            start_order: 0,
            adopted: false,
            origin: None,
            volumes,
        }
    }

    fn check(power: Power, phase: Phase, alive: bool, connected: bool, now: i64, behind: bool) -> Step {
        let seen = Seen { alive, paused: false, starved: false, connected, now: Timestamp::from_micros(now) };
        document(power, phase, behind).next(seen)
    }

    #[test]
    fn each_difference_has_its_step() {
        let until = Step::Rest(Some(Timestamp::from_micros(100)));
        let running = |phase, alive, connected| check(Power::Running, phase, alive, connected, 1, false);
        assert_eq!(running(Phase::Waiting, false, false), Step::Boot);
        assert_eq!(running(Phase::Booting, false, false), Step::Boot);
        assert_eq!(running(Phase::Booting, true, false), Step::Resume);
        assert_eq!(running(Phase::Running, true, true), until);
        assert_eq!(running(Phase::Running, true, false), Step::Connect);
        assert_eq!(running(Phase::Running, false, false), Step::Fell);
        assert_eq!(running(Phase::Failed, false, false), until, "no silent restart");
        assert_eq!(check(Power::Running, Phase::Failed, false, false, 1, true), Step::Boot);
        assert_eq!(check(Power::Running, Phase::Running, true, true, 1, true), Step::Confirm);
        assert_eq!(check(Power::Running, Phase::Running, true, true, 100, false), Step::Remove);
        assert_eq!(check(Power::Absent, Phase::Booting, true, false, 1, false), Step::Remove);
        assert_eq!(check(Power::Absent, Phase::Gone, false, false, 1, false), Step::Rest(None));
        assert_eq!(check(Power::Running, Phase::Gone, false, false, 1, true), Step::Confirm, "gone is final");
        assert_eq!(check(Power::Stopped, Phase::Running, true, true, 1, false), Step::Halt);
        assert_eq!(check(Power::Stopped, Phase::Stopped, false, false, 1, false), until);
    }

    #[test]
    fn what_others_do_to_it_is_told_and_not_fought() {
        let up = |power, phase, paused, behind| {
            let seen = Seen { alive: true, paused, starved: false, connected: true, now: Timestamp::from_micros(1) };
            document(power, phase, behind).next(seen)
        };
        let rest = Step::Rest(Some(Timestamp::from_micros(100)));
        assert_eq!(up(Power::Paused, Phase::Running, false, true), Step::Pause);
        assert_eq!(up(Power::Paused, Phase::Running, true, true), Step::Notice(Phase::Paused), "it was paused already");
        assert_eq!(up(Power::Paused, Phase::Paused, true, false), rest);
        assert_eq!(up(Power::Paused, Phase::Paused, false, false), Step::Notice(Phase::Running), "let go on by others");
        assert_eq!(up(Power::Paused, Phase::Running, false, false), Step::Pause, "it fell and was started again");
        let mut let_go = document(Power::Paused, Phase::Running, false);
        let_go.let_go = true;
        let seen = Seen { alive: true, paused: false, starved: false, connected: true, now: Timestamp::from_micros(1) };
        assert_eq!(let_go.next(seen), rest);
        assert_eq!(up(Power::Running, Phase::Paused, true, true), Step::Unpause);
        assert_eq!(up(Power::Running, Phase::Running, true, false), Step::Notice(Phase::Paused), "paused by others");
        assert_eq!(up(Power::Running, Phase::Paused, true, false), rest, "a full disk pauses it again and again");
        assert_eq!(up(Power::Running, Phase::Paused, false, false), Step::Notice(Phase::Running));
        assert_eq!(up(Power::Running, Phase::Stopped, false, false), Step::Notice(Phase::Running), "started by others");
        assert_eq!(check(Power::Running, Phase::Stopped, false, false, 1, false), rest, "it turned itself off");
        assert_eq!(check(Power::Running, Phase::Stopped, false, false, 1, true), Step::Boot);
        assert_eq!(check(Power::Paused, Phase::Paused, false, false, 1, false), Step::Fell);
    }

    #[test]
    fn a_restart_is_done_once_for_each_asked_for() {
        let seen = Seen { alive: true, paused: false, starved: false, connected: true, now: Timestamp::from_micros(1) };
        let mut document = document(Power::Running, Phase::Running, true);
        document.order.desired.restarts = 3;
        assert_eq!(document.next(seen), Step::Restart);
        document.observed.phase = Phase::Stopping;
        assert_eq!(document.next(seen), Step::Restart, "it could not be stopped");
        assert_eq!(document.next(Seen { alive: false, ..seen }), Step::Boot);
        document.observed.phase = Phase::Running;
        document.observed.restarts = 3;
        document.observed.generation = 2;
        assert_eq!(document.next(seen), Step::Rest(Some(Timestamp::from_micros(100))));
    }

    #[test]
    fn who_has_a_card_has_it_changed_while_it_is_up() {
        let with_card = |phase, alive, behind| {
            let seen = Seen {
                alive,
                paused: phase == Phase::Paused,
                starved: false,
                connected: true,
                now: Timestamp::from_micros(1),
            };
            let mut document = document(Power::Running, phase, behind);
            document.address = Some("172.16.0.2".parse().unwrap());
            document.next(seen)
        };
        let rest = Step::Rest(Some(Timestamp::from_micros(100)));
        assert_eq!(with_card(Phase::Running, true, true), Step::Card);
        assert_eq!(with_card(Phase::Running, true, false), rest);
        assert_eq!(with_card(Phase::Running, false, true), Step::Fell);
        assert_eq!(with_card(Phase::Gone, false, true), Step::Confirm);
    }

    #[test]
    fn who_should_have_other_volumes_is_given_them_at_rest() {
        let of = |power, phase, alive, wanted: &[u128], has: &[u128]| {
            let id = |n: &u128| VolumeId::new(Uuid::from_u128(*n));
            let mut document = document(power, phase, false);
            document.order.spec.vm = Some(Box::new(vm(wanted.iter().map(id).collect())));
            document.observed.volumes = plugged(&has.iter().map(id).collect::<Vec<_>>());
            let now = Timestamp::from_micros(1);
            document.next(Seen { alive, paused: phase == Phase::Paused, starved: false, connected: true, now })
        };
        let rest = Step::Rest(Some(Timestamp::from_micros(100)));
        assert_eq!(of(Power::Running, Phase::Running, true, &[1, 2], &[1, 2]), rest);
        assert_eq!(of(Power::Running, Phase::Running, true, &[1, 2], &[2, 1]), rest);
        assert_eq!(of(Power::Running, Phase::Running, true, &[1], &[]), Step::Plug);
        assert_eq!(of(Power::Running, Phase::Running, true, &[], &[1]), Step::Plug);
        assert_eq!(of(Power::Running, Phase::Running, true, &[1], &[2]), Step::Plug);
        assert_eq!(of(Power::Paused, Phase::Paused, true, &[1], &[]), Step::Plug);
        assert_eq!(of(Power::Stopped, Phase::Stopped, false, &[1], &[]), Step::Plug);
        assert_eq!(of(Power::Stopped, Phase::Running, true, &[1], &[]), Step::Halt, "that comes first");
        assert_eq!(of(Power::Absent, Phase::Gone, false, &[1], &[]), Step::Rest(None));
    }

    #[test]
    fn who_stands_for_want_of_room_is_no_paused_one() {
        let of = |power, behind, told: bool, paused, starved| {
            let mut document = document(power, Phase::Running, behind);
            document.observed.problem = told.then(|| Problem::new(Code::DiskFull, "full"));
            document.next(Seen { alive: true, paused, starved, connected: true, now: Timestamp::from_micros(1) })
        };
        assert_eq!(of(Power::Running, false, false, true, true), Step::Starve);
        assert_eq!(of(Power::Running, true, true, true, true), Step::Starve, "whatever was asked for meanwhile");
        assert_eq!(of(Power::Running, false, true, false, false), Step::Fed);
        assert_eq!(of(Power::Running, false, true, true, false), Step::Fed, "paused by somebody by now");
        assert_eq!(of(Power::Paused, true, true, true, true), Step::Notice(Phase::Paused), "asked to stand");
        assert_eq!(of(Power::Stopped, true, true, true, true), Step::Halt);
        assert_eq!(of(Power::Running, false, false, true, false), Step::Notice(Phase::Paused));
    }

    #[test]
    fn older_orders_are_refused() {
        let known = document(Power::Running, Phase::Running, false);
        let order = |generation| {
            let mut order = known.order.clone();
            order.desired.generation = generation;
            order
        };
        assert!(known.is_newer(&order(3), 1) && known.is_newer(&order(3), 2));
        assert!(!known.is_newer(&order(2), 1), "the same again");
        assert!(!known.is_newer(&order(1), 2), "an older generation");
        assert!(!known.is_newer(&order(3), 0), "an older reign");
    }
}
