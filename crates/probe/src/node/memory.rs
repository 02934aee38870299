//! Memory: /proc/meminfo, what matters of /proc/vmstat, open files.

use super::family::{Family, Slots, retire};
use super::{Collector, Fault, Round, Settings, read};
use crate::scan::{Source, lines, number, words};
use perigee_model::frame::{Series, Slot};

/// /proc/meminfo.
pub struct Memory {
    meminfo: Source,
    fields: Family<Slots>,
    used: Option<Slot>,
    total: Option<Slot>,
}

impl Memory {
    pub fn new(settings: &Settings) -> Self {
        let meminfo = Source::new(settings.proc_root.join("meminfo"));
        Self { meminfo, fields: Family::default(), used: None, total: None }
    }
}

/// As node_exporter names them: `Active(anon)` is `node_memory_Active_anon_bytes`.
fn field_series(name: &[u8], in_bytes: bool) -> Series {
    let field = String::from_utf8_lossy(name).replace('(', "_").replace(')', "");
    let unit = if in_bytes { "_bytes" } else { "" };
    Series::gauge(&format!("node_memory_{field}{unit}"), 0)
}

/// What the lists show. Kernels before 3.14 do not say what is available; a near guess then.
#[derive(Default)]
struct Sum {
    total: Option<i64>,
    available: Option<i64>,
    reclaimable: i64,
}

impl Collector for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        if self.used.is_none() {
            self.used = round.sheet.define(Series::gauge("perigee_host_memory_used_bytes", 0));
            self.total = round.sheet.define(Series::gauge("perigee_host_memory_total_bytes", 0));
        }
        let mut buffer = std::mem::take(round.buffer);
        let mut sum = Sum::default();
        let outcome = read(&mut self.meminfo, &mut buffer).map(|text| {
            self.fields.begin();
            for line in lines(text) {
                let mut pieces = words(line);
                let (Some(name), Some(value)) = (pieces.next(), pieces.next().and_then(number)) else { continue };
                let Some(name) = name.strip_suffix(b":") else { continue };
                let in_bytes = pieces.next() == Some(b"kB");
                let Some(value) = value.checked_mul(if in_bytes { 1024 } else { 1 }) else { continue };
                match name {
                    b"MemTotal" => sum.total = Some(value),
                    b"MemAvailable" => sum.available = Some(value),
                    b"MemFree" | b"Buffers" | b"Cached" => sum.reclaimable = sum.reclaimable.saturating_add(value),
                    _ => {}
                }
                let sheet = &mut *round.sheet;
                let slots = self.fields.member(name, || vec![sheet.define(field_series(name, in_bytes))]);
                let slot = slots.and_then(|slots| slots[0]);
                round.put(slot, Some(value));
            }
            self.fields.sweep(|slots| retire(round.sheet, &slots));
        });
        *round.buffer = buffer;
        outcome?;
        let used = sum.total.map(|total| (total - sum.available.unwrap_or(sum.reclaimable)).clamp(0, total));
        round.put(self.total, sum.total);
        round.put(self.used, used);
        if sum.total.is_none() { Err(Fault::Malformed("meminfo")) } else { Ok(()) }
    }
}

/// Of /proc/vmstat what tells of trouble: paging, swapping, faults, kills. It has some 150 lines more.
const VMSTAT: [&str; 7] = ["pgpgin", "pgpgout", "pswpin", "pswpout", "pgfault", "pgmajfault", "oom_kill"];

/// /proc/vmstat and /proc/sys/fs/file-nr.
pub struct Kernel {
    vmstat: Source,
    files: Source,
    slots: Vec<Option<Slot>>,
    allocated: Option<Slot>,
    maximum: Option<Slot>,
}

impl Kernel {
    pub fn new(settings: &Settings) -> Self {
        let source = |file: &str| Source::new(settings.proc_root.join(file));
        let (vmstat, files) = (source("vmstat"), source("sys/fs/file-nr"));
        Self { vmstat, files, slots: Vec::new(), allocated: None, maximum: None }
    }
}

impl Collector for Kernel {
    fn name(&self) -> &'static str {
        "vmstat"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        if self.slots.is_empty() {
            let series = |name: &&str| round.sheet.define(Series::counter(&format!("node_vmstat_{name}"), 0));
            self.slots = VMSTAT.iter().map(series).collect();
            self.allocated = round.sheet.define(Series::gauge("node_filefd_allocated", 0));
            self.maximum = round.sheet.define(Series::gauge("node_filefd_maximum", 0));
        }
        let mut buffer = std::mem::take(round.buffer);
        let outcome = read(&mut self.vmstat, &mut buffer).map(|text| {
            for line in lines(text) {
                // Two letters tell most of the 160 lines apart.
                if !matches!(line.get(..2), Some(b"pg" | b"ps" | b"oo")) {
                    continue;
                }
                let mut pieces = words(line);
                let name = pieces.next().unwrap_or_default();
                if let Some(at) = VMSTAT.iter().position(|known| known.as_bytes() == name) {
                    round.put(self.slots[at], pieces.next().and_then(number));
                }
            }
        });
        if let Ok(text) = self.files.read_line(&mut buffer) {
            let mut pieces = words(text.trim_ascii_end()).map(number);
            round.put(self.allocated, pieces.next().flatten());
            // 2^63-1 means "no limit"; node_exporter shows it all the same.
            round.put(self.maximum, pieces.nth(1).flatten());
        }
        *round.buffer = buffer;
        outcome
    }
}
