//! A machine without our agent reports with curl, and signs with openssl.

use super::Instance;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const RUN: &str = "0192f0c1-2a3b-7c4d-8e5f-60718293a4b5";

/// A host's agent of another make.
struct Agent<'a> {
    instance: &'a Instance,
    token: String,
    key: Option<PathBuf>,
}

impl<'a> Agent<'a> {
    fn of(instance: &'a Instance, host: &str) -> Self {
        let file = instance.path().join(format!("{host}.token"));
        let file = file.to_str().unwrap();
        instance.perigee(&["host", "token", "--ingest", host, "--new", "--file", file]).fine();
        let token = std::fs::read_to_string(file).unwrap().trim().to_owned();
        Self { instance, token, key: None }
    }

    fn curl(&self, path: &str) -> Command {
        let endpoints = std::fs::read_to_string(self.instance.path().join("endpoints.json")).unwrap();
        let endpoints: Value = serde_json::from_str(&endpoints).unwrap();
        let mut curl = Command::new("curl");
        curl.args(["-s", "-H", "content-type: application/json", "-w", "\n%{http_code}"]);
        curl.args(["-H", &format!("authorization: Bearer {}", self.token)]);
        curl.arg(format!("{}{path}", endpoints["http"].as_str().unwrap()));
        curl
    }

    /// Posts and gives the status, with the code of a refusal.
    fn post(&self, path: &str, body: &Value) -> (u16, String) {
        let text = body.to_string();
        let mut curl = self.curl(path);
        curl.args(["--data-binary", &text]);
        if let Some(key) = &self.key {
            let now = now();
            let signature = openssl(
                &["pkeyutl", "-sign", "-rawin", "-inkey", key.to_str().unwrap(), "-in"],
                &self.kept(&format!("POST {path}\n{now}\n{text}")),
            );
            curl.args(["-H", &format!("x-perigee-timestamp: {now}")]);
            curl.args(["-H", &format!("x-perigee-signature: {}", base64(&signature))]);
        }
        let output = curl.output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let (answer, status) = output.rsplit_once('\n').unwrap();
        let answer: Value = serde_json::from_str(answer).unwrap_or(Value::Null);
        (status.parse().unwrap(), answer["code"].as_str().unwrap_or_default().to_owned())
    }

    fn batch(&self, sequence: u64, value: f64) -> (u16, String) {
        self.post("/api/v1/metrics/batch", &batch(sequence, value))
    }

    /// Makes a key and registers it.
    fn register(&mut self) {
        let key = self.instance.path().join("nas.key.pem");
        let done = Command::new("openssl").args(["genpkey", "-algorithm", "ed25519", "-out"]).arg(&key).status();
        assert!(done.unwrap().success());
        let der = openssl(&["pkey", "-pubout", "-outform", "DER", "-in"], &key);
        // The key itself is the end of its DER.
        let public = base64(&der[der.len() - 32..]);
        let tags = json!({ "primary_interface_speed_mbps": 2500 });
        let body = json!({ "timestamp": now(), "hostname": "nas.lan", "tags": tags, "public_key": public });
        assert_eq!(self.post("/api/v1/hosts/register", &body).0, 200);
        self.key = Some(key);
    }

    fn kept(&self, text: &str) -> PathBuf {
        let path = self.instance.path().join("signed");
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn openssl(arguments: &[&str], file: &PathBuf) -> Vec<u8> {
    let output = Command::new("openssl").args(arguments).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn base64(bytes: &[u8]) -> String {
    let mut child = Command::new("base64").arg("-w0").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn now() -> String {
    let date = Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]).output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

fn batch(sequence: u64, value: f64) -> Value {
    let metrics = json!([{ "name": "nas_disk_celsius", "labels": { "disk": "sda" }, "value": value }]);
    json!({ "run_id": RUN, "sequence_id": sequence, "timestamp": now(), "metrics": metrics })
}

fn answer(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn real_another_agent_reports_over_http() {
    let instance = Instance::empty();
    instance.up();
    let mut nas = Agent::of(&instance, "nas");
    let unsigned = Agent { instance: &instance, token: nas.token.clone(), key: None };
    nas.register();
    assert_eq!(unsigned.batch(1, 40.0), answer(401, "PRG-2010"));
    assert_eq!(nas.batch(1, 41.5), answer(200, ""));
    // What was acknowledged, and that it was, outlive a kill.
    instance.kill("perigeed");
    instance.up();
    assert_eq!(nas.batch(1, 42.0), answer(409, "PRG-4008"));
    let told = instance.json(&["metrics", "query", "nas_disk_celsius{host=\"nas\",disk=\"sda\"}"]);
    assert_eq!((&told[0]["value"], told.as_array().unwrap().len()), (&json!("41.5"), 1), "{told}");
    assert_eq!(nas.batch(2, 43.0), answer(200, ""));
    let events = json!({ "run_id": RUN, "sequence_id": 1, "timestamp": now(),
        "events": [{ "kind": "disk.failed", "text": "sda" }] });
    assert_eq!(nas.post("/api/v1/events", &events), answer(200, ""));
    assert_eq!(nas.post("/api/v1/events", &events), answer(409, "PRG-4008"));
    let host = instance.json(&["host", "get", "nas"]);
    assert_eq!(host["tags"]["primary_interface_speed_mbps"], "2500");

    let other = Agent::of(&instance, "printer");
    let mut flood = nas.curl("/api/v1/metrics/batch?n=[1-300]");
    let flood = flood.args(["--data-binary", "{}"]).output().unwrap();
    let flood = String::from_utf8(flood.stdout).unwrap();
    assert!(flood.contains("\n429"), "{flood}");
    assert_eq!(other.batch(1, 30.0), answer(200, ""), "another host is not held up");

    instance.perigee(&["host", "delete", "printer"]).fine();
    assert_eq!(other.batch(2, 31.0), answer(403, "PRG-2006"));
    let reset = instance.json(&["host", "token", "--ingest", "nas", "--reset"]);
    assert_eq!(nas.batch(3, 44.0), answer(401, "PRG-2008"));
    let fresh = Agent { instance: &instance, token: reset["token"].as_str().unwrap().to_owned(), key: None };
    instance.until("room in the bucket", || (fresh.batch(3, 44.0).0 == 200).then_some(()));
}
