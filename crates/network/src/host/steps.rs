//! What is to be done, from what should be and what is. Pure.

use super::found::{Bridge, Found, wanted};
use crate::names::{DeviceName, Names};
use crate::plan::{Owner, Plan};
use crate::ruleset::{Resolved, Ruleset};
use crate::subnet::Subnet;
use perigee_model::Mac;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// One thing done to the kernel. Each may be repeated, and each leaves what the next look finds by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// These TAPs go, with all that hangs on them.
    TakeTaps(BTreeSet<DeviceName>),
    /// The bridge goes; its TAPs stay, on nothing.
    TakeBridge,
    /// An address is no neighbour of the bridge any more.
    Forget(IpAddr),
    /// The kernel passes packets on from one device to another.
    Forward,
    /// Those of IPv6, too.
    Forward6,
    /// The bridge comes, down and without an address.
    MakeBridge(Subnet),
    /// It has this address of the gateway, in a network of this size.
    Address(IpAddr, u8),
    /// It is up, without any IPv6.
    RaiseBridge,
    /// It speaks IPv6, by the address that it is given alone.
    Speak6,
    /// It does not, and has no address of it.
    Hush6,
    /// The rules are these, all at once.
    Rules(Ruleset),
    /// A TAP comes, down and on no bridge, for this user.
    MakeTap(DeviceName, Owner),
    /// It is a port of the bridge, apart from the others.
    Attach(DeviceName),
    /// The bridge knows whose port it is, without asking.
    Know(DeviceName, Mac),
    /// The host knows whose address it is, without asking.
    Meet(IpAddr, Mac),
    /// It is up: from now on its guest is on the network.
    Raise(DeviceName),
    /// It is down.
    Lower(DeviceName),
}

/// For people: what somebody did when this must be done again.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakeTaps(names) => write!(f, "{} devices were not planned", names.len()),
            Self::TakeBridge => f.write_str("the bridge was another"),
            Self::Forget(address) => write!(f, "{address} was a neighbour"),
            Self::Forward => f.write_str("packets were not passed on"),
            Self::Forward6 => f.write_str("packets of IPv6 were not passed on"),
            Self::MakeBridge(_) => f.write_str("the bridge was gone"),
            Self::Address(address, _) => write!(f, "the bridge had not {address}"),
            Self::RaiseBridge => f.write_str("the bridge was down"),
            Self::Speak6 => f.write_str("the bridge spoke no IPv6"),
            Self::Hush6 => f.write_str("the bridge spoke IPv6"),
            Self::Rules(_) => f.write_str("the rules are said again"),
            Self::MakeTap(name, _) => write!(f, "{name} was gone"),
            Self::Attach(name) => write!(f, "{name} was not a port of the bridge, apart from the others"),
            Self::Know(name, mac) => write!(f, "{mac} was not behind {name}"),
            Self::Meet(address, mac) => write!(f, "{address} was not {mac}"),
            Self::Raise(name) => write!(f, "{name} was down"),
            Self::Lower(name) => write!(f, "{name} was up"),
        }
    }
}

