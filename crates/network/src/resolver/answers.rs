//! What was answered to whom, and how long it stays open. Pure.

use crate::plan::Plan;
use crate::ruleset::Held;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;
use tokio::time::Instant;

/// Most addresses that are open to one guest because of names.
const HELD_MAX: usize = 4096;

/// How long what a name means is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// New connections are let through at least so long after an answer: programs keep what they heard.
    pub fresh_min: Duration,
    /// And at most so long; the guest is told to ask again by then.
    pub fresh_max: Duration,
    /// Longer than the guest was told, because it heard of it later.
    pub slack: Duration,
    /// Connections that are up may go on so long after the last answer.
    pub met: Duration,
}

impl Default for Lasting {
    fn default() -> Self {
        Self {
            fresh_min: Duration::from_secs(60),
            fresh_max: Duration::from_secs(3600),
            slack: Duration::from_secs(10),
            met: Duration::from_secs(86_400),
        }
    }
}

/// An address that a guest is about to hear of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Wanted {
    pub guest: Ipv4Addr,
    pub number: u32,
    pub address: IpAddr,
}

#[derive(Clone, Copy, Debug)]
struct Until {
    fresh: Instant,
    met: Instant,
}

/// All that is open because of names.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    held: BTreeMap<Wanted, Until>,
}

impl Answers {
    /// What the kernel has to be told before the guest may be told these; what is open long enough is left out.
    /// `None`: the guest has heard of too many addresses.
    pub fn missing(&mut self, wanted: &[Wanted], ttl_secs: u32, lasting: Lasting, now: Instant) -> Option<Vec<Held>> {
        let told = Duration::from_secs(ttl_secs.into()).min(lasting.fresh_max);
        let open_until = |wanted: &Wanted| self.held.get(wanted).map(|until| until.fresh);
        let missing: Vec<_> =
            wanted.iter().filter(|one| open_until(one).is_none_or(|until| until < now + told)).collect();
        let Some(guest) = missing.first().map(|wanted| wanted.guest) else { return Some(Vec::new()) };
        self.held.retain(|_, until| until.met > now);
        let has = self.held.keys().filter(|held| held.guest == guest).count();
        if has + missing.len() > HELD_MAX {
            return None;
        }
        let fresh = told.max(lasting.fresh_min) + lasting.slack;
        let until = Until { fresh: now + fresh, met: now + lasting.met.max(fresh) };
        Some(missing.into_iter().map(|wanted| held(wanted, &until, now)).collect())
    }

    /// They are open in the kernel.
    pub fn note(&mut self, opened: &[Held], now: Instant) {
        for held in opened {
            let wanted = Wanted { guest: held.guest, number: held.number, address: held.address };
            let [fresh, met] = [held.fresh_secs, held.met_secs].map(|secs| now + Duration::from_secs(secs));
            self.held.insert(wanted, Until { fresh, met });
        }
    }

    /// All that is open now.
    pub fn held(&self, now: Instant) -> Vec<Held> {
        let live = self.held.iter().filter(|(_, until)| until.met > now);
        live.map(|(wanted, until)| held(wanted, until, now)).collect()
    }

    /// Lets go of whatever this plan does not allow.
    pub fn keep(&mut self, plan: &Plan) {
        let listed = |held: &Wanted| plan.at(held.guest).is_some_and(|member| member.lists(held.number, held.address));
        self.held.retain(|held, _| listed(held));
    }
}

