//! What may be changed of a VM after it was made: by its control plane, or on its host.

use crate::name::labels_fault;
use crate::{Egress, GuestSpec, Labels, Name, Refusal, RestartPolicy};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A change; `None` leaves what is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VmChange {
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Labels to set or remove.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Metadata to set or remove.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Option<String>>,
    /// From its next start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// From its next start on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// When its host comes up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_order: Option<u32>,
    /// What it may reach by its card, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

impl VmChange {
    /// Makes it. A refused change may be half made: work on a copy.
    ///
    /// # Errors
    /// `BadField`.
    pub fn apply(&self, name: &mut Name, labels: &mut Labels, spec: &mut GuestSpec) -> Result<(), Refusal> {
        if let Some(other) = &self.name {
            name.clone_from(other);
        }
        merge(labels, &self.labels);
        if let Some(fault) = labels_fault(labels) {
            return Err(Refusal::field("labels", fault));
        }
        if let Some(egress) = &self.egress {
            reach(spec, egress)?;
        }
        let before = spec.resources;
        spec.resources.cpus = self.cpus.unwrap_or(before.cpus);
        spec.resources.memory_bytes = self.memory_bytes.unwrap_or(before.memory_bytes);
        if let Some((field, text)) = spec.resources.fault() {
            return Err(Refusal::field(field, text));
        }
        let resized = spec.resources != before;
        let Some(vm) = spec.vm.as_mut() else { return Ok(()) };
        if resized && vm.adopted {
            let text = "its definition is its owner's: change its size there";
            return Err(Refusal::field("memory_bytes", text));
        }
        if let Some(description) = &self.description {
            vm.description.clone_from(description);
        }
        merge(&mut vm.metadata, &self.metadata);
        vm.restart = self.restart.unwrap_or(vm.restart);
        vm.start_order = self.start_order.unwrap_or(vm.start_order);
        match vm.fault() {
            None => Ok(()),
            Some((field, text)) => Err(Refusal::field(field, text)),
        }
    }
}

/// Another policy, of a guest that has one: a card does not come later.
///
/// # Errors
/// `BadField`.
pub fn reach(spec: &mut GuestSpec, egress: &Egress) -> Result<(), Refusal> {
    match spec.egress.as_mut() {
        Some(policy) => policy.clone_from(egress),
        None => {
            let text = "it has no card with a policy, and gets none later: create it with --egress, none at least";
            return Err(Refusal::field("egress", text));
        }
    }
    Ok(())
}

/// A merge patch (RFC 7396) of one map.
pub fn merge(map: &mut BTreeMap<String, String>, patch: &BTreeMap<String, Option<String>>) {
    for (key, value) in patch {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GuestSpec, ImageId, Resources};
    use uuid::Uuid;

    fn changed(change: &VmChange) -> Result<(Name, Labels, GuestSpec), Refusal> {
        let mut name = Name::parse("db").unwrap();
        let mut labels = Labels::from([("team".to_owned(), "web".to_owned())]);
        let mut spec = GuestSpec {
            image: ImageId::new(Uuid::nil()),
            image_name: name.clone(),
            parts: Vec::new(),
            resources: Resources { cpus: 1, memory_bytes: 256 << 20 },
            env: BTreeMap::new(),
            ttl_ms: None,
            host_wanted: None,
            vm: None,
            egress: None,
            egress6: None,
            forwards: Vec::new(),
        };
        change.apply(&mut name, &mut labels, &mut spec).map(|()| (name, labels, spec))
    }

    #[test]
    fn what_is_absent_stays_and_what_is_null_goes() {
        let before = changed(&VmChange::default()).unwrap();
        assert_eq!((before.0.as_str(), before.1["team"].as_str(), before.2.resources.cpus), ("db", "web", 1));
        let labels = BTreeMap::from([("team".to_owned(), None), ("tier".to_owned(), Some("1".to_owned()))]);
        let change = VmChange { name: Name::parse("data").ok(), cpus: Some(2), labels, ..VmChange::default() };
        let (name, labels, spec) = changed(&change).unwrap();
        assert_eq!((name.as_str(), spec.resources.cpus, spec.resources.memory_bytes), ("data", 2, 256 << 20));
        assert_eq!(labels, Labels::from([("tier".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn what_no_vm_can_have_is_refused_by_its_field() {
        let long = BTreeMap::from([("x".repeat(4096), Some(String::new()))]);
        for (change, field) in [
            (VmChange { memory_bytes: Some(1), ..VmChange::default() }, "memory_bytes"),
            (VmChange { cpus: Some(0), ..VmChange::default() }, "cpus"),
            (VmChange { labels: long, ..VmChange::default() }, "labels"),
            (VmChange { egress: Some(Egress::None), ..VmChange::default() }, "egress"),
        ] {
            let pointer = changed(&change).unwrap_err().pointer;
            assert!(pointer.as_ref().is_some_and(|pointer| pointer.contains(field)), "{pointer:?}");
        }
    }
}
