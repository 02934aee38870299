//! N13: the API under 1,000 requests in a second, with 10,000 sandboxes recorded. The load tool has
//! one processor, perigeed another.
//!
//! The sandboxes wait for their host, whose agent is down. In the first part nobody works on the
//! queue, which is as quiet as if they all ran; in the second the queue has all of them to look at.

use crate::instance::Instance;
use crate::lab::Lab;
use crate::machine;
use crate::numbers::{Sample, millis};
use crate::open_loop::{self, Outcome, Shape};
use crate::pinned::{self, Server};
use crate::report::{Line, Report};
use crate::say;
use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use futures::stream::iter;
use http::Method;
use perigee_api::{SandboxPatch, SandboxRequest};
use perigee_client::{Client, ListQuery};
use std::sync::Arc;
use std::time::Duration;

const SANDBOXES: usize = 10_000;
const PER_SECOND: u32 = 1000;
const LASTS: usize = 20;
const CREATES_AT_ONCE: usize = 32;
/// So that pools, caches and branch predictors are what they will be.
const WARM_UP: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
enum Call {
    Live,
    Page,
    Patch,
}

/// What requests are made of.
#[derive(Clone, Default)]
struct Targets {
    pages: Arc<Vec<String>>,
    ids: Arc<Vec<String>>,
}

pub async fn run(lab: &mut Lab, report: &mut Report) -> Result<()> {
    lab.instance.down()?;
    let count = lab.runs(SANDBOXES);
    let lasts = Duration::from_secs(lab.runs(LASTS) as u64);
    let cpus = pinned::two()?;
    let server = Server::start(&lab.instance, cpus.0, &["--no-workers"])?;
    let began = lab.clock.instant();
    fill(&lab.instance.client()?, count).await?;
    let took = began.elapsed().as_secs_f64();
    report.note(
        "N13",
        format!("{count} sandboxes were created through the API in {took:.1} s, {CREATES_AT_ONCE} at once"),
    );
    let targets = targets(&lab.instance.client()?, count).await?;
    let bench = Bench { instance: &lab.instance, pid: server.pid(), cpu: cpus.1, targets: &targets };
    let floor = bench.measure(Call::Live, lasts / 2)?;
    tell(report, "GET /health/live, no store, no token: the floor", &floor, None);
    let page = bench.measure(Call::Page, lasts)?;
    tell(report, &format!("GET a page of 100 of {count}, all pages in turn"), &page, Some(&floor));
    let patch = bench.measure(Call::Patch, lasts)?;
    tell(report, "PATCH of a label, If-Match: *", &patch, Some(&floor));
    drop(server);

    let server = Server::start(&lab.instance, cpus.0, &[])?;
    let bench = Bench { pid: server.pid(), ..bench };
    let waiting = |what: &str| format!("{what}, {count} creates waiting in the queue");
    let page = bench.measure(Call::Page, lasts / 2)?;
    tell(report, &waiting("GET a page of 100"), &page, Some(&floor));
    let patch = bench.measure(Call::Patch, lasts / 2)?;
    tell(report, &waiting("PATCH of a label"), &patch, Some(&floor));
    Ok(())
}

async fn fill(client: &Client, count: usize) -> Result<()> {
    say::progress(&format!("creating {count} sandboxes"));
    let create = async |n: usize| {
        let request = SandboxRequest { name: Some(format!("bench-{n}")), ..SandboxRequest::default() };
        client.create_sandbox(&request, None).await.map(drop)
    };
    let all: Vec<_> = iter(0..count).map(create).buffer_unordered(CREATES_AT_ONCE).collect().await;
    all.into_iter().collect::<Result<_, _>>().context("creating sandboxes")
}

