//! What `make test` runs, in the order in which it fails fastest. Each stage is timed against its
//! budget: cold, on two cores.

mod slice;

use crate::lints::linted;
use crate::shell::{cargo, debug_dir, program};
use crate::{build, cgroup2, codegen, tidy, web};
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

struct Stage {
    name: &'static str,
    budget: Duration,
    run: fn() -> Result<()>,
}

/// Seeds of the simulation that every run tries; which ones, the commit decides.
const SIM_SEEDS: &str = "200";
const SOAK_SEEDS: &str = "5000";
const REPORT: &str = "target/nextest/default/junit.xml";

const STAGES: &[Stage] = &[
    stage("fmt", 10, || cargo(["fmt", "--all", "--check"]).go()),
    stage("tidy", 5, tidy::run),
    stage("codegen", 60, || codegen::run(&["--check".to_owned()])),
    // Before perigeed, which embeds it.
    stage("web", 90, web::test),
    stage("build", 540, build_all),
    stage("guest", 60, || build::guest().map(|_| ())),
    stage("test", 600, test),
    stage("sim", 60, || simulate(SIM_SEEDS)),
];

const fn stage(name: &'static str, seconds: u64, run: fn() -> Result<()>) -> Stage {
    Stage { name, budget: Duration::from_secs(seconds), run }
}

/// Runs all stages, or those named, until one fails.
pub fn run(named: &[String]) -> Result<()> {
    if let Some(unknown) = named.iter().find(|name| STAGES.iter().all(|stage| stage.name != *name)) {
        let known: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
        bail!("there is no stage `{unknown}`; there are {}", known.join(", "));
    }
    _ = std::fs::remove_file(REPORT);
    let mut times = Vec::new();
    let mut failed = None;
    for stage in STAGES.iter().filter(|stage| named.is_empty() || named.iter().any(|name| name == stage.name)) {
        println!("--- {} (budget {} s)", stage.name, stage.budget.as_secs());
        let start = Instant::now();
        let done = (stage.run)();
        times.push((stage, start.elapsed()));
        if let Err(error) = done {
            failed = Some(error.context(format!("stage {} failed", stage.name)));
            break;
        }
    }
    print!("{}", table(&times, failed.is_some()));
    if let Some(counts) = std::fs::read_to_string(REPORT).ok().and_then(|report| Counts::in_report(&report)) {
        println!("{} passed, {} failed", counts.passed, counts.failed);
    }
    failed.map_or(Ok(()), Err)
}

/// What does not fit in a budget: tests marked `#[ignore = "soak"]`, the whole contract and all faults on real
/// guests, thousands of seeds.
pub fn soak() -> Result<()> {
    build::guest()?;
    // What is ignored because it runs in a guest is run there.
    let here = "not test(limits_of_version_two_hold)";
    nextest().args(["--run-ignored", "only", "--no-tests", "pass", "-E", here]).go()?;
    nextest().args(["-E", &slice::whole()]).go()?;
    cgroup2::run()?;
    // Ten minutes away with a kill, at the usual pace; then fleets until one breaks.
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    crate::bench::run(&words("N7 --outage-seconds 600 --outage-interval-ms 3000"))?;
    for hosts in ["1000", "2000", "5000"] {
        crate::bench::run(&words(&format!("N16 --fleet-hosts {hosts} --fleet-seconds 600")))?;
    }
    simulate(SOAK_SEEDS)
}

/// Programs and tests at once, with their lints: built one after the other they would have other features, and what lies between
/// them and `rustix` would be built twice.
fn build_all() -> Result<()> {
    linted(cargo(["build", "--workspace", "--bins", "--tests"])).go()
}

fn test() -> Result<()> {
    let seed = first_seed();
    println!(
        "seed {seed}, the commit's, draws what is played of the kill matrix, of faults and of the contract on real guests"
    );
    nextest().args(["-E", &slice::filter(seed)?]).go()
}

fn nextest() -> crate::shell::Step {
    // What is played only in part is drawn from the seed, and says so when it fails.
    linted(cargo(["nextest", "run", "--workspace"]))
        .env("PERIGEE_GUEST_BINARY", build::guest_path())
        // A failed test's own words, and not the runtime's frames, are what a report has room for.
        .env("RUST_BACKTRACE", "0")
        .env("PERIGEE_SEED", first_seed().to_string())
}

fn simulate(seeds: &str) -> Result<()> {
    let from = first_seed().to_string();
    println!("seeds {from} and the {seeds} after it: the commit's; `cargo xtask sim --seed N --story` tells one");
    build_all()?;
    program(debug_dir().join("perigee-sim")).args(["--seeds", seeds, "--from", &from]).go()
}

/// The commit's first eight digits: the same commit tries the same seeds, the next one others.
fn first_seed() -> u32 {
    let head = program("git").args(["rev-parse", "HEAD"]).output();
    let digits = head.ok().and_then(|(text, _)| text.get(..8).map(str::to_owned)).unwrap_or_default();
    u32::from_str_radix(&digits, 16).unwrap_or(0)
}

fn table(times: &[(&Stage, Duration)], failed: bool) -> String {
    let mut text = String::from("\nstage      seconds  budget\n");
    for (index, (stage, time)) in times.iter().enumerate() {
        let mark = match (failed && index + 1 == times.len(), *time > stage.budget) {
            (true, _) => "  failed",
            (false, true) => "  over its budget",
            (false, false) => "",
        };
        text += &format!("{:<10} {:>7.1} {:>7}{mark}\n", stage.name, time.as_secs_f64(), stage.budget.as_secs());
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    text + &format!("{:<10} {:>7.1}\n", "all", total.as_secs_f64())
}

/// What nextest's JUnit report says of the whole run.
#[derive(PartialEq, Eq, Debug)]
struct Counts {
    passed: u64,
    failed: u64,
}

impl Counts {
    fn in_report(report: &str) -> Option<Self> {
        let head = report.lines().find(|line| line.trim_start().starts_with("<testsuites"))?;
        let number = |name: &str| -> Option<u64> {
            let (_, rest) = head.split_once(&format!(" {name}=\""))?;
            rest.split('"').next()?.parse().ok()
        };
        let failed = number("failures")? + number("errors")?;
        Some(Self { passed: number("tests")?.checked_sub(failed)?, failed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_counted() {
        let report = "<?xml?>\n<testsuites name=\"r\" tests=\"35\" failures=\"2\" errors=\"1\" time=\"1\">\n";
        assert_eq!(Counts::in_report(report), Some(Counts { passed: 32, failed: 3 }));
        assert_eq!(Counts::in_report("<testsuites>"), None);
    }

    #[test]
    fn the_table_marks_what_failed_and_what_took_too_long() {
        let (slow, bad) = (stage("slow", 1, || Ok(())), stage("bad", 9, || Ok(())));
        let text = table(&[(&slow, Duration::from_secs(2)), (&bad, Duration::from_secs(1))], true);
        assert!(text.contains("slow           2.0       1  over its budget\n"), "{text}");
        assert!(text.contains("bad            1.0       9  failed\n"), "{text}");
        assert!(text.ends_with("all            3.0\n"), "{text}");
    }

    #[test]
    fn a_stage_that_is_not_there_is_refused_by_name() {
        let refused = run(&["fnt".to_owned()]).unwrap_err().to_string();
        assert!(refused.contains("`fnt`") && refused.contains("fmt"), "{refused}");
    }
}
