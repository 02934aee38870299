//! Executions: one command's run in a guest. An execution is an effect with an id and is never
//! run twice; what cannot be known any more is `lost`, not run again.

use crate::guest::Problem;
use crate::limits::{ARGV_BYTES_MAX, ARGV_MAX, ENV_MAX, EXEC_TIMEOUT_MAX, OUTPUT_BYTES_MAX, PATH_BYTES_MAX};
use crate::{ExecutionId, GuestId, Refusal, TaskId, Tenant, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments; no shell is involved.
    pub argv: Vec<String>,
    /// Added to the guest's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory, `/` by default.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User name or uid in the guest, root by default.
    #[serde(default)]
    pub user: Option<String>,
    /// Killed after this long.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Kept per stream; the rest is read, counted and dropped.
    #[serde(default)]
    pub output_limit_bytes: Option<u64>,
}

impl Command {
    /// Checks every bound.
    ///
    /// # Errors
    /// `BadField` with the field's pointer.
    pub fn check(&self) -> Result<(), Refusal> {
        let has_nul = |t: &str| t.contains('\0');
        if self.argv.is_empty() || self.argv.len() > ARGV_MAX {
            return Err(Refusal::field("argv", format!("argv has 1 to {ARGV_MAX} elements")));
        }
        if self.argv[0].is_empty() {
            return Err(Refusal::field("argv.0", "the program's name is empty"));
        }
        if self.env.len() > ENV_MAX {
            return Err(Refusal::field("env", format!("env has at most {ENV_MAX} variables")));
        }
        let argv_bytes: usize = self.argv.iter().map(|a| a.len() + 1).sum();
        let env_bytes: usize = self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum();
        if argv_bytes + env_bytes > ARGV_BYTES_MAX {
            let text = format!("argv and env together have at most {ARGV_BYTES_MAX} bytes");
            return Err(Refusal::field("argv", text));
        }
        if self.argv.iter().any(|a| has_nul(a)) {
            return Err(Refusal::field("argv", "an argument contains a NUL character"));
        }
        if let Some(fault) = env_fault(&self.env) {
            return Err(Refusal::field("env", fault));
        }
        for (field, path) in [("cwd", &self.cwd), ("user", &self.user)] {
            let bad = |p: &String| p.is_empty() || p.len() > PATH_BYTES_MAX || has_nul(p);
            if path.as_ref().is_some_and(bad) {
                return Err(Refusal::field(field, format!("{field} is empty, too long or has a NUL")));
            }
        }
        if self.cwd.as_ref().is_some_and(|c| !c.starts_with('/')) {
            return Err(Refusal::field("cwd", "cwd is an absolute path in the guest"));
        }
        let timeout_max = u64::try_from(EXEC_TIMEOUT_MAX.as_millis()).unwrap_or(u64::MAX);
        if self.timeout_ms.is_some_and(|t| t == 0 || t > timeout_max) {
            return Err(Refusal::field("timeout_ms", format!("timeout_ms is 1 to {timeout_max}")));
        }
        if self.output_limit_bytes.is_some_and(|l| l > OUTPUT_BYTES_MAX) {
            let text = format!("output_limit_bytes is at most {OUTPUT_BYTES_MAX}");
            return Err(Refusal::field("output_limit_bytes", text));
        }
        Ok(())
    }
}

/// Says what is wrong with an environment, if anything is.
pub fn env_fault(env: &BTreeMap<String, String>) -> Option<String> {
    let fits = |k: &str, v: &str| {
        let head = k.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        head && k.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !v.contains('\0')
    };
    let bad = env.iter().find(|(k, v)| !fits(k, v))?;
    let shown: String = bad.0.chars().filter(|c| !c.is_control()).take(40).collect();
    Some(format!("variable {shown:?}: names are letters, digits and _, values have no NUL"))
}

/// Where an execution is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionState {
    /// Recorded; whether it started is not known yet.
    Pending,
    /// The guest runs it.
    Running,
    /// It ended; `outcome` says how.
    Ended,
}

/// How an execution ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// By itself, with this exit code.
    Exited {
        /// 0 to 255.
        code: i32,
    },
    /// By a signal.
    Signaled {
        /// Signal number.
        signal: i32,
    },
    /// Its time was over; it was killed.
    TimedOut,
    /// The program could not be started.
    FailedToStart {
        /// What the guest's kernel said.
        text: String,
    },
    /// The guest no longer knows it, or is gone: whether it finished is not known.
    Lost,
}

impl Outcome {
    /// The exit code a shell would report: 128 + signal, 124 for a timeout, 127 when not started.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exited { code } => Some(*code),
            Self::Signaled { signal } => Some(128 + signal),
            Self::TimedOut => Some(124),
            Self::FailedToStart { .. } => Some(127),
            Self::Lost => None,
        }
    }
}

/// The beginning and the end of a stream, and how much there was.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Excerpt {
    /// The first bytes, base64 where they are not UTF-8: see `api`. At most 32 KiB.
    pub head: Vec<u8>,
    /// The last bytes when the stream was longer than `head`. At most 32 KiB.
    pub tail: Vec<u8>,
    /// Bytes the command wrote.
    pub bytes: u64,
    /// Bytes were dropped at the output limit.
    pub truncated: bool,
}

/// One command's run in a guest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Execution {
    /// Identity.
    pub id: ExecutionId,
    /// In which guest.
    pub guest: GuestId,
    /// The task that asked for it; none for interactive use.
    pub task: Option<TaskId>,
    /// Who owns it.
    pub tenant: Tenant,
    /// The user who asked.
    pub owner: String,
    /// What to run.
    pub command: Command,
    /// Where it is.
    pub state: ExecutionState,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Standard output.
    pub stdout: Excerpt,
    /// Standard error.
    pub stderr: Excerpt,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When the guest started it.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How long it ran in the guest.
    pub duration_ms: Option<u64>,
    /// Why it did not end well on our side.
    pub problem: Option<Problem>,
    /// Bumped by each write.
    pub revision: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str]) -> Command {
        let argv = argv.iter().map(|a| (*a).to_owned()).collect();
        Command { argv, env: BTreeMap::new(), cwd: None, user: None, timeout_ms: None, output_limit_bytes: None }
    }

    #[test]
    fn commands_are_bounded() {
        assert!(command(&["true"]).check().is_ok());
        let pointer = |c: Command| c.check().err().and_then(|r| r.pointer);
        assert_eq!(pointer(command(&[])).as_deref(), Some("/argv"));
        assert_eq!(pointer(command(&[""])).as_deref(), Some("/argv/0"));
        assert_eq!(pointer(command(&["a\0b"])).as_deref(), Some("/argv"));
        assert_eq!(pointer(command(&["x", &"y".repeat(200_000)])).as_deref(), Some("/argv"));
        let mut c = command(&["true"]);
        c.env.insert("A=B".into(), "x".into());
        assert_eq!(pointer(c).as_deref(), Some("/env"));
        let mut c = command(&["true"]);
        c.cwd = Some("tmp".into());
        assert_eq!(pointer(c).as_deref(), Some("/cwd"));
        let mut c = command(&["true"]);
        c.timeout_ms = Some(0);
        assert_eq!(pointer(c).as_deref(), Some("/timeout_ms"));
    }

    #[test]
    fn outcomes_map_to_shell_codes() {
        assert_eq!(Outcome::Exited { code: 7 }.exit_code(), Some(7));
        assert_eq!(Outcome::Signaled { signal: 9 }.exit_code(), Some(137));
        assert_eq!(Outcome::TimedOut.exit_code(), Some(124));
        assert_eq!(Outcome::Lost.exit_code(), None);
    }
}
