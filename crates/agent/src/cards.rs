//! Cards of guests: who has which address, and what each may reach.
//!
//! Owns: giving out addresses, the plan of this host's network, and bringing it about after every change.
//! Refuses: remembering: a guest's address is in its document, its policy in its order.
//!
//! ```text
//! boot:   plug ──▶ start ──▶ hello ──▶ raise        a card is up only when its guest has its address
//! later:  raise                                     another policy, other forwards: at once
//! end:    destroy ──▶ unplug
//! off:    halt ──▶ rest                             of a VM: no TAP and no rules; its address stays its own
//! a new life of the agent: restore, with what lives and what is off; now and then: look
//! ```

use async_trait::async_trait;
use perigee_hypervisor::{HypervisorError, Nic, Nic6};
use perigee_model::{Code, Forward, GuestId, InstanceId, Reach};
use perigee_network::{
    BITS6, Block, Bridge, HostError, Lasting, Member, Network, NetworkError, Owner, Plan, PlanFault, Protocol,
    Resolved, Ruleset, Step, Subnet, SubnetError, Surroundings, mac_of, upstreams,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use tokio::sync::Mutex;

/// A card that an earlier life of the agent gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose.
    pub guest: GuestId,
    /// Its address.
    pub address: Ipv4Addr,
    /// What it may reach.
    pub reach: Reach,
    /// What leads to it.
    pub forwards: Vec<Forward>,
    /// How far it is.
    pub stage: Stage,
}

/// How far a card is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its guest is off: there is an address, and no card.
    Rests,
    /// Its guest may have its TAP open, and is not on the network yet.
    Plugged,
    /// It is on the network.
    Up,
}

