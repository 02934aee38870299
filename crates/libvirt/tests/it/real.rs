//! libvirtd itself, with QEMU guests under emulation: every call beside what `virsh` says.

use crate::daemon::Daemon;
use nix::sys::signal::{Signal, kill};
use perigee_libvirt::{
    Broken, Connection, DomainStats, Endpoint, Error, EventKind, Events, Happened, Lifecycle, Notice, Settings, State,
    groups, list,
};
use std::time::{Duration, Instant};

const QEMU: &str = "qemu:///system";

fn endpoint(daemon: &Daemon) -> Endpoint {
    Endpoint::Unix(daemon.socket())
}

async fn open(daemon: &Daemon) -> Connection {
    Connection::open(&endpoint(daemon), Some(QEMU), 0).await.unwrap()
}

async fn stats(connection: &Connection) -> DomainStats {
    connection.all_stats(&[], groups::ALL, list::ACTIVE).await.unwrap().remove(0)
}

async fn lifecycle(events: &mut Events) -> Lifecycle {
    let next = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap().unwrap();
    match next {
        Notice::Event(event) => match event.happened {
            Happened::Lifecycle(step, _) => step,
            other => panic!("{other:?}"),
        },
        Notice::Missed(missed) => panic!("{missed} missed"),
    }
}

/// The value of a line `  field=value`.
fn field<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    said.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))
}

#[tokio::test]
async fn real_every_call_agrees_with_virsh() {
    let daemon = Daemon::start();
    daemon.define("one");
    let libvirt = open(&daemon).await;
    let mut events = libvirt.events(&[EventKind::Lifecycle], None).await.unwrap();
    daemon.virsh(&["start", "one"]);
    assert_eq!(lifecycle(&mut events).await, Lifecycle::Resumed);
    assert_eq!(lifecycle(&mut events).await, Lifecycle::Started);

    host_agrees(&daemon, &libvirt).await;
    let one = libvirt.domain_by_name("one").await.unwrap();
    assert_eq!(libvirt.domain_by_uuid(one.uuid).await.unwrap(), one);
    assert_eq!(libvirt.domains(0).await.unwrap(), std::slice::from_ref(&one));
    assert_eq!(libvirt.domains(list::INACTIVE).await.unwrap(), []);
    assert_eq!(daemon.virsh(&["domuuid", "one"]), one.uuid.to_string());
    assert_eq!(libvirt.domain_state(&one).await.unwrap().0, State::Running);
    assert_eq!(libvirt.domain_xml(&one, 0).await.unwrap().trim(), daemon.virsh(&["dumpxml", "one"]));
    assert_eq!(libvirt.disk_faults(&one).await.unwrap(), [], "{}", daemon.virsh(&["domblkerror", "one"]));
    let none = libvirt.domain_by_name("none").await;
    assert!(matches!(none, Err(Error::Libvirt { code: 42, .. })), "{none:?}");

    let record = stats(&libvirt).await;
    let said = daemon.virsh(&["domstats", "one"]);
    assert_eq!((&record.domain, record.state, record.busy), (&one, State::Running, false));
    assert_eq!(
        record.memory.maximum_bytes.map(|bytes| (bytes / 1024).to_string()).as_deref(),
        field(&said, "balloon.maximum")
    );
    assert_eq!(record.disks[0].path.as_deref(), field(&said, "block.0.path"));
    assert_eq!(record.disks[0].capacity_bytes, Some(1 << 20));
    assert_eq!(record.disks[0].name, "vda");
    let later: u64 = field(&said, "cpu.time").unwrap().parse().unwrap();
    assert!(record.cpu.time_ns.is_some_and(|time| 0 < time && time <= later), "{:?} {later}", record.cpu);
    info_agrees(&daemon, &libvirt, &record).await;

    daemon.virsh(&["destroy", "one"]);
    // QEMU may tell that it shuts down before libvirt tells that it is gone.
    let mut told = lifecycle(&mut events).await;
    if told == Lifecycle::Shutdown {
        told = lifecycle(&mut events).await;
    }
    assert_eq!(told, Lifecycle::Stopped);
    events.stop().await.unwrap();
    libvirt.close().await.unwrap();
}

