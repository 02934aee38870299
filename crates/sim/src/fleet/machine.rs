//! A machine that is made up: a few hundred series that move as a server's do.
//!
//! Owns: a load (the day's curve, bursts, noise) and what each series makes of it. Refuses: saying
//! it is measured; the names are node_exporter's, the values are drawn from a seed.

use crate::draw::Draw;
use perigee_model::Timestamp;
use perigee_model::frame::{Series, Sheet, Slot};
use std::f64::consts::TAU;

const DAY_SECONDS: f64 = 86_400.0;
/// A burst begins once in so many seconds on average.
const BURST_EVERY: f64 = 600.0;
const BURST_MS: [u64; 2] = [20_000, 180_000];
/// A step between two samples that is longer counts as this.
const STEP_SECONDS_MAX: f64 = 60.0;

const MODES: [(&str, f64, f64); 8] = [
    ("user", 0.01, 0.68),
    ("system", 0.005, 0.2),
    ("iowait", 0.001, 0.04),
    ("softirq", 0.0005, 0.02),
    ("irq", 0.0, 0.0),
    ("nice", 0.0, 0.0),
    ("steal", 0.0, 0.0),
    ("idle", 0.98, 0.06),
];
/// Counters of each processor besides its modes, idle and busy, in a second.
const PER_CPU: [(&str, u8, f64, f64); 8] = [
    ("node_softnet_processed_total", 0, 2.0, 6e3),
    ("node_softnet_dropped_total", 0, 0.0, 0.0),
    ("node_softnet_times_squeezed_total", 0, 0.0, 0.3),
    ("node_schedstat_running_seconds_total", 3, 0.02, 0.9),
    ("node_schedstat_waiting_seconds_total", 3, 0.001, 0.4),
    ("node_schedstat_timeslices_total", 0, 40.0, 4e3),
    ("node_cpu_core_throttles_total", 0, 0.0, 0.0),
    ("node_cpu_package_throttles_total", 0, 0.0, 0.0),
];
/// Bytes as a share of all memory, idle and busy; equal where they stay.
const MEMORY: [(&str, f64, f64); 24] = [
    ("MemFree", 0.6, 0.1),
    ("MemAvailable", 0.8, 0.3),
    ("Buffers", 0.01, 0.02),
    ("Cached", 0.15, 0.3),
    ("Active", 0.2, 0.5),
    ("Inactive", 0.1, 0.2),
    ("AnonPages", 0.1, 0.5),
    ("Mapped", 0.02, 0.05),
    ("Dirty", 0.0001, 0.002),
    ("Writeback", 0.0, 0.0001),
    ("Slab", 0.02, 0.03),
    ("SReclaimable", 0.015, 0.02),
    ("SUnreclaim", 0.005, 0.01),
    ("KernelStack", 0.0005, 0.001),
    ("PageTables", 0.001, 0.003),
    ("Committed_AS", 0.2, 0.7),
    ("Shmem", 0.001, 0.001),
    ("SwapTotal", 0.0, 0.0),
    ("SwapFree", 0.0, 0.0),
    ("SwapCached", 0.0, 0.0),
    ("Mlocked", 0.0, 0.0),
    ("VmallocTotal", 0.5, 0.5),
    ("CommitLimit", 0.5, 0.5),
    ("HugePages_Total", 0.0, 0.0),
];
/// Counters of each device, idle and busy, in a second.
const DISK: [(&str, u8, f64, f64); 11] = [
    ("reads_completed_total", 0, 0.5, 900.0),
    ("reads_merged_total", 0, 0.1, 60.0),
    ("read_bytes_total", 0, 8e3, 4e7),
    ("read_time_seconds_total", 3, 0.001, 0.6),
    ("writes_completed_total", 0, 4.0, 1500.0),
    ("writes_merged_total", 0, 2.0, 400.0),
    ("written_bytes_total", 0, 6e4, 9e7),
    ("write_time_seconds_total", 3, 0.004, 1.2),
    ("io_time_seconds_total", 3, 0.003, 0.7),
    ("io_time_weighted_seconds_total", 3, 0.005, 2.0),
    ("discards_completed_total", 0, 0.0, 0.0),
];
const NETWORK: [(&str, f64, f64); 14] = [
    ("receive_bytes_total", 2e3, 6e7),
    ("receive_packets_total", 15.0, 5e4),
    ("receive_multicast_total", 0.1, 0.1),
    ("receive_drop_total", 0.0, 0.5),
    ("receive_errs_total", 0.0, 0.0),
    ("receive_fifo_total", 0.0, 0.0),
    ("receive_frame_total", 0.0, 0.0),
    ("transmit_bytes_total", 2e3, 4e7),
    ("transmit_packets_total", 12.0, 4e4),
    ("transmit_drop_total", 0.0, 0.0),
    ("transmit_errs_total", 0.0, 0.0),
    ("transmit_fifo_total", 0.0, 0.0),
    ("transmit_colls_total", 0.0, 0.0),
    ("transmit_carrier_total", 0.0, 0.0),
];
/// Counters of the whole machine, idle and busy, in a second.
const COUNTERS: [(&str, u8, f64, f64); 30] = [
    ("node_context_switches_total", 0, 800.0, 1e5),
    ("node_intr_total", 0, 500.0, 7e4),
    ("node_forks_total", 0, 1.0, 90.0),
    ("node_vmstat_pgfault", 0, 300.0, 9e4),
    ("node_vmstat_pgmajfault", 0, 0.0, 2.0),
    ("node_vmstat_pgpgin", 0, 10.0, 4e4),
    ("node_vmstat_pgpgout", 0, 60.0, 9e4),
    ("node_vmstat_pswpin", 0, 0.0, 0.0),
    ("node_vmstat_pswpout", 0, 0.0, 0.0),
    ("node_vmstat_oom_kill", 0, 0.0, 0.0),
    ("node_netstat_Tcp_InSegs", 0, 20.0, 5e4),
    ("node_netstat_Tcp_OutSegs", 0, 20.0, 6e4),
    ("node_netstat_Tcp_ActiveOpens", 0, 0.3, 60.0),
    ("node_netstat_Tcp_PassiveOpens", 0, 0.3, 300.0),
    ("node_netstat_Tcp_RetransSegs", 0, 0.0, 9.0),
    ("node_netstat_Tcp_InErrs", 0, 0.0, 0.0),
    ("node_netstat_Tcp_OutRsts", 0, 0.05, 4.0),
    ("node_netstat_TcpExt_ListenDrops", 0, 0.0, 0.0),
    ("node_netstat_TcpExt_ListenOverflows", 0, 0.0, 0.0),
    ("node_netstat_TcpExt_TCPTimeouts", 0, 0.0, 1.0),
    ("node_netstat_Udp_InDatagrams", 0, 2.0, 80.0),
    ("node_netstat_Udp_OutDatagrams", 0, 2.0, 80.0),
    ("node_netstat_Udp_NoPorts", 0, 0.01, 0.1),
    ("node_netstat_Icmp_InMsgs", 0, 0.1, 0.1),
    ("node_netstat_IpExt_InOctets", 0, 2e3, 6e7),
    ("node_netstat_IpExt_OutOctets", 0, 2e3, 4e7),
    ("node_pressure_cpu_waiting_seconds_total", 6, 0.001, 0.3),
    ("node_pressure_io_waiting_seconds_total", 6, 0.0005, 0.2),
    ("node_pressure_io_stalled_seconds_total", 6, 0.0003, 0.1),
    ("node_pressure_memory_waiting_seconds_total", 6, 0.0, 0.01),
];
/// Gauges of the whole machine, idle and busy.
const GAUGES: [(&str, u8, f64, f64); 18] = [
    ("node_load5", 2, 0.05, 14.0),
    ("node_load15", 2, 0.05, 12.0),
    ("node_procs_running", 0, 1.0, 20.0),
    ("node_procs_blocked", 0, 0.0, 2.0),
    ("node_filefd_allocated", 0, 1500.0, 9000.0),
    ("node_filefd_maximum", 0, 9e5, 9e5),
    ("node_processes_threads", 0, 300.0, 900.0),
    ("node_processes_pids", 0, 150.0, 400.0),
    ("node_sockstat_TCP_inuse", 0, 20.0, 2000.0),
    ("node_sockstat_TCP_tw", 0, 5.0, 900.0),
    ("node_sockstat_TCP_alloc", 0, 25.0, 2100.0),
    ("node_sockstat_UDP_inuse", 0, 8.0, 8.0),
    ("node_nf_conntrack_entries", 0, 100.0, 9000.0),
    ("node_nf_conntrack_entries_limit", 0, 262_144.0, 262_144.0),
    ("node_entropy_available_bits", 0, 256.0, 256.0),
    ("node_timex_offset_seconds", 9, 0.000_01, 0.000_04),
    ("node_timex_sync_status", 0, 1.0, 1.0),
    ("node_boot_time_seconds", 0, 1.7e9, 1.7e9),
];

