//! CPUs: time by mode, load, frequency, pressure, and what the kernel counts beside them.

use super::family::{Family, Slots, retire};
use super::{Collector, Fault, Round, Settings, read};
use crate::scan::{Source, decimal, lines, number, words};
use perigee_model::frame::{Series, Slot};
use std::path::PathBuf;

/// USER_HZ: part of the ABI, 100 on every architecture that we build for. Ticks are thus hundredths of
/// a second and go on the sheet as they are.
const MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
const IDLE: usize = 3;
const IOWAIT: usize = 4;
/// A fall of less than this is the kernel's rounding (idle and iowait may do so); more is a restart.
const ROUNDING_TICKS: i64 = 300;
/// On some drivers a frequency is read by interrupting the CPU.
const FREQUENCIES_MAX: usize = 64;

struct OneCpu {
    slots: Slots,
    ticks: [i64; 10],
}

/// /proc/stat.
pub struct Cpu {
    stat: Source,
    cpus: Family<OneCpu>,
    totals: Vec<(&'static [u8], Option<Slot>)>,
    usage: Option<Slot>,
    last: Option<(i64, i64)>,
}

impl Cpu {
    pub fn new(settings: &Settings) -> Self {
        let stat = Source::new(settings.proc_root.join("stat"));
        Self { stat, cpus: Family::default(), totals: Vec::new(), usage: None, last: None }
    }

    fn define(&mut self, round: &mut Round<'_>) {
        let totals: [(&'static [u8], Series); 6] = [
            (b"ctxt", Series::counter("node_context_switches_total", 0)),
            (b"intr", Series::counter("node_intr_total", 0)),
            (b"btime", Series::gauge("node_boot_time_seconds", 0)),
            (b"processes", Series::counter("node_forks_total", 0)),
            (b"procs_running", Series::gauge("node_procs_running", 0)),
            (b"procs_blocked", Series::gauge("node_procs_blocked", 0)),
        ];
        self.totals = totals.into_iter().map(|(field, series)| (field, round.sheet.define(series))).collect();
        self.usage = round.sheet.define(Series::gauge("perigee_host_cpu_usage_ratio", 4));
    }

    fn one(&mut self, name: &[u8], ticks: [i64; 10], round: &mut Round<'_>) {
        let sheet = &mut *round.sheet;
        let Some(cpu) = self.cpus.member(name, || OneCpu { slots: define_cpu(sheet, name), ticks: [0; 10] }) else {
            return;
        };
        for (at, now) in ticks.into_iter().enumerate() {
            let before = cpu.ticks[at];
            let now = if now < before && before - now < ROUNDING_TICKS { before } else { now };
            cpu.ticks[at] = now;
            if let Some(slot) = cpu.slots[at] {
                sheet.set(slot, now);
            }
        }
    }

    /// Busy time of all time since the last round.
    fn usage(&mut self, ticks: [i64; 10], round: &mut Round<'_>) {
        let all: i64 = ticks[..MODES.len()].iter().fold(0, |sum, mode| sum.saturating_add(*mode));
        let idle = ticks[IDLE].saturating_add(ticks[IOWAIT]);
        let before = self.last.replace((all, idle));
        let Some((all_before, idle_before)) = before else { return };
        let (passed, rested) = (all.saturating_sub(all_before), idle.saturating_sub(idle_before));
        if passed <= 0 {
            // Two readings within one tick: the last value still holds. A restart: the next one knows.
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "a ratio of small differences")]
        let busy = 1.0 - rested.clamp(0, passed) as f64 / passed as f64;
        round.put_f64(self.usage, busy);
    }
}

fn define_cpu(sheet: &mut perigee_model::frame::Sheet, name: &[u8]) -> Slots {
    let cpu = String::from_utf8_lossy(name);
    let cpu = cpu.trim_start_matches("cpu");
    let series = |mode: &str| Series::counter("node_cpu_seconds_total", 2).with("cpu", cpu).with("mode", mode);
    let guest = |mode: &str| Series::counter("node_cpu_guest_seconds_total", 2).with("cpu", cpu).with("mode", mode);
    let all = MODES.into_iter().map(series).chain(["user", "nice"].into_iter().map(guest));
    all.map(|series| sheet.define(series)).collect()
}

impl Collector for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        if self.totals.is_empty() {
            self.define(round);
        }
        let mut buffer = std::mem::take(round.buffer);
        let text = read(&mut self.stat, &mut buffer);
        let outcome = text.map(|text| {
            self.cpus.begin();
            for line in lines(text) {
                let mut fields = words(line);
                let Some(name) = fields.next() else { continue };
                if name.starts_with(b"cpu") {
                    let mut ticks = [0i64; 10];
                    for (tick, word) in ticks.iter_mut().zip(&mut fields) {
                        *tick = number(word).unwrap_or(0);
                    }
                    if name == b"cpu" { self.usage(ticks, round) } else { self.one(name, ticks, round) }
                } else if let Some((_, slot)) = self.totals.iter().find(|(field, _)| *field == name) {
                    let value = fields.next().and_then(number);
                    round.put(*slot, value);
                    if name == b"processes" {
                        round.census.forks = value;
                    }
                }
            }
            self.cpus.sweep(|cpu| retire(round.sheet, &cpu.slots));
        });
        *round.buffer = buffer;
        outcome
    }
}

