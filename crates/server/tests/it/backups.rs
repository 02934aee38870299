//! Backups of VMs: asked for, told to the host with those before, let go of, looked at, brought back.

use crate::world::World;
use http::Method;
use perigee_agent_api::{FromServer, OperationResult, OperationStage};
use perigee_backups::Repository;
use perigee_clock::Clock;
use perigee_model::guest::Problem;
use perigee_model::{Code, Digest, DiskIndex, Operation, Phase, Stored};
use perigee_server::backups::Backups;
use serde_json::{Value, json};
use std::time::Duration;

const OF_DB: &str = "/api/v1/vms/db/backups";

fn digest(digit: &str) -> Digest {
    Digest::parse(&digit.repeat(64)).unwrap()
}

impl World {
    async fn db() -> Self {
        let mut world = Self::new().await;
        world.vm(json!({ "name": "db", "disk_bytes": 1 << 30, "labels": { "team": "web" } }), 1).await;
        world
    }
    fn stored(&self, index: &Digest) -> OperationStage {
        OperationStage::Done(OperationResult::Stored(Stored {
            quiesced: false,
            at: self.control.clock().now(),
            index: index.clone(),
            disk_bytes: 1 << 30,
            since: None,
            read_bytes: 8,
            new_bytes: 7,
            kept_bytes: 6,
        }))
    }
    /// What its host was told of: (encrypted, indexes of the backups before).
    async fn backs_up(&mut self, index: &Digest) -> (bool, Vec<Digest>) {
        let order = self.told_to_operate().await;
        self.says(&order, self.stored(index)).await;
        let Operation::CreateBackup { sealed, bases, .. } = order.operation else { panic!("{:?}", order.operation) };
        (sealed, bases.into_iter().map(|base| base.index).collect())
    }
    async fn backups(&self) -> Vec<Value> {
        self.get("/api/v1/backups").await.json()["items"].as_array().unwrap().clone()
    }
    async fn act(&self, method: Method, path: &str) -> (u16, String) {
        let body: &[u8] = if method == Method::POST { b"{}" } else { b"" };
        let answer = self.send(method, path, &self.admin, &[], body).await;
        (answer.status.as_u16(), if answer.status.is_success() { String::new() } else { answer.code() })
    }
}

#[tokio::test]
async fn a_backup_is_made_after_those_of_its_kind_and_outlives_its_vm() {
    let mut world = World::db().await;
    let asked = world.post(OF_DB, &[], json!({ "name": "one", "description": "for people" })).await;
    assert_eq!((asked.status.as_u16(), &asked.json()["kind"]), (202, &json!("vm:backup-create")));
    assert_eq!(world.backups().await[0]["status"], "creating");
    assert_eq!(world.act(Method::POST, "/api/v1/backups/one/restore").await, (409, "PRG-4021".into()));
    assert_eq!(world.act(Method::DELETE, "/api/v1/backups/one").await, (409, "PRG-4021".into()));
    assert_eq!(world.backs_up(&digest("1")).await, (false, vec![]));
    let one = world.get("/api/v1/backups/one").await.json();
    assert_eq!((&one["status"], &one["read_bytes"], &one["vm"]), (&json!("ready"), &json!(8), &json!("db")), "{one}");

    world.post(OF_DB, &[], json!({ "encrypt": true })).await;
    assert_eq!(world.backs_up(&digest("2")).await, (true, vec![]), "an encrypted one is not made after an open one");
    world.post(OF_DB, &[], json!({ "name": "three" })).await;
    assert_eq!(world.backs_up(&digest("3")).await, (false, vec![digest("1")]));
    world.post(OF_DB, &[], json!({ "name": "four" })).await;
    let order = world.told_to_operate().await;
    world.says(&order, OperationStage::Failed(Problem::new(Code::DiskFull, "no room"))).await;
    assert_eq!(world.backups().await.len(), 3, "one that was not made is not there");

    world.send(Method::DELETE, "/api/v1/vms/db", &world.admin, &[], b"").await;
    world.obey(Phase::Gone, 2).await;
    assert_eq!(world.backups().await.len(), 3);
    assert_eq!(world.get("/api/v1/backups?vm=db").await.json()["items"].as_array().unwrap().len(), 3);
    assert_eq!(world.get("/api/v1/backups?vm=other").await.json()["items"], json!([]));
    let back = world.post("/api/v1/backups/one/restore", &[], json!({ "name": "db-2" })).await;
    assert_eq!((back.status.as_u16(), &back.json()["kind"]), (202, &json!("vm:create")));
    assert_eq!(world.act(Method::DELETE, "/api/v1/backups/one").await, (409, "PRG-4021".into()), "it is needed");
    let desired = loop {
        match world.told().await {
            FromServer::Desired(desired) if desired.name.as_str() == "db-2" => break desired,
            _ => {}
        }
    };
    let origin = desired.spec.vm.unwrap().origin.unwrap();
    assert_eq!((origin.index, origin.disk_bytes, origin.image_disk), (digest("1"), 1 << 30, false));
    world.report(desired.id, desired.desired.generation, Phase::Running, 1).await;
    let vm = world.get("/api/v1/vms/db-2").await.json();
    assert_eq!((&vm["restored_from"], &vm["labels"]["team"]), (&one["id"], &json!("web")), "{vm}");
    assert_eq!(world.act(Method::DELETE, "/api/v1/backups/one").await.0, 204);
    assert_eq!(world.act(Method::GET, "/api/v1/backups/one").await, (404, "PRG-3020".into()));
}