/// `before` is what a bulk call told before.
async fn info_agrees(daemon: &Daemon, libvirt: &Connection, before: &DomainStats) {
    let info = libvirt.domain_info(&before.domain).await.unwrap();
    let said = daemon.virsh(&["dominfo", &before.domain.name]);
    let line = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    assert_eq!(Some((info.memory_bytes / 1024).to_string().as_str()), line("Used memory:"));
    assert_eq!(Some((info.memory_max_bytes / 1024).to_string().as_str()), line("Max memory:"));
    assert_eq!(Some(info.vcpus.to_string().as_str()), line("CPU(s):"));
    assert_eq!(info.state, State::Running);
    let said = daemon.virsh(&["domstats", &before.domain.name]);
    let later = field(&said, "cpu.time").unwrap().parse().unwrap();
    assert!(before.cpu.time_ns <= Some(info.cpu_ns) && info.cpu_ns <= later, "{before:?} {info:?} {later}");
}

async fn host_agrees(daemon: &Daemon, libvirt: &Connection) {
    assert_eq!(libvirt.hostname().await.unwrap(), daemon.virsh(&["hostname"]));
    assert_eq!(libvirt.capabilities().await.unwrap().trim(), daemon.virsh(&["capabilities"]));
    let versions = daemon.virsh(&["version"]);
    assert!(versions.contains(&format!("libvirt {}", libvirt.library_version().await.unwrap())), "{versions}");
    assert!(versions.contains(&format!("QEMU {}", libvirt.version().await.unwrap())), "{versions}");
    let node = libvirt.node().await.unwrap();
    let said = daemon.virsh(&["nodeinfo"]);
    assert!(said.contains(&node.model) && said.contains(&format!("{} KiB", node.memory_bytes / 1024)), "{said}");
    let names = |fields: Vec<(String, u64)>| fields.into_iter().map(|field| field.0).collect::<Vec<_>>();
    let before = cpu_of_proc();
    let cpu = libvirt.node_cpu().await.unwrap();
    let after = cpu_of_proc();
    for (place, name) in ["kernel", "user", "idle"].into_iter().enumerate() {
        let told = cpu[place].1;
        assert!(cpu[place].0 == name && before[place] <= told && told <= after[place], "{cpu:?} {before:?} {after:?}");
    }
    // The kernel does not promise that this one only grows.
    assert_eq!((cpu.len(), cpu[3].0.as_str()), (4, "iowait"));
    let memory = libvirt.node_memory().await.unwrap();
    // Not the same as what `nodeinfo` says of a machine whose memory is not all its own.
    let said = daemon.virsh(&["nodememstats"]);
    let total = said.lines().find(|line| line.starts_with("total")).unwrap();
    assert_eq!(
        (memory[0].0.as_str(), memory[0].1),
        ("total", total.split_whitespace().nth(2).unwrap().parse().unwrap())
    );
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    assert_eq!(meminfo.split_whitespace().nth(1).map(str::parse), Some(Ok(memory[0].1)), "{meminfo}");
    assert_eq!(names(memory), ["total", "free", "buffers", "cached"]);
}

/// What the kernel says of all processors in libvirt's words: kernel, user and idle, in nanoseconds.
fn cpu_of_proc() -> [u64; 3] {
    let stat = std::fs::read_to_string("/proc/stat").unwrap();
    let ticks = stat.lines().next().unwrap().split_whitespace().skip(1);
    let ns: Vec<u64> = ticks.map(|ticks| ticks.parse::<u64>().unwrap() * 10_000_000).collect();
    [ns[2] + ns[5] + ns[6], ns[0] + ns[1], ns[3]]
}

#[tokio::test]
async fn real_the_test_driver_answers_too() {
    let daemon = Daemon::start();
    let libvirt = Connection::open(&endpoint(&daemon), Some("test:///default"), 0).await.unwrap();
    let domains = libvirt.domains(list::ACTIVE).await.unwrap();
    assert_eq!(domains.iter().map(|domain| domain.name.as_str()).collect::<Vec<_>>(), ["test"]);
    let refused = Connection::open(&endpoint(&daemon), Some("nonsense:///"), 0).await;
    assert!(matches!(refused, Err(Error::Libvirt { .. })), "{refused:?}");
}

