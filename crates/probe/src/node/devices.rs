//! Disks (/proc/diskstats) and network interfaces (/proc/net/dev): counters by device.

use super::family::{Family, Rate, Slots, retire};
use super::{Collector, Fault, Round, Settings, read};
use crate::scan::{Source, lines, number, words};
use perigee_model::frame::{Series, Sheet, Slot};
use std::path::{Path, PathBuf};

/// A column of the kernel's table: name, decimals, factor, and whether it is a gauge.
type Field = (&'static str, u8, i64, bool);

/// Sectors are 512 bytes here whatever the disk has; times are in ms.
/// Kernels before 4.18 end after the 11th, those before 5.5 after the 15th.
const DISK: [Field; 17] = [
    ("reads_completed_total", 0, 1, false),
    ("reads_merged_total", 0, 1, false),
    ("read_bytes_total", 0, 512, false),
    ("read_time_seconds_total", 3, 1, false),
    ("writes_completed_total", 0, 1, false),
    ("writes_merged_total", 0, 1, false),
    ("written_bytes_total", 0, 512, false),
    ("write_time_seconds_total", 3, 1, false),
    ("io_now", 0, 1, true),
    ("io_time_seconds_total", 3, 1, false),
    ("io_time_weighted_seconds_total", 3, 1, false),
    ("discards_completed_total", 0, 1, false),
    ("discards_merged_total", 0, 1, false),
    ("discarded_sectors_total", 0, 1, false),
    ("discard_time_seconds_total", 3, 1, false),
    ("flush_requests_total", 0, 1, false),
    ("flush_requests_time_seconds_total", 3, 1, false),
];
const READ_BYTES: usize = 2;
const WRITTEN_BYTES: usize = 6;

const NETWORK: [&str; 16] = [
    "receive_bytes_total",
    "receive_packets_total",
    "receive_errs_total",
    "receive_drop_total",
    "receive_fifo_total",
    "receive_frame_total",
    "receive_compressed_total",
    "receive_multicast_total",
    "transmit_bytes_total",
    "transmit_packets_total",
    "transmit_errs_total",
    "transmit_drop_total",
    "transmit_fifo_total",
    "transmit_colls_total",
    "transmit_carrier_total",
    "transmit_compressed_total",
];
const RECEIVE_BYTES: usize = 0;
const TRANSMIT_BYTES: usize = 8;

struct Device {
    slots: Slots,
    /// Real ones are summed up for the lists; a bridge or a partition would count its bytes twice.
    real: bool,
}

/// Throughput of all real devices together.
#[derive(Default)]
struct Flow {
    slots: [Option<Slot>; 2],
    rates: [Rate; 2],
    defined: bool,
}

impl Flow {
    fn define(&mut self, names: [&str; 2], sheet: &mut Sheet) {
        if !self.defined {
            self.slots = names.map(|name| sheet.define(Series::gauge(name, 0)));
            self.defined = true;
        }
    }
    fn write(&mut self, sums: [i64; 2], round: &mut Round<'_>) {
        for ((slot, rate), sum) in self.slots.iter().zip(&mut self.rates).zip(sums) {
            if let Some(each_second) = rate.next(sum, round) {
                round.put_f64(*slot, each_second);
            }
        }
    }
}

/// /proc/diskstats.
pub struct Disks {
    stats: Source,
    block: PathBuf,
    disks: Family<Device>,
    flow: Flow,
}

impl Disks {
    pub fn new(settings: &Settings) -> Self {
        let (stats, block) = (settings.proc_root.join("diskstats"), settings.sys_root.join("block"));
        Self { stats: Source::new(stats), block, disks: Family::default(), flow: Flow::default() }
    }
}

/// As node_exporter leaves them out: memory disks, loops, floppies, and partitions.
fn is_ignored_disk(name: &[u8]) -> bool {
    if ["ram", "loop", "fd", "zram", "z3ram"].iter().any(|kind| name.starts_with(kind.as_bytes())) {
        return true;
    }
    let ends_in_digit = name.last().is_some_and(u8::is_ascii_digit);
    let letter_disk = ["sd", "hd", "vd", "xvd"].iter().any(|kind| name.starts_with(kind.as_bytes()));
    let partition = name.iter().rposition(|b| !b.is_ascii_digit()).is_some_and(|at| name[at] == b'p');
    let numbered = name.starts_with(b"nvme") || name.starts_with(b"mmcblk");
    ends_in_digit && (letter_disk || (numbered && partition))
}

fn define_disk(name: &[u8], columns: usize, block: &Path, sheet: &mut Sheet) -> Device {
    let device = String::from_utf8_lossy(name);
    let series = |(field, digits, _, gauge): &Field| {
        let name = format!("node_disk_{field}");
        let series = if *gauge { Series::gauge(&name, *digits) } else { Series::counter(&name, *digits) };
        sheet.define(series.with("device", &device))
    };
    let slots = DISK[..columns.min(DISK.len())].iter().map(series).collect();
    // In sysfs a slash in a name is an exclamation mark: cciss/c0d0.
    Device { slots, real: block.join(device.replace('/', "!")).join("device").exists() }
}

impl Collector for Disks {
    fn name(&self) -> &'static str {
        "diskstats"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        self.flow.define(
            ["perigee_host_disk_read_bytes_per_second", "perigee_host_disk_written_bytes_per_second"],
            round.sheet,
        );
        let mut buffer = std::mem::take(round.buffer);
        let mut sums = [0i64; 2];
        let outcome = read(&mut self.stats, &mut buffer).map(|text| {
            self.disks.begin();
            for line in lines(text) {
                let mut fields = words(line);
                let Some(name) = fields.nth(2).filter(|name| !is_ignored_disk(name)) else { continue };
                let mut values = [None; DISK.len()];
                let mut columns = 0;
                for (value, word) in values.iter_mut().zip(fields) {
                    *value = number(word).and_then(|n| n.checked_mul(DISK[columns].2));
                    columns += 1;
                }
                let (block, sheet) = (&self.block, &mut *round.sheet);
                let Some(disk) = self.disks.member(name, || define_disk(name, columns, block, sheet)) else { continue };
                for (slot, value) in disk.slots.iter().zip(values) {
                    round.put(*slot, value);
                }
                if disk.real {
                    sums[0] = sums[0].saturating_add(values[READ_BYTES].unwrap_or(0));
                    sums[1] = sums[1].saturating_add(values[WRITTEN_BYTES].unwrap_or(0));
                }
            }
            self.disks.sweep(|disk| retire(round.sheet, &disk.slots));
        });
        *round.buffer = buffer;
        outcome?;
        self.flow.write(sums, round);
        Ok(())
    }
}

