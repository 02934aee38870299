//! The agent inside a guest: `/init` of a sandbox, or a daemon inside a VM.
//!
//! `perigee-guest [--port PATH] [--clone ID]`. As PID 1 it takes no arguments and never returns.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use perigee_guest::boot::{self, CommandLine, Console};
use perigee_guest::machine;
use perigee_guest::server::{self, Reaping, ServerOptions};

const PORT_WAIT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if boot::is_first_process() { first_process() } else { daemon() }
}

fn first_process() -> ExitCode {
    let mut console = Console::open();
    let prepared = boot::prepare(&mut console);
    // The console may have appeared with the devices only.
    console = Console::open();
    let line = prepared.as_ref().map_or_else(|_| CommandLine::read(), CommandLine::clone);
    let error = match prepared {
        Ok(_) => serve(None, line.clone_id.clone(), || machine::begin(line.clone())),
        Err(error) => error,
    };
    console.say(&format!("the machine ends: {error}"));
    if let Err(error) = boot::end_machine(&line) {
        console.say(&format!("the machine does not end: {error}"));
    }
    loop {
        std::thread::park();
    }
}

fn daemon() -> ExitCode {
    let mut console = Console::open();
    let error = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => serve(arguments.port.as_deref(), arguments.clone_id, || {}),
        Err(error) => error,
    };
    console.say(&error.to_string());
    ExitCode::FAILURE
}

/// `opened` is done once the port is there, before anybody is answered.
fn serve(port: Option<&Path>, clone_id: Option<String>, opened: impl FnOnce()) -> io::Error {
    let found = match port {
        Some(port) => Ok(port.to_owned()),
        None => boot::find_port(PORT_WAIT),
    };
    match found.and_then(|path| boot::open_port(&path)) {
        Ok(ends) => {
            let options = ServerOptions::of_this_kernel(clone_id, Reaping::Everyone);
            opened();
            server::serve(ends, options)
        }
        Err(error) => error,
    }
}

struct Arguments {
    port: Option<PathBuf>,
    clone_id: Option<String>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut arguments = Self { port: None, clone_id: CommandLine::read().clone_id };
        while let Some(word) = words.next() {
            let usage = || {
                let usage = "usage: perigee-guest [--port PATH] [--clone ID]";
                io::Error::new(io::ErrorKind::InvalidInput, usage)
            };
            let value = words.next().ok_or_else(usage)?;
            match word.as_str() {
                "--port" => arguments.port = Some(PathBuf::from(value)),
                "--clone" => arguments.clone_id = Some(value),
                _ => return Err(usage()),
            }
        }
        Ok(arguments)
    }
}