#[tokio::test]
async fn real_a_guest_that_hangs_is_busy_and_holds_up_nobody() {
    let daemon = Daemon::start();
    daemon.define("one");
    daemon.virsh(&["start", "one"]);
    let libvirt = open(&daemon).await;
    assert!(!stats(&libvirt).await.busy);
    let guest = daemon.guest("one").unwrap();
    kill(guest, Signal::SIGSTOP).unwrap();
    // The first call waits on the guest's monitor and so holds its job; the second must not wait for it.
    let hasty = libvirt.within(Duration::from_millis(500));
    let first = hasty.all_stats(&[], groups::ALL, 0).await;
    assert!(matches!(first, Err(Error::Deadline { .. })), "{first:?}");
    let second = hasty.all_stats(&[], groups::ALL, 0).await.unwrap().remove(0);
    assert!(second.busy, "{second:?}");
    assert!(second.cpu.time_ns.is_some(), "what needs no monitor is still there");
    kill(guest, Signal::SIGCONT).unwrap();
    let begun = Instant::now();
    while stats(&libvirt).await.busy {
        assert!(begun.elapsed() < Duration::from_secs(10), "the guest stays busy");
    }
}

#[tokio::test]
#[ignore = "soak"]
async fn real_a_daemon_stopped_killed_and_frozen_is_told_apart() {
    let mut daemon = Daemon::start();
    let settings = Settings {
        deadline: Duration::from_millis(300),
        ping_every: Duration::from_millis(200),
        ..Settings::default()
    };
    let patient = Settings { deadline: Duration::from_secs(10), ..settings.clone() };
    let endpoint = endpoint(&daemon);
    let libvirt = Connection::open_with(&endpoint, Some(QEMU), 0, &patient).await.unwrap();
    daemon.signal(Signal::SIGSTOP);
    let frozen = libvirt.within(settings.deadline).hostname().await;
    assert!(matches!(frozen, Err(Error::Deadline { .. })), "{frozen:?}");
    let dead = libvirt.version().await;
    assert!(matches!(dead, Err(Error::Broken(Broken::Silent(_)))), "{dead:?}");
    daemon.signal(Signal::SIGCONT);

    let libvirt = Connection::open_with(&endpoint, Some(QEMU), 0, &patient).await.unwrap();
    let mut events = libvirt.events(&[EventKind::Lifecycle], None).await.unwrap();
    daemon.restart();
    let killed = events.next().await;
    assert!(matches!(killed, Err(Error::Broken(Broken::HungUp))), "{killed:?}");
    assert!(libvirt.hostname().await.is_err());

    let libvirt = Connection::open_with(&endpoint, Some(QEMU), 0, &patient).await.unwrap();
    assert!(libvirt.hostname().await.is_ok());
    daemon.stop();
    let stopped = libvirt.hostname().await;
    assert!(matches!(stopped, Err(Error::Broken(Broken::HungUp))), "{stopped:?}");
    let nobody = Connection::open(&endpoint, Some(QEMU), 0).await;
    assert!(matches!(nobody, Err(Error::Unreachable { .. })), "{nobody:?}");
}

#[tokio::test]
async fn real_a_bulk_call_costs_little() {
    const CALLS: u32 = 200;
    let daemon = Daemon::start();
    daemon.define("one");
    daemon.virsh(&["start", "one"]);
    let libvirt = open(&daemon).await;
    let (begun, before) = (Instant::now(), daemon.cpu());
    for _ in 0..CALLS {
        assert_eq!(libvirt.all_stats(&[], groups::ALL, list::ACTIVE).await.unwrap().len(), 1);
    }
    let (wall, cpu) = (begun.elapsed() / CALLS, (daemon.cpu() - before) / CALLS);
    println!("bulk statistics of one guest: {wall:?} a call, {cpu:?} of libvirtd's CPU");
    assert!(wall < Duration::from_millis(100), "{wall:?} a call");
}