/// /proc/net/dev.
pub struct Interfaces {
    table: Source,
    class: PathBuf,
    interfaces: Family<Device>,
    flow: Flow,
}

impl Interfaces {
    pub fn new(settings: &Settings) -> Self {
        // /proc/net is the network of whoever opens it; of PID 1 it is the host's, but not ours to read.
        let (table, class) = (settings.proc_root.join("net/dev"), settings.sys_root.join("class/net"));
        Self { table: Source::new(table), class, interfaces: Family::default(), flow: Flow::default() }
    }
}

fn define_interface(name: &[u8], class: &Path, sheet: &mut Sheet) -> Device {
    let device = String::from_utf8_lossy(name);
    let series =
        |field: &&str| sheet.define(Series::counter(&format!("node_network_{field}"), 0).with("device", &device));
    Device { slots: NETWORK.iter().map(series).collect(), real: class.join(&*device).join("device").exists() }
}

impl Collector for Interfaces {
    fn name(&self) -> &'static str {
        "netdev"
    }

    fn collect(&mut self, round: &mut Round<'_>) -> Result<(), Fault> {
        self.flow.define(
            ["perigee_host_network_receive_bytes_per_second", "perigee_host_network_transmit_bytes_per_second"],
            round.sheet,
        );
        let mut buffer = std::mem::take(round.buffer);
        let mut sums = [0i64; 2];
        let outcome = read(&mut self.table, &mut buffer).map(|text| {
            self.interfaces.begin();
            // Two lines of headings have no colon behind a name, but bars.
            for line in lines(text).filter(|line| !line.contains(&b'|')) {
                // A name may hold a colon (eth0:1), numbers do not.
                let Some(colon) = line.iter().rposition(|b| *b == b':') else { continue };
                let name = line[..colon].trim_ascii();
                let (class, sheet) = (&self.class, &mut *round.sheet);
                let made = self.interfaces.member(name, || define_interface(name, class, sheet));
                let Some(interface) = made else { continue };
                for (at, (slot, word)) in interface.slots.iter().zip(words(&line[colon + 1..])).enumerate() {
                    let value = number(word);
                    round.put(*slot, value);
                    if interface.real && at == RECEIVE_BYTES {
                        sums[0] = sums[0].saturating_add(value.unwrap_or(0));
                    } else if interface.real && at == TRANSMIT_BYTES {
                        sums[1] = sums[1].saturating_add(value.unwrap_or(0));
                    }
                }
            }
            self.interfaces.sweep(|interface| retire(round.sheet, &interface.slots));
        });
        *round.buffer = buffer;
        outcome?;
        self.flow.write(sums, round);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_disks_are_kept_and_partitions_not() {
        let kept = ["sda", "sdaa", "vdb", "nvme0n1", "nvme10n12", "mmcblk0", "dm-0", "md127", "sr0", "xvda", "nbd0"];
        let ignored = ["sda1", "vdb12", "nvme0n1p1", "mmcblk0p2", "loop0", "ram7", "zram0", "xvda3", "fd0"];
        for name in kept {
            assert!(!is_ignored_disk(name.as_bytes()), "{name}");
        }
        for name in ignored {
            assert!(is_ignored_disk(name.as_bytes()), "{name}");
        }
    }
}
