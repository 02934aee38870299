//! The machine that guests are on, where it is not the agent's own.

use super::member::{Metric, Slots, define, put, whole};
use perigee_hypervisor::NodeUsage;
use perigee_model::frame::Sheet;

const CPU: Metric = ("perigee_libvirt_node_cpu_seconds_total", true, 2);
const MODES: [&str; 4] = ["user", "system", "idle", "iowait"];
const OWN: [Metric; 4] = [
    ("perigee_libvirt_node_cpu_usage_ratio", false, 4),
    ("perigee_libvirt_node_memory_total_bytes", false, 0),
    ("perigee_libvirt_node_memory_free_bytes", false, 0),
    ("perigee_libvirt_node_memory_used_bytes", false, 0),
];
/// One of [`CPU`]'s hundredths of a second.
const HUNDREDTH_NS: u64 = 10_000_000;

/// Its series.
pub struct Machine {
    modes: Slots,
    own: Slots,
    last: NodeUsage,
}

impl Machine {
    /// Writes down what is told of it now; a machine of which nothing is told has no values.
    pub fn tell(known: &mut Option<Self>, now: Option<NodeUsage>, sheet: &mut Sheet) {
        let Some(now) = now else {
            return known.iter().flat_map(Self::slots).for_each(|slot| sheet.clear(slot));
        };
        if let Some(other) = known.take_if(|known| known.last.name != now.name) {
            other.slots().for_each(|slot| sheet.retire(slot));
        }
        known.get_or_insert_with(|| Self::new(&now, sheet)).write(now, sheet);
    }

    fn new(now: &NodeUsage, sheet: &mut Sheet) -> Self {
        let node = ("node", now.name.clone());
        let of_mode = |mode: &&str| define(&[CPU], &[node.clone(), ("mode", (*mode).to_owned())], sheet);
        let modes = MODES.iter().flat_map(of_mode).collect();
        Self { modes, own: define(&OWN, &[node], sheet), last: NodeUsage::default() }
    }

    fn write(&mut self, now: NodeUsage, sheet: &mut Sheet) {
        let hundredths = times(&now).map(|ns| ns.map(|ns| whole(ns / HUNDREDTH_NS)));
        put(sheet, &self.modes, hundredths);
        let own = [busy(&self.last, &now), now.memory_bytes.map(whole), now.free_bytes.map(whole), used(&now)];
        put(sheet, &self.own, own);
        self.last = now;
    }

    fn slots(&self) -> impl Iterator<Item = perigee_model::frame::Slot> {
        self.modes.iter().chain(&self.own).flatten().copied()
    }
}

/// In the order of [`MODES`].
fn times(of: &NodeUsage) -> [Option<u64>; MODES.len()] {
    [of.user_ns, of.system_ns, of.idle_ns, of.iowait_ns]
}

/// The busy share of the time between, in ten-thousandths; `None` where it was booted meanwhile, or nothing passed.
fn busy(before: &NodeUsage, now: &NodeUsage) -> Option<i64> {
    let mut grown = [0; MODES.len()];
    for (grown, (before, now)) in grown.iter_mut().zip(times(before).into_iter().zip(times(now))) {
        *grown = now?.checked_sub(before?)?;
    }
    let all: u128 = grown.iter().map(|ns| u128::from(*ns)).sum();
    let busy = u128::from(grown[0]) + u128::from(grown[1]);
    i64::try_from((busy * 10_000).checked_div(all)?).ok()
}

/// Memory that programs have.
fn used(of: &NodeUsage) -> Option<i64> {
    let others = [of.free_bytes?, of.buffers_bytes?, of.cached_bytes?];
    Some(whole(others.iter().fold(of.memory_bytes?, |left, other| left.saturating_sub(*other))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, busy_s: u64, idle_s: u64) -> NodeUsage {
        let ns = |seconds: u64| Some(seconds * 1_000_000_000);
        let gib = |count: u64| Some(count << 30);
        NodeUsage {
            name: name.into(),
            user_ns: ns(busy_s),
            system_ns: ns(busy_s),
            idle_ns: ns(idle_s),
            iowait_ns: ns(0),
            memory_bytes: gib(16),
            free_bytes: gib(1),
            buffers_bytes: gib(2),
            cached_bytes: gib(3),
        }
    }

    /// The values on the sheet, by series.
    fn values(sheet: &Sheet) -> Vec<(String, f64)> {
        let told = |series: &perigee_model::frame::Series| {
            let short = series.name.trim_start_matches("perigee_libvirt_node_");
            format!("{short} {}", series.labels.values().cloned().collect::<Vec<_>>().join(" "))
        };
        sheet.values().map(|(series, value)| (told(series), value)).collect()
    }

    #[test]
    fn its_totals_have_shares_from_the_second_time_on() {
        let (mut known, mut sheet) = (None, Sheet::default());
        Machine::tell(&mut known, Some(node("far", 10, 80)), &mut sheet);
        let value = |sheet: &Sheet, name: &str| values(sheet).into_iter().find(|(known, _)| known == name).map(|v| v.1);
        assert_eq!(value(&sheet, "cpu_seconds_total system far"), Some(10.0));
        assert_eq!(value(&sheet, "cpu_usage_ratio far"), None);
        assert_eq!(value(&sheet, "memory_used_bytes far"), Some(f64::from(10u32 << 20) * 1024.0));
        Machine::tell(&mut known, Some(node("far", 11, 86)), &mut sheet);
        assert_eq!(value(&sheet, "cpu_usage_ratio far"), Some(0.25));
        Machine::tell(&mut known, Some(node("far", 1, 2)), &mut sheet);
        assert_eq!(value(&sheet, "cpu_usage_ratio far"), None, "booted meanwhile");
        let partly = NodeUsage { iowait_ns: None, cached_bytes: None, ..node("far", 2, 4) };
        Machine::tell(&mut known, Some(partly), &mut sheet);
        let untold = ["cpu_usage_ratio far", "memory_used_bytes far", "cpu_seconds_total iowait far"];
        assert_eq!(untold.map(|name| value(&sheet, name)), [None; 3], "what is not told is not made up");
    }

    #[test]
    fn silence_leaves_gaps_and_another_machine_other_series() {
        let (mut known, mut sheet) = (None, Sheet::default());
        Machine::tell(&mut known, None, &mut sheet);
        assert_eq!(values(&sheet), []);
        Machine::tell(&mut known, Some(node("far", 1, 2)), &mut sheet);
        Machine::tell(&mut known, None, &mut sheet);
        assert_eq!(values(&sheet), []);
        Machine::tell(&mut known, Some(node("other", 1, 2)), &mut sheet);
        assert!(values(&sheet).iter().all(|(name, _)| name.ends_with(" other")) && values(&sheet).len() == 7);
    }
}
