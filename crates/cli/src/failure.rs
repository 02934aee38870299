//! What a person reads when something fails: what, why, what to try, and where to look it up.

use crate::exit::Exit;
use perigee_api::problem::ProblemView;
use perigee_api::{ProblemDocument, TaskView};
use perigee_client::ClientError;
use perigee_model::Code;
use serde_json::{Value, json};
use std::io;

/// Where volumes are to be seen.
pub const VOLUMES: &str = "perigee volume list";

/// Why a command did not do what it says.
#[derive(Debug)]
pub struct Failure {
    /// One sentence.
    pub what: String,
    /// What lies behind it, a line each.
    pub causes: Vec<String>,
    /// What to try next, a line each.
    pub tries: Vec<String>,
    /// `PRG-NNNN`.
    pub code: Option<String>,
    /// How the process ends.
    pub exit: Exit,
    document: Option<Box<ProblemDocument>>,
}

impl Failure {
    /// With one sentence.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { what: what.into(), causes: Vec::new(), tries: Vec::new(), code: None, exit, document: None }
    }
    /// The command line makes no sense.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::USAGE, what)
    }
    /// The system said no.
    pub fn io(what: impl Into<String>, fault: &io::Error) -> Self {
        let exit = if fault.kind() == io::ErrorKind::PermissionDenied { Exit::DENIED } else { Exit::FAILURE };
        Self::new(exit, what).cause(fault.to_string())
    }
    /// Whoever read our output went away: nothing to say, and nobody to say it to.
    pub fn from_output(fault: &io::Error) -> Self {
        if fault.kind() == io::ErrorKind::BrokenPipe {
            return Self::new(Exit::FAILURE, "");
        }
        Self::io("standard output cannot be written", fault)
    }
    /// A task that ended without success.
    pub fn task(task: &TaskView) -> Self {
        let mut failure = match &task.problem {
            Some(problem) => Self::problem(problem),
            None if task.state == "cancelled" => Self::new(Exit::CONFLICT, "The task was cancelled"),
            None => Self::new(Exit::FAILURE, format!("The task ended as {}", task.state)),
        };
        failure.causes.push(format!("task {} ({}) {}", task.id, task.kind, task.state));
        failure
    }
    /// A problem that an object carries.
    pub fn problem(problem: &ProblemView) -> Self {
        let known = Code::parse(&problem.code);
        let title = known.map_or_else(|| "Something failed".to_owned(), |c| c.title().to_owned());
        let mut failure = Self::new(Exit::of_problem(&problem.code, 500), title).cause(problem.detail.clone());
        failure.tries.extend(known.and_then(next_step).map(str::to_owned));
        failure.code = Some(problem.code.clone());
        failure
    }
    /// Adds what lies behind it.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }
    /// Adds what to try.
    #[must_use]
    pub fn hint(mut self, step: impl Into<String>) -> Self {
        self.tries.push(step.into());
        self
    }
    /// Says where names are listed when a name was the trouble: only who asked knows what it should name.
    #[must_use]
    pub fn among(mut self, list: &str) -> Self {
        let code = self.code.as_deref().and_then(Code::parse);
        // Of what a volume's command names, a guest is a VM.
        let of_a_vm = code == Some(Code::NoSuchGuest) && list == VOLUMES;
        let list = if of_a_vm { "perigee vm list" } else { list };
        let is_of_a_name = matches!(code, Some(Code::NameTaken | Code::NoSuchGuest | Code::GuestNotRunning));
        if is_of_a_name && self.tries.is_empty() && !list.is_empty() {
            self.tries.push(list.to_owned());
        }
        self
    }
    /// Says where to look when a name is taken, and it is not one of what the command is about.
    #[must_use]
    pub fn of_name_taken(self, look: impl FnOnce() -> String) -> Self {
        let is_taken = self.code.as_deref() == Some(Code::NameTaken.number());
        if is_taken { self.hint(look()) } else { self }
    }
    /// The same with another exit code.
    #[must_use]
    pub fn exiting(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
    /// To find it in the log.
    pub fn request_id(&self) -> Option<&str> {
        self.document.as_ref().map(|document| document.request_id.as_str())
    }
    /// For scripts: the server's document unchanged, or one of the same shape made here.
    pub fn document(&self) -> Value {
        if let Some(document) = &self.document {
            return json!(document);
        }
        json!({
            "type": "about:blank",
            "title": self.what,
            "detail": self.causes.join("; "),
            "code": self.code,
            "exit_code": self.exit.code(),
        })
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(document) => refused(document),
            ClientError::Unreachable { address, cause } => {
                Self::new(Exit::UNREACHABLE, format!("The control plane at {address} cannot be reached"))
                    .cause(cause)
                    .hint("perigee up")
            }
            ClientError::TimedOut { address, within } => {
                Self::new(Exit::TIMEOUT, format!("No answer from {address} within {} s", within.as_secs()))
                    .hint("perigee doctor")
            }
            ClientError::BadAnswer(cause) => {
                Self::new(Exit::FAILURE, "The answer is not one of a control plane of this version")
                    .cause(cause)
                    .hint("perigee version")
            }
        }
    }
}

fn refused(document: Box<ProblemDocument>) -> Failure {
    let exit = Exit::of_problem(&document.code, document.status);
    let mut failure = Failure::new(exit, document.title.clone()).cause(document.detail.clone());
    failure.causes.extend(document.errors.iter().map(|f| format!("{}: {}", f.pointer, f.detail)));
    failure.tries.extend(Code::parse(&document.code).and_then(next_step).map(str::to_owned));
    failure.code = Some(document.code.clone());
    failure.document = Some(document);
    failure
}

/// The one thing that most likely helps.
fn next_step(code: Code) -> Option<&'static str> {
    match code {
        Code::NoToken => Some("perigee --token-file FILE …, or perigee --data-dir DIR …"),
        Code::NoSuchHost | Code::HostAway | Code::NoRoom | Code::HostInUse => Some("perigee host list"),
        Code::NoSuchImage => Some("perigee image list; perigee image build base"),
        Code::ImageNotReady => Some("perigee image list"),
        Code::ImageInUse => Some("perigee sandbox list; perigee vm list"),
        Code::NoSuchTask | Code::TooManyTasks => Some("perigee task list"),
        Code::NoSuchExecution => Some("perigee execution list"),
        Code::BootFailed | Code::ImageBuildFailed | Code::DiskFull => Some("perigee doctor"),
        Code::ImageRefused => Some("perigee image import --help"),
        Code::TaskDeadline | Code::WaitTimedOut => Some("perigee task list"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_to_look_at_is_of_what_was_meant() {
        let problem = |code: Code| ProblemView { code: code.number().to_owned(), detail: "why".to_owned() };
        let tries = |code, list| Failure::problem(&problem(code)).among(list).tries;
        assert_eq!(tries(Code::NameTaken, "perigee vm list"), ["perigee vm list"]);
        assert_eq!(tries(Code::NoSuchGuest, "perigee sandbox list"), ["perigee sandbox list"]);
        assert_eq!(tries(Code::NameTaken, ""), [""; 0]);
        assert_eq!(tries(Code::NoSuchImage, "perigee vm list").len(), 1, "that one has its own");
        let nearer = Failure::problem(&problem(Code::NameTaken)).hint("perigee vm snapshot list db");
        assert_eq!(nearer.among("perigee vm list").tries, ["perigee vm snapshot list db"]);
    }
}
