//! QMP, the protocol a VMM is told things by: one JSON object a line (qemu/docs/interop/qmp-spec).
//!
//! Owns: greeting, capabilities, one command after the other. Refuses: a line longer than
//! [`LINE_BYTES_MAX`], and to wait beyond the deadline. Events are read past: a dead VMM is seen
//! through its pidfd, and nothing else matters here.

use crate::sockets::connect;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

/// Longest line read.
const LINE_BYTES_MAX: u64 = 256 << 10;

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket: nobody listens, or the VMM ended.
    #[error("the VMM does not listen: {0}")]
    Io(#[from] io::Error),
    /// No answer before the deadline.
    #[error("the VMM did not answer in time")]
    TimedOut,
    /// Not QMP.
    #[error("the VMM did not speak QMP")]
    Protocol,
    /// The VMM said no.
    #[error("the VMM refused: {0}")]
    Refused(String),
}

/// One connection; a VMM has room for one at a time, others wait.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
    deadline: Instant,
    commands: u64,
}

#[derive(Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    desc: String,
}

impl Qmp {
    /// Connects, and waits for the greeting: it comes when the machine is made.
    pub async fn connect(path: &Path, deadline: Instant) -> Result<Self, QmpError> {
        let connecting = timeout_at(deadline, connect(path));
        let stream = connecting.await.map_err(|_| QmpError::TimedOut)??;
        let mut qmp = Self { stream: BufReader::new(stream), deadline, commands: 0 };
        qmp.read().await?.greeting.ok_or(QmpError::Protocol)?;
        qmp.execute("qmp_capabilities", None).await?;
        Ok(qmp)
    }

    /// Runs one command and returns what it returned.
    pub async fn execute(&mut self, command: &str, arguments: Option<Value>) -> Result<Value, QmpError> {
        self.commands += 1;
        let mut request = json!({ "execute": command, "id": self.commands });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        let writing = async {
            self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).await?;
            self.stream.get_mut().flush().await
        };
        timeout_at(self.deadline, writing).await.map_err(|_| QmpError::TimedOut)??;
        loop {
            let message = self.read().await?;
            if message.id != Some(self.commands) {
                continue;
            }
            return match (message.returned, message.error) {
                (Some(value), _) => Ok(value),
                (None, Some(failure)) => Err(QmpError::Refused(failure.desc)),
                (None, None) => Err(QmpError::Protocol),
            };
        }
    }

    async fn read(&mut self) -> Result<Message, QmpError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(LINE_BYTES_MAX);
        let reading = bounded.read_until(b'\n', &mut line);
        timeout_at(self.deadline, reading).await.map_err(|_| QmpError::TimedOut)??;
        if line.last() != Some(&b'\n') {
            let ended = line.len() < LINE_BYTES_MAX as usize;
            return Err(if ended { io::Error::from(io::ErrorKind::UnexpectedEof).into() } else { QmpError::Protocol });
        }
        serde_json::from_slice(&line).map_err(|_| QmpError::Protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::UnixListener;

    /// A VMM that says `script` to whoever connects, and what came of connecting and stopping.
    async fn against(script: &'static str, within: Duration) -> Result<Value, QmpError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q");
        let listener = UnixListener::bind(&path).unwrap();
        let vmm = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            _ = stream.write_all(script.as_bytes()).await;
            let mut heard = String::new();
            _ = stream.read_to_string(&mut heard).await;
        });
        let told = async {
            let mut qmp = Qmp::connect(&path, Instant::now() + within).await?;
            qmp.execute("stop", None).await
        };
        let told = told.await;
        vmm.abort();
        told
    }

    const GREETING: &str = "{\"QMP\": {\"version\": {}}}\r\n";
    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn events_between_answers_are_read_past() {
        const SCRIPT: &str =
            "{\"QMP\": {}}\n{\"return\": {}, \"id\": 1}\n{\"event\": \"STOP\"}\n{\"return\": 7, \"id\": 2}\n";
        assert_eq!(against(SCRIPT, SOON).await.unwrap(), json!(7));
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_its_words() {
        const SCRIPT: &str = "{\"QMP\": {}}\n{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 1}\n";
        assert!(matches!(against(SCRIPT, SOON).await, Err(QmpError::Refused(text)) if text == "no"));
    }

    #[tokio::test]
    async fn silence_and_garbage_end() {
        assert!(matches!(against(GREETING, SOON).await, Err(QmpError::TimedOut)));
        assert!(matches!(against("", SOON).await, Err(QmpError::TimedOut)));
        assert!(matches!(against("hello\n", SOON).await, Err(QmpError::Protocol)));
        assert!(matches!(against("{}\n", SOON).await, Err(QmpError::Protocol)));
    }

    #[tokio::test]
    async fn a_line_without_end_is_not_read_for_ever() {
        let flood: &'static str = Box::leak("x".repeat(LINE_BYTES_MAX as usize + 1).into_boxed_str());
        assert!(matches!(against(flood, Duration::from_secs(5)).await, Err(QmpError::Protocol)));
    }
}