/// All that leads from `found` to the plan, in an order in which no guest is ever without its rules: they come
/// before its TAP is up and go after it is gone. Without a plan: to
/// nothing.
pub fn steps(plan: Option<(&Plan, Resolved<'_>)>, names: &Names, found: &Found) -> Vec<Step> {
    let mut steps = Vec::new();
    let Some((plan, resolved)) = plan else {
        if !found.taps.is_empty() {
            steps.push(Step::TakeTaps(found.taps.keys().cloned().collect()));
        }
        steps.extend(found.bridge.is_some().then_some(Step::TakeBridge));
        steps.extend(found.rules.then(|| Step::Rules(Ruleset::none(names))));
        return steps;
    };
    let gone = going(plan, found);
    if !gone.is_empty() {
        steps.push(Step::TakeTaps(gone.clone()));
    }
    bridge(&mut steps, plan, found);
    steps.push(Step::Rules(Ruleset::of(plan, resolved)));
    let kept = found.bridge.as_ref().filter(|bridge| bridge.fits(plan));
    let neighbours = kept.map(|bridge| staying(plan, bridge)).unwrap_or_default();
    for member in plan.members() {
        let name = plan.tap(member);
        let tap = found.taps.get(&name).filter(|_| !gone.contains(&name));
        if tap.is_none() {
            steps.push(Step::MakeTap(name.clone(), member.owner));
        }
        let on_it = tap.is_some_and(|tap| kept.is_some_and(|bridge| tap.on == Some(bridge.index)));
        if !on_it || tap.is_none_or(|tap| !tap.apart) {
            steps.push(Step::Attach(name.clone()));
        }
        if !on_it || tap.is_none_or(|tap| tap.known != [member.mac()].into()) {
            steps.push(Step::Know(name.clone(), member.mac()));
        }
        for address in plan.addresses_of(member) {
            if neighbours.get(&address) != Some(&member.mac()) {
                steps.push(Step::Meet(address, member.mac()));
            }
        }
        match (member.up, tap.is_some_and(|tap| tap.up)) {
            (true, false) => steps.push(Step::Raise(name)),
            (false, true) => steps.push(Step::Lower(name)),
            (true, true) | (false, false) => {}
        }
    }
    steps
}

/// TAPs that the plan does not name, that somebody else may open, or that carried another guest's address.
fn going(plan: &Plan, found: &Found) -> BTreeSet<DeviceName> {
    let named = |name: &DeviceName| plan.members().find(|member| plan.tap(member) == *name);
    let stays = |name: &DeviceName, tap: &super::found::Tap| {
        named(name).is_some_and(|member| {
            let known = tap.known.is_empty() || tap.known == [member.mac()].into();
            tap.owner == Some(member.owner) && known
        })
    };
    found.taps.iter().filter(|(name, tap)| !stays(name, tap)).map(|(name, _)| name.clone()).collect()
}

fn bridge(steps: &mut Vec<Step>, plan: &Plan, found: &Found) {
    if !found.forwarding {
        steps.push(Step::Forward);
    }
    if !found.forwarding6 && plan.block6().is_some() {
        steps.push(Step::Forward6);
    }
    let kept = found.bridge.as_ref().filter(|bridge| bridge.fits(plan));
    match kept {
        Some(bridge) => {
            let known = plan.addresses();
            let strangers = staying(plan, bridge).into_keys().filter(|address| !known.contains(address));
            steps.extend(strangers.map(Step::Forget));
        }
        None => {
            steps.extend(found.bridge.is_some().then_some(Step::TakeBridge));
            steps.push(Step::MakeBridge(plan.subnet()));
        }
    }
    let has = |address: &(IpAddr, u8)| kept.is_some_and(|bridge| bridge.addresses.contains(address));
    let (four, six): (Vec<_>, Vec<_>) = wanted(plan).into_iter().partition(|(address, _)| address.is_ipv4());
    steps.extend(four.into_iter().filter(|one| !has(one)).map(|(address, bits)| Step::Address(address, bits)));
    let up = kept.is_some_and(|bridge| bridge.up);
    if !up {
        steps.push(Step::RaiseBridge);
    }
    // One that is raised is without.
    let speaks = kept.is_some_and(|bridge| bridge.up && bridge.six);
    match (speaks, plan.block6().is_some()) {
        (true, false) => steps.push(Step::Hush6),
        (false, true) => steps.push(Step::Speak6),
        (true, true) | (false, false) => {}
    }
    let six = six.into_iter().filter(|one| !speaks || !has(one));
    steps.extend(six.map(|(address, bits)| Step::Address(address, bits)));
}

/// Who is known behind a bridge when it is up and speaks as the plan says: what it hears by IPv6 ends when it ends to
/// speak that.
fn staying(plan: &Plan, bridge: &Bridge) -> BTreeMap<IpAddr, Mac> {
    let stays = |address: &IpAddr| address.is_ipv4() || (bridge.up && bridge.six && plan.block6().is_some());
    bridge.neighbours.iter().filter(|(address, _)| stays(address)).map(|(address, mac)| (*address, *mac)).collect()
}
