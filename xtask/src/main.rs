//! Everything that is automated beside the Makefile: `cargo xtask COMMAND`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod build;
mod cgroup2;
mod ci;
mod codegen;
mod demo;
mod lints;
mod shell;
mod source;
mod tidy;
mod web;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  ci [STAGE...]       what `make test` runs: every stage, or the named ones
  tidy                the house's rules: edges, sizes, names, error pages, links, words
  codegen [--check]   crates/agent-api/src/wire from crates/agent-api/proto
  guest               perigee-guest, static, as it travels in images
  demo                from nothing to a command's output out of a microVM
  up [ARGS...]        builds, then `perigee up`
  sim [ARGS...]       the seeded world: --seed N --story
  bench [ROW...]      numbers into bench/results: every row, or the named ones (N1 … N20c);
                      --quick takes a tenth of the runs
  web                 checks, tests and builds the dashboard
  cgroup2             limits under cgroup v2, tried in a sandbox of our own
  soak                what does not fit in the budget of `ci`
  cover               line coverage, as HTML and as a table
  clean               ends the demo's instance and removes what was built";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("", arguments),
    };
    std::env::set_current_dir(shell::root())?;
    match command {
        "ci" => ci::run(rest),
        "tidy" => tidy::run(),
        "codegen" => codegen::run(rest),
        "guest" => build::guest().map(|path| println!("{}", path.display())),
        "demo" => demo::run(),
        "up" => demo::up(rest),
        "sim" => shell::cargo(["run", "--quiet", "--package", "perigee-sim", "--"]).args(rest).go(),
        "bench" => bench::run(rest),
        "web" => web::test(),
        "soak" => ci::soak(),
        "cgroup2" => cgroup2::run(),
        "cover" => shell::cargo(["llvm-cov", "nextest", "--workspace", "--html"])
            .go()
            .and_then(|()| shell::cargo(["llvm-cov", "report"]).go()),
        "clean" => demo::clean(),
        "" | "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("there is no `{other}`\n{USAGE}"),
    }
}
