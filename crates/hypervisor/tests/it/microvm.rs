//! What only the real driver can show.

use crate::cases::{drain, open, run};
use crate::contract::Lab;
use crate::real::{QEMU, RealLab};
use perigee_clock::Clock;
use perigee_hypervisor::microvm::{Microvm, MicrovmConfig};
use perigee_hypervisor::{ExecStart, Found, GuestEvent, Hypervisor, HypervisorError, Plan};
use perigee_model::{InstanceId, PartRole};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use uuid::Uuid;

const FIRST: Uuid = Uuid::from_u128(1);

/// `/proc/PID/status`.
fn status(pid: u32) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_vmm_has_no_rights() {
    let lab = RealLab::new().await;
    let driver = lab.driver();
    let plans = [lab.plan(), lab.plan()];
    let mut users = Vec::new();
    for plan in &plans {
        let pid = driver.start(plan).await.unwrap().pid.unwrap();
        let status = status(pid);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status[set], 16).unwrap(), 0, "{set}");
        }
        assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
        assert_eq!(status["Groups"], "");
        let ids: Vec<_> = status["Uid"].split_whitespace().chain(status["Gid"].split_whitespace()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]) && ids[0] != "0", "{ids:?}");
        users.push(ids[0].to_owned());
        assert_eq!(
            nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid.cast_signed()))).unwrap().as_raw() as u32,
            pid
        );
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let own = format!("/perigee-{}/{}", lab.own, plan.guest);
        assert!(groups.lines().any(|line| line.ends_with(&own)), "{groups}");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        assert!(limits.lines().any(|line| line.starts_with("Max core file size        0")), "{limits}");
    }
    assert_ne!(users[0], users[1]);
    for plan in &plans {
        driver.destroy(plan.guest).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_start_is_ours_for_milliseconds() {
    let lab = RealLab::new().await;
    let driver = lab.microvm();
    let plan = lab.plan();
    let began = lab.clock.instant();
    driver.start(&plan).await.unwrap();
    let started = began.elapsed();
    let session = open(&lab, &driver, plan.guest).await;
    let hello = began.elapsed();
    assert_eq!(run(&*session, FIRST, &["hostname"]).await.0, "guest-1\n");
    let release = run(&*session, Uuid::from_u128(2), &["uname", "-r"]).await.0;
    assert_eq!(release.trim(), session.hello().kernel_release);
    let ended = lab.clock.instant();
    driver.destroy(plan.guest).await.unwrap();
    println!("{:?}", driver.last_start().unwrap());
    println!("greeting after {started:?}, hello after {hello:?}, destroyed in {:?}", ended.elapsed());
    assert!(driver.last_start().unwrap().ours < Duration::from_millis(50), "{:?}", driver.last_start());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_bad_files_and_dying_vmms_leave_nothing() {
    let lab = RealLab::new().await;
    let before = lab.traces();
    let driver = lab.driver();
    let mut events = driver.events();
    let junk = lab.root.path().join("junk");
    fs::write(&junk, b"this is no kernel").unwrap();
    let with_kernel = |path: &std::path::Path| {
        let mut plan = lab.plan();
        plan.parts[0] = (PartRole::Kernel, path.to_owned());
        plan
    };
    for missing in ["/no/such/kernel", "/", "/dev/null"] {
        let refused = driver.start(&with_kernel(missing.as_ref())).await;
        assert!(matches!(refused, Err(HypervisorError::BadPlan(_))), "{refused:?}");
    }
    let died = driver.start(&with_kernel(&junk)).await;
    let Err(HypervisorError::DidNotStart(text)) = died else { panic!("{died:?}") };
    assert!(text.contains("exited with 1") && text.contains("it said: qemu"), "{text}");
    assert_eq!(lab.traces(), before);
    assert!(events.try_recv().is_err(), "the caller knows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_leftovers_of_a_killed_agent_are_found_and_removed() {
    let lab = RealLab::new().await;
    let before = lab.traces();
    let plan = lab.plan();
    let dir = lab.root.path().join(format!("{}/guests-run/{}", lab.own, plan.guest));
    let driver = lab.driver();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("uid"), "19").unwrap();
    let run = lab.root.path().join(format!("{}/run", lab.own));
    fs::write(run.join(format!("{}.c", plan.guest.uuid().simple())), "").unwrap();
    assert_eq!(driver.inventory().await.unwrap(), [Found::dead(plan.guest)]);
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), before);
    // A process without a directory is a guest, too.
    let started = driver.start(&plan).await.unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let next = lab.driver();
    assert_eq!(next.inventory().await.unwrap(), [started]);
    next.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), before);
}