/// How much of a machine's series moves from one sample to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Mix {
    /// All that can, along the day's curve and in bursts.
    #[default]
    Usual,
    /// Nothing is asked of it: few series move, and seldom.
    Idle,
    /// Much is asked of it all the time; levels stay for a while, as a kernel's do.
    Busy,
    /// Each series, at each sample.
    Changing,
}

impl Mix {
    /// Of a hundred levels so many move in a sample.
    fn levels_percent(self) -> u32 {
        match self {
            Self::Idle => 10,
            Self::Busy => 60,
            Self::Usual | Self::Changing => 100,
        }
    }
}

/// What a series does with the load.
#[derive(Clone, Copy)]
enum Motion {
    /// Goes up by so much in a second.
    Count { idle: f64, busy: f64, sum: f64 },
    /// Is so high.
    Level { idle: f64, busy: f64 },
}

/// The machine.
pub struct Machine {
    /// How many processors it pretends to have.
    pub cpus: u32,
    /// How much memory.
    pub memory_bytes: u64,
    draw: Draw,
    mix: Mix,
    /// Where its day is, as a share of one.
    phase: f64,
    burst_until: Timestamp,
    last: Option<Timestamp>,
    moving: Vec<(Slot, Motion)>,
}

impl Machine {
    /// Of this name, in the world of this seed.
    pub fn new(seed: u64, name: &str, mix: Mix) -> Self {
        let mut draw = Draw::new(seed, name);
        let cpus = if draw.chance(30) { 16 } else { 8 };
        let memory_bytes = u64::from(cpus) << 32;
        let phase = draw.share() / 6.0;
        let burst_until = Timestamp::from_micros(0);
        Self { cpus, memory_bytes, draw, mix, phase, burst_until, last: None, moving: Vec::new() }
    }