#[tokio::test]
async fn one_that_is_being_made_can_be_cancelled_and_a_snapshot_cannot() {
    let mut world = World::db().await;
    let asked = world.post(OF_DB, &[], json!({ "name": "one" })).await.json();
    let order = world.told_to_operate().await;
    assert!(!order.cancelled);
    let cancel = format!("/api/v1/tasks/{}/cancel", asked["id"].as_str().unwrap());
    let task = world.post(&cancel, &[], json!({})).await.json();
    assert_eq!((&task["state"], &task["note"]), (&json!("running"), &json!("being cancelled")), "{task}");
    let again = world.told_to_operate().await;
    assert!(again.cancelled && again.task == order.task);
    world.says(&again, OperationStage::Failed(Problem::new(Code::TaskCancelled, "cancelled while it ran"))).await;
    let task = world.get(&format!("/api/v1/tasks/{}", asked["id"].as_str().unwrap())).await.json();
    assert_eq!(task["state"], "cancelled", "{task}");
    assert_eq!(world.backups().await, Vec::<Value>::new());

    // One that was done before its host heard of that is there.
    let asked = world.post(OF_DB, &[], json!({ "name": "two" })).await.json();
    let order = world.told_to_operate().await;
    world.post(&format!("/api/v1/tasks/{}/cancel", asked["id"].as_str().unwrap()), &[], json!({})).await;
    world.says(&order, world.stored(&digest("2"))).await;
    assert_eq!(world.get("/api/v1/backups/two").await.json()["status"], "ready");

    let asked = world.post("/api/v1/vms/db/snapshots", &[], json!({ "name": "before" })).await.json();
    while world.told_to_operate().await.operation.snapshot().is_none() {}
    let path = format!("/api/v1/tasks/{}/cancel", asked["id"].as_str().unwrap());
    assert_eq!(world.act(Method::POST, &path).await, (409, "PRG-4005".into()), "it is at its end in a moment");
}

