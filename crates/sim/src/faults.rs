//! What goes wrong, and when.
//!
//! Owns: a seeded stream of faults, each with its own end, and the end of all faults.
//! Refuses: repairing what the product should repair.

use crate::draw::Draw;
use crate::host::Host;
use crate::pipe::Rough;
use crate::plane::Plane;
use crate::scene::Scene;
use perigee_hypervisor::simulated::Fault;
use perigee_model::GuestId;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// What makes things go wrong.
pub struct Chaos {
    pub scene: Arc<Scene>,
    pub plane: Arc<Plane>,
    pub hosts: Vec<Arc<Host>>,
    pub draw: Draw,
    /// The longest that something stays broken, in milliseconds.
    pub worst: u64,
}

impl Chaos {
    /// Breaks things until the time is over, then ends every fault.
    pub async fn reign(mut self, until: Instant, pause_most: u64) {
        let mut faults = JoinSet::new();
        while Instant::now() < until {
            let pause = self.draw.millis(100, pause_most);
            sleep(pause).await;
            while faults.try_join_next().is_some() {}
            self.strike(&mut faults).await;
        }
        faults.abort_all();
        while faults.join_next().await.is_some() {}
        self.calm().await;
    }

    async fn strike(&mut self, faults: &mut JoinSet<()>) {
        let Some(host) = self.draw.pick(&self.hosts).cloned() else { return };
        let time = self.draw.millis(100, self.worst);
        match self.draw.below(100) {
            0..16 => drop(faults.spawn(crash_agent(self.scene.clone(), host, self.draw.below(40), time))),
            16..20 => drop(faults.spawn(stop_agent(self.scene.clone(), host, time))),
            20..32 => drop(faults.spawn(crash_plane(self.scene.clone(), self.plane.clone(), time))),
            32..46 => drop(faults.spawn(cut(self.scene.clone(), host, time))),
            46..54 => {
                let millis = self.draw.millis(20, 1500).as_millis() as u64;
                drop(faults.spawn(slow_disk(self.scene.clone(), host, millis, time)));
            }
            54..59 => {
                let millis = self.draw.millis(5, 300).as_millis() as u64;
                drop(faults.spawn(slow_store(self.scene.clone(), self.plane.clone(), millis, time)));
            }
            59..72 => self.hit_guest(&host).await,
            72..86 => {
                let percent = 10 + self.draw.below(40) as u32;
                let faulty = [
                    (Fault::StartFails, "starts fail"),
                    (Fault::BootSilent, "boots are silent"),
                    (Fault::DestroyFails, "removals fail"),
                    (Fault::InventoryFails, "cannot be read"),
                    (Fault::SessionBreaks, "sessions break"),
                ][self.draw.below(5)];
                drop(faults.spawn(weaken(self.scene.clone(), host, faulty, percent, time)));
            }
            _ => {
                let mut percent = |most| self.draw.below(most) as u32;
                let mut rough = Rough { lost: percent(40), twice: percent(50), late: percent(40) };
                if self.scene.settings.real_time {
                    rough.lost = 0; // what is lost comes with the next resync, a minute later
                }
                drop(faults.spawn(roughen(self.scene.clone(), host, rough, time)));
            }
        }
    }

    /// Something happens to one guest on a host.
    async fn hit_guest(&mut self, host: &Host) {
        let alive: Vec<GuestId> = host.machine.guests().into_iter().filter(|g| g.alive).map(|g| g.guest).collect();
        let Some(id) = self.draw.pick(&alive).copied() else { return };
        let name = self.scene.story.guest(id);
        match self.draw.below(3) {
            0 => {
                self.scene.checks.fault("VMM crash", format!("the VMM of {name} on {} crashes", host.name));
                host.fell(id).await;
            }
            1 => {
                self.scene.checks.fault("guest reboot", format!("guest {name} on {} reboots by itself", host.name));
                host.machine.reboot(id);
            }
            _ => {
                self.scene.checks.fault("session break", format!("the channel of {name} on {} breaks", host.name));
                host.machine.break_sessions(id);
            }
        }
    }

    /// Ends every fault: everything is up, quick and reachable.
    pub async fn calm(&self) {
        self.plane.slowness.set(0);
        self.plane.start().await;
        for host in &self.hosts {
            host.knobs.calm();
            host.journal.slowness.set(0);
            host.line.set_rough(Rough::default());
            host.line.mend();
            host.start();
        }
    }
}

/// A crash between any two steps: now, or some passes of the scheduler after the next order.
async fn crash_agent(scene: Arc<Scene>, host: Arc<Host>, passes: usize, time: Duration) {
    if passes > 0 {
        let _ = tokio::time::timeout(Duration::from_secs(5), host.line.heard.notified()).await;
        for _ in 0..passes {
            tokio::task::yield_now().await;
        }
    }
    if host.crash().await {
        scene.checks.fault("agent crash", format!("the agent of {} crashes", host.name));
        sleep(time).await;
        scene.story.tell(format!("the agent of {} starts again", host.name));
        host.start();
    }
}

async fn stop_agent(scene: Arc<Scene>, host: Arc<Host>, time: Duration) {
    if host.stop().await {
        scene.checks.fault("agent stop", format!("the agent of {} is stopped", host.name));
        sleep(time).await;
        scene.story.tell(format!("the agent of {} starts again", host.name));
        host.start();
    }
}

async fn crash_plane(scene: Arc<Scene>, plane: Arc<Plane>, time: Duration) {
    if plane.crash().await {
        scene.checks.fault("control-plane crash", "the control plane crashes");
        sleep(time).await;
        plane.start().await;
    }
}

async fn cut(scene: Arc<Scene>, host: Arc<Host>, time: Duration) {
    scene.checks.fault("partition", format!("the line of {} is cut", host.name));
    host.line.cut();
    sleep(time).await;
    host.line.mend();
    scene.story.tell(format!("the line of {} is mended", host.name));
}

async fn slow_disk(scene: Arc<Scene>, host: Arc<Host>, millis: u64, time: Duration) {
    scene.checks.fault("slow disk", format!("the disk of {} takes {millis} ms", host.name));
    host.journal.slowness.set(millis);
    sleep(time).await;
    host.journal.slowness.set(0);
}

async fn slow_store(scene: Arc<Scene>, plane: Arc<Plane>, millis: u64, time: Duration) {
    scene.checks.fault("slow store", format!("the control plane's disk takes {millis} ms"));
    plane.slowness.set(millis);
    sleep(time).await;
    plane.slowness.set(0);
}

async fn weaken(scene: Arc<Scene>, host: Arc<Host>, (fault, text): (Fault, &str), percent: u32, time: Duration) {
    scene.checks.fault("weak host", format!("{}: {text} in {percent} of 100 cases", host.name));
    host.knobs.set(fault, percent);
    sleep(time).await;
    host.knobs.set(fault, 0);
}

async fn roughen(scene: Arc<Scene>, host: Arc<Host>, rough: Rough, time: Duration) {
    let Rough { lost, twice, late } = rough;
    let text = format!("{lost} % nudges lost, {twice} % twice, {late} % overtaken");
    scene.checks.fault("rough line", format!("the line of {} is rough: {text}", host.name));
    host.line.set_rough(rough);
    sleep(time).await;
    host.line.set_rough(Rough::default());
}