    /// Writes what is so now.
    pub fn sample(&mut self, sheet: &mut Sheet, now: Timestamp) {
        if self.last.is_none() {
            self.moving =
                self.series().into_iter().filter_map(|(s, motion)| Some((sheet.define(s)?, motion))).collect();
        }
        let step = self.last.map_or(0.0, |last| now.since(last).as_secs_f64().min(STEP_SECONDS_MAX));
        self.last = Some(now);
        let load = self.load(now, step);
        for (slot, motion) in &mut self.moving {
            match motion {
                Motion::Level { idle, .. } if self.mix == Mix::Changing => {
                    sheet.set_f64(*slot, *idle + (1e4 * self.draw.share()).round());
                }
                Motion::Count { sum, .. } if self.mix == Mix::Changing => {
                    *sum += (1.0 + 1e4 * self.draw.share()).round();
                    sheet.set_f64(*slot, *sum);
                }
                Motion::Level { idle, busy } if idle == busy => sheet.set_f64(*slot, *idle),
                // The first sample says something of every series.
                Motion::Level { .. } if step > 0.0 && !self.draw.chance(self.mix.levels_percent()) => {}
                Motion::Level { idle, busy } => {
                    let noise = 0.97 + 0.06 * self.draw.share();
                    sheet.set_f64(*slot, (*idle + (*busy - *idle) * load) * noise);
                }
                Motion::Count { busy: 0.0, sum, .. } => sheet.set_f64(*slot, *sum),
                Motion::Count { idle, busy, sum } => {
                    let noise = 0.8 + 0.4 * self.draw.share();
                    *sum += (*idle + (*busy - *idle) * load) * noise * step;
                    sheet.set_f64(*slot, *sum);
                }
            }
        }
    }

