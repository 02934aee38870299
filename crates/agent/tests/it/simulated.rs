//! The same agent on the driver that simulations use: with its faults, and under crashes.

use crate::*;
use perigee_hypervisor::simulated::{Fault, Knobs, Simulated, SimulatedConfig, SimulatedHost};
use std::time::Duration;

/// What outlives the agent.
#[derive(Clone, Default)]
pub struct Machine {
    pub host: SimulatedHost,
    pub knobs: Arc<Knobs>,
}

impl Machine {
    pub fn driver(&self, clock: &Clock) -> Arc<dyn Hypervisor> {
        let config = SimulatedConfig {
            instance: InstanceId::from_bits(1),
            clock: clock.clone(),
            boot: Duration::from_millis(200)..=Duration::from_millis(900),
            knobs: self.knobs.clone(),
            boots_in_flight_max: 2,
        };
        Arc::new(Simulated::new(config, self.host.clone()))
    }
}

/// Six guests are created, run a command each and go, while things fail and the agent dies.
async fn story(seed: u64, faults: &[(Fault, u32)], crash_every: Option<Duration>) {
    let machine = Machine::default();
    let rig = Rig { clock: Clock::simulated(seed), simulated: Some(machine.clone()), ..Rig::new() };
    for (fault, percent) in faults {
        machine.knobs.set(*fault, *percent);
    }
    let lives = rig.clone();
    let crashes = tokio::spawn(async move {
        loop {
            let agent = lives.start();
            match crash_every {
                Some(most) => tokio::time::sleep(lives.clock.jitter(most)).await,
                None => std::future::pending().await,
            }
            lives.crash(agent).await;
        }
    });
    let guests: Vec<GuestId> = (0..6).map(guest_id).collect();
    for id in &guests {
        rig.plane.want(wanted(*id, 1, Power::Running));
    }
    for (n, id) in guests.iter().enumerate() {
        rig.plane.until_phase(*id, Phase::Running).await;
        let e = execution_id(n as u128);
        let order = execute(e, *id, &["sleep", "700"]);
        rig.plane.send(FromServer::Execute(Box::new(order)));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    machine.knobs.calm();
    for id in &guests {
        rig.plane.want(wanted(*id, 2, Power::Absent));
    }
    for id in &guests {
        rig.plane.until_phase(*id, Phase::Gone).await;
    }
    crashes.abort();
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    let _agent = rig.start();
    rig.is_clean().await;
    assert!(machine.host.guests().is_empty(), "seed {seed}: {:?}", machine.host.guests());
    let ends = rig.plane.with(|s| s.ends.clone());
    for end in ends.values() {
        let known = matches!(end.outcome, Outcome::Exited { code: 0 } | Outcome::Lost | Outcome::FailedToStart { .. });
        assert!(known, "seed {seed}: {end:?}");
    }
    if crash_every.is_none() && faults.is_empty() {
        assert!(ends.values().all(|e| e.outcome == Outcome::Exited { code: 0 }) && ends.len() == 6, "{ends:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn guests_come_and_go_on_the_simulated_driver() {
    story(1, &[], None).await;
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_host_are_survived() {
    let faults =
        [(Fault::BootSilent, 50), (Fault::DestroyFails, 30), (Fault::InventoryFails, 20), (Fault::SessionBreaks, 20)];
    for seed in 0..20 {
        story(seed, &faults, None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn crashes_on_a_faulty_host_leave_nothing() {
    let faults = [(Fault::DestroyFails, 20), (Fault::SessionBreaks, 10)];
    for seed in 0..20 {
        story(seed, &faults, Some(Duration::from_millis(2500))).await;
    }
}
