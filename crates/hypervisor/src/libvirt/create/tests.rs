//! The steps of a start, tried every way against a libvirtd of the test's own.

#[path = "../../../../libvirt/tests/it/daemon.rs"]
#[allow(dead_code, reason = "shared with the tests of the protocol")]
mod daemon;

use super::*;
use crate::Pace;
use crate::libvirt::connections::Link;
use crate::libvirt::places::Places;
use crate::workflow::trial::tried;
use daemon::Daemon;
use perigee_clock::Clock;
use perigee_libvirt::Endpoint;
use perigee_model::{Firmware, InstanceId, Mac, Name, PartRole, Resources, RestartPolicy, VmSpec};
use std::path::Path;
use std::time::Duration;

fn plan(folder: &Path) -> Plan {
    let image = folder.join("image.raw");
    std::fs::File::create(&image).unwrap().set_len(1 << 20).unwrap();
    let vm = VmSpec {
        description: String::new(),
        metadata: Default::default(),
        disk_bytes: Some(2 << 20),
        network: None,
        mac: Mac::from_bits(1),
        ssh_keys: Vec::new(),
        firmware: Firmware::Bios,
        tpm: false,
        restart: RestartPolicy::Never,
        start_order: 0,
        adopted: false,
        origin: None,
        volumes: Vec::new(),
    };
    Plan {
        guest: GuestId::new(Uuid::from_u128(0x1234)),
        name: Name::parse("web").unwrap(),
        resources: Resources { cpus: 1, memory_bytes: 128 << 20 },
        parts: vec![(PartRole::Disk, image)],
        pace: Pace::Ordinary,
        vm: Some(vm),
        nic: None,
        memo: None,
    }
}

fn files(path: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        files(&entry.path(), found);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_start_that_fails_or_dies_at_any_step_leaves_nothing() {
    let (daemon, folder) = (Daemon::start(), tempfile::tempdir().unwrap());
    let (endpoint, clock) = (Endpoint::Unix(daemon.socket()), Clock::real());
    let link = Link::new(endpoint, "qemu:///system".to_owned(), Duration::from_secs(20), clock.clone());
    let places = Places::at(folder.path().join("vms"), folder.path().join("run")).unwrap();
    let host = Arc::new(Host::new(
        InstanceId::from_bits(7),
        clock,
        (places, folder.path().to_owned()),
        link,
        (false, crate::Reserve::of(Some(0))),
    ));
    let plan = plan(folder.path());
    let mut work = Work::new(host.clone(), Checked::of(&plan).unwrap(), None).await.unwrap();
    // As where QEMU has a user of its own that does not reach it.
    assert_eq!(work.links, []);
    work.links = vec![SecondName { file: plan.parts[0].1.clone(), name: host.places.part(plan.guest, PartRole::Disk) }];
    let traces = || {
        let mut traces: Vec<_> = daemon.virsh(&["list", "--all", "--name"]).lines().map(str::to_owned).collect();
        files(folder.path(), &mut traces);
        traces.extend(daemon.remains());
        traces
    };
    let steps: [&dyn Step; 6] =
        [&Folder(&work), &Reached(&work), &Disk(&work), &Seeded(&work), &Defined(&work), &Running(&work)];
    tried(&steps, traces, async || host.destroy(plan.guest).await.unwrap()).await;

    // One that was here before keeps its disk and its definition when a later start fails.
    start(&host, plan.clone()).await.unwrap();
    host.halt(plan.guest, Duration::ZERO).await.unwrap();
    let kept = traces();
    let mut broken = plan.clone();
    broken.resources.cpus = 500;
    let refused = start(&host, broken).await;
    assert!(matches!(refused, Err(HypervisorError::BadPlan(_) | HypervisorError::DidNotStart(_))), "{refused:?}");
    assert_eq!(traces(), kept);
    start(&host, plan.clone()).await.unwrap();
    host.destroy(plan.guest).await.unwrap();
}