    /// Between 0 and 1: low at night, high after noon, higher in a burst.
    fn load(&mut self, now: Timestamp, step: f64) -> f64 {
        match self.mix {
            Mix::Idle => return 0.0,
            Mix::Busy => return 0.6 + 0.1 * self.draw.share(),
            Mix::Usual | Mix::Changing => {}
        }
        #[expect(clippy::cast_precision_loss, reason = "a moment of the day")]
        let day = (now.micros() / 1000) as f64 / 1000.0 / DAY_SECONDS + self.phase;
        if now >= self.burst_until && self.draw.share() < step / BURST_EVERY {
            self.burst_until = now + self.draw.millis(BURST_MS[0], BURST_MS[1]);
        }
        let burst = if now < self.burst_until { 0.5 } else { 0.0 };
        let curve = 0.1 + 0.15 * (1.0 - (TAU * day).cos());
        (curve + burst + 0.06 * (self.draw.share() - 0.5)).clamp(0.0, 1.0)
    }

    /// Every series and how it moves.
    fn series(&self) -> Vec<(Series, Motion)> {
        let mut all = Vec::new();
        let level = |idle: f64, busy: f64| Motion::Level { idle, busy };
        let count = |idle: f64, busy: f64| Motion::Count { idle, busy, sum: 0.0 };
        for cpu in (0..self.cpus).map(|cpu| cpu.to_string()) {
            for (mode, idle, busy) in MODES {
                let series = Series::counter("node_cpu_seconds_total", 2).with("cpu", &cpu).with("mode", mode);
                all.push((series, count(idle, busy)));
            }
            all.push((Series::gauge("node_cpu_scaling_frequency_hertz", 0).with("cpu", &cpu), level(1.2e9, 3.4e9)));
            for (name, digits, idle, busy) in PER_CPU {
                all.push((Series::counter(name, digits).with("cpu", &cpu), count(idle, busy)));
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "whole gibibytes")]
        let memory = self.memory_bytes as f64;
        all.push((Series::gauge("node_memory_MemTotal_bytes", 0), level(memory, memory)));
        for (name, idle, busy) in MEMORY {
            all.push((Series::gauge(&format!("node_memory_{name}_bytes"), 0), level(idle * memory, busy * memory)));
        }
        for (device, share) in [("nvme0n1", 1.0), ("nvme1n1", 0.2), ("sda", 0.0)] {
            for (name, digits, idle, busy) in DISK {
                let series = Series::counter(&format!("node_disk_{name}"), digits).with("device", device);
                all.push((series, count(idle * share, busy * share)));
            }
        }
        for (device, share) in [("eth0", 1.0), ("eth1", 0.0), ("lo", 0.05), ("docker0", 0.0)] {
            for (name, idle, busy) in NETWORK {
                let series = Series::counter(&format!("node_network_{name}"), 0).with("device", device);
                all.push((series, count(idle * share, busy * share)));
            }
        }
        for (mount, used) in [("/", 0.4), ("/boot", 0.2), ("/var/lib", 0.6)] {
            let gauge = |name: &str| Series::gauge(&format!("node_filesystem_{name}"), 0).with("mountpoint", mount);
            all.push((gauge("size_bytes"), level(1e11, 1e11)));
            all.push((gauge("avail_bytes"), level(1e11 * (1.0 - used), 9.9e10 * (1.0 - used))));
            all.push((gauge("files"), level(6e6, 6e6)));
            all.push((gauge("files_free"), level(5e6, 5e6)));
            all.push((gauge("readonly"), level(0.0, 0.0)));
        }
        let counters = COUNTERS.map(|(name, digits, idle, busy)| (Series::counter(name, digits), count(idle, busy)));
        let gauges = GAUGES.map(|(name, digits, idle, busy)| (Series::gauge(name, digits), level(idle, busy)));
        all.extend(counters.into_iter().chain(gauges));
        all.extend(self.summary());
        all
    }

