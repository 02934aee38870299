//! Snapshots of VMs: asked for, refused, told to the host once, and what comes of each end.

use crate::world::World;
use http::Method;
use perigee_agent_api::{FromAgent, FromServer, Operate, OperationReport, OperationResult, OperationStage};
use perigee_model::guest::Problem;
use perigee_model::limits::SNAPSHOTS_PER_GUEST_MAX;
use perigee_model::{Code, GuestId, Operation, Phase, Taken};
use serde_json::{Value, json};

const ALL: &str = "/api/v1/vms/db/snapshots";

impl World {
    pub async fn vm(&mut self, body: Value, sequence: u64) -> GuestId {
        let answer = self.post("/api/v1/vms", &[], body).await;
        assert_eq!(answer.status, 202, "{}", answer.json());
        self.obey(Phase::Running, sequence).await
    }
    pub async fn told_to_operate(&mut self) -> Operate {
        loop {
            if let FromServer::Operate(order) = self.told().await {
                return *order;
            }
        }
    }
    pub async fn says(&self, order: &Operate, stage: OperationStage) {
        let report = OperationReport { task: order.task, guest: order.guest, stage };
        self.control.host_message(self.host, FromAgent::Operation(Box::new(report))).await.unwrap();
    }
    async fn keeps(&mut self) -> Operate {
        let order = self.told_to_operate().await;
        let taken = Taken { at: self.control.clock().now(), memory_bytes: 7, booted: None };
        self.says(&order, OperationStage::Done(OperationResult::Kept(taken))).await;
        order
    }
    async fn snapshots(&self) -> Value {
        self.get(ALL).await.json()["items"].clone()
    }
    pub async fn task(&self, id: impl ToString) -> Value {
        self.get(&format!("/api/v1/tasks/{}", id.to_string())).await.json()
    }
}

#[tokio::test]
async fn a_snapshot_is_made_gone_back_to_and_deleted() {
    let mut world = World::new().await;
    let guest = world.vm(json!({ "name": "db", "disk_bytes": 1 << 30 }), 1).await;
    let asked = json!({ "name": "warm", "memory": true, "description": "for people" });
    let task = world.post(ALL, &[], asked).await;
    assert_eq!((task.status.as_u16(), &task.json()["kind"]), (202, &json!("vm:snapshot-create")));
    assert_eq!(world.snapshots().await[0]["status"], "creating");
    let early = world.post(&format!("{ALL}/warm/revert"), &[], json!({})).await;
    assert_eq!(early.code(), "PRG-3015", "it is still being made");
    let order = world.told_to_operate().await;
    assert!(
        matches!(&order.operation, Operation::CreateSnapshot { memory: true, name, .. } if name.as_str() == "warm")
    );
    // A link that broke meanwhile: it is told the same again.
    world.control.resync_host(world.host);
    assert_eq!(world.told_to_operate().await, order);
    world.says(&order, OperationStage::Running { note: "writing".into(), percent: Some(40) }).await;
    assert_eq!(world.task(order.task).await["progress_percent"], 40);
    let taken = Taken { at: world.control.clock().now(), memory_bytes: 7, booted: None };
    let done = OperationStage::Done(OperationResult::Kept(taken));
    world.says(&order, done.clone()).await;
    world.says(&order, done).await;
    assert!(matches!(world.told().await, FromServer::OperationTaken { task, .. } if task == order.task));
    let made = world.get(&format!("{ALL}/warm")).await.json();
    assert_eq!((&made["status"], &made["memory_bytes"], &made["vm"]), (&json!("ready"), &json!(7), &json!("db")));
    assert!(made["taken_at"].is_string() && made["description"] == "for people", "{made}");

    // One that is off runs when it is back in its memory, and that is what is wanted from then on.
    world.post("/api/v1/vms/db/stop", &[], json!({ "grace_ms": 0 })).await;
    world.obey(Phase::Stopped, 2).await;
    world.post(&format!("{ALL}/warm/revert"), &[], json!({})).await;
    let order = world.told_to_operate().await;
    world.says(&order, OperationStage::Done(OperationResult::WentBack)).await;
    let wanted = loop {
        if let FromServer::Desired(desired) = world.told().await {
            break desired;
        }
    };
    assert_eq!(wanted.desired.power, perigee_model::Power::Running);
    world.report(guest, wanted.desired.generation, Phase::Running, 3).await;

    let deleted = world.send(Method::DELETE, &format!("{ALL}/warm"), &world.admin, &[], b"").await;
    assert_eq!(deleted.status, 202);
    assert_eq!(world.snapshots().await[0]["status"], "deleting");
    let order = world.told_to_operate().await;
    world.says(&order, OperationStage::Done(OperationResult::Forgotten)).await;
    assert_eq!(world.snapshots().await, json!([]));
}

