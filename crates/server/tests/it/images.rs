//! Images that were made elsewhere: uploads, addresses, the catalogue.

use crate::world::{Answer, World};
use http::Method;
use perigee_blobs::digest_bytes;
use perigee_control::Control;
use perigee_model::{ImageState, PartRole, TaskState};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn disk() -> Vec<u8> {
    (0u32..3 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3] | 1).collect()
}

/// Answers each call with `answer` and closes.
async fn far(answer: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                // Whoever has seen enough may hang up.
                drop(socket.write_all(&answer).await);
            });
        }
    });
    format!("http://{at}/disk.raw")
}

fn whole(body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()
}

/// Asks for an image and waits for what becomes of it.
async fn asked(world: &World, request: Value) -> Answer {
    world.post("/api/v1/images", &[("prefer", "wait=30")], request).await
}

async fn put(world: &World, sha256: &str, offset: usize, bytes: &[u8]) -> Answer {
    let media = [("content-type", "application/octet-stream")];
    let path = format!("/api/v1/uploads/{sha256}?offset={offset}");
    world.send(Method::PUT, &path, &world.admin, &media, bytes).await
}

/// Every file among the blobs, whole or not.
fn left(world: &World) -> usize {
    let of = |folder: &str| std::fs::read_dir(world.dir.path().join("blobs").join(folder)).unwrap().count();
    ["sha256", "partial", "temp"].into_iter().map(of).sum()
}

#[tokio::test]
async fn an_upload_that_broke_off_goes_on_and_becomes_an_image() {
    let world = World::new().await;
    world.import();
    let (disk, sum) = (disk(), digest_bytes(&disk()).to_string());
    let path = format!("/api/v1/uploads/{sum}");
    assert_eq!(world.get(&path).await.json(), json!({ "sha256": sum, "bytes": 0 }));
    assert_eq!(put(&world, &sum, 0, &disk[..1_500_000]).await.json()["bytes"], 1_500_000);
    let elsewhere = put(&world, &sum, 7, &disk[7..]).await;
    assert_eq!((elsewhere.status.as_u16(), elsewhere.code().as_str()), (422, "PRG-1002"));
    assert!(elsewhere.json()["detail"].as_str().unwrap().contains("1500000 bytes are here"), "{}", elsewhere.json());
    let early = asked(&world, json!({ "name": "early", "upload": sum })).await;
    assert_eq!(early.code(), "PRG-7011", "{}", early.json());
    assert_eq!(world.get(&path).await.json()["bytes"], 1_500_000, "what came stays");
    assert_eq!(put(&world, &sum, 1_500_000, &disk[1_500_000..]).await.status, 200);
    let made = asked(&world, json!({ "name": "own", "upload": sum, "format": "raw" })).await;
    assert_eq!(made.status, 201, "{}", made.json());
    let part = json!([{ "role": "disk", "digest": sum, "bytes": disk.len() }]);
    assert_eq!((&made.json()["parts"], &made.json()["state"]), (&part, &json!("ready")));
    assert_eq!(std::fs::read(world.blobs.path(&digest_bytes(&disk))).unwrap(), disk);
    assert_eq!(left(&world), 1);
    // Deleted, its bytes go too.
    assert_eq!(world.send(Method::DELETE, "/api/v1/images/own", &world.admin, &[], b"").await.status, 204);
    assert_eq!(left(&world), 0);
}

#[tokio::test]
async fn an_upload_can_be_thrown_away() {
    let world = World::new().await;
    let (disk, sum) = (disk(), digest_bytes(&disk()).to_string());
    put(&world, &sum, 0, &disk[..1000]).await;
    assert_eq!(left(&world), 1);
    let path = format!("/api/v1/uploads/{sum}");
    for _ in 0..2 {
        assert_eq!(world.send(Method::DELETE, &path, &world.admin, &[], b"").await.status, 204);
        assert_eq!(left(&world), 0);
    }
    for bad in ["x", "..", &"G".repeat(64), &"a".repeat(63)] {
        assert_eq!(world.get(&format!("/api/v1/uploads/{bad}")).await.code(), "PRG-1002", "{bad}");
    }
    let huge = [("content-length", "999999999999999"), ("content-type", "application/octet-stream")];
    assert_eq!(world.send(Method::PUT, &path, &world.admin, &huge, b"x").await.code(), "PRG-1004");
}

