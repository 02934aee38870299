//! The volumes of a guest: put in and taken out while it runs, and for its next start.
//!
//! What is wanted is in its document, so that a start at night has them; what it has is what is reported. A
//! volume that could not be put in is told and not tried again until the next order; one that the guest does
//! not let go of is asked for again and again.

use super::Document;
use super::actor::{Actor, Stoppable, Waited, bounded};
use crate::volumes::{none, problem};
use perigee_hypervisor::{HypervisorError, Plugs};
use perigee_model::{Plugged, VolumeId};
use std::time::Duration;
use tracing::warn;

/// A guest that does not let go of a volume is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(2);

impl Document {
    /// What should be attached to it.
    pub(super) fn volumes(&self) -> &[VolumeId] {
        self.order.spec.vm.as_ref().map_or(&[], |vm| &vm.volumes)
    }

    /// What it has, or could not be given, is not what it should have.
    pub(super) fn is_to_plug(&self) -> bool {
        let told = &self.observed.volumes;
        told.len() != self.volumes().len() || told.iter().any(|one| !self.volumes().contains(&one.volume))
    }
}

/// All of them are there.
pub(super) fn plugged(volumes: &[VolumeId]) -> Vec<Plugged> {
    volumes.iter().map(|volume| Plugged { volume: *volume, problem: None }).collect()
}

/// What a guest has after an attempt.
fn told(wanted: &[VolumeId], plugs: &Plugs) -> Vec<Plugged> {
    let refusal = |volume: VolumeId| plugs.refused.iter().find(|(refused, _)| *refused == volume);
    let of = |volume: VolumeId| Plugged { volume, problem: refusal(volume).map(|(_, error)| problem(error)) };
    wanted.iter().chain(&plugs.held).copied().map(of).collect()
}

impl Actor {
    /// Brings it closer to having what it should have.
    pub(super) async fn plug(&mut self) {
        let wanted = self.document.volumes().to_vec();
        let (hypervisor, id, asked) = (self.hypervisor.clone(), self.id(), wanted.clone());
        let effect = self.effect(async move {
            match hypervisor.volumes() {
                Some(driver) => driver.plug(id, &asked).await,
                None => Err(none()),
            }
        });
        let plugs = match self.during(effect, Stoppable::No).await {
            Waited::Done(Ok(plugs)) => plugs,
            Waited::Done(Err(error @ (HypervisorError::BadPlan(_) | HypervisorError::Refused(_)))) => {
                warn!(guest = %id, error = %crate::chain(&error), "it can have no volumes");
                let text = error.to_string();
                let refused = wanted.iter().map(|volume| (*volume, HypervisorError::Refused(text.clone())));
                Plugs { refused: refused.collect(), held: Vec::new() }
            }
            Waited::Done(Err(error)) => {
                self.not_done("its volumes cannot be attached or detached", &error).await;
                return;
            }
            Waited::Turned | Waited::Fell => return,
        };
        let volumes = told(&wanted, &plugs);
        let names: Vec<_> = plugs.held.iter().map(ToString::to_string).collect();
        let note = (!names.is_empty()).then(|| {
            bounded(&format!("it does not let go of {}: unmount it in there, or stop the VM", names.join(", ")))
        });
        let observed = &self.document.observed;
        if observed.volumes != volumes || note.is_none() || observed.note != note {
            let phase = observed.phase;
            self.observe(phase, |o| (o.volumes, o.note) = (volumes, note)).await;
        }
        if !plugs.held.is_empty() {
            self.wait_a_moment(ASK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn what_was_refused_and_what_is_held_is_told() {
        let [one, two, three] = [1, 2, 3].map(|n| VolumeId::new(Uuid::from_u128(n)));
        let refused = vec![(two, HypervisorError::Refused("no slot".to_owned()))];
        let all = told(&[one, two], &Plugs { refused, held: vec![three] });
        let short: Vec<_> = all.iter().map(|one| (one.volume, one.problem.is_some())).collect();
        assert_eq!(short, [(one, false), (two, true), (three, false)]);
        assert!(all[1].problem.as_ref().unwrap().text.contains("no slot"));
        assert_eq!(plugged(&[one]), told(&[one], &Plugs::default()));
    }
}
