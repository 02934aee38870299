//! Collectors over the trees of several kernels, over broken ones, and against this machine.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says what went wrong by panicking")]

use perigee_model::frame::Sheet;
use perigee_probe::exposition::exposition;
use perigee_probe::node::{Node, Settings};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A node on a copy of a fixture, and a clock that the test turns.
struct World {
    root: tempfile::TempDir,
    node: Node,
    sheet: Sheet,
    now: Arc<AtomicU64>,
}

impl World {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["proc/net", "proc/self", "proc/pressure", "proc/sys/fs", "sys/class/net", "sys/block"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fill(root.path());
        let now = Arc::new(AtomicU64::new(1_000_000));
        let clock = Arc::clone(&now);
        let mut settings = Settings::new(Arc::new(move || Duration::from_micros(clock.load(Ordering::Relaxed))));
        settings.proc_root = root.path().join("proc");
        settings.sys_root = root.path().join("sys");
        settings.off = ["smart", "gpu", "links"].map(str::to_owned).into();
        Self { node: Node::new(&settings), root, sheet: Sheet::default(), now }
    }

    fn kernel(version: &str) -> Self {
        let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(version);
        Self::new(|root| copy(&from, root))
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn round(&mut self) -> BTreeMap<String, f64> {
        self.now.fetch_add(1_000_000, Ordering::Relaxed);
        self.node.collect(&mut self.sheet);
        values(&self.sheet)
    }

    fn faults(&self) -> BTreeSet<&'static str> {
        self.node.faults().map(|(name, _)| name).collect()
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// By `name{label=value,…}`.
fn values(sheet: &Sheet) -> BTreeMap<String, f64> {
    let labelled = |labels: &BTreeMap<String, String>| {
        labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
    };
    sheet.values().map(|(series, value)| (format!("{}{{{}}}", series.name, labelled(&series.labels)), value)).collect()
}

#[track_caller]
fn check(values: &BTreeMap<String, f64>, table: &[(&str, Option<f64>)]) {
    for (series, expected) in table {
        assert_eq!(values.get(*series).copied(), *expected, "{series}");
    }
}

#[test]
fn kernel_4_19_has_no_flushes_and_no_pressure() {
    let mut world = World::kernel("4.19");
    let values = world.round();
    check(
        &values,
        &[
            ("node_cpu_seconds_total{cpu=0,mode=user}", Some(10.0)),
            ("node_cpu_seconds_total{cpu=1,mode=steal}", Some(0.07)),
            ("node_cpu_guest_seconds_total{cpu=0,mode=user}", Some(0.03)),
            ("node_context_switches_total{}", Some(123_456.0)),
            ("node_boot_time_seconds{}", Some(1_600_000_000.0)),
            ("node_load15{}", Some(0.09)),
            ("node_memory_MemTotal_bytes{}", Some(2_048_000.0 * 1024.0)),
            ("node_memory_Active_anon_bytes{}", Some(700.0 * 1024.0)),
            ("node_memory_HugePages_Total{}", Some(4.0)),
            ("perigee_host_memory_used_bytes{}", Some(1_048_000.0 * 1024.0)),
            ("node_disk_read_bytes_total{device=sda}", Some(2000.0 * 512.0)),
            ("node_disk_discarded_sectors_total{device=sda}", Some(33.0)),
            ("node_disk_flush_requests_total{device=sda}", None),
            ("node_disk_io_now{device=sda1}", None),
            ("node_network_receive_bytes_total{device=eth0}", Some(1000.0)),
            ("node_network_transmit_colls_total{device=eth0}", Some(14.0)),
            ("node_pressure_cpu_waiting_seconds_total{}", None),
            ("node_vmstat_pgmajfault{}", Some(42.0)),
            ("node_filefd_maximum{}", Some(200_000.0)),
            ("node_processes_state{state=S}", Some(1.0)),
            ("node_processes_threads{}", Some(3.0)),
            ("perigee_process_resident_memory_bytes{comm=my (odd) name,pid=77}", Some(2500.0 * 4096.0)),
        ],
    );
    assert_eq!(world.faults(), BTreeSet::new());
}

#[test]
fn kernels_5_10_and_6_1_add_columns() {
    let mut old = World::kernel("5.10");
    let values = old.round();
    check(
        &values,
        &[
            ("node_disk_flush_requests_total{device=nvme0n1}", Some(16.0)),
            ("node_disk_flush_requests_time_seconds_total{device=nvme0n1}", Some(0.017)),
            ("node_disk_reads_completed_total{device=nvme0n1p1}", None),
            ("node_pressure_cpu_waiting_seconds_total{}", Some(1.5)),
            ("node_pressure_io_stalled_seconds_total{}", Some(0.25)),
            ("node_pressure_irq_stalled_seconds_total{}", None),
        ],
    );
    let mut new = World::kernel("6.1");
    let values = new.round();
    check(
        &values,
        &[
            ("node_pressure_cpu_waiting_seconds_total{}", Some(2.5)),
            ("node_pressure_irq_stalled_seconds_total{}", Some(0.125)),
            ("node_memory_SecPageTables_bytes{}", Some(8192.0)),
            ("node_hwmon_temp_celsius{chip=coretemp,sensor=temp1}", Some(47.5)),
            ("node_hwmon_fan_rpm{chip=coretemp,sensor=fan1}", Some(1200.0)),
            ("node_thermal_zone_temp{type=acpitz,zone=0}", Some(27.8)),
            ("node_cpu_scaling_frequency_hertz{cpu=0}", Some(2_400_000_000.0)),
        ],
    );
    assert_eq!((old.faults(), new.faults()), (BTreeSet::new(), BTreeSet::new()));
}

#[test]
fn rates_are_of_the_time_between_and_not_of_a_counter_that_wraps() {
    let mut world = World::kernel("4.19");
    for real in ["sys/class/net/eth0/device/x", "sys/block/sda/device/x"] {
        world.write(real, "");
    }
    let dev = |received: u64| format!("head|\nhead|\n eth0: {received} 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n");
    let stat =
        |busy: u64, idle: u64| format!("cpu {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 {busy} 0 0 {idle} 0 0 0 0 0 0\n");
    let received = "perigee_host_network_receive_bytes_per_second{}";
    let usage = "perigee_host_cpu_usage_ratio{}";
    let near_end = u64::from(u32::MAX) - 1000;
    let table = [
        (near_end, 100, 900, None, None),
        (near_end + 500, 125, 975, Some(500.0), Some(0.25)),
        // A 32-bit driver's counter wraps, a CPU's time falls back: the last value stays.
        (200, 50, 100, Some(500.0), Some(0.25)),
        (900, 150, 100, Some(700.0), Some(1.0)),
        (900, 150, 100, Some(0.0), Some(1.0)),
    ];
    for (bytes, busy, idle, rate, ratio) in table {
        world.write("proc/net/dev", dev(bytes));
        world.write("proc/stat", stat(busy, idle));
        let values = world.round();
        check(&values, &[(received, rate), (usage, ratio)]);
        check(&values, &[("node_network_receive_bytes_total{device=eth0}", Some(bytes as f64))]);
    }
}

#[test]
fn idle_time_that_falls_a_little_stays_and_one_that_falls_far_began_again() {
    let mut world = World::kernel("4.19");
    for (idle, shown) in [(1000, 10.0), (990, 10.0), (1010, 10.1), (5, 0.05)] {
        world.write("proc/stat", format!("cpu0 1 0 0 {idle} 0 0 0 0 0 0\n"));
        check(&world.round(), &[("node_cpu_seconds_total{cpu=0,mode=idle}", Some(shown))]);
    }
}

#[test]
fn what_leaves_takes_its_series_along() {
    let mut world = World::kernel("4.19");
    let before = world.round();
    assert!(before.keys().any(|series| series.contains("cpu=1")));
    world.write("proc/stat", "cpu0 1 0 0 1 0 0 0 0 0 0\n");
    world.write("proc/net/dev", "h|\nh|\n wg0: 1 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n");
    fs::remove_dir_all(world.root.path().join("proc/77")).unwrap();
    let after = world.round();
    assert!(
        !after.keys().any(|series| series.contains("cpu=1") || series.contains("eth0") || series.contains("pid=77"))
    );
    assert!(after.contains_key("node_network_receive_bytes_total{device=wg0}"));
}

fn stat_line(pid: u32, comm: &str, ticks: u64, started: u64, pages: u64) -> String {
    format!("{pid} ({comm}) R 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {started} 0 {pages} 0\n")
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let mut world = World::kernel("4.19");
    world.write("proc/500/stat", stat_line(500, "old", 1000, 5, 10));
    world.round();
    world.write("proc/500/stat", stat_line(500, "old", 1050, 5, 10));
    check(&world.round(), &[("perigee_process_cpu_cores{comm=old,pid=500}", Some(0.5))]);
    world.write("proc/500/stat", stat_line(500, "new", 25, 900, 10));
    let values = world.round();
    let old_and_new = ("perigee_process_cpu_cores{comm=old,pid=500}", "perigee_process_cpu_cores{comm=new,pid=500}");
    check(&values, &[(old_and_new.0, None), (old_and_new.1, Some(0.25))]);
}

#[test]
fn a_machine_with_256_cores_and_10_000_processes() {
    let mut world = World::kernel("6.1");
    let mut stat = "cpu 1 0 0 1 0 0 0 0 0 0\n".to_owned();
    for cpu in 0..256 {
        stat += &format!("cpu{cpu} {cpu} 2 3 4 5 6 7 8 9 10\n");
    }
    stat += &format!("intr 5{}\nctxt 7\n", " 0".repeat(10_000));
    world.write("proc/stat", stat);
    for pid in 1000..11_000 {
        world.write(&format!("proc/{pid}/stat"), stat_line(pid, "many", 0, 1, u64::from(pid)));
    }
    world.round();
    for pid in [1003, 7777, 10_999] {
        world.write(&format!("proc/{pid}/stat"), stat_line(pid, "busy", u64::from(pid), 1, 1));
    }
    let values = world.round();
    let of = |name: &str| values.iter().filter(|(series, _)| series.starts_with(name)).collect::<Vec<_>>();
    assert_eq!(of("node_cpu_seconds_total").len(), 256 * 8);
    check(&values, &[("node_cpu_seconds_total{cpu=255,mode=user}", Some(2.55)), ("node_intr_total{}", Some(5.0))]);
    let busy: Vec<&str> = of("perigee_process_cpu_cores").iter().map(|(series, _)| series.as_str()).collect();
    let name = |pid: u32| format!("perigee_process_cpu_cores{{comm=busy,pid={pid}}}");
    assert_eq!(busy, [name(1003), name(10_999), name(7777)]);
    let largest = of("perigee_process_resident_memory_bytes");
    assert_eq!(largest.len(), 10);
    assert!(largest.iter().all(|(series, _)| (10_989..10_999).any(|pid| series.contains(&format!("pid={pid}")))));
    check(&values, &[("node_processes_pids{}", Some(10_001.0))]);
}

#[test]
fn a_collector_that_fails_is_left_alone_and_tried_again() {
    let mut world = World::kernel("4.19");
    let good = fs::read(world.root.path().join("proc/meminfo")).unwrap();
    fs::remove_file(world.root.path().join("proc/meminfo")).unwrap();
    let success = "perigee_collector_success{collector=memory}";
    let open = "perigee_collector_breaker_open{collector=memory}";
    for round in 1..=4 {
        check(&world.round(), &[(success, Some(0.0)), (open, Some(0.0))]);
        assert_eq!(world.faults(), BTreeSet::from(["memory"]), "{round}");
    }
    check(&world.round(), &[(success, Some(0.0)), (open, Some(1.0))]);
    world.write("proc/meminfo", good);
    let other = "perigee_collector_success{collector=cpu}";
    check(&world.round(), &[(success, Some(0.0)), (open, Some(1.0)), (other, Some(1.0))]);
    world.now.fetch_add(10_000_000, Ordering::Relaxed);
    check(&world.round(), &[(success, Some(1.0)), (open, Some(0.0))]);
    assert_eq!(world.faults(), BTreeSet::new());
}

fn live() -> (Node, Sheet) {
    let start = Instant::now();
    let node = Node::new(&Settings::new(Arc::new(move || start.elapsed())));
    (node, Sheet::default())
}

#[test]
fn this_machine_as_procfs_reads_it() {
    use procfs::{Current, CurrentSI};
    let (mut node, mut sheet) = live();
    let before = procfs::KernelStats::current().unwrap();
    node.collect(&mut sheet);
    let after = procfs::KernelStats::current().unwrap();
    let values = values(&sheet);
    let between = |series: &str, low: u64, high: u64| {
        let value = values[series];
        assert!(low as f64 <= value && value <= high as f64, "{series}: {low} <= {value} <= {high}");
    };
    between("node_context_switches_total{}", before.ctxt, after.ctxt);
    between("node_forks_total{}", before.processes, after.processes);
    between("node_boot_time_seconds{}", before.btime, after.btime);
    for (cpu, (before, after)) in before.cpu_time.iter().zip(&after.cpu_time).enumerate() {
        let series = format!("node_cpu_seconds_total{{cpu={cpu},mode=user}}");
        assert!(before.user as f64 / 100.0 <= values[&series] && values[&series] <= after.user as f64 / 100.0);
    }
    let memory = procfs::Meminfo::current().unwrap();
    check(&values, &[("node_memory_MemTotal_bytes{}", Some(memory.mem_total as f64))]);
    check(&values, &[("node_memory_SwapTotal_bytes{}", Some(memory.swap_total as f64))]);
    let disks = procfs::diskstats().unwrap();
    let seen = |name: &str| values.get(&format!("node_disk_reads_completed_total{{device={name}}}")).copied();
    for disk in disks.iter().filter(|disk| seen(&disk.name).is_some()) {
        assert!(seen(&disk.name).unwrap() <= disk.reads as f64, "{}", disk.name);
    }
    for name in procfs::net::dev_status().unwrap().keys() {
        assert!(values.contains_key(&format!("node_network_receive_bytes_total{{device={name}}}")), "{name}");
    }
    let own = std::process::id();
    let stat = procfs::process::Process::myself().unwrap().stat().unwrap();
    let series = format!("perigee_process_resident_memory_bytes{{comm={},pid={own}}}", stat.comm);
    if let Some(resident) = values.get(&series) {
        assert!(*resident > 0.0);
    }
    let faults: Vec<_> = node.faults().map(|(name, fault)| format!("{name}: {fault}")).collect();
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn promtool_finds_nothing_wrong() {
    let (mut node, mut sheet) = live();
    node.collect(&mut sheet);
    let mut text = exposition(&sheet);
    let mut fixture = World::kernel("6.1");
    fixture.round();
    let names = |text: &str| {
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned));
        names.collect::<BTreeSet<String>>()
    };
    let known = names(&text);
    // The fixture has sensors, which this machine may lack.
    for block in exposition(&fixture.sheet).split("# HELP ").skip(1) {
        if !known.contains(block.split(' ').next().unwrap()) {
            text += &format!("# HELP {block}");
        }
    }
    let helped = text.lines().filter(|line| line.starts_with("# HELP ")).count();
    assert_eq!(helped, names(&text).len(), "each metric is explained");
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("needs promtool: apt-get install prometheus");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    // node_exporter's own names that it would not choose today, and its own check lets pass as well.
    let excused = |line: &&str| line.starts_with("node_memory_");
    let complaints: Vec<&str> = said.lines().filter(|line| !line.is_empty() && !excused(line)).collect();
    assert_eq!(complaints, Vec::<&str>::new());
}

const TEXTS: [&str; 8] =
    ["stat", "loadavg", "meminfo", "vmstat", "diskstats", "net/dev", "self/mountinfo", "pressure/io"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn cut_and_broken_texts_are_no_panic(
        file in 0..TEXTS.len(),
        cut in 0usize..2000,
        broken in proptest::collection::vec((0usize..2000, any::<u8>()), 0..12),
    ) {
        let mut world = World::kernel("6.1");
        world.round();
        let path = world.root.path().join("proc").join(TEXTS[file]);
        let mut text = fs::read(&path).unwrap();
        for (at, byte) in broken {
            let length = text.len();
            text[at % length] = byte;
        }
        text.truncate(cut);
        fs::write(&path, text).unwrap();
        let values = world.round();
        prop_assert!(values.values().all(|value| value.is_finite()));
    }
}
