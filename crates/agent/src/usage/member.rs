//! One guest's series.

use perigee_clock::Instant;
use perigee_hypervisor::GuestUsage;
use perigee_hypervisor::usage::{DiskUsage, NicUsage};
use perigee_model::frame::{Series, Sheet, Slot};

/// A metric: its name, whether it is a counter, and decimals.
pub type Metric = (&'static str, bool, u8);

pub const CPU_CORES: &str = "perigee_guest_cpu_cores";
pub const RESIDENT_BYTES: &str = "perigee_guest_memory_resident_bytes";

const GUEST: [Metric; 9] = [
    ("perigee_guest_state", false, 0),
    ("perigee_guest_no_space", false, 0),
    ("perigee_guest_busy", false, 0),
    ("perigee_guest_cpus", false, 0),
    ("perigee_guest_cpu_seconds_total", true, 3),
    (CPU_CORES, false, 3),
    ("perigee_guest_memory_bytes", false, 0),
    (RESIDENT_BYTES, false, 0),
    ("perigee_guest_memory_usable_bytes", false, 0),
];
const DISK: [Metric; 6] = [
    ("perigee_guest_disk_read_bytes_total", true, 0),
    ("perigee_guest_disk_written_bytes_total", true, 0),
    ("perigee_guest_disk_reads_total", true, 0),
    ("perigee_guest_disk_writes_total", true, 0),
    ("perigee_guest_disk_read_bytes_per_second", false, 0),
    ("perigee_guest_disk_written_bytes_per_second", false, 0),
];
const NIC: [Metric; 5] = [
    ("perigee_guest_network_receive_bytes_total", true, 0),
    ("perigee_guest_network_transmit_bytes_total", true, 0),
    ("perigee_guest_network_drops_total", true, 0),
    ("perigee_guest_network_receive_bytes_per_second", false, 0),
    ("perigee_guest_network_transmit_bytes_per_second", false, 0),
];

/// Places on the sheet, one for each metric of a table.
pub type Slots = Vec<Option<Slot>>;

/// A guest on the sheet.
pub struct Member {
    name: Option<String>,
    ours: bool,
    base: Vec<(&'static str, String)>,
    info: Option<Slot>,
    own: Slots,
    disks: Vec<(String, Slots)>,
    nics: Vec<(String, Slots)>,
    /// The last round that told of it.
    last: Option<(GuestUsage, Instant)>,
}

impl Member {
    /// Its series, without values yet.
    pub fn new(usage: &GuestUsage, driver: &str, sheet: &mut Sheet) -> Self {
        let mut base = vec![("guest", usage.id.to_string())];
        base.extend(usage.name.clone().map(|name| ("name", name)));
        let origin = if usage.ours { "perigee" } else { "foreign" };
        let mut more = base.clone();
        more.extend([("driver", driver.to_owned()), ("origin", origin.to_owned())]);
        let info = sheet.define(labelled(("perigee_guest_info", false, 0), &more));
        if let Some(info) = info {
            sheet.set(info, 1);
        }
        let own = define(&GUEST, &base, sheet);
        Self {
            name: usage.name.clone(),
            ours: usage.ours,
            base,
            info,
            own,
            disks: Vec::new(),
            nics: Vec::new(),
            last: None,
        }
    }

    /// Whether its series carry what is told of it now: its name, and whose it is.
    pub fn fits(&self, usage: &GuestUsage) -> bool {
        self.name == usage.name && self.ours == usage.ours
    }
    /// Whether the round at that time told of it.
    pub fn was_seen(&self, at: Instant) -> bool {
        self.last.as_ref().is_some_and(|(_, seen)| *seen == at)
    }

    /// Writes down what is told of it now.
    pub fn write(&mut self, now: &GuestUsage, at: Instant, sheet: &mut Sheet) {
        let before = self.last.take();
        // Totals of another life say nothing about these.
        let before = before.as_ref().filter(|(known, _)| known.life == now.life);
        let pace = Pace { seconds: before.map_or(0.0, |(_, then)| at.since(*then).as_secs_f64()) };
        let known = before.map(|(known, _)| known);
        let cores = pace.rate(known.and_then(|known| known.cpu_ns), now.cpu_ns).map(|ns| ns / 1e6);
        put(
            sheet,
            &self.own,
            [
                Some(i64::from(now.state as u8)),
                Some(i64::from(now.starved)),
                Some(i64::from(now.busy)),
                now.cpus.map(i64::from),
                now.cpu_ns.map(|ns| whole(ns / 1_000_000)),
                cores.map(rounded),
                now.memory_bytes.map(whole),
                now.resident_bytes.map(whole),
                now.usable_bytes.map(whole),
            ],
        );
        // What was looked at before stands as it was written then.
        if now.disks_at.is_none() || known.is_none_or(|known| known.disks_at != now.disks_at) {
            let pace = pace.between(known.and_then(|known| known.disks_at), now.disks_at);
            follow(
                &mut self.disks,
                &DISK,
                (&self.base, "disk"),
                now.disks.iter().map(|disk| disk.name.as_str()),
                sheet,
            );
            for ((_, slots), disk) in self.disks.iter().zip(&now.disks) {
                let old = known.and_then(|known| known.disks.iter().find(|old| old.name == disk.name));
                write_disk(sheet, slots, (old, disk), pace);
            }
        }
        follow(&mut self.nics, &NIC, (&self.base, "device"), now.nics.iter().map(|nic| nic.name.as_str()), sheet);
        for ((_, slots), nic) in self.nics.iter().zip(&now.nics) {
            let old = known.and_then(|known| known.nics.iter().find(|old| old.name == nic.name));
            write_nic(sheet, slots, (old, nic), pace);
        }
        self.last = Some((now.clone(), at));
    }

    /// It is there as far as anybody knows, but nothing is told of it.
    pub fn clear(&mut self, sheet: &mut Sheet) {
        self.slots().for_each(|slot| sheet.clear(slot));
        self.last = None;
    }

    /// Takes its series off the sheet.
    pub fn retire(self, sheet: &mut Sheet) {
        self.slots().chain(self.info).for_each(|slot| sheet.retire(slot));
    }

    fn slots(&self) -> impl Iterator<Item = Slot> {
        let devices = self.disks.iter().chain(&self.nics).flat_map(|(_, slots)| slots);
        self.own.iter().chain(devices).flatten().copied()
    }
}

/// The time since the last round; 0 without one.
#[derive(Clone, Copy)]
struct Pace {
    seconds: f64,
}

impl Pace {
    /// The same, for what was looked at then and now and not with the rest.
    fn between(self, then: Option<Instant>, now: Option<Instant>) -> Self {
        then.zip(now).map_or(self, |(then, now)| Self { seconds: now.since(then).as_secs_f64() })
    }

    /// In units each second.
    #[expect(clippy::cast_precision_loss, reason = "a rate is not exact anyway")]
    fn rate(self, before: Option<u64>, now: Option<u64>) -> Option<f64> {
        let grown = now?.checked_sub(before?)?;
        (self.seconds > 0.0).then(|| grown as f64 / self.seconds)
    }
}

fn write_disk(sheet: &mut Sheet, slots: &Slots, (old, now): (Option<&DiskUsage>, &DiskUsage), pace: Pace) {
    let rate = |of: fn(&DiskUsage) -> Option<u64>| pace.rate(old.and_then(of), of(now)).map(rounded);
    put(
        sheet,
        slots,
        [
            now.read_bytes.map(whole),
            now.written_bytes.map(whole),
            now.reads.map(whole),
            now.writes.map(whole),
            rate(|disk| disk.read_bytes),
            rate(|disk| disk.written_bytes),
        ],
    );
}

fn write_nic(sheet: &mut Sheet, slots: &Slots, (old, now): (Option<&NicUsage>, &NicUsage), pace: Pace) {
    let rate = |of: fn(&NicUsage) -> Option<u64>| pace.rate(old.and_then(of), of(now)).map(rounded);
    put(
        sheet,
        slots,
        [
            now.received_bytes.map(whole),
            now.sent_bytes.map(whole),
            now.drops.map(whole),
            rate(|nic| nic.received_bytes),
            rate(|nic| nic.sent_bytes),
        ],
    );
}

/// Makes the devices on the sheet those that there are, in their order.
fn follow<'a>(
    known: &mut Vec<(String, Slots)>,
    table: &[Metric],
    (base, label): (&[(&'static str, String)], &'static str),
    names: impl Iterator<Item = &'a str> + Clone,
    sheet: &mut Sheet,
) {
    if known.iter().map(|(name, _)| name.as_str()).eq(names.clone()) {
        return;
    }
    let mut old = std::mem::take(known);
    for name in names {
        let kept = old.iter().position(|(known, _)| known == name).map(|place| old.swap_remove(place));
        known.push(kept.unwrap_or_else(|| {
            let mut labels = base.to_vec();
            labels.push((label, name.to_owned()));
            (name.to_owned(), define(table, &labels, sheet))
        }));
    }
    old.iter().flat_map(|(_, slots)| slots).flatten().for_each(|slot| sheet.retire(*slot));
}

pub fn define(table: &[Metric], labels: &[(&'static str, String)], sheet: &mut Sheet) -> Slots {
    table.iter().map(|metric| sheet.define(labelled(*metric, labels))).collect()
}

fn labelled((name, is_counter, digits): Metric, labels: &[(&'static str, String)]) -> Series {
    let series = if is_counter { Series::counter(name, digits) } else { Series::gauge(name, digits) };
    labels.iter().fold(series, |series, (label, value)| series.with(label, value))
}

pub fn put<const N: usize>(sheet: &mut Sheet, slots: &Slots, values: [Option<i64>; N]) {
    for (slot, value) in slots.iter().zip(values) {
        match (slot, value) {
            (Some(slot), Some(value)) => sheet.set(*slot, value),
            (Some(slot), None) => sheet.clear(*slot),
            (None, _) => {}
        }
    }
}

pub fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "the bounds of an i64 are far off; a cast keeps within them")]
fn rounded(value: f64) -> i64 {
    value.round() as i64
}
