//! `make bench`: the house's numbers, each beside a bare peer measured in the same run.
//!
//! ```text
//!   perigee up ── rows N9, N10, N11 against real guests ── perigee down ── N13 against perigeed alone
//!        └── the bench's own microVMs, by the same driver with the same plan: the peers
//! ```
//! Owns: rows, spreads, the files in bench/results. Refuses: opinions; a target that is missed is
//! printed as missed and the program still ends well. It ends badly when a row could not be measured.

mod api;
mod bare;
mod close;
mod create;
mod exec;
mod exporter;
mod fleet;
mod guests;
mod import;
mod ingest;
mod instance;
mod kept;
mod lab;
mod libvirtd;
mod load;
mod machine;
mod network;
mod numbers;
mod open_loop;
mod outage;
mod pinned;
mod queue;
mod report;
mod say;
mod spans;
mod stores;
mod strain;
mod vms;
mod watch;
mod wire;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lab::Lab;
use perigee_clock::Clock;
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// All rows, in the order in which they run. N13 ends the instance and therefore comes last; N1
/// brings N2 and N3 along, N4 N6, and N19 the N2 of an agent with VMs.
const ROWS: [&str; 17] =
    ["N1", "N1b", "N4", "N5", "N6", "N7", "N8", "N16", "N19", "N19b", "N20", "N20b", "N20c", "N9", "N10", "N11", "N13"];
/// Those that need guests, and with them an instance that has an image.
const ROWS_OF_GUESTS: [&str; 4] = ["N9", "N10", "N11", "N13"];
/// The whole bench, without building and without what the options make longer.
const WITHIN: Duration = Duration::from_secs(1800);

/// Measures, prints a table, and writes it to a file.
#[derive(Debug, Parser)]
#[command(name = "perigee-bench")]
pub struct Options {
    /// Only these rows: N1, N1b, N4, N5, N6, N7, N8, N16, N19, N19b, N20, N20b, N20c, N9, N10, N11, N13
    rows: Vec<String>,
    /// A tenth of the runs
    #[arg(long)]
    quick: bool,
    /// Folder with perigee, perigeed and perigee-agent
    #[arg(long)]
    programs: PathBuf,
    /// The static perigee-guest
    #[arg(long)]
    guest_binary: PathBuf,
    /// Where results are written
    #[arg(long, default_value = "bench/results")]
    out: PathBuf,
    /// How the programs were built, for the results
    #[arg(long, default_value = "unknown")]
    built: String,
    /// N16: played hosts
    #[arg(long, default_value_t = 1000)]
    fleet_hosts: usize,
    /// N16: how long lags are measured
    #[arg(long, default_value_t = 120)]
    fleet_seconds: u64,
    /// N7: how long the control plane is away
    #[arg(long, default_value_t = 24)]
    outage_seconds: u64,
    /// N7: how often the host is measured meanwhile
    #[arg(long, default_value_t = 100)]
    outage_interval_ms: u64,
    /// Wait this long for compilers to end first
    #[arg(long, default_value_t = 120)]
    quiet_wait_s: u64,
}

fn main() -> ExitCode {
    match begin(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::failure(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn begin(options: &Options) -> Result<()> {
    let unknown: Vec<_> = options.rows.iter().filter(|row| !ROWS.contains(&row.as_str())).collect();
    ensure!(unknown.is_empty(), "there is no row {unknown:?}; there are {ROWS:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(options))
}

async fn run(options: &Options) -> Result<()> {
    let clock = Clock::real();
    machine::await_quiet(Duration::from_secs(options.quiet_wait_s)).await;
    let mut report = Report::new(&clock, options);
    let began = clock.instant();
    let with_guests = ROWS_OF_GUESTS.iter().any(|row| is_wanted(options, row));
    let mut lab = if with_guests { Some(Lab::open(options, clock.clone()).await?) } else { None };
    if let Some(lab) = &lab {
        report.describe(lab);
    }
    let measured = tokio::select! {
        measured = tokio::time::timeout(within(options), rows(options, lab.as_mut(), &mut report)) => {
            measured.with_context(|| format!("it took longer than {} s", within(options).as_secs())).flatten()
        }
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into).and(Err(anyhow::anyhow!("interrupted"))),
    };
    let closed = match lab {
        Some(lab) => lab.close().await,
        None => Ok(()),
    };
    report.took(began.elapsed());
    say::line(&report.markdown());
    for path in report.write(&options.out)? {
        say::line(&format!("written: {}", path.display()));
    }
    measured?;
    closed
}

/// The usual time, and what was asked for on top: a long watch of a fleet, more hosts, a long outage.
fn within(options: &Options) -> Duration {
    WITHIN + Duration::from_secs(options.fleet_seconds + options.outage_seconds) + fleet::begins_within(options)
}

fn is_wanted(options: &Options, row: &str) -> bool {
    options.rows.is_empty() || options.rows.iter().any(|wanted| wanted == row)
}

async fn of_guests(row: &str, lab: &mut Lab, report: &mut Report) -> Result<()> {
    match row {
        "N9" => exec::run(lab, report).await,
        "N10" => create::run(lab, report).await,
        "N11" => queue::run(lab, report).await,
        _ => load::run(lab, report).await,
    }
}

/// A row that cannot be measured is noted, and the next one runs all the same.
async fn rows(options: &Options, mut lab: Option<&mut Lab>, report: &mut Report) -> Result<()> {
    let mut failed = Vec::new();
    for row in ROWS {
        if !is_wanted(options, row) {
            continue;
        }
        say::progress(&format!("{row} …"));
        let measured = match row {
            "N1" => watch::run(options, report).await,
            "N1b" => guests::run(options, report).await,
            "N4" => kept::run(options, report).await,
            "N5" => ingest::run(options, report).await,
            "N6" if is_wanted(options, "N4") => Ok(()),
            "N6" => kept::run(options, report).await,
            "N7" => outage::run(options, report).await,
            "N8" => close::run(options, report).await,
            "N16" => fleet::run(options, report).await,
            "N19" => vms::run(options, report).await,
            "N19b" => vms::run_many(options, report).await,
            "N20" => network::run(options, report).await,
            "N20b" => network::run_many(options, report).await,
            "N20c" => import::run(options, report).await,
            _ => match lab.as_deref_mut() {
                Some(lab) => of_guests(row, lab, report).await,
                None => Ok(()),
            },
        };
        if let Err(error) = measured {
            report.note(row, format!("NOT MEASURED: {error:#}"));
            failed.push(row);
        }
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}
