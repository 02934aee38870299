//! People at the hosts, who do by hand what must be done, most of all while a host is cut off.
//!
//! Owns: a seeded stream of acts by each host's own API, each by a user of its own so that the audit log
//! tells them apart. Refuses: asking the control plane.

use crate::draw::Draw;
use crate::host::Host;
use crate::ledger::{Act, Ledger};
use crate::machines::some_switch;
use crate::scene::Scene;
use perigee_model::{Name, Switch};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;

/// Bytes of a request or an answer that are under way.
const PIPE_BYTES: usize = 64 << 10;
/// Nobody stands at a host for longer than this.
const PATIENCE_MS: (u64, u64) = (2_000, 20_000);
/// Acts while the host is not cut off, of a hundred occasions.
const LINKED_PERCENT: u32 = 15;

/// Somebody at one host.
pub struct Hand {
    pub scene: Arc<Scene>,
    pub host: Arc<Host>,
    pub ledger: Arc<Ledger>,
    pub draw: Draw,
    /// Of the users who act here.
    pub first_uid: u32,
}

impl Hand {
    /// Does things until the time is over.
    pub async fn live(mut self, until: Instant, pause_most: u64) {
        let mut uid = self.first_uid;
        while Instant::now() < until {
            let pause = self.draw.millis(100, pause_most);
            tokio::time::sleep(pause).await;
            if self.host.line.is_cut() || self.draw.chance(LINKED_PERCENT) {
                uid += 1;
                self.act(uid).await;
            }
        }
    }

    async fn act(&mut self, uid: u32) {
        let Some((200, listed)) = self.ask(uid, "GET", "/api/v1/vms", Value::Null).await else { return };
        let vms: Vec<Value> = listed["items"].as_array().cloned().unwrap_or_default();
        let vm =
            self.draw.pick(&vms).and_then(|vm| Some((vm["id"].as_str()?.to_owned(), vm["name"].as_str()?.to_owned())));
        let made = format!("made-on-{}-{uid}", self.host.name);
        let (what, method, path, body) = match (self.draw.below(10), vm) {
            (0, _) => {
                let body = json!({ "name": made, "memory_bytes": 128 << 20, "restart": "never" });
                (format!("create {made}"), "POST", "/api/v1/vms".to_owned(), body)
            }
            (1, Some((id, name))) => {
                if let Ok(id) = id.parse() {
                    self.ledger.touched(id);
                }
                (format!("delete {name}"), "DELETE", format!("/api/v1/vms/{id}"), Value::Null)
            }
            // Two of them may want one name, and so may those who work at the control plane.
            (2, Some((id, name))) => {
                let body = match self.draw.below(3) {
                    0 => json!({ "name": format!("hand-{}", self.draw.below(3)) }),
                    1 => json!({ "labels": { "by": uid.to_string() }, "start_order": self.draw.below(4) }),
                    _ => json!({ "memory_bytes": (128 + 64 * self.draw.below(2)) << 20 }),
                };
                (format!("update {name}"), "PATCH", format!("/api/v1/vms/{id}"), body)
            }
            (_, Some((id, name))) => {
                let switch = some_switch(self.draw.below(6));
                let verb = switch.text().trim_start_matches("vm:").to_owned();
                let body = match switch {
                    Switch::Stop { grace_ms } | Switch::Restart { grace_ms } => json!({ "grace_ms": grace_ms }),
                    Switch::Start | Switch::Pause | Switch::Resume => Value::Null,
                };
                (format!("{verb} {name}"), "POST", format!("/api/v1/vms/{id}/{verb}"), body)
            }
            (_, None) => return,
        };
        let what = format!("{what} on {} by uid:{uid}", self.host.name);
        self.scene.story.tell(format!("by hand: {what}"));
        let answer = self.ask(uid, method, &path, body).await;
        let done = answer.as_ref().is_some_and(|(status, _)| (200..300).contains(status));
        if let Some(id) = answer.as_ref().and_then(|(_, vm)| vm["id"].as_str()?.parse().ok()) {
            let name = answer.as_ref().and_then(|(_, vm)| Name::parse(vm["name"].as_str()?).ok());
            name.into_iter().for_each(|name| self.scene.story.name_guest(id, name.as_str()));
        }
        let told = answer.map_or_else(|| "no answer".to_owned(), |(status, _)| status.to_string());
        self.scene.checks.deed(if self.host.line.is_cut() { "acts while cut off" } else { "acts on hosts" });
        self.scene.story.tell(format!("by hand: {what}: {told}"));
        self.ledger.acted(format!("uid:{uid}@{}", self.host.id), Act { what, done });
    }

    /// One request to the host's own API. `None`: no answer.
    async fn ask(&mut self, uid: u32, method: &str, path: &str, body: Value) -> Option<(u16, Value)> {
        let (mut ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let patience = self.draw.millis(PATIENCE_MS.0, PATIENCE_MS.1);
        let door = self.host.door()?;
        let asked = async move {
            door.send((theirs, uid)).await.ok()?;
            ours.write_all(request.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            ours.read_to_end(&mut answer).await.ok()?;
            read(&String::from_utf8_lossy(&answer))
        };
        tokio::time::timeout(patience, asked).await.ok()?
    }
}

/// Status and body of an answer.
fn read(answer: &str) -> Option<(u16, Value)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}