#[tokio::test]
async fn what_cannot_be_is_refused_with_its_reason() {
    let mut world = World::db().await;
    world.running("box").await;
    world.vm(json!({ "name": "bare" }), 1).await;
    for vm in ["box", "bare"] {
        let refused = world.post(&format!("/api/v1/vms/{vm}/backups"), &[], json!({})).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (409, "PRG-4020"), "{vm}");
        let schedule = json!({ "every_ms": 3_600_000, "keep": 1 }).to_string();
        let path = format!("/api/v1/vms/{vm}/backup-schedule");
        assert_eq!(world.send(Method::PUT, &path, &world.admin, &[], schedule.as_bytes()).await.code(), "PRG-4020");
    }
    for (body, code) in [
        (json!({ "name": "No Name" }), "PRG-1002"),
        (json!({ "name": "../a" }), "PRG-1002"),
        (json!({ "description": "x".repeat(5000) }), "PRG-1002"),
        (json!({ "sugar": 1 }), "PRG-1003"),
    ] {
        assert_eq!(world.post(OF_DB, &[], body.clone()).await.code(), code, "{body}");
    }
    world.post(OF_DB, &[], json!({ "name": "one" })).await;
    assert_eq!(world.post(OF_DB, &[], json!({ "name": "one" })).await.code(), "PRG-4001");
    world.backs_up(&digest("1")).await;
    assert_eq!(world.act(Method::POST, "/api/v1/backups/one/restore").await, (409, "PRG-4001".into()), "db is there");
    let restore = |body: Value| world.post("/api/v1/backups/one/restore", &[], body);
    assert_eq!(restore(json!({ "name": "a b" })).await.code(), "PRG-1002");
    assert_eq!(restore(json!({ "name": "db-2", "host": "nowhere" })).await.code(), "PRG-3001");
    for body in [json!({ "every_ms": 1, "keep": 1 }), json!({ "every_ms": 3_600_000, "keep": 0 })] {
        let path = "/api/v1/vms/db/backup-schedule";
        let refused = world.send(Method::PUT, path, &world.admin, &[], body.to_string().as_bytes()).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "PRG-1002"), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_schedule_asks_by_itself_and_lets_go_of_its_oldest() {
    let mut world = World::at(Clock::simulated(7)).await;
    world.vm(json!({ "name": "db", "disk_bytes": 1 << 30 }), 1).await;
    world.post(OF_DB, &[], json!({ "name": "mine" })).await;
    world.backs_up(&digest("a")).await;
    let schedule = json!({ "every_ms": 3_600_000, "keep": 2, "encrypt": true }).to_string();
    let path = "/api/v1/vms/db/backup-schedule";
    let set = world.send(Method::PUT, path, &world.admin, &[], schedule.as_bytes()).await.json();
    assert_eq!((&set["backups"]["keep"], &set["backups"]["encrypted"]), (&json!(2), &json!(true)), "{set}");
    for turn in ["1", "2", "3"] {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let (sealed, _) = world.backs_up(&digest(turn)).await;
        assert!(sealed);
    }
    let all = world.backups().await;
    let scheduled: Vec<_> = all.iter().map(|backup| backup["scheduled"].as_bool().unwrap()).collect();
    assert_eq!(scheduled, [false, true, true], "the oldest of its own went, a person's stays: {all:?}");
    assert_eq!(world.act(Method::DELETE, path).await.0, 204);
    assert!(world.get("/api/v1/vms/db").await.json().get("backups").is_none());
}

#[tokio::test]
async fn bytes_are_looked_at_and_what_nobody_needs_is_swept() {
    let mut world = World::db().await;
    let folder = tempfile::tempdir().unwrap();
    let random = Clock::real();
    let repository =
        Repository::open(folder.path().join("kept"), folder.path().join("key"), move |bytes| random.fill(bytes))
            .unwrap();
    let put = async |text: &'static [u8]| {
        let digest = perigee_backups::digest_of(text);
        repository.put(false, &digest, text.into()).await.unwrap();
        digest
    };
    let mut index = DiskIndex::new(3 << 20).unwrap();
    index.set(0, Some(&put(b"a chunk").await));
    let encoded = index.encode();
    let index = perigee_backups::digest_of(&encoded);
    repository.put(false, &index, encoded.into()).await.unwrap();
    put(b"nobody's").await;
    world.post(OF_DB, &[], json!({ "name": "one" })).await;
    let backups = Backups { control: world.control.clone(), repository: repository.clone() };
    let order = world.told_to_operate().await;
    assert_eq!(backups.sweep().await.unwrap(), None, "one is being made");
    world.says(&order, world.stored(&index)).await;
    assert_eq!(backups.sweep().await.unwrap().unwrap().files, 0, "all of it is young");
    for file in walk(folder.path()) {
        let old = std::time::SystemTime::now() - Duration::from_secs(3600);
        std::fs::File::open(file).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(backups.sweep().await.unwrap().unwrap().files, 1, "what no index names");

    let verify = async |world: &World| {
        world.post("/api/v1/backups/one/verify", &[], json!({})).await;
        backups.verify(&world.control.next_verification().await).await;
        world.get("/api/v1/backups/one").await.json()
    };
    let fine = verify(&world).await;
    assert!(fine["verified_at"].is_string() && fine["status"] == "ready", "{fine}");
    let chunk = walk(folder.path())
        .into_iter()
        .find(|file| std::fs::read(file).unwrap().windows(7).any(|window| window == b"a chunk"));
    std::fs::write(chunk.unwrap(), b"something else").unwrap();
    let damaged = verify(&world).await;
    assert_eq!(damaged["status"], "damaged", "{damaged}");
    assert!(damaged["fault"].as_str().unwrap().contains("1 of 1 chunks"), "{damaged}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(walk(&path)),
            path if path.components().any(|part| part.as_os_str() == "plain") => found.push(path),
            _ => {}
        }
    }
    found
}
