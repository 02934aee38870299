//! `perigee-sim`: plays seeded worlds and says what the checkers found, or a fleet of hosts.
#![forbid(unsafe_code)]

mod fleet;
mod output;

use anyhow::{Context, Result, bail};
use perigee_sim::{Ending, Settings, Tally};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    Help,
    One { seed: u64, story: bool },
    Many { count: u64, from: u64 },
}

fn main() -> Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some("fleet") {
        return fleet::main();
    }
    match wish(std::env::args().skip(1))? {
        Wish::Help => {
            output::help();
            Ok(ExitCode::SUCCESS)
        }
        Wish::One { seed, story } => {
            let ending = perigee_sim::run(Settings::of(seed))?;
            if story || !ending.tally.violations.is_empty() {
                output::story(&ending);
            }
            output::summary(1, &ending.tally, None);
            Ok(exit(&ending.tally))
        }
        Wish::Many { count, from } => many(count, from),
    }
}

fn wish(arguments: impl Iterator<Item = String>) -> Result<Wish> {
    let (mut seed, mut seeds, mut from, mut story) = (None, None, 0, false);
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64> {
            let text = arguments.next().with_context(|| format!("{argument} takes a number"))?;
            text.parse().with_context(|| format!("{argument} takes a number, not {text:?}"))
        };
        match argument.as_str() {
            "--seed" => seed = Some(number()?),
            "--seeds" => seeds = Some(number()?),
            "--from" => from = number()?,
            "--story" => story = true,
            "--help" | "-h" => return Ok(Wish::Help),
            other => bail!("unknown argument {other:?}; see --help"),
        }
    }
    match (seed, seeds) {
        (Some(_), Some(_)) => bail!("--seed plays one world, --seeds many: give one of them"),
        (Some(seed), None) => Ok(Wish::One { seed, story }),
        (None, Some(count)) => Ok(Wish::Many { count, from }),
        (None, None) => Ok(Wish::One { seed: 0, story }),
    }
}

/// Worlds know nothing of each other: one on each processor.
fn many(count: u64, from: u64) -> Result<ExitCode> {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let play = || -> std::io::Result<Vec<Ending>> {
        let mut endings = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(endings);
            }
            let mut ending = perigee_sim::run(Settings::of(from.wrapping_add(number)))?;
            if ending.tally.violations.is_empty() {
                ending.story.clear();
            }
            endings.push(ending);
        }
    };
    let played: Vec<std::io::Result<Vec<Ending>>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        let panicked = || Err(std::io::Error::other("a world panicked"));
        running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| panicked())).collect()
    });
    let mut endings = Vec::new();
    for part in played {
        endings.extend(part?);
    }
    endings.sort_by_key(|ending| ending.seed.wrapping_sub(from));
    let mut tally = Tally::default();
    for ending in &endings {
        tally.add(&ending.tally);
    }
    output::failures(&endings);
    output::summary(count, &tally, Some(began.elapsed()));
    Ok(exit(&tally))
}

fn exit(tally: &Tally) -> ExitCode {
    if tally.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_say_what_is_wanted() {
        let wish = |text: &str| wish(text.split_whitespace().map(str::to_owned));
        assert_eq!(wish("--seed 7 --story").unwrap(), Wish::One { seed: 7, story: true });
        assert_eq!(wish("--seeds 200 --from 9").unwrap(), Wish::Many { count: 200, from: 9 });
        assert!(wish("--seed").is_err() && wish("--seed x").is_err() && wish("--what").is_err());
        assert!(wish("--seed 1 --seeds 2").is_err());
    }
}
