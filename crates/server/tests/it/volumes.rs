//! Volumes: made, attached, resized, detached, deleted; refused; taken back; and full disks.

use crate::world::World;
use http::Method;
use perigee_agent_api::{DesiredGuest, DesiredVolume, FromAgent, FromServer, GuestReport, VolumeReport, VolumeStage};
use perigee_model::guest::Problem;
use perigee_model::limits::VOLUMES_PER_GUEST_MAX;
use perigee_model::{Code, GuestId, Observed, Phase, Plugged, VolumeId};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

impl World {
    async fn host_has_vm(&mut self, name: &str, sequence: u64) -> GuestId {
        let answer = self.post("/api/v1/vms", &[], json!({ "name": name, "disk_bytes": 1 << 30 })).await;
        assert_eq!(answer.status, 202, "{}", answer.json());
        self.obey(Phase::Running, sequence).await
    }
    async fn told_of_volume(&mut self) -> DesiredVolume {
        loop {
            if let FromServer::Volume(order) = self.told().await {
                return order;
            }
        }
    }
    pub async fn told_of_guest(&mut self) -> DesiredGuest {
        loop {
            if let FromServer::Desired(order) = self.told().await {
                return *order;
            }
        }
    }
    async fn says_of_volume(&self, order: &DesiredVolume, stage: VolumeStage) {
        let report = VolumeReport { volume: order.volume, generation: order.generation, stage };
        self.control.host_message(self.host, FromAgent::Volume(report)).await.unwrap();
    }
    /// The guest as its host sees it: with these volumes, and with those that it could not be given.
    async fn has(&self, order: &DesiredGuest, sequence: u64, refused: Option<Problem>) {
        self.seen(order, sequence, |o| {
            let wanted = &order.spec.vm.as_ref().unwrap().volumes;
            o.volumes = wanted.iter().map(|volume| Plugged { volume: *volume, problem: refused.clone() }).collect();
        })
        .await;
    }
    pub async fn seen(&self, order: &DesiredGuest, sequence: u64, change: impl FnOnce(&mut Observed)) {
        let guest = self.control.view().guest(order.id).unwrap();
        let mut observed = guest.observed.clone().unwrap();
        (observed.sequence, observed.generation, observed.note) = (sequence, order.desired.generation, None);
        change(&mut observed);
        let report = FromAgent::Guest(GuestReport { guest: order.id, observed });
        self.control.host_message(self.host, report).await.unwrap();
    }
    async fn volume(&self, name: &str) -> Value {
        self.get(&format!("/api/v1/volumes/{name}")).await.json()
    }
    async fn make(&mut self, name: &str) -> VolumeId {
        let asked = self.post("/api/v1/volumes", &[], json!({ "name": name, "bytes": 4 * MIB })).await;
        assert_eq!((asked.status.as_u16(), &asked.json()["kind"]), (202, &json!("volume:create")), "{}", asked.json());
        let order = self.told_of_volume().await;
        self.says_of_volume(&order, VolumeStage::Stored { bytes: order.bytes }).await;
        assert_eq!(self.volume(name).await["status"], "detached");
        order.volume
    }
    async fn ask(&self, name: &str, verb: &str, body: Value) -> Value {
        let answer = self.post(&format!("/api/v1/volumes/{name}/{verb}"), &[], body).await;
        assert_eq!(answer.status, 202, "{verb}: {}", answer.json());
        answer.json()
    }
    async fn refuses(&self, name: &str, verb: &str, body: Value, code: &str) {
        let answer = self.post(&format!("/api/v1/volumes/{name}/{verb}"), &[], body).await;
        assert_eq!(answer.code(), code, "{verb}: {}", answer.json());
    }
    async fn state(&self, task: &Value) -> String {
        let task = self.get(&format!("/api/v1/tasks/{}", task["id"].as_str().unwrap())).await.json();
        task["state"].as_str().unwrap().to_owned()
    }
    async fn attach(&mut self, name: &str, vm: &str, sequence: u64) -> DesiredGuest {
        let task = self.ask(name, "attach", json!({ "vm": vm })).await;
        let order = self.told_of_guest().await;
        self.has(&order, sequence, None).await;
        assert_eq!(self.state(&task).await, "succeeded");
        order
    }
    async fn removes(&self, path: &str) -> u16 {
        self.send(Method::DELETE, path, &self.admin, &[], b"").await.status.as_u16()
    }
    async fn events(&self, verb: &str) -> usize {
        let all = self.get("/api/v1/events?limit=500").await.json();
        all["items"].as_array().unwrap().iter().filter(|event| event["verb"] == verb).count()
    }
}

