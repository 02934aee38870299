//! What goes wrong: libvirtd away, killed and lying, QEMU killed, no room.

use super::{LibvirtLab, among_own_mounts};
use crate::cases::{ended, exited, open, run};
use crate::contract::Lab;
use crate::daemon::{Daemon, QemuUser};
use nix::mount::{MsFlags, mount};
use perigee_hypervisor::libvirt::{BreakerState, Libvirt};
use perigee_hypervisor::{GuestEvent, Hypervisor, HypervisorError, Plan, Seat};
use perigee_libvirt::Endpoint;
use perigee_model::limits::{GUEST_CPUS_MAX, GUEST_MEMORY_BYTES_MAX};
use perigee_model::{GuestId, PartRole, Resources};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use uuid::Uuid;

const FIRST: Uuid = Uuid::from_u128(1);

/// Waits for a condition, with a deadline.
/// libvirt waits half a minute for the lock of a domain that it lost sight of, and says so; more than once.
const UNTIL: Duration = Duration::from_secs(150);

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(UNTIL, waiting).await.unwrap_or_else(|_| panic!("{what} never came"));
}

/// Removes a guest; where libvirt keeps it locked, as its owner does who was told how.
async fn removed(lab: &mut LibvirtLab, driver: &Libvirt, guest: GuestId) {
    let within = Instant::now() + UNTIL;
    while let Err(error) = driver.destroy(guest).await {
        println!("not removed yet: {error}");
        if let HypervisorError::Locked(advice) = &error {
            unlock(lab, advice);
        }
        assert!(Instant::now() < within, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn unlock(lab: &mut LibvirtLab, advice: &str) {
    let (_, rest) = advice.split_once("remove ").unwrap();
    let (files, _) = rest.split_once(" from its run folder").unwrap();
    lab.daemon.kill();
    for file in files.split(" and ") {
        _ = std::fs::remove_file(lab.daemon.states().join(file));
    }
    lab.daemon.start_again();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_guests_outlive_libvirtd_and_what_happened_meanwhile_is_told() {
    let mut lab = LibvirtLab::new().await;
    let (driver, plans) = (lab.libvirt(), [lab.plan(), lab.plan()]);
    let mut events = driver.events();
    driver.start(&plans[0]).await.unwrap();
    let killed = driver.start(&plans[1]).await.unwrap();
    let session = open(&lab, &driver, plans[0].guest).await;
    lab.daemon.kill();
    assert_eq!(run(&*session, FIRST, &["echo", "still"]).await.0, "still\n");
    lab.kill(&killed).await;
    for _ in 0..7 {
        let said = driver.inventory().await;
        assert!(matches!(said, Err(HypervisorError::Channel(_))), "{said:?}");
    }
    let health = driver.health();
    assert!(
        health.breaker != BreakerState::Closed && health.opened_total > 0 && health.refused_total > 0,
        "{health:?}"
    );
    let destroyed = driver.destroy(plans[1].guest).await;
    assert!(matches!(destroyed, Err(HypervisorError::Channel(_))), "{destroyed:?}");
    lab.daemon.restart();
    assert!(!ended(&mut events, plans[1].guest).await.1);
    until("an inventory", async || driver.inventory().await.is_ok_and(|found| found.len() == 2)).await;
    assert_eq!(driver.health().breaker, BreakerState::Closed);
    lab.daemon.virsh(&["suspend", &plans[0].guest.to_string()]);
    assert_eq!(events.recv().await.unwrap(), GuestEvent::Changed { guest: plans[0].guest }, "events come again");
    for plan in &plans {
        driver.destroy(plan.guest).await.unwrap();
    }
    assert_eq!(lab.traces(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_libvirtd_killed_in_the_middle_of_a_start_and_of_an_end_leaves_what_can_be_removed() {
    let mut lab = LibvirtLab::new().await;
    let driver = lab.libvirt();
    driver.inventory().await.unwrap();
    for reached in ["disk.qcow2", "run"] {
        let plan = lab.plan();
        let vms = lab.root.path().join(format!("{}/vms/{}", lab.own, plan.guest));
        let sockets = lab.root.path().join(format!("{}/run/{}/agent", lab.own, plan.guest.uuid().simple()));
        let starting = tokio::spawn({
            let (driver, plan) = (driver.clone(), plan.clone());
            async move { driver.start(&plan).await }
        });
        let there = if reached == "run" { sockets } else { vms.join(reached) };
        until(reached, async || there.exists()).await;
        lab.daemon.restart();
        let started = starting.await.unwrap();
        println!("killed at {reached}: {:?}", started.as_ref().map(|found| found.alive));
        removed(&mut lab, &driver, plan.guest).await;
        assert_eq!(lab.traces(), Vec::<String>::new(), "{reached}");
    }
    let plan = lab.plan();
    driver.start(&plan).await.unwrap();
    let ending = tokio::spawn({
        let (driver, guest) = (driver.clone(), plan.guest);
        async move { driver.destroy(guest).await }
    });
    tokio::task::yield_now().await;
    lab.daemon.restart();
    _ = ending.await.unwrap();
    removed(&mut lab, &driver, plan.guest).await;
    assert_eq!(lab.traces(), Vec::<String>::new());
}

/// What libvirtd wrote when it was killed between a domain's claim and its QEMU: a window of milliseconds,
/// made by hand here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_domain_that_libvirt_keeps_locked_is_told_with_the_way_out() {
    let mut lab = LibvirtLab::new().await;
    let (driver, plan) = (lab.libvirt(), lab.plan());
    let started = driver.start(&plan).await.unwrap();
    lab.daemon.kill();
    lab.kill(&started).await;
    let files = std::fs::read_dir(lab.daemon.states()).unwrap().map(|entry| entry.unwrap().path());
    let state = files.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "xml")).unwrap();
    let text = std::fs::read_to_string(&state).unwrap();
    let text = text
        .replace("state='running'", "state='paused'")
        .replace("reason='booted'", "reason='starting up'")
        .replace(&format!("pid='{}'", started.pid.unwrap()), "pid='0'")
        .replace("<libDir ", "<job type='none' async='start' flags='0x8' asyncStarted='1'/>\n<libDir ");
    assert!(text.contains("reason='starting up' pid='0'") && text.contains("async='start'"), "{text}");
    std::fs::write(&state, text).unwrap();
    lab.daemon.start_again();
    until("libvirt's answer", async || driver.inventory().await.is_ok()).await;
    let locked = driver.destroy(plan.guest).await;
    let advice = format!("remove {} and", state.file_name().unwrap().to_str().unwrap());
    let Err(HypervisorError::Locked(text)) = locked else { panic!("{locked:?}") };
    assert!(text.contains(&advice), "{text}");
    unlock(&mut lab, &text);
    removed(&mut lab, &driver, plan.guest).await;
    assert_eq!(lab.traces(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_what_libvirt_refuses_is_told_and_leaves_nothing() {
    let lab = LibvirtLab::new().await;
    let driver = lab.driver();
    let sized = |cpus, memory_bytes| Plan { resources: Resources { cpus, memory_bytes }, ..lab.plan() };
    let large = driver.start(&sized(1, GUEST_MEMORY_BYTES_MAX)).await;
    println!("{GUEST_MEMORY_BYTES_MAX} bytes: {large:?}");
    assert!(matches!(large, Err(HypervisorError::NoRoom(_))), "{large:?}");
    let many = driver.start(&sized(GUEST_CPUS_MAX, 256 << 20)).await;
    println!("{GUEST_CPUS_MAX} CPUs: {many:?}");
    assert!(matches!(many, Err(HypervisorError::BadPlan(_) | HypervisorError::DidNotStart(_))), "{many:?}");
    let nasty = lab.root.path().join("a\nb");
    std::fs::write(&nasty, "x").unwrap();
    let path = driver.start(&Plan { parts: vec![(PartRole::Kernel, nasty)], ..lab.plan() }).await;
    assert!(matches!(path, Err(HypervisorError::BadPlan(_))), "{path:?}");
    let backed = lab.root.path().join("backed.qcow2");
    let disk = ["create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", backed.to_str().unwrap()];
    assert!(std::process::Command::new("qemu-img").args(disk).status().unwrap().success());
    let image = driver.start(&Plan { parts: vec![(PartRole::Disk, backed)], ..lab.plan() }).await;
    assert!(matches!(&image, Err(HypervisorError::BadPlan(text)) if text.contains("backing file")), "{image:?}");
    assert_eq!(lab.traces(), Vec::<String>::new());
}

#[test]
fn real_a_full_disk_is_told_and_leaves_nothing() {
    among_own_mounts(async || {
        let lab = LibvirtLab::new().await;
        let config = lab.config(&lab.own);
        std::fs::create_dir_all(&config.dir).unwrap();
        mount(Some("tmpfs"), &config.dir, Some("tmpfs"), MsFlags::empty(), Some("size=8k,mode=755")).unwrap();
        let driver = lab.driver();
        let full = driver.start(&lab.plan()).await;
        assert!(matches!(full, Err(HypervisorError::NoRoom(_))), "{full:?}");
        assert_eq!(lab.traces(), Vec::<String>::new());
        assert_eq!(driver.inventory().await.unwrap(), []);
        std::fs::set_permissions(&config.dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        nix::mount::umount(&config.dir).unwrap();
    });
}

/// As Debian's packages set libvirt up: QEMU runs as a user of its own, and may go nowhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_qemu_with_a_user_of_its_own_gets_what_it_needs_and_no_more() {
    let lab = LibvirtLab::with(Daemon::start_as(QemuUser::Packaged)).await;
    let (driver, plan) = (lab.driver(), lab.plan());
    std::fs::set_permissions(lab.root.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let closed = driver.start(&plan).await;
    assert!(matches!(&closed, Err(HypervisorError::BadPlan(text)) if text.contains("chmod o+x")), "{closed:?}");
    assert_eq!(lab.traces(), Vec::<String>::new());
    std::fs::set_permissions(lab.root.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let pid = driver.start(&plan).await.unwrap().pid.unwrap();
    assert_ne!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 0);
    let session = open(&lab, &*driver, plan.guest).await;
    let write = run(&*session, FIRST, &["sh", "-c", "echo kept | dd of=/dev/vda conv=fsync 2>/dev/null"]).await;
    assert_eq!(write.1, exited(0));
    assert!(driver.console().unwrap().sit(plan.guest, Seat::Vnc).await.is_ok());
    driver.halt().unwrap().halt(plan.guest, Duration::from_secs(60)).await.unwrap();
    let disk = lab.config(&lab.own).dir.join(format!("{}/disk.qcow2", plan.guest));
    assert_eq!(std::fs::metadata(&disk).unwrap().mode() & 0o777, 0o600);
    driver.start(&plan).await.unwrap();
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), Vec::<String>::new());
}

/// Where the agent keeps parts of images for all its guests is closed to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_a_qemu_with_a_user_of_its_own_reaches_parts_that_are_closed_to_it() {
    let lab = LibvirtLab::with(Daemon::start_as(QemuUser::Packaged)).await;
    std::fs::set_permissions(lab.root.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let (driver, mut plan) = (lab.driver(), lab.plan());
    let closed = lab.root.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    for (role, path) in &mut plan.parts {
        let own = closed.join(format!("{role:?}"));
        std::fs::copy(&*path, &own).unwrap();
        *path = own;
    }
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
    let pid = driver.start(&plan).await.unwrap().pid.unwrap();
    assert_ne!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 0);
    drop(open(&lab, &*driver, plan.guest).await);
    driver.halt().unwrap().halt(plan.guest, Duration::ZERO).await.unwrap();
    driver.start(&plan).await.expect("what was made for the first start is fine");
    driver.destroy(plan.guest).await.unwrap();
    for (_, path) in &plan.parts {
        assert_eq!(std::fs::metadata(path).unwrap().nlink(), 1, "nothing of it is left at the guest");
    }
    std::fs::remove_dir_all(&closed).unwrap();
    assert_eq!(lab.traces(), Vec::<String>::new());
}

/// A libvirtd that says anything: every call ends with an error in time, and the driver lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_libvirtd_that_lies_or_says_nothing_holds_up_nobody() {
    let lab_root = tempfile::tempdir().unwrap();
    let socket = lab_root.path().join("sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let serving = tokio::spawn(async move {
        let mut held = Vec::new();
        for turn in 0u32.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            match turn % 3 {
                0 => drop(stream),
                1 => drop(stream.write_all(&[0x5a; 4096]).await),
                _ => held.push(stream),
            }
        }
    });
    let clock = perigee_clock::Clock::real();
    let driver = Libvirt::new(perigee_hypervisor::libvirt::LibvirtConfig {
        instance: perigee_model::InstanceId::from_bits(1),
        dir: lab_root.path().join("vms"),
        run_dir: lab_root.path().join("run"),
        images: lab_root.path().to_owned(),
        endpoint: Endpoint::Unix(socket),
        uri: "qemu:///system".to_owned(),
        deadline: Duration::from_millis(300),
        clock: clock.clone(),
        reserve: perigee_hypervisor::Reserve::of(Some(0)),
    })
    .unwrap();
    let guest = perigee_model::GuestId::new(clock.uuid());
    for _ in 0..6 {
        let (inventory, destroy, addresses, usages) = tokio::join!(
            driver.inventory(),
            driver.destroy(guest),
            driver.addresses().unwrap().addresses(guest),
            driver.measure().unwrap().usages(),
        );
        assert!(matches!(inventory, Err(HypervisorError::Channel(_))), "{inventory:?}");
        assert!(matches!(destroy, Err(HypervisorError::Channel(_))), "{destroy:?}");
        assert!(matches!(addresses, Err(HypervisorError::Channel(_))), "{addresses:?}");
        assert!(usages.is_err());
    }
    assert!(driver.health().failures_total >= 5, "{:?}", driver.health());
    assert_eq!(driver.abilities().version, "unknown");
    serving.abort();
}