/// The path of every page, and every id.
async fn targets(client: &Client, count: usize) -> Result<Targets> {
    let (mut pages, mut ids, mut query) =
        (Vec::new(), Vec::new(), ListQuery { limit: Some(100), ..ListQuery::default() });
    loop {
        let after = query.page_token.as_deref().map(|token| format!("&page_token={token}")).unwrap_or_default();
        pages.push(format!("/api/v1/sandboxes?limit=100{after}"));
        let page = client.sandboxes(&query).await?;
        ids.extend(page.items.into_iter().map(|sandbox| sandbox.id));
        query.page_token = page.next_page_token;
        if query.page_token.is_none() {
            break;
        }
    }
    ensure!(ids.len() == count, "{} sandboxes are listed", ids.len());
    Ok(Targets { pages: Arc::new(pages), ids: Arc::new(ids) })
}

#[derive(Clone, Copy)]
struct Bench<'a> {
    instance: &'a Instance,
    /// perigeed's.
    pid: u32,
    cpu: usize,
    targets: &'a Targets,
}

struct Measured {
    outcome: Outcome,
    /// Share of its processor that perigeed used.
    busy: f64,
    lasts: Duration,
}

impl Bench<'_> {
    fn measure(&self, call: Call, lasts: Duration) -> Result<Measured> {
        say::progress(&format!("N13 {call:?}: {PER_SECOND} in a second for {lasts:?}"));
        let client = self.instance.client()?;
        let run = |lasts| {
            let (client, targets) = (client.clone(), self.targets.clone());
            let shape = Shape { per_second: PER_SECOND, lasts };
            open_loop::run(shape, move |number| one(client.clone(), targets.clone(), call, number))
        };
        tokio::task::block_in_place(|| {
            pinned::on(self.cpu, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(run(WARM_UP.min(lasts)));
                let before = machine::processor_time(self.pid)?;
                let outcome = runtime.block_on(run(lasts));
                let busy = machine::processor_time(self.pid)?.saturating_sub(before);
                Ok(Measured { outcome, busy: busy.as_secs_f64() / lasts.as_secs_f64(), lasts })
            })
        })
    }
}

async fn one(client: Client, targets: Targets, call: Call, number: u32) -> Result<()> {
    let number = number as usize;
    match call {
        Call::Live => client.live().await.map(drop)?,
        Call::Page => {
            let path = targets.pages.get(number % targets.pages.len()).context("no pages")?;
            let answer = client.raw(Method::GET, path, None).await?;
            ensure!(answer.status.is_success(), "{}", answer.status);
        }
        Call::Patch => {
            let id = targets.ids.get(number % targets.ids.len()).context("no sandboxes")?;
            let labels = [("bench".to_owned(), Some(number.to_string()))].into_iter().collect();
            client.patch_sandbox(id, "*", &SandboxPatch { labels, egress: None, egress6: None }, None).await?;
        }
    }
    Ok(())
}

fn tell(report: &mut Report, what: &str, measured: &Measured, floor: Option<&Measured>) {
    let Measured { outcome, busy, lasts } = measured;
    let errors = outcome.refused + outcome.unanswered;
    let remark = format!("{errors} errors; perigeed used {:.0} % of its processor", busy * 100.0);
    let none = Sample::default();
    let mut line =
        Line::new("N13", what, if outcome.answered.is_empty() { &none } else { &outcome.answered }).remark(remark);
    if let Some(floor) = floor {
        line = line.beside("floor", &floor.outcome.answered).p99_at_most(10.0);
    }
    report.line(line);
    if errors > 0 {
        let first = outcome.first_refusal.as_deref().unwrap_or("none was refused");
        let text = format!(
            "{what}: {} refused, {} unanswered after {lasts:?}; the first: {first}",
            outcome.refused, outcome.unanswered
        );
        report.note("N13", text);
    }
    if outcome.tool_late > Duration::from_millis(5) {
        report.note(
            "N13",
            format!("{what}: the load tool itself was up to {:.1} ms late; that is counted", millis(outcome.tool_late)),
        );
    }
}