#[tokio::test]
async fn a_disk_is_fetched_from_an_address() {
    let world = World::new().await;
    world.import();
    let (disk, sum) = (disk(), digest_bytes(&disk()).to_string());
    let at = far(whole(&disk)).await;
    let made = asked(&world, json!({ "name": "far", "url": at, "checksum": sum, "arch": "aarch64" })).await;
    assert_eq!(made.status, 201, "{}", made.json());
    assert_eq!((&made.json()["arch"], &made.json()["bytes"]), (&json!("aarch64"), &json!(disk.len())));
    let event = world.get("/api/v1/events").await.json();
    let verbs: Vec<_> = event["items"].as_array().unwrap().iter().map(|e| e["verb"].as_str().unwrap()).collect();
    assert!(verbs.contains(&"image.import"), "{verbs:?}");
    assert_eq!(left(&world), 1);
}

#[tokio::test]
async fn what_is_not_taken_says_why_and_leaves_nothing() {
    let world = World::new().await;
    world.import();
    let sum = digest_bytes(&disk()).to_string();
    let mut layer = disk();
    layer[..12].copy_from_slice(b"QFI\xfb\0\0\0\x03\0\0\0\x68");
    let layer_sum = digest_bytes(&layer).to_string();
    let (disk, layer, gone) =
        (far(whole(&disk())).await, far(whole(&layer)).await, far(b"HTTP/1.1 404 No\r\n\r\n".to_vec()).await);
    let cases = [
        (json!({ "url": disk }), "PRG-1002", "needs a checksum"),
        (json!({ "url": "file:///etc/shadow" }), "PRG-1002", "begins with https://"),
        (json!({ "url": "https://u:p@example.org/" }), "PRG-1002", "no user or password"),
        (json!({ "url": disk, "recipe": "base" }), "PRG-1002", "one of recipe, url, upload and catalogue"),
        (json!({ "url": disk, "checksum": sum, "include": ["vim"] }), "PRG-1002", "when an image is built"),
        (json!({ "recipe": "cake" }), "PRG-1002", "base and debian"),
        (json!({ "recipe": "base", "include": ["vim"] }), "PRG-1002", "base has no packages"),
        (json!({ "recipe": "debian", "include": ["-oDir=/"] }), "PRG-1002", "is no package"),
        (json!({}), "PRG-1002", "one of recipe, url, upload and catalogue"),
        (json!({ "url": disk, "checksum": "md5:00" }), "PRG-1002", "64 hex digits"),
        (json!({ "url": disk, "checksum": sum, "format": "vmdk" }), "PRG-1002", "raw, qcow2 or iso"),
        (json!({ "url": disk, "checksum": sum, "arch": "mips" }), "PRG-1002", "x86_64 or aarch64"),
        (json!({ "upload": "../x" }), "PRG-1002", "64 lower-case hex digits"),
        (json!({ "upload": "0".repeat(64) }), "PRG-7011", "send the bytes first"),
        (json!({ "catalogue": "nothing" }), "PRG-1002", "no such name"),
        (json!({ "url": disk, "checksum": "0".repeat(64) }), "PRG-7011", "its SHA-256 is"),
        (json!({ "url": disk, "checksum": sum, "format": "qcow2" }), "PRG-7011", "has no qcow2 header"),
        (json!({ "url": layer, "checksum": layer_sum }), "PRG-7011", "a layer above another file"),
        (json!({ "url": layer, "checksum": layer_sum, "format": "raw" }), "PRG-7011", "first bytes are a qcow2 header"),
        (json!({ "url": gone, "checksum": sum }), "PRG-7012", "answers 404"),
        (json!({ "url": "http://127.0.0.2/x", "checksum": sum }), "PRG-7011", "this machine itself"),
        (json!({ "url": "http://169.254.169.254/x", "checksum": sum }), "PRG-7011", "clouds keep their metadata"),
    ];
    for (mut request, code, words) in cases {
        request["name"] = json!("refused");
        let answer = asked(&world, request.clone()).await;
        assert_eq!(answer.code(), code, "{request}: {}", answer.json());
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{request}: {detail}");
        assert_eq!(left(&world), 0, "{request}");
    }
    // The name is free again for one that works.
    let made = asked(&world, json!({ "name": "refused", "url": disk, "checksum": sum })).await;
    assert_eq!(made.status, 201, "{}", made.json());
}