#[tokio::test]
async fn a_volume_lives_longer_than_its_vms() {
    let mut world = World::new().await;
    let planned = world.post("/api/v1/volumes?dry_run=true", &[], json!({ "name": "data", "bytes": MIB })).await;
    assert_eq!((planned.status.as_u16(), &planned.json()["host"]), (200, &json!("bench")));
    let id = world.make("data").await;
    world.host_has_vm("db", 1).await;
    let order = world.attach("data", "db", 2).await;
    assert_eq!(order.spec.vm.unwrap().volumes, [id]);
    let shown = world.volume("data").await;
    assert_eq!((&shown["status"], &shown["vm"]), (&json!("attached"), &json!("db")));
    assert_eq!(shown["serial"].as_str().unwrap().len(), 20);
    let listed = world.get("/api/v1/volumes?vm=db").await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);

    // It grows with its VM: the host hears who has it.
    let task = world.ask("data", "resize", json!({ "bytes": 8 * MIB })).await;
    let wish = world.told_of_volume().await;
    assert_eq!((wish.bytes, wish.guest.is_some()), (8 * MIB, true));
    world.control.resync_host(world.host);
    assert_eq!(world.told_of_volume().await, wish, "a lost nudge is told again");
    world.says_of_volume(&wish, VolumeStage::Trying { note: "libvirt is away".into() }).await;
    assert_eq!(world.state(&task).await, "running");
    world.says_of_volume(&wish, VolumeStage::Stored { bytes: 8 * MIB }).await;
    assert_eq!(world.state(&task).await, "succeeded");
    world.says_of_volume(&wish, VolumeStage::Stored { bytes: 8 * MIB }).await;

    // A guest that does not let go is waited for.
    let task = world.ask("data", "detach", json!({})).await;
    let order = world.told_of_guest().await;
    world.seen(&order, 3, |o| o.note = Some("it does not let go of it".into())).await;
    let held = world.get(&format!("/api/v1/tasks/{}", task["id"].as_str().unwrap())).await.json();
    assert_eq!((&held["state"], &held["note"]), (&json!("running"), &json!("it does not let go of it")));
    world.has(&order, 4, None).await;
    assert_eq!(
        (world.state(&task).await, &world.volume("data").await["status"]),
        ("succeeded".into(), &json!("detached"))
    );

    // Its VM goes; it stays.
    world.attach("data", "db", 5).await;
    assert_eq!(world.removes("/api/v1/vms/db").await, 202);
    world.obey(Phase::Gone, 6).await;
    let left = world.volume("data").await;
    assert_eq!((&left["status"], &left["bytes"], left.get("vm")), (&json!("detached"), &json!(8 * MIB), None));
    assert_eq!(world.removes("/api/v1/volumes/data").await, 202);
    assert_eq!(world.volume("data").await["status"], "deleting");
    let wish = world.told_of_volume().await;
    assert!(wish.absent);
    world.says_of_volume(&wish, VolumeStage::Gone).await;
    assert_eq!(world.get("/api/v1/volumes/data").await.code(), "PRG-3016");
    for verb in ["create", "attach", "detach", "resize", "delete"] {
        assert!(world.events(&format!("volume.{verb}")).await > 0, "{verb} is in the audit log");
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let mut world = World::new().await;
    world.make("data").await;
    world.host_has_vm("db", 1).await;
    world.host_has_vm("web", 1).await;
    for (body, code) in [
        (json!({ "name": "data", "bytes": MIB }), "PRG-4001"),
        (json!({ "name": "No Name", "bytes": MIB }), "PRG-1002"),
        (json!({ "name": "x", "bytes": 1 }), "PRG-1002"),
        (json!({ "name": "x", "bytes": 1u64 << 50 }), "PRG-1002"),
        (json!({ "name": "x", "bytes": MIB, "host": "nowhere" }), "PRG-3001"),
        (json!({ "name": "x", "bytes": MIB, "labels": { "": "" } }), "PRG-1002"),
    ] {
        assert_eq!(world.post("/api/v1/volumes", &[], body.clone()).await.code(), code, "{body}");
    }
    world.refuses("none", "attach", json!({ "vm": "db" }), "PRG-3016").await;
    world.refuses("data", "attach", json!({ "vm": "nobody" }), "PRG-3002").await;
    world.refuses("data", "detach", json!({}), "PRG-4018").await;
    world.refuses("data", "resize", json!({ "bytes": MIB }), "PRG-1002").await;
    world.running("box").await;
    world.refuses("data", "attach", json!({ "vm": "box" }), "PRG-4019").await;
    let pending = world.post("/api/v1/vms", &[], json!({ "name": "later", "host": "bench" })).await;
    assert_eq!(pending.status, 202);

    // One thing at a time, and one VM at a time.
    let task = world.ask("data", "attach", json!({ "vm": "db" })).await;
    for (verb, body) in
        [("attach", json!({ "vm": "web" })), ("detach", json!({})), ("resize", json!({ "bytes": 1u64 << 30 }))]
    {
        world.refuses("data", verb, body, "PRG-4016").await;
    }
    assert_eq!(world.removes("/api/v1/volumes/data").await, 409);
    let order = loop {
        let order = world.told_of_guest().await;
        if !order.spec.vm.as_ref().unwrap().volumes.is_empty() {
            break order;
        }
    };
    world.has(&order, 2, None).await;
    assert_eq!(world.state(&task).await, "succeeded");
    world.refuses("data", "attach", json!({ "vm": "web" }), "PRG-4017").await;
    let busy = world.send(Method::DELETE, "/api/v1/volumes/data", &world.admin, &[], b"").await;
    assert_eq!(busy.code(), "PRG-4017");
    // A snapshot holds no volume.
    let kept = world.post("/api/v1/vms/db/snapshots", &[], json!({ "name": "a" })).await;
    assert_eq!((kept.code().as_str(), kept.json()["detail"].as_str().unwrap().contains("detach")), ("PRG-4015", true));
    let revoked = world.send(Method::DELETE, "/api/v1/hosts/bench", &world.admin, &[], b"").await;
    assert_eq!(revoked.code(), "PRG-4006");
    for n in 1..VOLUMES_PER_GUEST_MAX {
        world.make(&format!("v{n}")).await;
        world.attach(&format!("v{n}"), "db", 2 + n as u64).await;
    }
    world.make("over").await;
    world.refuses("over", "attach", json!({ "vm": "db" }), "PRG-5016").await;
}

