//! When a guest has a card: what its host's network is told through a VM's life.

use crate::simulated::Machine;
use crate::vms::{machine, switched, vm};
use crate::*;
use perigee_agent::Stage;
use perigee_hypervisor::Nic;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;

/// A network of nobody's: it gives addresses and writes down what it is told.
#[derive(Default)]
struct Played(Mutex<State>);

#[derive(Default)]
struct State {
    told: Vec<String>,
    given: BTreeMap<GuestId, Ipv4Addr>,
}

impl Played {
    fn tell(&self, word: String) {
        self.0.lock().unwrap().told.push(word);
    }
    /// What was told since the last look.
    fn told(&self) -> String {
        std::mem::take(&mut self.0.lock().unwrap().told).join(", ")
    }
}

#[async_trait]
impl Cards for Played {
    async fn restore(&self, kept: Vec<Kept>) -> Result<(), CardError> {
        let one = |kept: Kept| {
            let stage = match kept.stage {
                Stage::Rests => "rests",
                Stage::Plugged => "plugged",
                Stage::Up => "up",
            };
            self.0.lock().unwrap().given.insert(kept.guest, kept.address);
            format!("{} {stage} {}", kept.address, kept.reach.egress.words().join(" "))
        };
        let kept: Vec<_> = kept.into_iter().map(one).collect();
        self.tell(format!("restore [{}]", kept.join("; ")));
        Ok(())
    }
    async fn plug(&self, guest: GuestId, _: &Reach) -> Result<Nic, CardError> {
        let mut state = self.0.lock().unwrap();
        let next = Ipv4Addr::new(172, 16, 0, 2 + state.given.len() as u8);
        let address = *state.given.entry(guest).or_insert(next);
        state.told.push("plug".to_owned());
        let (tap, mac, gateway) = ("tap0".to_owned(), Mac::of_address(address), Ipv4Addr::new(172, 16, 0, 1));
        Ok(Nic { tap, mac, address, network_bits: 24, gateway, names: None, six: None })
    }
    async fn raise(&self, _: GuestId, reach: &Reach, forwards: &[Forward]) -> Result<Vec<Forward>, CardError> {
        self.tell(format!("raise {}", reach.egress.words().join(" ")));
        Ok(forwards.to_vec())
    }
    async fn plan(&self, _: GuestId, _: &Reach, _: &[Forward]) -> Result<String, CardError> {
        Ok(String::new())
    }
    async fn rest(&self, _: GuestId) -> Result<(), CardError> {
        self.tell("rest".to_owned());
        Ok(())
    }
    async fn unplug(&self, guest: GuestId) -> Result<(), CardError> {
        self.0.lock().unwrap().given.remove(&guest);
        self.tell("unplug".to_owned());
        Ok(())
    }
    async fn look(&self) -> Result<String, CardError> {
        Ok(String::new())
    }
    async fn surroundings(&self) -> Result<Option<perigee_agent::Surroundings>, CardError> {
        Ok(None)
    }
}

fn carded() -> (Machine, Rig, Arc<Played>, DesiredGuest) {
    let (machine, rig) = machine();
    let played = Arc::new(Played::default());
    let mut order = vm(1, |_| {});
    order.spec.egress = Some(Egress::None);
    (machine, Rig { cards: played.clone(), ..rig }, played, order)
}

#[tokio::test(start_paused = true)]
async fn a_vm_has_its_card_while_it_is_on_and_its_address_until_it_goes() {
    let (machine, rig, played, order) = carded();
    let agent = rig.start();
    let id = order.id;
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    assert_eq!(played.told(), "restore []");
    rig.plane.want(order.clone());
    rig.plane.until_phase(id, Phase::Running).await;
    assert_eq!(played.told(), "plug, raise none");
    let address = |rig: &Rig| rig.plane.with(|s| s.observed[&id].addresses.clone());
    let own = vec!["172.16.0.2".parse().unwrap()];
    assert_eq!(address(&rig), own);

    // It falls, and another comes in its place, with the same address.
    assert!(machine.host.kill(id));
    rig.plane.until("its fall", |s| s.observed[&id].phase != Phase::Running).await;
    rig.plane.until_phase(id, Phase::Running).await;
    assert_eq!((played.told().as_str(), address(&rig)), ("rest, plug, raise none", own.clone()));

    // Another policy holds at once.
    let mut open = order.clone();
    open.spec.egress = Some(Egress::All);
    open.desired.generation = 2;
    rig.plane.want(open.clone());
    rig.plane.until("word of it", |s| s.observed[&id].generation == 2).await;
    assert_eq!(played.told(), "raise all");

    // A new life of the agent finds it up.
    rig.crash(agent).await;
    let agent = rig.start();
    rig.plane.until("another link", |s| s.hellos.len() == 2).await;
    assert_eq!(played.told(), "restore [172.16.0.2 up all]");
    let stopped = switched(&open, Switch::Stop { grace_ms: 0 });
    rig.plane.want(stopped.clone());
    rig.plane.until_phase(id, Phase::Stopped).await;
    assert_eq!((played.told().as_str(), address(&rig)), ("rest", own.clone()), "it is off, and keeps it");

    // And finds it off.
    rig.crash(agent).await;
    let _agent = rig.start();
    rig.plane.until("another link", |s| s.hellos.len() == 3).await;
    assert_eq!(played.told(), "restore [172.16.0.2 rests all]");
    let started = switched(&stopped, Switch::Start);
    rig.plane.want(started.clone());
    rig.plane.until_phase(id, Phase::Running).await;
    assert_eq!((played.told().as_str(), address(&rig)), ("plug, raise all", own));
    let mut absent = started;
    (absent.desired.generation, absent.desired.power) = (99, Power::Absent);
    rig.plane.want(absent);
    rig.plane.until_phase(id, Phase::Gone).await;
    assert_eq!(played.told(), "unplug");
}

#[tokio::test(start_paused = true)]
async fn a_host_without_a_network_of_its_own_says_so() {
    let (_machine, rig, _, order) = carded();
    let rig = Rig { cards: Arc::new(NoCards("the agent is not root")), ..rig };
    let _agent = rig.start();
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    rig.plane.want(order.clone());
    rig.plane.until_phase(order.id, Phase::Failed).await;
    let problem = rig.plane.with(|s| s.observed[&order.id].problem.clone().unwrap());
    assert_eq!(problem.code, Code::NoCard.number());
    assert!(problem.text.contains("the agent is not root"), "{problem:?}");
}