#[tokio::test]
async fn the_catalogue_is_edited_and_used() {
    let world = World::new().await;
    world.import();
    let names = |answer: &Answer| -> Vec<String> {
        let items = answer.json()["items"].as_array().unwrap().clone();
        items.iter().map(|e| e["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&world.get("/api/v1/catalogue").await), ["debian-12", "debian-13", "ubuntu-22.04"]);
    let (at, sum) = (far(whole(&disk())).await, digest_bytes(&disk()).to_string());
    let file = world.dir.path().join("catalogue.toml");
    let entry = format!("[own]\nurl = \"{at}\"\nchecksum = \"{sum}\"\nformat = \"raw\"\narch = \"x86_64\"\n");
    std::fs::write(&file, &entry).unwrap();
    assert_eq!(names(&world.get("/api/v1/catalogue").await), ["debian-12", "debian-13", "own", "ubuntu-22.04"]);
    let made = asked(&world, json!({ "name": "mine", "catalogue": "own" })).await;
    assert_eq!(made.status, 201, "{}", made.json());
    std::fs::write(&file, "[own\n").unwrap();
    let broken = world.get("/api/v1/catalogue").await;
    assert_eq!(broken.status, 422, "{}", broken.json());
}

/// The task of the only import, once it is in this state.
async fn task_in(control: &Control, state: TaskState) -> perigee_model::Task {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let tasks: Vec<_> = control.view().read().tasks.values().cloned().collect();
        if let Some(task) = tasks.iter().find(|t| t.kind.text() == "image:import" && t.state == state) {
            return task.as_ref().clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "{tasks:?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_import_can_be_cancelled_and_leaves_nothing() {
    let world = World::new().await;
    world.import();
    let body = disk();
    let cut = [format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len() + 1).as_bytes(), &body].concat();
    let at = slow(cut).await;
    let sum = digest_bytes(&body).to_string();
    let taken = world.post("/api/v1/images", &[], json!({ "name": "slow", "url": at, "checksum": sum })).await;
    assert_eq!(taken.status, 202);
    let task = task_in(&world.control, TaskState::Running).await;
    until(|| left(&world) == 1).await;
    let cancelled = world.post(&format!("/api/v1/tasks/{}/cancel", task.id), &[], json!({})).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.json());
    until(|| left(&world) == 0).await;
    assert_eq!(world.get("/api/v1/images/slow").await.json()["state"], "failed");
}

/// Sends these bytes and then nothing.
async fn slow(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            socket.write_all(&bytes).await.unwrap();
            // Held until whoever asked goes.
            while socket.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
        }
    });
    format!("http://{at}/disk.raw")
}

async fn until(is: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while !is() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_import_of_an_earlier_reign_begins_again() {
    let world = World::new().await;
    let (at, sum) = (far(whole(&disk())).await, digest_bytes(&disk()).to_string());
    world.post("/api/v1/images", &[], json!({ "name": "again", "url": at, "checksum": sum })).await;
    // Taken by a control plane that ends then.
    let order = world.control.next_import().await;
    task_in(&world.control, TaskState::Running).await;
    let next = Control::open(world.control.clock().clone(), world.store.clone(), world.control.instance().clone(), 2);
    let next = next.await.unwrap();
    next.resume_own_work().await.unwrap();
    let task = task_in(&next, TaskState::Pending).await;
    assert!(task.note.unwrap().contains("started again"));
    assert_eq!(next.next_import().await, order);
    let image = next.view().image(order.image).unwrap();
    assert_eq!((image.state, image.parts.len()), (ImageState::Building, 0));
    let part = perigee_model::Part { role: PartRole::Disk, digest: digest_bytes(b"x"), bytes: 1 };
    next.import_found(&order, &part).await.unwrap();
    assert!(next.needed_digests().contains(&part.digest), "before it is kept");
    next.import_kept(&order).await.unwrap();
    assert_eq!(next.view().image(order.image).unwrap().state, ImageState::Ready);
    assert_eq!(task_in(&next, TaskState::Succeeded).await.id, order.task);
}