#[tokio::test]
async fn what_fails_or_is_cancelled_is_taken_back() {
    let mut world = World::new().await;
    // A volume that could not be made was never there.
    world.post("/api/v1/volumes", &[], json!({ "name": "full", "bytes": MIB })).await;
    let wish = world.told_of_volume().await;
    world.says_of_volume(&wish, VolumeStage::Failed(Problem::new(Code::DiskFull, "no room"))).await;
    assert_eq!(world.get("/api/v1/volumes/full").await.code(), "PRG-3016");
    // One whose making was cancelled is removed, whatever its host had done.
    let task = world.post("/api/v1/volumes", &[], json!({ "name": "late", "bytes": MIB })).await.json();
    world.told_of_volume().await;
    let cancel = format!("/api/v1/tasks/{}/cancel", task["id"].as_str().unwrap());
    assert_eq!(world.post(&cancel, &[], json!({})).await.json()["state"], "cancelled");
    let wish = world.told_of_volume().await;
    assert!(wish.absent);
    world.control.resync_host(world.host);
    assert_eq!(world.told_of_volume().await, wish, "until it is heard");
    world.says_of_volume(&wish, VolumeStage::Gone).await;
    assert_eq!(world.get("/api/v1/volumes/late").await.code(), "PRG-3016");

    world.make("data").await;
    world.host_has_vm("db", 1).await;
    // A size that could not be had is not wanted any more.
    let task = world.ask("data", "resize", json!({ "bytes": 8 * MIB })).await;
    let wish = world.told_of_volume().await;
    world.says_of_volume(&wish, VolumeStage::Failed(Problem::new(Code::VolumeFailed, "no"))).await;
    assert_eq!((world.state(&task).await, &world.volume("data").await["bytes"]), ("failed".into(), &json!(4 * MIB)));
    // An attach that the host could not do leaves the VM without the wish.
    let task = world.ask("data", "attach", json!({ "vm": "db" })).await;
    let order = world.told_of_guest().await;
    world.has(&order, 2, Some(Problem::new(Code::VolumeFailed, "no slot left"))).await;
    assert_eq!(
        (world.state(&task).await, &world.volume("data").await["status"]),
        ("failed".into(), &json!("detached"))
    );
    let back = world.told_of_guest().await;
    assert!(back.spec.vm.as_ref().unwrap().volumes.is_empty() && back.desired.generation > order.desired.generation);
    world.has(&back, 3, None).await;
    // One that is cancelled half-way is the VM's until its host has said that it is out.
    let task = world.ask("data", "attach", json!({ "vm": "db" })).await;
    world.told_of_guest().await;
    let cancel = format!("/api/v1/tasks/{}/cancel", task["id"].as_str().unwrap());
    assert_eq!(world.post(&cancel, &[], json!({})).await.json()["state"], "cancelled");
    let back = world.told_of_guest().await;
    assert!(back.spec.vm.as_ref().unwrap().volumes.is_empty());
    assert_eq!(world.volume("data").await["vm"], "db");
    world.has(&back, 4, None).await;
    assert_eq!(world.volume("data").await["status"], "detached");
    // A detach that is cancelled gives it back.
    world.attach("data", "db", 5).await;
    let task = world.ask("data", "detach", json!({})).await;
    world.told_of_guest().await;
    let cancel = format!("/api/v1/tasks/{}/cancel", task["id"].as_str().unwrap());
    world.post(&cancel, &[], json!({})).await;
    let back = world.told_of_guest().await;
    assert_eq!(back.spec.vm.as_ref().unwrap().volumes.len(), 1);
    world.has(&back, 6, None).await;
    assert_eq!(world.volume("data").await["status"], "attached");
}

#[tokio::test]
async fn a_full_disk_is_on_the_time_line() {
    let mut world = World::new().await;
    world.host_has_vm("db", 1).await;
    let guest = world.control.view().read().guest_named(&perigee_model::Tenant::first(), "db").unwrap().clone();
    let report = |sequence, problem: Option<Problem>| {
        let mut observed = guest.observed.clone().unwrap();
        (observed.sequence, observed.note, observed.problem) =
            (sequence, problem.as_ref().map(|p| p.text.clone()), problem);
        FromAgent::Guest(GuestReport { guest: guest.id, observed })
    };
    let full = || Some(Problem::new(Code::DiskFull, "its host's disk is full: free 16 MiB at /vms, and it goes on"));
    for (sequence, problem) in [(2, full()), (3, full()), (4, None)] {
        world.control.host_message(world.host, report(sequence, problem.clone())).await.unwrap();
        let shown = world.get("/api/v1/vms/db").await.json();
        assert_eq!((&shown["status"], shown["problem"]["code"] == "PRG-5003"), (&json!("running"), problem.is_some()));
    }
    assert_eq!((world.events("guest.no-space").await, world.events("guest.space").await), (1, 1));
}
