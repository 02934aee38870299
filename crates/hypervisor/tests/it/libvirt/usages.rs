//! What libvirt's domains use, told by libvirt and by the VMMs themselves.

use crate::daemon::Daemon;
use nix::sys::signal::{Signal, kill};
use perigee_clock::Clock;
use perigee_hypervisor::libvirt::Domains;
use perigee_hypervisor::usage::RunState;
use perigee_hypervisor::{GuestUsage, Measure as _};
use std::time::Duration;

const UNTIL: Duration = Duration::from_secs(60);
/// One look, however the VMMs are.
const LOOK_WITHIN: Duration = Duration::from_secs(4);

/// Looks until the two guests are so.
async fn seen(domains: &Domains, what: &str, so: impl Fn(&GuestUsage, &GuestUsage) -> bool) -> [GuestUsage; 2] {
    let looking = async {
        loop {
            let told = tokio::time::timeout(LOOK_WITHIN, domains.usages()).await.expect("nobody holds up a look");
            let mut told = told.unwrap();
            told.sort_by(|one, other| one.name.cmp(&other.name));
            let told: [GuestUsage; 2] = told.try_into().unwrap();
            if so(&told[0], &told[1]) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(UNTIL, looking).await.unwrap_or_else(|_| panic!("{what} never came"))
}

fn whole(usage: &GuestUsage) -> bool {
    let disk = usage.disks.first().is_some_and(|disk| disk.name == "vda" && disk.read_bytes.is_some());
    disk && usage.disks_at.is_some() && usage.resident_bytes.is_some() && !usage.busy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_guest_that_hangs_hides_nothing_but_its_own_disks() {
    let daemon = Daemon::start();
    for name in ["one", "two"] {
        daemon.define(name);
        daemon.virsh(&["start", name]);
    }
    let domains = Domains::behind(Clock::real(), vec![daemon.socket()], Duration::from_secs(1));
    let [one, two] = seen(&domains, "every number", |one, two| whole(one) && whole(two)).await;
    for usage in [&one, &two] {
        assert_eq!((usage.state, usage.cpus, usage.ours), (RunState::Running, Some(1), false), "{usage:?}");
        let said = daemon.virsh(&["dommemstat", usage.name.as_ref().unwrap()]);
        assert!(said.starts_with(&format!("actual {}", usage.memory_bytes.unwrap() >> 10)), "{said}");
    }

    let guest = daemon.guest("one").unwrap();
    kill(guest, Signal::SIGSTOP).unwrap();
    let [_, other] = seen(&domains, "a busy guest", |one, _| one.busy && one.disks.is_empty()).await;
    assert!(other.cpu_ns >= two.cpu_ns, "the other one is told of meanwhile");
    let [hung, _] = seen(&domains, "the other one's disks", |one, two| one.busy && whole(two)).await;
    assert_eq!((hung.state, hung.memory_bytes), (RunState::Running, one.memory_bytes));
    assert!(hung.cpu_ns >= one.cpu_ns, "what libvirt knows by itself is told");
    let [_, again] = seen(&domains, "a newer look at them", |_, two| two.disks_at > other.disks_at).await;
    assert!(whole(&again), "{again:?}");

    kill(guest, Signal::SIGCONT).unwrap();
    seen(&domains, "a guest that goes on", |one, two| whole(one) && whole(two)).await;
    daemon.virsh(&["destroy", "one"]);
    let [off, _] = seen(&domains, "a guest that is off", |one, _| one.state == RunState::Off).await;
    assert_eq!((off.cpu_ns, off.resident_bytes, off.busy), (None, None, false), "{off:?}");
    assert_eq!((off.disks, off.memory_bytes), (vec![], one.memory_bytes));
}
