//! What callers of the API do, each with its times.

use crate::bare::Run;
use crate::instance::Door;
use anyhow::{Context as _, Result, bail, ensure};
use futures::{SinkExt as _, StreamExt as _};
use perigee_api::stream::{ExecEvent, ExecOpen, STDOUT};
use perigee_api::{ExecuteRequest, SandboxRequest, SandboxView, TaskView};
use perigee_client::{Answer, Client, ExecMessage};
use perigee_clock::Clock;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// For one guest to run or to be gone.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Work that is done, or an error: a benchmark waits long enough.
pub fn done<T>(answer: Answer<T>) -> Result<T> {
    match answer {
        Answer::Done(value) => Ok(value),
        Answer::Accepted(task) => bail!("{} is still {} after {PATIENCE:?}", task.kind, task.state),
    }
}

/// The task, where nobody waits for its end.
pub fn task<T>(answer: Answer<T>) -> Result<TaskView> {
    match answer {
        Answer::Accepted(task) => Ok(*task),
        Answer::Done(_) => bail!("it was done at once"),
    }
}

pub async fn create(client: &Client, name: &str) -> Result<SandboxView> {
    let request = SandboxRequest { name: Some(name.to_owned()), ..SandboxRequest::default() };
    done(client.create_sandbox(&request, Some(PATIENCE)).await?)
}

pub async fn delete(client: &Client, sandbox: &str) -> Result<()> {
    done(client.delete_sandbox(sandbox, Some(PATIENCE)).await?)
}

pub fn request(argv: &[&str]) -> ExecuteRequest {
    ExecuteRequest { argv: argv.iter().map(|word| (*word).to_owned()).collect(), ..ExecuteRequest::default() }
}

/// One command over a connection of its own: TCP, handshake, command.
pub async fn exec(client: &Client, sandbox: &str, argv: &[&str], clock: &Clock) -> Result<Run> {
    let began = clock.instant();
    let open = ExecOpen { request: request(argv), stdin: false };
    let (_sender, mut receiver) = client.exec(sandbox, &open).await?;
    let mut first_output = None;
    loop {
        match receiver.next().await? {
            ExecMessage::Started(_) => {}
            ExecMessage::Stdout(_) | ExecMessage::Stderr(_) => {
                _ = first_output.get_or_insert_with(|| began.elapsed());
            }
            ExecMessage::Ended(view) => {
                ensure!(view.exit_code == Some(0), "{argv:?} ended as {}", view.state);
                return Ok(Run { first_output, ended: began.elapsed() });
            }
        }
    }
}

/// One command as a task of the queue, waited for.
pub async fn queued(client: &Client, sandbox: &str, argv: &[&str], clock: &Clock) -> Result<Duration> {
    let began = clock.instant();
    let view = done(client.execute(sandbox, &request(argv), Some(PATIENCE)).await?)?;
    let took = began.elapsed();
    ensure!(view.exit_code == Some(0), "{argv:?} ended as {}", view.state);
    Ok(took)
}

/// A connection whose handshake is done; the command is still to be said.
pub struct Opened(WebSocketStream<TcpStream>);

impl Opened {
    pub async fn connect(door: &Door, sandbox: &str) -> Result<Self> {
        let place = door.url.strip_prefix("http://").context("an http address")?;
        let uri = format!("ws://{place}/api/v1/sandboxes/{sandbox}/exec").parse()?;
        let request = ClientRequestBuilder::new(uri).with_header("authorization", format!("Bearer {}", door.token));
        let socket = TcpStream::connect(place).await?;
        socket.set_nodelay(true)?;
        Ok(Self(client_async(request, socket).await?.0))
    }

    /// From saying the command to hearing its end.
    pub async fn run(mut self, argv: &[&str], clock: &Clock) -> Result<Run> {
        let open = serde_json::to_string(&ExecOpen { request: request(argv), stdin: false })?;
        let began = clock.instant();
        self.0.send(Message::text(open)).await?;
        let mut first_output = None;
        while let Some(message) = self.0.next().await {
            match message? {
                Message::Binary(bytes) if bytes.first() == Some(&STDOUT) => {
                    _ = first_output.get_or_insert_with(|| began.elapsed());
                }
                Message::Text(text) => match serde_json::from_str(text.as_str())? {
                    ExecEvent::Started { .. } => {}
                    ExecEvent::Ended(view) => {
                        ensure!(view.exit_code == Some(0), "{argv:?} ended as {}", view.state);
                        return Ok(Run { first_output, ended: began.elapsed() });
                    }
                    ExecEvent::Problem(problem) => bail!("{}: {}", problem.code, problem.detail),
                },
                _ => {}
            }
        }
        bail!("the stream ended before the command did")
    }
}