#[tokio::test]
async fn what_fails_leaves_nothing_and_what_waits_waits() {
    let mut world = World::new().await;
    world.vm(json!({ "name": "db", "disk_bytes": 1 << 30 }), 1).await;
    let full = world.post(ALL, &[], json!({ "name": "full" })).await.json();
    let order = world.told_to_operate().await;
    // One operation at a time: neither another snapshot nor the switch passes it.
    let second = world.post(ALL, &[], json!({ "name": "second" })).await.json();
    let stop = world.post("/api/v1/vms/db/stop", &[], json!({ "grace_ms": 0 })).await.json();
    world.says(&order, OperationStage::Failed(Problem::new(Code::DiskFull, "no room"))).await;
    let task = world.task(full["id"].as_str().unwrap()).await;
    assert_eq!((&task["state"], &task["problem"]["code"]), (&json!("failed"), &json!("PRG-5003")));
    assert_eq!(world.snapshots().await.as_array().unwrap().len(), 1, "as if it had never been asked for");
    world.keeps().await;
    assert_eq!(world.task(second["id"].as_str().unwrap()).await["state"], "succeeded");
    world.obey(Phase::Stopped, 2).await;
    assert_eq!(world.task(stop["id"].as_str().unwrap()).await["state"], "succeeded");

    let gone = world.send(Method::DELETE, &format!("{ALL}/second"), &world.admin, &[], b"").await;
    assert_eq!(gone.status, 202);
    let order = world.told_to_operate().await;
    world.says(&order, OperationStage::Failed(Problem::new(Code::SnapshotFailed, "no"))).await;
    assert_eq!(world.snapshots().await[0]["status"], "ready", "it is still there");
    // Its host is on it: it cannot be taken back. Deleting the VM ends it all.
    world.post(ALL, &[], json!({ "name": "third" })).await;
    let order = world.told_to_operate().await;
    let cancel = world.post(&format!("/api/v1/tasks/{}/cancel", order.task), &[], json!({})).await;
    assert_eq!(cancel.code(), "PRG-4005");
    world.send(Method::DELETE, "/api/v1/vms/db", &world.admin, &[], b"").await;
    world.obey(Phase::Gone, 3).await;
    assert_eq!(world.task(order.task).await["state"], "cancelled");
    world.says(&order, OperationStage::Failed(Problem::new(Code::NoSuchGuest, "gone"))).await;
    assert_eq!(world.get(ALL).await.code(), "PRG-3002");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_reason() {
    let mut world = World::new().await;
    world.running("box").await;
    world.vm(json!({ "name": "db", "disk_bytes": 1 << 30 }), 1).await;
    world.vm(json!({ "name": "bare" }), 1).await;
    for vm in ["box", "bare"] {
        let path = format!("/api/v1/vms/{vm}/snapshots");
        let refused = world.post(&path, &[], json!({ "name": "a" })).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "PRG-4015"), "{vm}");
        assert_eq!(world.get(&path).await.code(), "PRG-4015", "{vm}");
    }
    let rows = [
        (json!({ "name": "No Name" }), "PRG-1002"),
        (json!({ "name": "../a" }), "PRG-1002"),
        (json!({}), "PRG-1002"),
        (json!({ "name": "a", "description": "x".repeat(5000) }), "PRG-1002"),
        (json!({ "name": "a", "sugar": 1 }), "PRG-1003"),
    ];
    for (body, code) in rows {
        assert_eq!(world.post(ALL, &[], body.clone()).await.code(), code, "{body}");
    }
    assert_eq!(world.post("/api/v1/vms/nobody/snapshots", &[], json!({ "name": "a" })).await.code(), "PRG-3002");
    for (method, path) in [(Method::POST, "a/revert"), (Method::DELETE, "a"), (Method::GET, "a")] {
        let none = world.send(method, &format!("{ALL}/{path}"), &world.admin, &[], b"").await;
        assert_eq!(none.code(), "PRG-3015", "{path}");
    }
    for n in 0..SNAPSHOTS_PER_GUEST_MAX {
        assert_eq!(world.post(ALL, &[], json!({ "name": format!("s{n}") })).await.status, 202);
    }
    assert_eq!(world.post(ALL, &[], json!({ "name": "s0" })).await.code(), "PRG-4001");
    assert_eq!(world.post(ALL, &[], json!({ "name": "more" })).await.code(), "PRG-5015");
    for _ in 0..SNAPSHOTS_PER_GUEST_MAX {
        world.keeps().await;
    }
    world.post("/api/v1/vms/db/stop", &[], json!({ "grace_ms": 0 })).await;
    world.obey(Phase::Stopped, 2).await;
    let gone = world.send(Method::DELETE, &format!("{ALL}/s0"), &world.admin, &[], b"").await;
    assert_eq!(gone.status, 202);
    let order = world.told_to_operate().await;
    world.says(&order, OperationStage::Done(OperationResult::Forgotten)).await;
    let off = world.post(ALL, &[], json!({ "name": "off", "memory": true })).await;
    assert_eq!(off.code(), "PRG-4002", "{}", off.json());
}
