//! Virtual machines that Perigee did not make, as their hosts' measurements tell of them. Nothing of
//! them is stored: what is measured now is all that is known.

use super::Watching;
use crate::Span;
use perigee_model::frame::{Columns, StreamId, StreamName};
use perigee_model::{Code, GuestId, HostId, Refusal, Tenant, Timestamp, Verb, Who};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// What was measured longer ago says nothing of now: a host without guests looks for them every 10 s.
pub(super) const FRESH_WITHIN: Duration = Duration::from_secs(30);

/// A virtual machine that belongs to somebody else.
#[derive(Clone, Debug, PartialEq)]
pub struct ForeignVm {
    /// Its hypervisor's UUID of it.
    pub id: Uuid,
    /// As its hypervisor names it.
    pub name: String,
    /// Where it is.
    pub host: HostId,
    /// `libvirt`.
    pub driver: String,
    /// When this was so.
    pub measured_at: Timestamp,
    /// libvirt's number for what it does (`virDomainState`); `None` when that is not known now.
    pub state: Option<u64>,
    /// Somebody's work on it keeps it from telling all.
    pub busy: bool,
    /// Virtual CPUs.
    pub cpus: Option<u32>,
    /// Memory it was given.
    pub memory_bytes: Option<u64>,
    /// What the host keeps in memory for it.
    pub resident_bytes: Option<u64>,
    /// CPUs' worth of time it uses.
    pub cpu_cores: Option<f64>,
}

impl Watching {
    /// Foreign virtual machines, by id; of one that two hosts know, where it runs.
    ///
    /// # Errors
    /// `Denied`.
    pub fn foreign(
        &self,
        who: &Who,
        span: Span<Uuid>,
        fits: impl Fn(&ForeignVm) -> bool,
    ) -> Result<Vec<Arc<ForeignVm>>, Refusal> {
        who.authorize(Verb::See)?;
        Ok(span.oldest(&self.all_foreign(who), |vm| fits(vm)))
    }

    /// One of them, by id, or by name where only one has it.
    ///
    /// # Errors
    /// `Denied`, `NoSuchGuest`, `Ambiguous` names.
    pub fn find_foreign(&self, who: &Who, text: &str) -> Result<Arc<ForeignVm>, Refusal> {
        who.authorize(Verb::See)?;
        let mut all = self.all_foreign(who);
        if let Some(vm) = text.parse().ok().and_then(|id: Uuid| all.remove(&id)) {
            return Ok(vm);
        }
        let mut named = all.into_values().filter(|vm| vm.name == text);
        match (named.next(), named.next()) {
            (Some(vm), None) => Ok(vm),
            (Some(_), Some(_)) => {
                Err(Refusal::new(Code::NoSuchGuest, "several hosts have one of that name: use its id"))
            }
            (None, _) => Err(Refusal::new(Code::NoSuchGuest, "there is no virtual machine of that name or id")),
        }
    }

    /// They are the machines' owner's.
    fn all_foreign(&self, who: &Who) -> BTreeMap<Uuid, Arc<ForeignVm>> {
        if who.tenant != Tenant::first() {
            return BTreeMap::new();
        }
        let now = self.0.clock.now();
        let mut all: BTreeMap<Uuid, Arc<ForeignVm>> = BTreeMap::new();
        let hosts: Vec<HostId> = self.0.control.view().read().hosts.keys().copied().collect();
        for host in hosts {
            let Some(columns) = self.0.database.latest(StreamId { host, name: StreamName::Vm }) else { continue };
            let ours = |id| self.0.control.view().guest(GuestId::new(id)).is_some_and(|guest| !guest.is_gone());
            for mut vm in told_by(host, &columns).into_iter().filter(|vm| !ours(vm.id)) {
                if now.since(vm.measured_at) > FRESH_WITHIN || !self.0.control.links().is_connected(host) {
                    vm.state = None;
                }
                let better = all.get(&vm.id).is_none_or(|known| vm.state == Some(1) && known.state != Some(1));
                if better {
                    all.insert(vm.id, Arc::new(vm));
                }
            }
        }
        all
    }
}

/// What a host's latest values tell of foreign virtual machines.
fn told_by(host: HostId, columns: &Columns) -> Vec<ForeignVm> {
    let Some(measured_at) = columns.at() else { return Vec::new() };
    let mut found: BTreeMap<Uuid, ForeignVm> = BTreeMap::new();
    let values = || {
        let places = (0u32..).zip(columns.series());
        places.filter_map(|(column, series)| Some((series, columns.value(column)?)))
    };
    let id = |labels: &BTreeMap<String, String>| labels.get("guest")?.parse::<Uuid>().ok();
    let text = |labels: &BTreeMap<String, String>, label: &str| labels.get(label).cloned().unwrap_or_default();
    for (series, _) in values().filter(|(series, _)| series.name == "perigee_guest_info") {
        if let (Some(id), "foreign") = (id(&series.labels), text(&series.labels, "origin").as_str()) {
            let (name, driver) = (text(&series.labels, "name"), text(&series.labels, "driver"));
            let nothing = (None, None, None, None, None);
            let (state, cpus, memory_bytes, resident_bytes, cpu_cores) = nothing;
            let busy = false;
            let vm = ForeignVm {
                id,
                name,
                host,
                driver,
                measured_at,
                state,
                busy,
                cpus,
                memory_bytes,
                resident_bytes,
                cpu_cores,
            };
            found.insert(id, vm);
        }
    }
    for (series, value) in values() {
        let Some(vm) = id(&series.labels).and_then(|id| found.get_mut(&id)) else { continue };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts; a cast keeps within bounds"
        )]
        let count = value as u64;
        match series.name.as_str() {
            "perigee_guest_state" => vm.state = Some(count),
            "perigee_guest_busy" => vm.busy = count == 1,
            "perigee_guest_cpus" => vm.cpus = u32::try_from(count).ok(),
            "perigee_guest_memory_bytes" => vm.memory_bytes = Some(count),
            "perigee_guest_memory_resident_bytes" => vm.resident_bytes = Some(count),
            "perigee_guest_cpu_cores" => vm.cpu_cores = Some(value),
            _ => {}
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use perigee_model::frame::{Series, Sheet};

    #[test]
    fn only_foreign_guests_are_told_with_what_is_known() {
        let mut sheet = Sheet::default();
        let mut put = |series: Series, value: i64| {
            let slot = sheet.define(series).unwrap();
            sheet.set(slot, value);
        };
        let (ours, theirs) = (Uuid::from_u128(1).to_string(), Uuid::from_u128(2).to_string());
        let info = |id: &str, origin: &str| {
            let series = Series::gauge("perigee_guest_info", 0).with("guest", id).with("name", "db");
            series.with("driver", "libvirt").with("origin", origin)
        };
        put(info(&ours, "perigee"), 1);
        put(info(&theirs, "foreign"), 1);
        let of = |name: &str, digits: u8, id: &str| Series::gauge(name, digits).with("guest", id).with("name", "db");
        put(of("perigee_guest_state", 0, &theirs), 3);
        put(of("perigee_guest_cpu_cores", 3, &theirs), 1500);
        put(of("perigee_guest_cpus", 0, &ours), 9);
        let mut columns = Columns::default();
        columns.apply(&sheet.encode(1, Timestamp::from_micros(5), true)).unwrap();
        let told = told_by(HostId::new(Uuid::from_u128(9)), &columns);
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].id.to_string(), told[0].name.as_str(), told[0].state), (theirs, "db", Some(3)));
        assert_eq!((told[0].cpu_cores, told[0].cpus, told[0].memory_bytes), (Some(1.5), None, None));
    }
}
