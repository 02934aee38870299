//! Waiting for tasks: one line on a terminal's standard error, nothing elsewhere.
//!
//! Each look is a long poll of a second, so the end is seen at once and the note is fresh. Ctrl-C
//! leaves the task alone and says how to come back to it.

use crate::cell::plain;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use indicatif::{ProgressBar, ProgressStyle};
use perigee_api::TaskView;
use perigee_client::ClientError;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

/// One look.
const LOOK: Duration = Duration::from_secs(1);
/// Between looks at a server that does not hold them.
const PAUSE: Duration = Duration::from_millis(100);
/// A control plane that restarts is back by then.
const AWAY_MAX: Duration = Duration::from_secs(10);

/// A line that lives while something is waited for.
#[derive(Debug)]
pub struct Line(Option<ProgressBar>);

impl Line {
    /// Begins; draws only where there is a terminal.
    pub fn begin(session: &Session, what: &str) -> Self {
        if !session.out.drawing {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(Some(bar))
    }
    /// Says something new.
    pub fn say(&self, text: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(plain(text));
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The task once it is final, whatever its end.
pub async fn ended(session: &Session, task: TaskView, what: &str) -> Result<TaskView, Failure> {
    let line = Line::begin(session, what);
    ended_on(session, task, what, &line).await
}

/// The same, or a failure after `limit`.
pub async fn ended_within(
    session: &Session,
    task: TaskView,
    what: &str,
    limit: Option<Duration>,
) -> Result<TaskView, Failure> {
    let id = task.id.clone();
    let Some(limit) = limit else { return ended(session, task, what).await };
    timeout(limit, ended(session, task, what)).await.unwrap_or_else(|_| {
        Err(Failure::new(Exit::TIMEOUT, format!("The task {id} did not end within {} s", limit.as_secs()))
            .hint(format!("perigee task wait {id}")))
    })
}

/// The task, successful.
pub async fn succeeded(session: &Session, task: TaskView, what: &str) -> Result<TaskView, Failure> {
    let task = ended(session, task, what).await?;
    if task.state == "succeeded" { Ok(task) } else { Err(Failure::task(&task)) }
}

/// The same, on a line that others use too.
pub async fn succeeded_on(session: &Session, task: TaskView, line: &Line) -> Result<TaskView, Failure> {
    let task = ended_on(session, task, "", line).await?;
    if task.state == "succeeded" { Ok(task) } else { Err(Failure::task(&task)) }
}

async fn ended_on(session: &Session, task: TaskView, what: &str, line: &Line) -> Result<TaskView, Failure> {
    let id = task.id.clone();
    tokio::select! {
        ended = follow(session, task, what, line) => ended,
        () = interrupted() => Err(Failure::new(Exit::INTERRUPTED, "Interrupted; the task goes on")
            .hint(format!("perigee task wait {id}"))
            .hint(format!("perigee task cancel {id}"))),
    }
}

async fn follow(session: &Session, mut task: TaskView, what: &str, line: &Line) -> Result<TaskView, Failure> {
    let client = session.client()?;
    let mut away_since: Option<Instant> = None;
    while !task.is_final() {
        if !what.is_empty() {
            line.say(&told(&task, what));
        }
        let asked = Instant::now();
        match client.task(&task.id, Some(LOOK)).await {
            Ok(seen) => {
                away_since = None;
                task = seen;
            }
            Err(ClientError::Unreachable { .. }) if away_since.get_or_insert(asked).elapsed() < AWAY_MAX => {}
            Err(error) => return Err(Failure::from(error).hint(format!("perigee task wait {}", task.id))),
        }
        if !task.is_final() && asked.elapsed() < PAUSE {
            sleep(PAUSE).await;
        }
    }
    Ok(task)
}

fn told(task: &TaskView, what: &str) -> String {
    let note = task.note.as_deref().unwrap_or(&task.state);
    match task.progress_percent {
        Some(percent) => format!("{what}: {note} {percent}%"),
        None => format!("{what}: {note}"),
    }
}

/// Ctrl-C or SIGTERM. Without signals to hear, never.
pub async fn interrupted() {
    let (Ok(mut ctrl_c), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! { _ = ctrl_c.recv() => {}, _ = term.recv() => {} }
}