    /// What sums a host up in lists.
    fn summary(&self) -> [(Series, Motion); 8] {
        #[expect(clippy::cast_precision_loss, reason = "whole gibibytes")]
        let memory = self.memory_bytes as f64;
        let one = |name: &str, digits, idle, busy| (Series::gauge(name, digits), Motion::Level { idle, busy });
        [
            one("node_load1", 2, 0.05, f64::from(self.cpus)),
            one("perigee_host_cpu_usage_ratio", 4, 0.02, 0.94),
            one("perigee_host_memory_used_bytes", 0, memory * 0.2, memory * 0.7),
            one("perigee_host_memory_total_bytes", 0, memory, memory),
            one("perigee_host_disk_read_bytes_per_second", 0, 8e3, 4e7),
            one("perigee_host_disk_written_bytes_per_second", 0, 6e4, 9e7),
            one("perigee_host_network_receive_bytes_per_second", 0, 2e3, 6e7),
            one("perigee_host_network_transmit_bytes_per_second", 0, 2e3, 4e7),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_model::frame::Columns;
    use std::time::Duration;

    fn frames(seed: u64, count: u64) -> Vec<Vec<u8>> {
        let (mut machine, mut sheet) = (Machine::new(seed, "sim-0001", Mix::Usual), Sheet::default());
        let at = |n: u64| Timestamp::from_micros(1_700_000_000_000_000) + Duration::from_secs(5 * n);
        let mut frame = |n| {
            machine.sample(&mut sheet, at(n));
            sheet.encode(n, at(n), n == 1)
        };
        (1..=count).map(&mut frame).collect()
    }

    #[test]
    fn a_machine_has_hundreds_of_series_and_counters_never_go_back() {
        let mut columns = Columns::default();
        let mut before: Vec<Option<f64>> = Vec::new();
        for frame in frames(7, 200) {
            columns.apply(&frame).unwrap();
            let count = columns.series().len();
            assert!((300..=500).contains(&count), "{count} series");
            let now: Vec<_> = (0..u32::try_from(count).unwrap()).map(|column| columns.value(column)).collect();
            for ((series, old), new) in columns.series().iter().zip(&before).zip(&now) {
                assert!(series.kind == perigee_model::frame::MetricKind::Gauge || old <= new, "{series:?}");
            }
            before = now;
        }
    }

    #[test]
    fn a_mix_says_how_much_moves() {
        let at = |n: u64| Timestamp::from_micros(1_700_000_000_000_000) + Duration::from_secs(n);
        let moved = |mix| {
            let (mut machine, mut sheet) = (Machine::new(7, "sim-0001", mix), Sheet::default());
            let (mut columns, mut changed) = (Columns::default(), 0);
            for n in 1..=20 {
                machine.sample(&mut sheet, at(n));
                let change = columns.apply(&sheet.encode(n, at(n), n == 1)).unwrap();
                changed += if n == 1 { 0 } else { change.changed.len() };
            }
            (changed / 19, columns.series().len())
        };
        let [idle, busy, changing] = [Mix::Idle, Mix::Busy, Mix::Changing].map(moved);
        assert!(idle.0 * 3 < idle.1 && idle.0 * 3 < busy.0 * 2 && busy.0 < busy.1, "{idle:?} {busy:?}");
        assert!(changing.0 * 20 > changing.1 * 19, "a draw may give what was there: {changing:?}");
    }

    #[test]
    fn one_seed_is_one_machine() {
        assert_eq!(frames(7, 20), frames(7, 20));
        assert_ne!(frames(7, 20), frames(8, 20));
    }
}