fn held(wanted: &Wanted, until: &Until, now: Instant) -> Held {
    let left = |until: Instant| until.saturating_duration_since(now).as_secs();
    let Wanted { guest, number, address } = *wanted;
    Held { guest, number, address, fresh_secs: left(until.fresh), met_secs: left(until.met) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{member, plan};

    const LASTING: Lasting = Lasting {
        fresh_min: Duration::from_secs(60),
        fresh_max: Duration::from_secs(600),
        slack: Duration::from_secs(10),
        met: Duration::from_secs(1000),
    };

    fn wanted(number: u32, last: u8) -> Wanted {
        Wanted { guest: Ipv4Addr::new(172, 16, 0, 2), number, address: Ipv4Addr::new(1, 1, 1, last).into() }
    }

    /// Asks at a second after the beginning; how long it is opened for, or nothing if it is open.
    #[track_caller]
    fn check(answers: &mut Answers, begin: Instant, at: u64, ttl_secs: u32, expected: Option<(u64, u64)>) {
        let now = begin + Duration::from_secs(at);
        let missing = answers.missing(&[wanted(1, 1)], ttl_secs, LASTING, now).unwrap();
        assert_eq!(missing.first().map(|held| (held.fresh_secs, held.met_secs)), expected);
        answers.note(&missing, now);
    }

    #[test]
    fn the_kernel_is_told_only_what_it_does_not_know() {
        let (mut answers, begin) = (Answers::default(), Instant::now());
        check(&mut answers, begin, 0, 300, Some((310, 1000)));
        check(&mut answers, begin, 0, 300, None);
        check(&mut answers, begin, 100, 200, None);
        check(&mut answers, begin, 110, 200, None);
        check(&mut answers, begin, 111, 200, Some((210, 1000)));
        check(&mut answers, begin, 500, 0, Some((70, 1000)));
        check(&mut answers, begin, 500, u32::MAX, Some((610, 1000)));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let (mut answers, begin) = (Answers::default(), Instant::now());
        check(&mut answers, begin, 0, 60, Some((70, 1000)));
        let left = |at| answers.held(begin + Duration::from_secs(at)).first().map(|h| (h.fresh_secs, h.met_secs));
        assert_eq!(
            [0, 69, 70, 999, 1000].map(left),
            [Some((70, 1000)), Some((1, 931)), Some((0, 930)), Some((0, 1)), None]
        );
    }

    #[test]
    fn one_guest_holds_only_so_many() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let many: Vec<_> = (0..HELD_MAX as u32).map(|number| wanted(number, 1)).collect();
        let missing = answers.missing(&many, 60, LASTING, now).unwrap();
        answers.note(&missing, now);
        assert_eq!(answers.missing(&[wanted(0, 2)], 60, LASTING, now), None);
        let other = Wanted { guest: Ipv4Addr::new(172, 16, 0, 3), ..wanted(0, 2) };
        assert_eq!(answers.missing(&[other], 60, LASTING, now).map(|held| held.len()), Some(1));
        let later = now + LASTING.met;
        assert_eq!(answers.missing(&[wanted(0, 2)], 60, LASTING, later).map(|held| held.len()), Some(1));
    }

    #[test]
    fn a_policy_that_is_taken_back_takes_its_answers() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let with = |openings: &str| {
            let mut one = member(1, 2, &[]);
            one.egress = crate::Egress::List(openings.split(' ').map(|opening| opening.parse().unwrap()).collect());
            one
        };
        let one = with("a.com:443 b.com");
        let numbers: Vec<_> = one.names().collect();
        let missing = answers.missing(&[wanted(numbers[0], 1), wanted(numbers[1], 2)], 60, LASTING, now).unwrap();
        answers.note(&missing, now);
        let mut left = |members| {
            answers.keep(&plan(members));
            answers.held(now).iter().map(|held| held.number).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(left(vec![one]), numbers.iter().copied().collect());
        assert_eq!(left(vec![with("c.com a.com:443")]), [numbers[0]].into());
        assert_eq!(left(vec![]), [].into());
    }

    #[test]
    fn each_family_of_addresses_has_its_own_policy() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let mut one = member(1, 2, &[]);
        one.egress6 = Some(crate::Egress::List(vec!["a.com:443".parse().unwrap()]));
        let six = |number| Wanted { address: "2606:4700::1111".parse().unwrap(), ..wanted(number, 1) };
        let number = one.names6().next().unwrap();
        let missing = answers.missing(&[wanted(number, 1), six(number)], 60, LASTING, now).unwrap();
        answers.note(&missing, now);
        let mut left = |member: &crate::Member| {
            let block = "fd70::/64".parse().unwrap();
            let subnet = plan(vec![]).subnet().with6(block);
            answers.keep(&Plan::new(&perigee_model::InstanceId::from_bits(7), subnet, vec![member.clone()]).unwrap());
            answers.held(now).iter().map(|held| held.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(left(&one), ["2606:4700::1111"], "of IPv4 it lists nothing");
        (one.egress, one.egress6) = (crate::Egress::List(vec!["a.com:443".parse().unwrap()]), None);
        assert_eq!(left(&one), [""; 0]);
    }
}
