//! Full VMs: their switch, their restart policy, and a host that is switched off.

use crate::simulated::Machine;
use crate::*;
use perigee_hypervisor::{Channel, Found, GuestEvent, HypervisorError, Plan};
use std::time::Duration;
use tokio::sync::broadcast;

pub fn machine() -> (Machine, Rig) {
    let machine = Machine::default();
    let rig = Rig { simulated: Some(machine.clone()), ..Rig::new() };
    (machine, rig)
}

pub fn vm(n: u128, change: impl FnOnce(&mut VmSpec)) -> DesiredGuest {
    let mut order = wanted(guest_id(n), 1, Power::Running);
    order.kind = GuestKind::Vm;
    let mut spec = VmSpec {
        description: String::new(),
        metadata: Default::default(),
        disk_bytes: None,
        network: None,
        mac: Mac::from_bits(1),
        ssh_keys: Vec::new(),
        firmware: Firmware::Bios,
        tpm: false,
        restart: RestartPolicy::OnFailure,
        start_order: 0,
        adopted: false,
        origin: None,
        volumes: Vec::new(),
    };
    change(&mut spec);
    order.spec.vm = Some(Box::new(spec));
    // The simulated guests' boot image has our own initial RAM file system.
    let digest = Digest::parse(&"0".repeat(64)).unwrap();
    order.spec.parts = vec![Part { role: PartRole::Initrd, digest, bytes: 1 }];
    order
}

pub fn switched(order: &DesiredGuest, switch: Switch) -> DesiredGuest {
    let mut next = order.clone();
    switch.apply(&mut next.desired);
    next
}

pub fn living(machine: &Machine, id: GuestId) -> bool {
    machine.host.guests().iter().any(|found| found.guest == id && found.alive)
}

/// Runs VMs, and tells nothing of what lives here before it is let.
struct Slow {
    driver: Arc<dyn Hypervisor>,
    tells: watch::Sender<bool>,
}

#[async_trait]
impl Hypervisor for Slow {
    fn abilities(&self) -> Abilities {
        Abilities { kinds: vec![GuestKind::Vm], ..self.driver.abilities() }
    }
    async fn inventory(&self) -> Result<Vec<Found>, HypervisorError> {
        self.tells.subscribe().wait_for(|tells| *tells).await.unwrap();
        self.driver.inventory().await
    }
    async fn start(&self, plan: &Plan) -> Result<Found, HypervisorError> {
        self.driver.start(plan).await
    }
    async fn destroy(&self, guest: GuestId) -> Result<(), HypervisorError> {
        self.driver.destroy(guest).await
    }
    fn events(&self) -> broadcast::Receiver<GuestEvent> {
        self.driver.events()
    }
    fn channel(&self) -> Option<&dyn Channel> {
        self.driver.channel()
    }
}

