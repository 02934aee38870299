//! What to do next about a guest. Pure.

use super::Document;
use perigee_model::{Phase, Power, Timestamp};

/// What is so, beside the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its VMM lives.
    pub alive: bool,
    /// Its session is open, or its driver has none.
    pub connected: bool,
    /// Now.
    pub now: Timestamp,
}

/// The next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bring it up.
    Boot,
    /// Wait for the hello of one that boots already.
    Resume,
    /// Open its session again.
    Connect,
    /// It ended by itself.
    Fell,
    /// Leave nothing, then be in this phase.
    Remove(Phase),
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
    /// It should run now.
    pub(super) fn wants_running(&self, now: Timestamp) -> bool {
        self.order.desired.power == Power::Running && !self.is_expired(now)
    }

    /// Compares desired with what is so.
    pub(super) fn next(&self, seen: Seen) -> Step {
        let behind = self.observed.generation < self.order.desired.generation;
        let rest = |until| if behind { Step::Confirm } else { Step::Rest(until) };
        let phase = self.observed.phase;
        if phase == Phase::Gone {
            return rest(None); // final: a gone guest never comes back under its id
        }
        let until = self.order.desired.expires_at;
        if self.is_expired(seen.now) {
            return Step::Remove(Phase::Gone);
        }
        match self.order.desired.power {
            Power::Absent => Step::Remove(Phase::Gone),
            Power::Stopped if phase == Phase::Stopped && !seen.alive => rest(until),
            Power::Stopped => Step::Remove(Phase::Stopped),
            Power::Running | Power::Paused => match (phase, seen.alive) {
                (Phase::Failed, _) if !behind => Step::Rest(until),
                (Phase::Running, true) if seen.connected => rest(until),
                (Phase::Running, true) => Step::Connect,
                (Phase::Running, false) => Step::Fell,
                (Phase::Booting, true) => Step::Resume,
                (
                    Phase::Waiting
                    | Phase::Fetching
                    | Phase::Booting
                    | Phase::Paused
                    | Phase::Stopping
                    | Phase::Stopped
                    | Phase::Failed
                    | Phase::Gone,
                    _,
                ) => Step::Boot,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_agent_api::DesiredGuest;
    use perigee_model::{Desired, GuestId, GuestKind, GuestSpec, ImageId, Name, Resources};
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
        };
        let expires_at = Some(Timestamp::from_micros(100));
        let desired = Desired { generation: 2, host: None, power, expires_at, restarts: 0, grace_ms: 0 };
        let order = DesiredGuest { id: GuestId::new(Uuid::nil()), name, kind: GuestKind::Sandbox, spec, desired };
        let mut document = Document::new(order, 1, Timestamp::from_micros(0));
        document.observed.phase = phase;
        document.observed.generation = if behind { 1 } else { 2 };
        document
    }

    fn check(power: Power, phase: Phase, alive: bool, connected: bool, now: i64, behind: bool) -> Step {
        let seen = Seen { alive, connected, now: Timestamp::from_micros(now) };
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
        assert_eq!(check(Power::Running, Phase::Running, true, true, 100, false), Step::Remove(Phase::Gone));
        assert_eq!(check(Power::Absent, Phase::Booting, true, false, 1, false), Step::Remove(Phase::Gone));
        assert_eq!(check(Power::Absent, Phase::Gone, false, false, 1, false), Step::Rest(None));
        assert_eq!(check(Power::Running, Phase::Gone, false, false, 1, true), Step::Confirm, "gone is final");
        assert_eq!(check(Power::Stopped, Phase::Running, true, true, 1, false), Step::Remove(Phase::Stopped));
        assert_eq!(check(Power::Stopped, Phase::Stopped, false, false, 1, false), until);
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
