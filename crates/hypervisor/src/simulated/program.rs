//! The programs of a simulated guest, and their executions.
//!
//! | argv | does |
//! |---|---|
//! | `true`, `false` | exit with 0, 1 |
//! | `exit N`, `sh -c "exit N"` | exit with N |
//! | `echo …` | writes its arguments and a line feed |
//! | `yes N` | writes N times `y` and a line feed |
//! | `sleep MS` | exits with 0 after so many **milliseconds** |
//! | `cat` | writes what it reads until its input ends |
//!
//! Owns: what an execution has written and how it ends, computed from its start, its input and the
//! time: no execution needs a task. Refuses: any other program, as a kernel would (`ENOENT`).

use bytes::Bytes;
use perigee_clock::Instant;
use perigee_guest::protocol::{ExecEnd, ExecOutcome, ExecStart};
use std::time::Duration;

const ENOENT: i32 = 2;
const SIGKILL: i32 = 9;
/// From start to exit of a program that has nothing to wait for.
const INSTANT: Duration = Duration::from_millis(1);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Program {
    Exit { code: i32, output: Bytes },
    Yes { lines: u64 },
    Sleep { time: Duration },
    Cat,
    Missing,
}

impl Program {
    fn of(argv: &[String]) -> Self {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        let exit = |code, output| Self::Exit { code, output };
        match words.as_slice() {
            ["true"] => exit(0, Bytes::new()),
            ["false"] => exit(1, Bytes::new()),
            ["echo", rest @ ..] => exit(0, Bytes::from(format!("{}\n", rest.join(" ")))),
            ["exit", code] => code.parse().map_or(Self::Missing, |code| exit(code, Bytes::new())),
            ["sh", "-c", script] => {
                let code = script.strip_prefix("exit ").and_then(|code| code.parse().ok());
                code.map_or(Self::Missing, |code| exit(code, Bytes::new()))
            }
            ["yes", lines] => lines.parse().map_or(Self::Missing, |lines| Self::Yes { lines }),
            ["sleep", millis] => {
                millis.parse().map_or(Self::Missing, |millis| Self::Sleep { time: Duration::from_millis(millis) })
            }
            ["cat"] => Self::Cat,
            _ => Self::Missing,
        }
    }
}

/// One execution in a simulated guest.
#[derive(Debug)]
pub struct Execution {
    program: Program,
    began: Instant,
    timeout: Option<Duration>,
    limit: u64,
    has_stdin: bool,
    input: Vec<u8>,
    input_ended: Option<Instant>,
    signalled: Option<(i32, Instant)>,
}

impl Execution {
    pub fn new(start: &ExecStart, now: Instant) -> Self {
        Self {
            program: Program::of(&start.argv),
            began: now,
            timeout: start.timeout_ms.map(Duration::from_millis),
            limit: start.output_limit_bytes,
            has_stdin: start.stdin,
            input: Vec::new(),
            input_ended: None,
            signalled: None,
        }
    }

    /// Whether it ever ran.
    pub fn ran(&self) -> bool {
        self.program != Program::Missing
    }

    /// How it ends and when, as far as that is known. The time may be yet to come.
    pub fn outcome(&self) -> Option<(ExecOutcome, Instant)> {
        let natural = match &self.program {
            Program::Exit { code, .. } => Some((*code, self.began.after(INSTANT))),
            Program::Yes { .. } => Some((0, self.began.after(INSTANT))),
            Program::Sleep { time } => Some((0, self.began.after(*time))),
            Program::Cat if self.has_stdin => self.input_ended.map(|at| (0, at)),
            Program::Cat => Some((0, self.began.after(INSTANT))),
            Program::Missing => {
                let message = "No such file or directory".to_owned();
                return Some((ExecOutcome::FailedToStart { errno: ENOENT, message }, self.began));
            }
        };
        let natural = natural.map(|(code, at)| (ExecOutcome::Exited { code }, at));
        let timeout = self.timeout.map(|limit| (ExecOutcome::TimedOut, self.began.after(limit)));
        let signal = self.signalled.map(|(signal, at)| (ExecOutcome::Signaled { signal }, at));
        [natural, signal, timeout].into_iter().flatten().min_by_key(|(_, at)| *at)
    }

    /// Whether it has ended by now.
    pub fn is_over(&self, now: Instant) -> bool {
        self.outcome().is_some_and(|(_, at)| at <= now)
    }

    /// The last event of an execution that is over.
    pub fn end(&self) -> Option<ExecEnd> {
        let (outcome, at) = self.outcome()?;
        let written = self.written();
        Some(ExecEnd {
            outcome,
            stdout_bytes: written,
            stderr_bytes: 0,
            stdout_truncated: written > self.limit,
            stderr_truncated: false,
            duration_ms: u64::try_from((at.into_tokio() - self.began.into_tokio()).as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// What it has written from `offset` on, at most `most` bytes of it.
    pub fn stdout(&self, offset: u64, most: usize) -> Bytes {
        let end = self.written().min(self.limit).min(offset.saturating_add(most as u64));
        let range = offset.min(end) as usize..end as usize;
        match &self.program {
            Program::Exit { output, .. } => output.slice(range),
            Program::Yes { .. } => range.map(|at| if at % 2 == 0 { b'y' } else { b'\n' }).collect(),
            Program::Cat => Bytes::copy_from_slice(&self.input[range]),
            Program::Sleep { .. } | Program::Missing => Bytes::new(),
        }
    }

    fn written(&self) -> u64 {
        match &self.program {
            Program::Exit { output, .. } => output.len() as u64,
            Program::Yes { lines } => lines * 2,
            Program::Cat => self.input.len() as u64,
            Program::Sleep { .. } | Program::Missing => 0,
        }
    }

    /// Bytes of standard input taken so far.
    pub fn input_offset(&self) -> u64 {
        self.input.len() as u64
    }
    /// `false`: its input is closed.
    pub fn take_input(&mut self, bytes: &[u8], now: Instant) -> bool {
        let open = self.has_stdin && self.input_ended.is_none() && !self.is_over(now);
        if open {
            self.input.extend_from_slice(bytes);
        }
        open
    }
    pub fn end_input(&mut self, now: Instant) {
        self.input_ended.get_or_insert(now);
    }
    /// Every signal ends it: none of these programs handles one.
    pub fn signal(&mut self, signal: i32, now: Instant) {
        self.signalled.get_or_insert((if signal == 0 { SIGKILL } else { signal }, now));
    }
}
