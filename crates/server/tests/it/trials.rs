//! Whether a backup boots: a VM is made from it, shows a sign of life or none, and is removed.

use crate::world::World;
use perigee_agent_api::{DesiredGuest, FromServer, OperationResult, OperationStage, TunnelFrame};
use perigee_clock::Clock;
use perigee_control::trials::Tried;
use perigee_control::verifications::VerifyOrder;
use perigee_control::{Control, Tunnel};
use perigee_model::backup::LifeSign;
use perigee_model::guest::Problem;
use perigee_model::{Code, Digest, Phase, Power, Stored};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

impl World {
    /// One whose VM `db` has the backup `one`, at which somebody wants to be looked.
    async fn with_backup() -> (Self, VerifyOrder) {
        let mut world = Self::at(Clock::simulated(7)).await;
        let db = json!({ "name": "db", "disk_bytes": 1 << 30, "network": "lan", "restart": "always" });
        world.vm(db, 1).await;
        world.post("/api/v1/vms/db/backups", &[], json!({ "name": "one" })).await;
        let order = world.told_to_operate().await;
        let stored = Stored {
            quiesced: false,
            at: world.control.clock().now(),
            index: Digest::parse(&"1".repeat(64)).unwrap(),
            disk_bytes: 1 << 30,
            since: None,
            read_bytes: 8,
            new_bytes: 7,
            kept_bytes: 6,
        };
        world.says(&order, OperationStage::Done(OperationResult::Stored(stored))).await;
        world.post("/api/v1/backups/one/verify", &[], json!({ "boot": true })).await;
        let order = world.control.next_verification().await;
        assert!(order.boot);
        (world, order)
    }
    fn tries(&self, order: &VerifyOrder) -> JoinHandle<Tried> {
        let (control, order): (Control, _) = (self.control.clone(), order.clone());
        tokio::spawn(async move { control.try_backup(&order).await })
    }
    /// The trial's VM as its host sees it.
    async fn trial_is(&self, order: &DesiredGuest, phase: Phase, sequence: u64, problem: Option<Problem>) {
        self.report(order.id, order.desired.generation, Phase::Booting, sequence).await;
        self.seen(order, sequence + 1, |o| (o.phase, o.kernel_release, o.problem) = (phase, None, problem)).await;
    }
    /// Sits it down at the serial port that is asked for.
    async fn seats(&mut self) -> Tunnel {
        loop {
            if let FromServer::OpenTunnel { tunnel, .. } = self.told().await {
                let port = self.control.links().opened(self.host, tunnel).unwrap();
                port.tx.send(TunnelFrame::Started).await.unwrap();
                return port;
            }
        }
    }
    /// It is told to leave nothing of it, and does.
    async fn leaves_nothing_of(&mut self, trial: &DesiredGuest) {
        loop {
            // However long it takes: played time passes while nothing is told.
            let Some(FromServer::Desired(order)) = self.link.outgoing.recv().await else { continue };
            if order.id == trial.id && order.desired.power == Power::Absent {
                return self.report(order.id, order.desired.generation, Phase::Gone, 9).await;
            }
        }
    }
    async fn vms(&self) -> Vec<Value> {
        self.get("/api/v1/vms").await.json()["items"].as_array().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_backup_that_boots_is_known_by_its_prompt() {
    let (mut world, order) = World::with_backup().await;
    let tried = world.tries(&order);
    let trial = world.told_of_guest().await;
    let vm = trial.spec.vm.as_ref().unwrap();
    assert!(trial.name.as_str().starts_with("verify-") && vm.network.is_none() && trial.desired.expires_at.is_some());
    assert!(vm.origin.is_some() && trial.labels.is_empty(), "{trial:?}");
    world.trial_is(&trial, Phase::Running, 1, None).await;
    let mut port = world.seats().await;
    port.tx.send(TunnelFrame::Data(b"[ 1.0] booting\r\n".to_vec())).await.unwrap();
    assert_eq!(port.rx.recv().await, Some(TunnelFrame::Data(b"\r".to_vec())), "a prompt may have scrolled away");
    port.tx.send(TunnelFrame::Data(b"\r\ndb log".to_vec())).await.unwrap();
    port.tx.send(TunnelFrame::Data(b"in: ".to_vec())).await.unwrap();
    world.leaves_nothing_of(&trial).await;
    let Tried::Booted(booted) = tried.await.unwrap() else { panic!("it came up") };
    assert_eq!(booted.sign, LifeSign::LoginPrompt);
    world.control.verified(&order, Ok(Some(booted))).await.unwrap();
    let one = world.get("/api/v1/backups/one").await.json();
    assert_eq!((&one["status"], &one["booted_by"]), (&json!("ready"), &json!("login_prompt")), "{one}");
    assert!(one["booted_after_ms"].as_u64().unwrap() >= 10_000, "{one}");
    assert_eq!(world.vms().await.len(), 1, "db alone");
}

#[tokio::test(start_paused = true)]
async fn one_that_shows_no_sign_of_life_does_not_boot() {
    let (mut world, order) = World::with_backup().await;
    let tried = world.tries(&order);
    let trial = world.told_of_guest().await;
    world.trial_is(&trial, Phase::Running, 1, None).await;
    let port = world.seats().await;
    port.tx.send(TunnelFrame::Data(b"No bootable device.\r\n".to_vec())).await.unwrap();
    world.leaves_nothing_of(&trial).await;
    let Tried::Silent(why) = tried.await.unwrap() else { panic!("it did not come up") };
    assert!(why.contains("within 600 s") && why.contains("No bootable device."), "{why}");
    world.control.verified(&order, Err(why)).await.unwrap();
    let one = world.get("/api/v1/backups/one").await.json();
    assert_eq!(one["status"], "damaged", "{one}");
    assert!(one["fault"].as_str().unwrap().contains("does not boot"), "{one}");
}

#[tokio::test(start_paused = true)]
async fn how_a_trial_ends_is_told_apart() {
    // It ends by itself: that is the backup's fault.
    let (mut world, order) = World::with_backup().await;
    let tried = world.tries(&order);
    let trial = world.told_of_guest().await;
    world.trial_is(&trial, Phase::Stopped, 1, None).await;
    world.leaves_nothing_of(&trial).await;
    assert!(matches!(tried.await.unwrap(), Tried::Silent(why) if why.contains("turned itself off")));

    // Its host has no room: nothing is known of the backup.
    let (mut world, order) = World::with_backup().await;
    let tried = world.tries(&order);
    let trial = world.told_of_guest().await;
    let (mut order, mut sequence) = (trial, 1);
    while order.desired.power != Power::Absent {
        let full = Problem::new(Code::DiskFull, "no room");
        world.trial_is(&order, Phase::Failed, sequence, Some(full)).await;
        sequence += 2;
        order = world.told_of_guest().await;
    }
    world.report(order.id, order.desired.generation, Phase::Gone, sequence).await;
    let Tried::Untried(problem) = tried.await.unwrap() else { panic!("nothing was tried") };
    assert_eq!(Code::parse(&problem.code), Some(Code::DiskFull), "{problem:?}");

    // A control plane that is started again finds its VM; a cancel removes it.
    let (mut world, order) = World::with_backup().await;
    world.tries(&order).abort();
    let first = world.tries(&order);
    let trial = world.told_of_guest().await;
    world.trial_is(&trial, Phase::Running, 1, None).await;
    first.abort();
    let again = world.tries(&order);
    let _port = world.seats().await;
    assert_eq!(world.vms().await.len(), 2, "one trial");
    let cancel = format!("/api/v1/tasks/{}/cancel", order.task);
    assert!(world.post(&cancel, &[], json!({})).await.status.is_success());
    world.leaves_nothing_of(&trial).await;
    assert_eq!(again.await.unwrap(), Tried::Unwanted);
    assert_eq!(world.vms().await.len(), 1);
}
