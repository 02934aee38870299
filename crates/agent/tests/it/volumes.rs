//! Volumes, and guests that stand because their host's disk is full.

use crate::operations::{create, snapshot};
use crate::simulated::Machine;
use crate::vms::{machine, switched, vm};
use crate::*;
use perigee_hypervisor::simulated::Fault;
use perigee_model::limits::DISK_ROOM_BYTES;
use std::time::Duration;

fn volume(n: u128) -> VolumeId {
    VolumeId::new(Uuid::from_u128(0x3000 + n))
}

fn wish(n: u128, generation: u64, mib: u64) -> DesiredVolume {
    DesiredVolume { volume: volume(n), generation, bytes: mib << 20, guest: None, absent: false }
}

fn having(order: &DesiredGuest, volumes: &[u128]) -> DesiredGuest {
    let mut next = order.clone();
    next.desired.generation += 1;
    next.spec.vm.as_mut().unwrap().volumes = volumes.iter().map(|n| volume(*n)).collect();
    next
}

impl Rig {
    async fn told(&self, n: u128, generation: u64) -> VolumeStage {
        let end = |s: &plane::State| {
            let mut told = s.volumes.get(&volume(n)).into_iter().flatten();
            told.find(|(of, stage)| *of == generation && !matches!(stage, VolumeStage::Trying { .. })).cloned()
        };
        self.plane.until("a report on the volume", |s| end(s).is_some()).await;
        self.plane.with(|s| end(s)).unwrap().1
    }
    async fn made(&self, n: u128) {
        self.plane.send(FromServer::Volume(wish(n, 1, 4)));
        assert_eq!(self.told(n, 1).await, VolumeStage::Stored { bytes: 4 << 20 });
    }
    async fn until_has(&self, guest: GuestId, volumes: &[u128]) {
        let wanted: Vec<_> = volumes.iter().map(|n| volume(*n)).collect();
        self.plane
            .until("its volumes", |s| {
                let has = s.observed.get(&guest).map(|o| o.volumes.iter().filter(|one| one.problem.is_none()));
                has.is_some_and(|has| has.map(|one| one.volume).collect::<Vec<_>>() == wanted)
            })
            .await;
    }
}

