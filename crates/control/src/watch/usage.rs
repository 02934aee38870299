//! What guests of ours use of their hosts, as it was measured last.

use super::Watching;
use super::foreign::FRESH_WITHIN;
use perigee_model::frame::{Columns, StreamId, StreamName};
use perigee_model::{GuestId, HostId};
use std::collections::BTreeMap;

/// One guest's use of its host now; `None` is "not told".
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GuestUse {
    /// CPUs' worth of time it uses.
    pub cpu_cores: Option<f64>,
    /// What the host keeps in memory for it.
    pub resident_bytes: Option<u64>,
}

impl Watching {
    /// What the guests of a host use, by guest; nothing when it was measured longer ago than
    /// says anything of now. Costs as much as all guests of the host together: ask once for many.
    pub fn guests_use(&self, host: HostId) -> BTreeMap<GuestId, GuestUse> {
        let latest = self.0.database.latest(StreamId { host, name: StreamName::Vm });
        let now = self.0.clock.now();
        let fresh = latest.filter(|columns| columns.at().is_some_and(|at| now.since(at) <= FRESH_WITHIN));
        fresh.map(|columns| told_by(&columns)).unwrap_or_default()
    }
}

fn told_by(columns: &Columns) -> BTreeMap<GuestId, GuestUse> {
    let mut found: BTreeMap<GuestId, GuestUse> = BTreeMap::new();
    for (column, series) in (0u32..).zip(columns.series()) {
        let put: fn(&mut GuestUse, f64) = match series.name.as_str() {
            "perigee_guest_cpu_cores" => |used, value| used.cpu_cores = Some(value),
            "perigee_guest_memory_resident_bytes" => |used, value| used.resident_bytes = Some(bytes(value)),
            _ => continue,
        };
        let id = series.labels.get("guest").and_then(|id| id.parse().ok());
        if let (Some(id), Some(value)) = (id, columns.value(column)) {
            put(found.entry(id).or_default(), value);
        }
    }
    found
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size; a cast keeps within bounds")]
fn bytes(value: f64) -> u64 {
    value as u64
}