/// A start that nobody waits for any more is finished, and a destroy waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_abandoned_start_is_destroyed_whole() {
    let lab = RealLab::new().await;
    let before = lab.traces();
    let driver = lab.driver();
    for micros in [0, 100, 1_000, 5_000, 20_000] {
        let plan = lab.plan();
        _ = tokio::time::timeout(Duration::from_micros(micros), driver.start(&plan)).await;
        driver.destroy(plan.guest).await.unwrap();
        assert_eq!(lab.traces(), before, "after {micros} µs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_flood_on_the_console_fills_nothing_and_a_panic_is_told() {
    let lab = RealLab::new().await;
    let driver = lab.driver();
    let plan = lab.plan();
    let mut events = driver.events();
    let pid = driver.start(&plan).await.unwrap().pid.unwrap();
    let session = open(&lab, &*driver, plan.guest).await;
    let flood = "echo the last words > /dev/ttyS0; head -c 100000 /dev/zero | tr '\\0' x > /dev/ttyS0; echo fine";
    assert_eq!(run(&*session, FIRST, &["sh", "-c", flood]).await.0, "fine\n");
    let console = fs::metadata(format!("/proc/{pid}/fd/1")).unwrap();
    assert!(console.size() <= 64 << 10 && console.blocks() * 512 <= 64 << 10);
    let crash = ExecStart::new(Uuid::from_u128(2), ["sh", "-c", "echo c > /proc/sysrq-trigger"]);
    _ = session.exec(crash).await;
    let GuestEvent::Ended { guest, text, clean: false } = events.recv().await.unwrap() else { panic!("no end") };
    assert!(guest == plan.guest && text.starts_with("the VMM exited with 0") && text.contains("console: "), "{text}");
    driver.destroy(plan.guest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_disk_is_a_copy_of_its_own() {
    let lab = RealLab::new().await;
    let before = lab.traces();
    let driver = lab.driver();
    let image = lab.root.path().join("disk");
    fs::write(&image, vec![0; 4 << 20]).unwrap();
    let mut plan: Plan = lab.plan();
    plan.parts.push((PartRole::Disk, image.clone()));
    driver.start(&plan).await.unwrap();
    let session = open(&lab, &*driver, plan.guest).await;
    let write = "printf perigee | dd of=/dev/vda conv=fsync 2>/dev/null && blockdev --getsize64 /dev/vda";
    assert_eq!(run(&*session, FIRST, &["sh", "-c", write]).await.0, "4194304\n");
    let copy = lab.root.path().join(format!("{}/guests-run/{}/disk.0", lab.own, plan.guest));
    assert!(fs::read(&copy).unwrap().starts_with(b"perigee"));
    assert!(fs::read(&image).unwrap().iter().all(|byte| *byte == 0), "the image is not written");
    driver.destroy(plan.guest).await.unwrap();
    assert_eq!(lab.traces(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_guest_with_two_cpus_has_them() {
    let lab = RealLab::new().await;
    let driver = lab.driver();
    let mut plan = lab.plan();
    plan.resources.cpus = 2;
    driver.start(&plan).await.unwrap();
    let session = open(&lab, &*driver, plan.guest).await;
    assert_eq!(run(&*session, FIRST, &["nproc"]).await.0, "2\n");
    let output = drain(&mut *session.exec(ExecStart::new(Uuid::from_u128(2), ["date", "+%s"])).await.unwrap()).await.0;
    let guest_time: i64 = String::from_utf8(output).unwrap().trim().parse().unwrap();
    assert!((guest_time - lab.clock.now().micros() / 1_000_000).abs() < 5, "its clock is right");
    driver.destroy(plan.guest).await.unwrap();
}

/// More boots than cores, beside each other: under translation a guest that must find out its
/// counter's frequency by itself never comes up here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_crowded_host_boots_all_its_guests() {
    let lab = RealLab::new().await;
    let driver = lab.driver();
    let plans: Vec<_> = (0..6).map(|_| lab.plan()).collect();
    let boots = plans.iter().map(|plan| async {
        driver.start(plan).await.unwrap();
        let session = open(&lab, &*driver, plan.guest).await;
        assert_eq!(run(&*session, FIRST, &["echo", "up"]).await.0, "up\n");
    });
    let began = lab.clock.instant();
    futures::future::join_all(boots).await;
    println!("{} guests in {:?}", plans.len(), began.elapsed());
    for plan in &plans {
        driver.destroy(plan.guest).await.unwrap();
    }
}

/// Runs `reduced_mode` below as nobody: without root guests share our user and have no groups.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_reduced_mode_without_root() {
    let lab = RealLab::new().await;
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(65_534), Some(65_534)).unwrap();
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "microvm::reduced_mode", "--ignored", "--nocapture"]).uid(65_534).gid(65_534);
    test.env("REDUCED_HOME", home.path()).env("REDUCED_KERNEL", &lab.parts[0].1).env("REDUCED_INITRD", &lab.parts[1].1);
    let done = tokio::process::Command::from(test).output().await.unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by real_reduced_mode_without_root"]
async fn reduced_mode() {
    let path = |name: &str| std::path::PathBuf::from(std::env::var_os(name).unwrap());
    let home = path("REDUCED_HOME");
    let config = MicrovmConfig {
        instance: InstanceId::from_bits(u32::from_le_bytes(Clock::real().random())),
        dir: home.join("guests-run"),
        run_dir: home.join("run"),
        qemu: QEMU.into(),
        uid_base: None,
        clock: Clock::real(),
        reserve: perigee_hypervisor::Reserve::default(),
    };
    assert!(Microvm::new(MicrovmConfig { uid_base: Some(90_000), ..config.clone() }).is_err(), "that takes root");
    let driver = Microvm::new(config).unwrap();
    assert!(!driver.reduced().is_empty());
    let plan = Plan {
        guest: perigee_model::GuestId::new(Clock::real().uuid()),
        name: perigee_model::Name::parse("reduced").unwrap(),
        resources: perigee_model::Resources { cpus: 1, memory_bytes: 128 << 20 },
        parts: vec![(PartRole::Kernel, path("REDUCED_KERNEL")), (PartRole::Initrd, path("REDUCED_INITRD"))],
        pace: perigee_hypervisor::Pace::Ordinary,
        vm: None,
        nic: None,
        memo: None,
    };
    let pid = driver.start(&plan).await.unwrap().pid.unwrap();
    let status = status(pid);
    assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
    let session = driver.channel().unwrap().open(plan.guest, Duration::from_secs(30)).await.unwrap();
    assert_eq!(run(&*session, FIRST, &["hostname"]).await.0, "reduced\n");
    driver.destroy(plan.guest).await.unwrap();
    assert!(driver.inventory().await.unwrap().is_empty());
}
