//! Networks: made, found by VMs, refused, deleted, taken back.

use crate::world::World;
use http::Method;
use perigee_agent_api::{DesiredNetwork, FromAgent, FromServer, NetworkReport, NetworkStage};
use perigee_model::guest::Problem;
use perigee_model::{Code, Phase};
use serde_json::{Value, json};

impl World {
    async fn told_of_network(&mut self) -> DesiredNetwork {
        loop {
            if let FromServer::Network(order) = self.told().await {
                return order;
            }
        }
    }
    async fn says_of_network(&self, order: &DesiredNetwork, stage: NetworkStage) {
        let report = NetworkReport { network: order.network, generation: order.generation, stage };
        self.control.host_message(self.host, FromAgent::Network(report)).await.unwrap();
    }
    async fn network(&self, name: &str) -> Value {
        self.get(&format!("/api/v1/networks/{name}")).await.json()
    }
    async fn makes_network(&mut self, body: Value) -> DesiredNetwork {
        let asked = self.post("/api/v1/networks", &[], body).await;
        assert_eq!((asked.status.as_u16(), &asked.json()["kind"]), (202, &json!("network:create")), "{}", asked.json());
        let order = self.told_of_network().await;
        let subnet = order.subnet.or("172.16.3.0/24".parse().ok());
        self.says_of_network(&order, NetworkStage::Made { subnet, bridge: Some("virbr4".into()) }).await;
        order
    }
    async fn deletes(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let answer = self.send(Method::DELETE, path, &self.admin, headers, b"").await;
        (answer.status.as_u16(), if answer.status.is_success() { String::new() } else { answer.code() })
    }
}

#[tokio::test]
async fn a_network_is_made_used_and_deleted() {
    let mut world = World::new().await;
    let body = json!({ "name": "lab", "description": "for tests" });
    let order = world.makes_network(body).await;
    assert_eq!((order.name.as_str(), order.subnet, order.bridge.as_deref()), ("lab", None, None));
    let shown = world.network("lab").await;
    let expected = json!(["ready", "nat", "172.16.3.0/24", "virbr4", "bench", "for tests"]);
    let fields = ["status", "kind", "subnet", "bridge", "host", "description"].map(|field| shown[field].clone());
    assert_eq!(json!(fields), expected);
    assert_eq!(world.get("/api/v1/networks?host=bench").await.json()["items"][0]["name"], "lab");

    // A VM on it goes where it is, and keeps it there.
    let vm = json!({ "name": "db", "disk_bytes": 1 << 30, "network": "lab" });
    assert_eq!(world.post("/api/v1/vms", &[], vm).await.status, 202);
    assert_eq!(world.network("lab").await["vms"], json!(["db"]), "before it is placed, too");
    world.obey(Phase::Running, 1).await;
    assert_eq!(world.deletes("/api/v1/networks/lab", &[]).await, (409, "PRG-4027".into()));
    assert_eq!(world.deletes("/api/v1/hosts/bench", &[]).await, (409, "PRG-4006".into()));
    assert_eq!(world.deletes("/api/v1/vms/db", &[]).await.0, 202);
    world.obey(Phase::Gone, 2).await;

    assert_eq!(world.deletes("/api/v1/networks/lab", &[("if-match", "\"99.ready0\"")]).await.1, "PRG-1012");
    let tag = world.get("/api/v1/networks/lab").await.header("etag").to_owned();
    assert_eq!(world.deletes("/api/v1/networks/lab", &[("if-match", &tag)]).await.0, 202);
    assert_eq!(world.deletes("/api/v1/networks/lab", &[]).await.0, 202, "the first one's task");
    assert_eq!(world.network("lab").await["status"], "deleting");
    let order = world.told_of_network().await;
    assert!(order.absent && order.subnet.is_some());
    let vm = world.post("/api/v1/vms", &[], json!({ "name": "late", "network": "lab" })).await;
    assert_eq!(vm.code(), "PRG-4026", "{}", vm.json());
    // Somebody on its host uses it, of whom nobody here knows: it stays.
    world.says_of_network(&order, NetworkStage::Failed(Problem::new(Code::NetworkInUse, "the VM x is on it"))).await;
    assert_eq!(world.network("lab").await["status"], "ready");
    assert_eq!(world.deletes("/api/v1/networks/lab", &[]).await.0, 202);
    let order = world.told_of_network().await;
    world.control.resync_host(world.host);
    assert_eq!(world.told_of_network().await, order, "a lost nudge is told again");
    world.says_of_network(&order, NetworkStage::Gone).await;
    assert_eq!(world.get("/api/v1/networks/lab").await.code(), "PRG-3026");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_what_fails_was_never_there() {
    let mut world = World::new().await;
    world.makes_network(json!({ "name": "lab", "subnet": "10.20.0.0/24" })).await;
    for (body, code) in [
        (json!({ "name": "lab" }), "PRG-4001"),
        (json!({ "name": "No Name" }), "PRG-1002"),
        (json!({ "name": "x", "kind": "routed" }), "PRG-1002"),
        (json!({ "name": "x", "subnet": "10.20.0.1/24" }), "PRG-1002"),
        (json!({ "name": "x", "subnet": "8.8.8.0/24" }), "PRG-1002"),
        (json!({ "name": "x", "kind": "bridged" }), "PRG-1002"),
        (json!({ "name": "x", "bridge": "br0" }), "PRG-1002"),
        (json!({ "name": "x", "description": "a\u{7}b" }), "PRG-1002"),
        (json!({ "name": "x", "host": "nowhere" }), "PRG-3001"),
    ] {
        assert_eq!(world.post("/api/v1/networks", &[], body.clone()).await.code(), code, "{body}");
    }
    // Another tenant's network of that name would be the same one on the host.
    let other = json!({ "name": "lab" }).to_string();
    let taken = world.send(Method::POST, "/api/v1/networks", &world.stranger, &[], other.as_bytes()).await;
    assert!(["PRG-4001", "PRG-2003"].contains(&taken.code().as_str()), "{}", taken.json());

    // One that its host could not make was never there; the one who waits hears why.
    let waiting = world.post_waiting("/api/v1/networks", &json!({ "name": "x", "subnet": "10.20.0.0/16" }));
    let order = world.told_of_network().await;
    let vm = world.post("/api/v1/vms", &[], json!({ "name": "early", "network": "x" })).await;
    assert_eq!(vm.code(), "PRG-4026");
    let text = "10.20.0.0/16 overlaps 10.20.0.0/24, of the network lab";
    world.says_of_network(&order, NetworkStage::Failed(Problem::new(Code::SubnetTaken, text))).await;
    let answer = waiting.await.unwrap();
    assert_eq!((answer.code().as_str(), &answer.json()["detail"]), ("PRG-4029", &json!(text)));
    assert_eq!(world.get("/api/v1/networks/x").await.code(), "PRG-3026");

    // One whose making was cancelled is removed, whatever its host had done.
    let task = world.post("/api/v1/networks", &[], json!({ "name": "late" })).await.json();
    world.told_of_network().await;
    let cancel = format!("/api/v1/tasks/{}/cancel", task["id"].as_str().unwrap());
    assert_eq!(world.post(&cancel, &[], json!({})).await.json()["state"], "cancelled");
    let order = world.told_of_network().await;
    assert!(order.absent);
    world.control.resync_host(world.host);
    assert_eq!(world.told_of_network().await, order, "until it is heard");
    world.says_of_network(&order, NetworkStage::Gone).await;
    assert_eq!(world.get("/api/v1/networks/late").await.code(), "PRG-3026");
}