async fn running() -> (Machine, Rig, Running, DesiredGuest) {
    let (machine, rig) = machine();
    let agent = rig.start();
    let order = vm(1, |_| {});
    rig.plane.until("a link", |s| !s.hellos.is_empty()).await;
    rig.plane.want(order.clone());
    rig.plane.until_phase(order.id, Phase::Running).await;
    (machine, rig, agent, order)
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_made_grown_and_removed_through_faults() {
    let (machine, rig, agent, _) = running().await;
    machine.knobs.set(Fault::VolumeFails, 100);
    rig.plane.send(FromServer::Volume(wish(1, 1, 4)));
    let tries = |s: &plane::State| {
        let told = s.volumes.get(&volume(1));
        told.is_some_and(|told| told.iter().any(|(_, stage)| matches!(stage, VolumeStage::Trying { .. })))
    };
    rig.plane.until("word that it takes its time", tries).await;
    machine.knobs.set(Fault::VolumeFails, 50);
    assert_eq!(rig.told(1, 1).await, VolumeStage::Stored { bytes: 4 << 20 });
    rig.plane.send(FromServer::Volume(wish(1, 2, 8)));
    assert_eq!(rig.told(1, 2).await, VolumeStage::Stored { bytes: 8 << 20 });
    // The agent dies with a wish: it is told again, and answers as if it had been there.
    rig.plane.send(FromServer::Volume(wish(1, 3, 16)));
    rig.crash(agent).await;
    let _agent = rig.start();
    rig.plane.until("another link", |s| s.hellos.len() == 2).await;
    rig.plane.send(FromServer::Volume(wish(1, 3, 16)));
    assert_eq!(rig.told(1, 3).await, VolumeStage::Stored { bytes: 16 << 20 });
    rig.plane.with(|s| s.volumes.clear());
    rig.plane.send(FromServer::Volume(wish(1, 3, 16)));
    assert_eq!(rig.told(1, 3).await, VolumeStage::Stored { bytes: 16 << 20 }, "asked again, said again");
    rig.plane.send(FromServer::Volume(DesiredVolume { absent: true, ..wish(1, 4, 16) }));
    assert_eq!(rig.told(1, 4).await, VolumeStage::Gone);
    assert!(machine.host.volumes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_guest_has_the_volumes_it_should_have_running_off_and_after_a_crash() {
    let (machine, rig, agent, order) = running().await;
    let id = order.id;
    for n in [1, 2] {
        rig.made(n).await;
    }
    machine.knobs.set(Fault::VolumeFails, 50);
    let both = having(&order, &[1, 2]);
    rig.plane.want(both.clone());
    rig.until_has(id, &[1, 2]).await;
    assert_eq!(machine.host.plugged(id), [volume(1), volume(2)]);
    let one = having(&both, &[2]);
    rig.plane.want(one.clone());
    rig.until_has(id, &[2]).await;
    // Off: its next start has it.
    let stopped = switched(&one, Switch::Stop { grace_ms: 0 });
    rig.plane.want(stopped.clone());
    rig.plane.until_phase(id, Phase::Stopped).await;
    let again = having(&stopped, &[2, 1]);
    rig.plane.want(again.clone());
    rig.until_has(id, &[2, 1]).await;
    let started = switched(&again, Switch::Start);
    rig.plane.want(started.clone());
    rig.plane.until_phase(id, Phase::Running).await;
    assert_eq!(machine.host.plugged(id), [volume(2), volume(1)]);

    // The agent dies with a new wish in its mailbox; nobody tells it twice but the next link.
    rig.plane.want(having(&started, &[1]));
    rig.crash(agent).await;
    let _agent = rig.start();
    rig.until_has(id, &[1]).await;
    assert_eq!(machine.host.plugged(id), [volume(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_plugged_is_told_and_tried_again_only_for_who_asks() {
    let (machine, rig, _agent, order) = running().await;
    let id = order.id;
    let wants = having(&order, &[7]);
    rig.plane.want(wants.clone());
    let refused = |s: &plane::State| s.observed[&id].volumes.iter().any(|one| one.problem.is_some());
    rig.plane.until("a refusal", refused).await;
    let generation = rig.plane.with(|s| s.observed[&id].generation);
    assert_eq!(generation, wants.desired.generation, "it is told of the order that wanted it");
    let told = rig.plane.with(|s| s.observed[&id].sequence);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.plane.with(|s| s.observed[&id].sequence), told, "and not again and again");
    rig.made(7).await;
    rig.plane.want(having(&wants, &[7]));
    rig.until_has(id, &[7]).await;
    assert_eq!(machine.host.plugged(id), [volume(7)]);
}

#[tokio::test(start_paused = true)]
async fn who_stands_for_want_of_room_says_so_and_goes_on_by_itself() {
    let (machine, rig, agent, order) = running().await;
    let id = order.id;
    let starved = |s: &plane::State| {
        let problem = s.observed[&id].problem.as_ref();
        problem.is_some_and(|problem| problem.code == Code::DiskFull.number())
    };
    machine.host.fill(0, id);
    rig.plane.until("word of the full disk", starved).await;
    let (phase, note) = rig.plane.with(|s| (s.observed[&id].phase, s.observed[&id].note.clone().unwrap()));
    assert_eq!(
        (phase, note.as_str()),
        (Phase::Running, "its host's disk is full: free 16 MiB at /simulated, and it goes on")
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(machine.host.guests()[0].starved, "there is no room yet");
    // The next life of the agent knows it, too.
    rig.crash(agent).await;
    let _agent = rig.start();
    rig.plane.until("another link", |s| s.hellos.len() == 2).await;
    machine.host.fill(DISK_ROOM_BYTES - 1, id);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(machine.host.guests()[0].paused, "not enough");
    machine.host.fill(DISK_ROOM_BYTES, id);
    rig.plane.until("its way on", |s| !starved(s)).await;
    assert_eq!(rig.plane.with(|s| (s.observed[&id].phase, s.observed[&id].note.clone())), (Phase::Running, None));
    assert!(!machine.host.guests()[0].paused);

    // Long work does not wait for room: it may make some.
    machine.host.fill(0, id);
    rig.plane.until("word of the full disk", starved).await;
    assert!(matches!(rig.done(1, id, create(false)).await, OperationResult::Kept(_)));
    assert_eq!(rig.done(2, id, Operation::DeleteSnapshot { snapshot: snapshot(1) }).await, OperationResult::Forgotten);
    assert!(machine.host.guests()[0].starved);
    machine.host.fill(DISK_ROOM_BYTES, id);
    rig.plane.until("its way on", |s| !starved(s)).await;

    // Who pauses it on purpose is obeyed, room or not.
    machine.host.fill(0, id);
    rig.plane.until("word of the full disk", starved).await;
    rig.plane.want(switched(&order, Switch::Pause));
    rig.plane.until_phase(id, Phase::Paused).await;
    machine.host.fill(DISK_ROOM_BYTES, id);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(machine.host.guests()[0].paused);
}
