//! N11: from enqueue to start, as the tasks' own times tell.

use crate::api;
use crate::lab::Lab;
use crate::machine;
use crate::numbers::{Sample, millis};
use crate::report::{Line, Report};
use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use perigee_api::{SandboxRequest, TaskView};
use perigee_client::Client;
use perigee_model::Timestamp;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

const EXECUTES: usize = 200;
/// 20 in a second.
const EVERY: Duration = Duration::from_millis(50);
const CREATES: usize = 20;
/// Between looks at a task that has not started.
const LOOK: Duration = Duration::from_millis(20);

pub async fn run(lab: &Lab, report: &mut Report) -> Result<()> {
    let disk = machine::durable_writes(lab.instance.path(), lab.runs(EXECUTES), &lab.clock)?;
    let sandbox = lab.sandbox("bench-queue").await?;
    let executes = executes(lab, &sandbox).await;
    api::delete(&lab.client, &sandbox).await?;
    let line = Line::new("N11", "enqueue → start: `execute` tasks, 20 in a second", &executes?);
    report.line(line.p99_at_most(20.0).beside("synced write", &disk));
    let creates = creates(lab).await?;
    let line = Line::new("N11", format!("enqueue → start: {CREATES} creates at once"), &creates);
    report.line(line.p99_at_most(20.0).beside("synced write", &disk));
    report.line(Line::new("N11", "the disk alone: 4 KiB appended and synced", &disk));
    Ok(())
}

async fn executes(lab: &Lab, sandbox: &str) -> Result<Sample> {
    let (mut at, mut asked) = (Instant::now(), Vec::new());
    for _ in 0..lab.runs(EXECUTES) {
        sleep_until(at).await;
        at += EVERY;
        let (client, sandbox) = (lab.client.clone(), sandbox.to_owned());
        asked.push(tokio::spawn(async move {
            let answer = client.execute(&sandbox, &api::request(&["true"]), None).await?;
            anyhow::Ok(api::task(answer)?.id)
        }));
    }
    let mut sample = Sample::default();
    for task in asked {
        let task = lab.client.task(&task.await??, Some(api::PATIENCE)).await?;
        ensure!(task.state == "succeeded", "a task is {}", task.state);
        sample.push_millis(waited(&task)?);
    }
    Ok(sample)
}

async fn creates(lab: &Lab) -> Result<Sample> {
    let names: Vec<String> = (0..lab.runs(CREATES)).map(|n| format!("bench-queue-{n}")).collect();
    let started = join_all(names.iter().map(|name| started(&lab.client, name))).await;
    let gone = join_all(names.iter().map(|name| api::delete(&lab.client, name))).await;
    let sample = started.into_iter().collect::<Result<Vec<_>>>()?.into_iter().collect();
    gone.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(sample)
}

async fn started(client: &Client, name: &str) -> Result<f64> {
    let request = SandboxRequest { name: Some(name.to_owned()), ..SandboxRequest::default() };
    let id = api::task(client.create_sandbox(&request, None).await?)?.id;
    let deadline = Instant::now() + api::PATIENCE;
    loop {
        let task = client.task(&id, None).await?;
        if task.started_at.is_some() {
            return waited(&task);
        }
        ensure!(Instant::now() < deadline, "the task of {name} did not start: {:?}", task.note);
        sleep(LOOK).await;
    }
}

fn waited(task: &TaskView) -> Result<f64> {
    let started = task.started_at.as_deref().and_then(Timestamp::parse).context("the task never started")?;
    let created = Timestamp::parse(&task.created_at).context("the task has no beginning")?;
    Ok(millis(started.since(created)))
}