#[tokio::test(start_paused = true)]
async fn a_libvirt_that_takes_its_time_holds_up_its_own_guests_only() {
    let (vms, clock) = (Machine::default(), Clock::simulated(7));
    let slow = Arc::new(Slow { driver: vms.driver(&clock), tells: watch::Sender::new(true) });
    let rig = Rig { second: Some(slow.clone()), clock, ..Rig::new() };
    let agent = rig.start();
    let (vm, sandbox) = (vm(1, |_| {}), wanted(guest_id(2), 1, Power::Running));
    rig.plane.want(vm.clone());
    rig.plane.until_phase(vm.id, Phase::Running).await;
    rig.crash(agent).await;
    slow.tells.send_replace(false);
    rig.plane.with(|s| s.hellos.clear());
    let began = tokio::time::Instant::now();
    let _agent = rig.start();
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    assert!(began.elapsed() < Duration::from_secs(2), "after {:?}", began.elapsed());
    rig.plane.want(sandbox.clone());
    rig.plane.until_phase(sandbox.id, Phase::Running).await;
    let mut absent = vm.clone();
    (absent.desired.generation, absent.desired.power) = (2, Power::Absent);
    rig.plane.want(absent);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(living(&vms, vm.id), "nothing is done to a guest of whom nobody has told");
    slow.tells.send_replace(true);
    rig.plane.until_phase(vm.id, Phase::Gone).await;
    assert!(vms.host.guests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_switch_goes_all_ways() {
    let (machine, rig) = machine();
    let _agent = rig.start();
    let order = vm(1, |_| {});
    let id = order.id;
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    rig.plane.want(order.clone());
    rig.plane.until_phase(id, Phase::Running).await;
    let paused = switched(&order, Switch::Pause);
    rig.plane.want(paused.clone());
    rig.plane.until_phase(id, Phase::Paused).await;
    assert!(machine.host.guests()[0].paused);
    let resumed = switched(&paused, Switch::Resume);
    rig.plane.want(resumed.clone());
    rig.plane.until_phase(id, Phase::Running).await;
    let restarted = switched(&resumed, Switch::Restart { grace_ms: 0 });
    rig.plane.want(restarted.clone());
    rig.plane.until("a restart", |s| s.observed[&id].restarts == 1 && s.observed[&id].phase == Phase::Running).await;
    let stopped = switched(&restarted, Switch::Stop { grace_ms: 1000 });
    rig.plane.want(stopped.clone());
    rig.plane.until_phase(id, Phase::Stopped).await;
    assert!(!living(&machine, id) && machine.host.guests().len() == 1, "what it is started from stays");
    let started = switched(&stopped, Switch::Start);
    rig.plane.want(started.clone());
    rig.plane.until_phase(id, Phase::Running).await;
    assert_eq!(machine.host.vmm_starts()[&id], 3);
    let mut absent = started.clone();
    (absent.desired.generation, absent.desired.power) = (99, Power::Absent);
    rig.plane.want(absent);
    rig.plane.until_phase(id, Phase::Gone).await;
    assert!(machine.host.guests().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_comes_while_it_stops_is_done_after_that() {
    let (machine, rig) = machine();
    let _agent = rig.start();
    let order = vm(1, |_| {});
    let id = order.id;
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    rig.plane.want(order.clone());
    rig.plane.until_phase(id, Phase::Running).await;
    let stopped = switched(&order, Switch::Stop { grace_ms: 1000 });
    rig.plane.want(stopped.clone());
    rig.plane.until_phase(id, Phase::Stopping).await;
    let started = switched(&stopped, Switch::Start);
    rig.plane.want(started.clone());
    rig.plane.until_phase(id, Phase::Running).await;
    assert!(living(&machine, id));
    assert_eq!(machine.host.vmm_starts()[&id], 2);
}

#[tokio::test(start_paused = true)]
async fn who_ends_by_itself_is_started_again_or_not() {
    let (machine, rig) = machine();
    let _agent = rig.start();
    let (again, never) = (vm(1, |_| {}), vm(2, |spec| spec.restart = RestartPolicy::Never));
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    for order in [&again, &never] {
        rig.plane.want(order.clone());
        rig.plane.until_phase(order.id, Phase::Running).await;
    }
    for _ in 0..3 {
        assert!(machine.host.kill(again.id));
        rig.plane.until("its fall", |s| s.observed[&again.id].phase != Phase::Running).await;
        rig.plane.until_phase(again.id, Phase::Running).await;
    }
    assert_eq!(machine.host.vmm_starts()[&again.id], 4);
    assert!(machine.host.kill(never.id));
    rig.plane.until_phase(never.id, Phase::Failed).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(machine.host.vmm_starts()[&never.id], 1, "it stays as it is");
    let problem = rig.plane.with(|s| s.observed[&never.id].problem.clone().unwrap());
    assert!(problem.text.contains("SIGKILL"), "{problem:?}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_switched_off_brings_its_guests_up_in_their_order() {
    let (machine, rig) = machine();
    let agent = rig.start();
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    // The order is not that of their ids.
    let orders: Vec<DesiredGuest> =
        [(1, 3), (2, 1), (3, 2)].into_iter().map(|(n, order)| vm(n, |spec| spec.start_order = order)).collect();
    let stopped = vm(4, |_| {});
    for order in orders.iter().chain([&stopped]) {
        rig.plane.want(order.clone());
        rig.plane.until_phase(order.id, Phase::Running).await;
    }
    rig.plane.want(switched(&stopped, Switch::Stop { grace_ms: 0 }));
    rig.plane.until_phase(stopped.id, Phase::Stopped).await;

    rig.plane.cut();
    rig.crash(agent).await;
    orders.iter().for_each(|order| assert!(machine.host.kill(order.id)));
    let before = rig.plane.with(|s| {
        s.up = true;
        s.story.len()
    });
    let _agent = rig.start();
    // Its hello tells what was so when it was written down last: what counts comes after a boot.
    let up = |story: &[(GuestId, Phase)], id| {
        let booted = story.iter().position(|told| *told == (id, Phase::Booting))?;
        let up = story[booted..].iter().position(|told| *told == (id, Phase::Running))?;
        Some((booted, booted + up))
    };
    rig.plane.until("all of them up", |s| orders.iter().all(|order| up(&s.story[before..], order.id).is_some())).await;
    let story = rig.plane.with(|s| s.story[before..].to_vec());
    let [third, first, second] = [1, 2, 3].map(|n| up(&story, guest_id(n)).unwrap());
    assert!(first.1 < second.0 && second.1 < third.0, "{story:?}");
    assert!(!living(&machine, stopped.id), "who was stopped stays stopped");
}

#[tokio::test(start_paused = true)]
async fn who_is_stopped_while_it_waits_for_its_image_lets_those_behind_it_boot() {
    let (machine, rig) = machine();
    let held = Arc::new(Held::default());
    let rig = Rig { parts: held.clone(), ..rig };
    let agent = rig.start();
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    let mut first = vm(1, |spec| spec.start_order = 1);
    first.spec.parts[0].bytes = 2;
    let second = vm(2, |spec| spec.start_order = 2);
    for order in [&first, &second] {
        rig.plane.want(order.clone());
        rig.plane.until_phase(order.id, Phase::Running).await;
    }

    // Its host is switched off, and then the first one's image does not come.
    rig.plane.cut();
    rig.crash(agent).await;
    for order in [&first, &second] {
        assert!(machine.host.kill(order.id));
    }
    held.0.store(true, Ordering::SeqCst);
    rig.plane.with(|s| s.up = true);
    let _agent = rig.start();
    let waits = |s: &plane::State| s.observed[&second.id].note.as_ref().is_some_and(|n| n.contains("1 before it"));
    rig.plane.until("the second one's wait", waits).await;
    assert!(!living(&machine, second.id), "the first has its turn");

    rig.plane.want(switched(&first, Switch::Stop { grace_ms: 0 }));
    rig.plane.until_phase(first.id, Phase::Stopped).await;
    rig.plane.until_phase(second.id, Phase::Running).await;
    assert_eq!(machine.host.vmm_starts()[&first.id], 1, "the first is not started again");
}

#[tokio::test(start_paused = true)]
async fn a_paused_one_that_fell_is_paused_again_and_one_that_others_let_go_on_is_not() {
    let (machine, rig) = machine();
    let _agent = rig.start();
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    let order = vm(1, |_| {});
    let id = order.id;
    rig.plane.want(order.clone());
    rig.plane.until_phase(id, Phase::Running).await;
    rig.plane.want(switched(&order, Switch::Pause));
    rig.plane.until_phase(id, Phase::Paused).await;
    assert!(machine.host.kill(id));
    rig.plane.until("its fall", |s| s.observed[&id].phase != Phase::Paused).await;
    rig.plane.until_phase(id, Phase::Paused).await;
    assert!(machine.host.guests()[0].paused && machine.host.vmm_starts()[&id] == 2);

    machine.driver(&rig.clock).pause().unwrap().resume(id).await.unwrap();
    rig.plane.until_phase(id, Phase::Running).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!machine.host.guests()[0].paused, "somebody on the host wants it so");
}
