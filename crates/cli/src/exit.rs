//! Exit codes: a small published table, and which refusal gives which.

use perigee_model::{Code, Kind};

/// How the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit(i32);

impl Exit {
    /// Done.
    pub const OK: Self = Self(0);
    /// Not done.
    pub const FAILURE: Self = Self(1);
    /// The command line or the request makes no sense.
    pub const USAGE: Self = Self(2);
    /// There is no such object.
    pub const NOT_FOUND: Self = Self(3);
    /// No token, or not a valid one.
    pub const AUTHENTICATION: Self = Self(4);
    /// The present state of the object does not allow it.
    pub const CONFLICT: Self = Self(5);
    /// Not done within the time.
    pub const TIMEOUT: Self = Self(6);
    /// The control plane, or a host it needs, does not answer.
    pub const UNREACHABLE: Self = Self(7);
    /// Done for some of several objects.
    pub const PARTIAL: Self = Self(8);
    /// This caller may not.
    pub const DENIED: Self = Self(9);
    /// `sandbox run` and `sandbox exec`: Perigee failed, not the command.
    pub const RUN_FAILED: Self = Self(125);
    /// Ctrl-C.
    pub const INTERRUPTED: Self = Self(130);

    /// The code of a command in a guest.
    pub const fn of_command(code: i32) -> Self {
        Self(code)
    }
    /// The number.
    pub const fn code(self) -> i32 {
        self.0
    }

    /// For a published code; what is not known yet is judged by its HTTP status.
    pub fn of_problem(code: &str, status: u16) -> Self {
        match Code::parse(code) {
            Some(Code::PreconditionRequired | Code::PreconditionFailed) => Self::CONFLICT,
            Some(Code::HostAway | Code::ShuttingDown | Code::StoreDown) => Self::UNREACHABLE,
            Some(Code::WaitTimedOut | Code::TaskDeadline) => Self::TIMEOUT,
            Some(known) => Self::of_kind(known.kind()),
            None => Self::of_status(status),
        }
    }

    fn of_kind(kind: Kind) -> Self {
        match kind {
            Kind::Invalid => Self::USAGE,
            Kind::Unauthenticated => Self::AUTHENTICATION,
            Kind::Denied => Self::DENIED,
            Kind::NotFound => Self::NOT_FOUND,
            Kind::Conflict => Self::CONFLICT,
            Kind::Exhausted | Kind::Unavailable | Kind::Bug => Self::FAILURE,
        }
    }

    fn of_status(status: u16) -> Self {
        match status {
            401 => Self::AUTHENTICATION,
            403 => Self::DENIED,
            404 | 410 => Self::NOT_FOUND,
            409 | 412 | 428 => Self::CONFLICT,
            408 | 504 => Self::TIMEOUT,
            502 | 503 => Self::UNREACHABLE,
            400..=499 => Self::USAGE,
            _ => Self::FAILURE,
        }
    }
}

/// `perigee help exit-codes`.
pub const TABLE: &str = "\
0    ok
1    failure
2    usage: the command line or a field of the request makes no sense
3    not found
4    authentication: no token, or not a valid one
5    conflict or precondition: the object's present state does not allow it
6    timeout while waiting
7    unreachable: the control plane, or a host it needs, does not answer
8    partial: a bulk command was done for some objects only
9    permission denied
125  sandbox run, sandbox exec: Perigee failed, not the command
130  interrupted

sandbox run and sandbox exec end with the command's own code; 128 + N when signal N killed it,
124 when it ran out of time, 127 when it could not be started. A wrong command line stays 2.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_code_has_an_exit_code() {
        for code in Code::ALL {
            assert_ne!(Exit::of_problem(code.number(), 500), Exit::OK, "{code}");
        }
        assert_eq!(Exit::of_problem("PRG-3003", 404), Exit::NOT_FOUND);
        assert_eq!(Exit::of_problem("PRG-6004", 503), Exit::TIMEOUT);
        assert_eq!(Exit::of_problem("PRG-9999", 403), Exit::DENIED);
    }

    #[test]
    fn the_table_names_every_code() {
        for exit in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 125, 130] {
            assert!(TABLE.lines().any(|l| l.starts_with(&format!("{exit} "))), "{exit}");
        }
    }
}