/// /proc/loadavg and /proc/pressure.
pub struct Load {
    loadavg: Source,
    loads: Vec<Option<Slot>>,
    pressures: Vec<Pressure>,
}

struct Pressure {
    source: Source,
    some: Option<Series>,
    full: Option<Series>,
    some_slot: Option<Slot>,
    full_slot: Option<Slot>,
    absent: bool,
}

impl Load {
    pub fn new(settings: &Settings) -> Self {
        let counter = |name: &str| Some(Series::counter(name, 6));
        // Of the CPU as a whole `full` is always 0; interrupts only know `full`.
        let table = [
            ("cpu", counter("node_pressure_cpu_waiting_seconds_total"), None),
            (
                "io",
                counter("node_pressure_io_waiting_seconds_total"),
                counter("node_pressure_io_stalled_seconds_total"),
            ),
            (
                "memory",
                counter("node_pressure_memory_waiting_seconds_total"),
                counter("node_pressure_memory_stalled_seconds_total"),
            ),
            ("irq", None, counter("node_pressure_irq_stalled_seconds_total")),
        ];
        let pressure = |(file, some, full): (&str, _, _)| Pressure {
            source: Source::new(settings.proc_root.join("pressure").join(file)),
            some,
            full,
            some_slot: None,
            full_slot: None,
            absent: false,
        };
        let pressures = table.into_iter().map(pressure).collect();
        Self { loadavg: Source::new(settings.proc_root.join("loadavg")), loads: Vec::new(), pressures }
    }
}

impl Pressure {
    /// Kernels before 4.20, and those told so, have none: asked once.
    fn collect(&mut self, round: &mut Round<'_>) {
        let mut buffer = std::mem::take(round.buffer);
        match self.source.read(&mut buffer) {
            Ok(text) => {
                for line in lines(text) {
                    let mut fields = words(line);
                    let (series, slot) = match fields.next() {
                        Some(b"some") => (&mut self.some, &mut self.some_slot),
                        Some(b"full") => (&mut self.full, &mut self.full_slot),
                        _ => continue,
                    };
                    if let Some(series) = series.take() {
                        *slot = round.sheet.define(series);
                    }
                    round.put(*slot, fields.last().and_then(|total| number(total.strip_prefix(b"total=")?)));
                }
            }
            Err(_) => self.absent = true,
        }
        *round.buffer = buffer;
    }
}

impl Collector for Load {
    fn name(&self) -> &'static str {
        "load"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        if self.loads.is_empty() {
            let names = ["node_load1", "node_load5", "node_load15"];
            self.loads = names.iter().map(|name| round.sheet.define(Series::gauge(name, 2))).collect();
        }
        let mut buffer = std::mem::take(round.buffer);
        let outcome = read(&mut self.loadavg, &mut buffer).map(|text| {
            for (slot, word) in self.loads.iter().zip(words(text)) {
                round.put(*slot, decimal(word, 2));
            }
            let running = words(text).nth(3).unwrap_or_default();
            round.census.tasks = running.split(|byte| *byte == b'/').nth(1).and_then(number);
        });
        *round.buffer = buffer;
        self.pressures.iter_mut().filter(|pressure| !pressure.absent).for_each(|pressure| pressure.collect(round));
        outcome
    }
}

/// Each CPU's frequency, where the driver tells it.
pub struct Frequency {
    folder: PathBuf,
    sources: Option<Vec<(Source, Option<Slot>)>>,
}

impl Frequency {
    pub fn new(settings: &Settings) -> Self {
        Self { folder: settings.sys_root.join("devices/system/cpu"), sources: None }
    }

    fn find(&self, round: &mut Round<'_>) -> Vec<(Source, Option<Slot>)> {
        let mut found = Vec::new();
        for cpu in 0..FREQUENCIES_MAX {
            let path = self.folder.join(format!("cpu{cpu}/cpufreq/scaling_cur_freq"));
            if path.exists() {
                // In kHz: hertz with "minus three" decimals do not exist, so it is multiplied.
                let series = Series::gauge("node_cpu_scaling_frequency_hertz", 0).with("cpu", &cpu.to_string());
                found.push((Source::new(path), round.sheet.define(series)));
            }
        }
        found
    }
}

impl Collector for Frequency {
    fn name(&self) -> &'static str {
        "cpufreq"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        let mut sources = match self.sources.take() {
            Some(sources) => sources,
            None => self.find(round),
        };
        for (source, slot) in &mut sources {
            // A CPU off line has none.
            let hertz =
                source.read_line(round.buffer).ok().and_then(|text| number(text.trim_ascii())?.checked_mul(1000));
            round.put(*slot, hertz);
        }
        self.sources = Some(sources);
        Ok(())
    }
}