/// Why a guest has no card.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// None is given out here.
    #[error("this host has no network for guests: {0}")]
    Nowhere(&'static str),
    /// No network is free.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    /// Every address is given.
    #[error("all addresses of {0} are given")]
    Full(Block),
    /// The plan cannot be.
    #[error(transparent)]
    Plan(#[from] PlanFault),
    /// The host refused.
    #[error("the network of guests cannot be made: {0}")]
    Network(#[from] NetworkError),
}

impl From<HostError> for CardError {
    fn from(error: HostError) -> Self {
        Self::Network(error.into())
    }
}

impl From<CardError> for HypervisorError {
    fn from(error: CardError) -> Self {
        Self::Os { doing: "changing the network of guests".to_owned(), source: io::Error::other(error) }
    }
}

impl CardError {
    /// What it is for whoever wanted the guest: that host has no card to give, or could not give it this time.
    pub fn code(&self) -> Code {
        match self {
            Self::Nowhere(_) | Self::Subnet(_) | Self::Full(_) => Code::NoCard,
            Self::Network(NetworkError::Host(HostError::NoNft(_) | HostError::NoSix)) => Code::NoCard,
            Self::Plan(_) | Self::Network(_) => Code::BootFailed,
        }
    }
}

/// Gives out cards. Every call may be repeated.
#[async_trait]
pub trait Cards: Send + Sync {
    /// Takes up what an earlier life gave out; whatever else there is of it goes.
    ///
    /// # Errors
    /// What the host says.
    async fn restore(&self, kept: Vec<Kept>) -> Result<(), CardError>;
    /// A card for this guest, not up yet; the one it has, if it has one.
    ///
    /// # Errors
    /// Why it has none; then nothing is left of it.
    async fn plug(&self, guest: GuestId, reach: &Reach) -> Result<Nic, CardError>;
    /// The guest has taken its address: its card is up, with this policy and these forwards, and no others, when
    /// this returns. Answers the forwards that lead to it: a port that a program of the host listens at, or that
    /// leads to another guest, stays theirs.
    ///
    /// # Errors
    /// What the host says; it is tried again.
    async fn raise(&self, guest: GuestId, reach: &Reach, forwards: &[Forward]) -> Result<Vec<Forward>, CardError>;
    /// The rules that a card of this guest would have, as text for `nft`: what is there for others is left out.
    /// Changes nothing.
    ///
    /// # Errors
    /// Why it could have none.
    async fn plan(&self, guest: GuestId, reach: &Reach, forwards: &[Forward]) -> Result<String, CardError>;
    /// Takes it away, and keeps its address for when the guest is on again. Fine when there is none.
    ///
    /// # Errors
    /// What the host says; it is tried again.
    async fn rest(&self, guest: GuestId) -> Result<(), CardError>;
    /// Takes it away, with its address. Fine when there is none.
    ///
    /// # Errors
    /// What the host says; it is tried again.
    async fn unplug(&self, guest: GuestId) -> Result<(), CardError>;
    /// Makes good what somebody else changed. Answers what that was, for people; empty: nothing.
    ///
    /// # Errors
    /// What the host says.
    async fn look(&self) -> Result<String, CardError>;
    /// What this host's network is beside the sandboxes'. `None`: it is not known here.
    ///
    /// # Errors
    /// What the host says.
    async fn surroundings(&self) -> Result<Option<Surroundings>, CardError>;
}

/// A host whose guests have no network of its own, and of which nothing else is known.
#[derive(Clone, Copy, Debug)]
pub struct NoCards(pub &'static str);

#[async_trait]
impl Cards for NoCards {
    async fn restore(&self, kept: Vec<Kept>) -> Result<(), CardError> {
        match kept.iter().all(|kept| kept.stage == Stage::Rests) {
            true => Ok(()),
            false => Err(CardError::Nowhere(self.0)),
        }
    }
    async fn plug(&self, _: GuestId, _: &Reach) -> Result<Nic, CardError> {
        Err(CardError::Nowhere(self.0))
    }
    async fn raise(&self, _: GuestId, _: &Reach, _: &[Forward]) -> Result<Vec<Forward>, CardError> {
        Err(CardError::Nowhere(self.0))
    }
    async fn plan(&self, _: GuestId, _: &Reach, _: &[Forward]) -> Result<String, CardError> {
        Err(CardError::Nowhere(self.0))
    }
    async fn rest(&self, _: GuestId) -> Result<(), CardError> {
        Ok(())
    }
    async fn unplug(&self, _: GuestId) -> Result<(), CardError> {
        Ok(())
    }
    async fn look(&self) -> Result<String, CardError> {
        Ok(String::new())
    }
    async fn surroundings(&self) -> Result<Option<Surroundings>, CardError> {
        Ok(None)
    }
}

/// How large the networks are that are chosen here: by it the network of a kept address is known.
const CHOSEN_BITS: u8 = 24;

/// Whom this machine asks for names; nobody when it does not say.
fn resolvers() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// The cards of this machine, on a network that is made when the first is wanted.
pub struct HostCards {
    instance: InstanceId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    network: Option<Network>,
    subnet: Option<Subnet>,
    members: BTreeMap<GuestId, Member>,
    /// Addresses of those that are off.
    resting: BTreeMap<GuestId, Ipv4Addr>,
    /// The network that kept addresses are of.
    known: Option<Block>,
    /// The address that was given last: the next is another.
    last: Option<Ipv4Addr>,
}

impl HostCards {
    /// Of this instance. Changes nothing.
    pub fn new(instance: InstanceId) -> Self {
        Self { instance, state: Mutex::default() }
    }
}

impl State {
    /// Of the network namespace that the agent is in.
    fn network(&mut self, instance: &InstanceId) -> Result<&Network, CardError> {
        let opened = match self.network.take() {
            Some(network) => network,
            None => Network::open(instance, upstreams(&resolvers()), Lasting::default())?,
        };
        Ok(self.network.insert(opened))
    }

    /// The one that is in use, or a free one; with one of IPv6 beside it if that is wanted, too.
    async fn subnet(&mut self, instance: &InstanceId, six: bool) -> Result<Subnet, CardError> {
        let mut subnet = match self.subnet {
            Some(subnet) => subnet,
            None => self.subnet4(instance).await?,
        };
        if six && subnet.block6().is_none() {
            let taken = self.network(instance)?.host().taken6().await?;
            subnet = subnet.with6(Subnet::choose6(instance, &taken)?);
        }
        self.subnet = Some(subnet);
        Ok(subnet)
    }

    async fn subnet4(&mut self, instance: &InstanceId) -> Result<Subnet, CardError> {
        let taken = self.network(instance)?.host().taken().await?;
        // Where kept addresses are of, unless somebody else is there by now: then they are given anew.
        let known = self.known.and_then(|known| Subnet::choose(Some(known), &taken).ok());
        Ok(known.map_or_else(|| Subnet::choose(None, &taken), Ok)?)
    }

    /// The one that the guest has, or the next.
    fn address_of(&self, guest: GuestId, subnet: Subnet) -> Result<Ipv4Addr, CardError> {
        let own = self.members.get(&guest).map(|member| member.address).or_else(|| self.resting.get(&guest).copied());
        if let Some(own) = own.filter(|address| subnet.may_give(*address)) {
            return Ok(own);
        }
        let others = self.resting.iter().filter(|(other, _)| **other != guest).map(|(_, address)| *address);
        let used: BTreeSet<Ipv4Addr> = self.members.values().map(|member| member.address).chain(others).collect();
        subnet.free(&used, self.last).ok_or(CardError::Full(subnet.block()))
    }

    /// Takes a guest off the network, and the network away with the last. Answers its address, if it was there.
    async fn take(&mut self, instance: &InstanceId, guest: GuestId) -> Result<Option<Ipv4Addr>, CardError> {
        let Some(taken) = self.members.remove(&guest) else { return Ok(None) };
        let address = taken.address;
        let left = match self.members.is_empty() {
            false => self.bring_about(instance).await.map(drop),
            true => self.network(instance)?.take_away().await.map(drop).map_err(CardError::from),
        };
        if let Err(error) = left {
            self.members.insert(guest, Member { up: false, ..taken });
            return Err(error);
        }
        Ok(Some(address))
    }

    /// Makes the host's network what the members say.
    async fn bring_about(&mut self, instance: &InstanceId) -> Result<Vec<Step>, CardError> {
        let six = self.members.values().any(|member| member.egress6.is_some());
        let subnet = self.subnet(instance, six).await?;
        let plan = Plan::new(instance, subnet, self.members.values().cloned().collect())?;
        let asks = self.members.values().any(Member::asks_names);
        match self.network(instance)?.bring_about(plan).await {
            Ok(steps) => Ok(steps),
            // All is as planned, and nobody here asks for names.
            Err(NetworkError::Names(..)) if !asks => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The networks that a bridge is on by the addresses that we gave it; others may have added some.
fn subnet_of(bridge: &Bridge) -> Result<Option<Subnet>, SubnetError> {
    let own = |(address, bits): &(IpAddr, u8)| match address {
        IpAddr::V4(four) if bridge.mac == Some(mac_of(*four)) => Some(Block::around(*four, *bits)),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    let Some(block) = bridge.addresses.iter().find_map(own) else { return Ok(None) };
    let subnet = Subnet::new(block)?;
    let with6 = |(address, _): &(IpAddr, u8)| match address {
        IpAddr::V6(six) => Some(subnet.with6(Block::around(*six, BITS6))).filter(|with| with.gateway6() == Some(*six)),
        IpAddr::V4(_) => None,
    };
    Ok(Some(bridge.addresses.iter().find_map(with6).unwrap_or(subnet)))
}

fn member(guest: GuestId, address: Ipv4Addr, reach: &Reach, up: bool) -> Member {
    // The driver opens the TAP, or libvirt does, and hands on what it opened: no VMM needs a right to it.
    let owner = Owner { uid: 0, gid: 0 };
    let Reach { egress, egress6 } = reach.clone();
    Member { guest, address, owner, up, egress, egress6, host: Vec::new(), forwards: Vec::new() }
}

/// Of the forwards that a guest should have those that it can have: what leads to it already stays its own.
fn free(wanted: &[Forward], member: &Member, state: &State, busy: &BTreeSet<(Protocol, u16)>) -> Vec<Forward> {
    let others = || state.members.values().filter(|other| other.guest != member.guest);
    let taken = |forward: &Forward| others().any(|other| other.forwards.iter().any(|one| one.clashes(*forward)));
    let held = |forward: &Forward| member.forwards.iter().any(|one| one.clashes(*forward));
    let is_busy = |forward: &Forward| !held(forward) && busy.contains(&(forward.protocol, forward.host_port));
    wanted.iter().filter(|forward| !taken(forward) && !is_busy(forward)).copied().collect()
}

#[async_trait]
impl Cards for HostCards {
    async fn restore(&self, kept: Vec<Kept>) -> Result<(), CardError> {
        let mut state = self.state.lock().await;
        let (off, on): (Vec<_>, Vec<_>) = kept.into_iter().partition(|kept| kept.stage == Stage::Rests);
        state.last = off.iter().chain(&on).map(|kept| kept.address).max();
        state.known = state.last.map(|address| Block::around(address, CHOSEN_BITS));
        state.resting = off.into_iter().map(|kept| (kept.guest, kept.address)).collect();
        let network = state.network(&self.instance)?;
        if on.is_empty() {
            // A host without nft, where nobody ever wanted a card, has nothing to take away.
            if let Err(error) = network.take_away().await {
                tracing::info!(%error, "guests can have no card here");
            }
            return Ok(());
        }
        let found = network.host().look().await?;
        state.subnet = found.bridge.map(|bridge| subnet_of(&bridge)).transpose()?.flatten();
        let six = on.iter().any(|kept| kept.reach.egress6.is_some());
        let subnet = state.subnet(&self.instance, six).await?;
        let again = |kept: Kept| {
            let up = kept.stage == Stage::Up;
            (kept.guest, Member { forwards: kept.forwards, ..member(kept.guest, kept.address, &kept.reach, up) })
        };
        state.members = on.into_iter().filter(|kept| subnet.may_give(kept.address)).map(again).collect();
        state.bring_about(&self.instance).await.map(drop)
    }

    async fn plug(&self, guest: GuestId, reach: &Reach) -> Result<Nic, CardError> {
        let mut state = self.state.lock().await;
        let subnet = state.subnet(&self.instance, reach.egress6.is_some()).await?;
        let address = state.address_of(guest, subnet)?;
        let wanted = member(guest, address, reach, false);
        state.members.insert(guest, wanted.clone());
        if let Err(error) = state.bring_about(&self.instance).await {
            // What was made of it goes with the next change.
            state.members.remove(&guest);
            return Err(error);
        }
        state.resting.remove(&guest);
        state.last = Some(address);
        let plan = Plan::new(&self.instance, subnet, vec![wanted.clone()])?;
        let six = plan.six(&wanted).zip(plan.gateway6());
        Ok(Nic {
            tap: plan.tap(&wanted).to_string(),
            mac: wanted.mac(),
            address,
            network_bits: subnet.block().bits(),
            gateway: subnet.gateway(),
            names: reach.asks_names().then(|| subnet.gateway()),
            six: six.map(|(address, gateway)| Nic6 { address, network_bits: BITS6, gateway }),
        })
    }

    async fn raise(&self, guest: GuestId, reach: &Reach, forwards: &[Forward]) -> Result<Vec<Forward>, CardError> {
        let mut state = self.state.lock().await;
        let own = state.subnet(&self.instance, false).await?.block();
        let busy = match forwards {
            [] => BTreeSet::new(),
            _ => state.network(&self.instance)?.host().listening(own)?,
        };
        let before = state.members.get(&guest).cloned().ok_or(CardError::Nowhere("its card was taken away"))?;
        let forwards = free(forwards, &before, &state, &busy);
        let Reach { egress, egress6 } = reach.clone();
        let wanted = Member { up: true, egress, egress6, forwards: forwards.clone(), ..before.clone() };
        if wanted == before {
            return Ok(forwards);
        }
        state.members.insert(guest, wanted);
        let raised = state.bring_about(&self.instance).await;
        if raised.is_err() && !before.up {
            state.members.insert(guest, before);
        }
        raised.map(|_| forwards)
    }

    async fn plan(&self, guest: GuestId, reach: &Reach, forwards: &[Forward]) -> Result<String, CardError> {
        let mut state = self.state.lock().await;
        let subnet = state.subnet(&self.instance, reach.egress6.is_some()).await?;
        let address = state.address_of(guest, subnet)?;
        let forwards = forwards.to_vec();
        let one = Member { forwards, ..member(guest, address, reach, true) };
        let plan = Plan::new(&self.instance, subnet, vec![one])?;
        Ok(Ruleset::tables(&plan, Resolved { held: &[], answered: true }))
    }

    async fn rest(&self, guest: GuestId) -> Result<(), CardError> {
        let mut state = self.state.lock().await;
        if let Some(address) = state.take(&self.instance, guest).await? {
            state.resting.insert(guest, address);
        }
        Ok(())
    }

    async fn unplug(&self, guest: GuestId) -> Result<(), CardError> {
        let mut state = self.state.lock().await;
        state.take(&self.instance, guest).await?;
        state.resting.remove(&guest);
        Ok(())
    }

    async fn look(&self) -> Result<String, CardError> {
        let mut state = self.state.lock().await;
        if state.members.is_empty() {
            return Ok(String::new());
        }
        let had_rules = state.network(&self.instance)?.host().look().await?.rules;
        let steps = state.bring_about(&self.instance).await?;
        let mut amiss: Vec<_> = (!had_rules).then(|| "the rules were gone".to_owned()).into_iter().collect();
        // The rules are said again in any case.
        amiss.extend(steps.iter().filter(|step| !matches!(step, Step::Rules(_))).map(Step::to_string));
        Ok(amiss.join(", "))
    }

    async fn surroundings(&self) -> Result<Option<Surroundings>, CardError> {
        Ok(Some(Surroundings::look().await?))
    }
}
