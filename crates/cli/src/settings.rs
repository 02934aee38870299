//! Where settings come from: options, then `PERIGEE_*`, then `cli.toml` of the data directory.
//! Nothing else in this program reads the environment or a configuration file.

use crate::args::{Format, Globals};
use crate::exit::Exit;
use crate::failure::Failure;
use clap::ValueEnum;
use perigee_client::{Address, Token};
use serde::Deserialize;
use std::ffi::OsString;
use std::fs;
use std::io::{IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The system installation's data directory.
pub const SYSTEM_DATA_DIR: &str = "/var/lib/perigee";
/// A token file longer than this is some other file.
const TOKEN_BYTES_MAX: u64 = 16 << 10;

/// Everything that was decided before the command began.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the instance, absolute.
    pub data_dir: PathBuf,
    /// It is the system installation: fixed ports.
    pub system: bool,
    /// How data is printed.
    pub format: Format,
    /// No header line.
    pub no_headers: bool,
    /// No progress, no hints.
    pub quiet: bool,
    /// Colours are wanted wherever a terminal is.
    pub color: bool,
    /// Standard input is a terminal.
    pub stdin_terminal: bool,
    /// Standard output is a terminal.
    pub stdout_terminal: bool,
    /// Standard error is a terminal.
    pub stderr_terminal: bool,
    /// Where programs are looked for after our own directory.
    pub search_path: OsString,
    /// Where the agent is told to find libvirt, when it is.
    pub libvirt_socket: Option<PathBuf>,
    /// The machine's agent is asked, and no control plane.
    pub agent: bool,
    url: Option<String>,
    token_file: Option<PathBuf>,
    token: Option<String>,
}

/// What an agent leaves for us.
#[derive(Deserialize)]
struct AgentEndpoints {
    socket: PathBuf,
}

/// `cli.toml`: what `perigeed` leaves for us.
#[derive(Deserialize)]
struct CliFile {
    url: String,
    token: String,
}

impl Settings {
    /// Reads the environment. Files are read when they are needed.
    pub fn read(globals: &Globals) -> Result<Self, Failure> {
        let text = |key: &str| std::env::var(key).ok().filter(|v| !v.is_empty());
        let path = |key: &str| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
        let data_dir = globals.data_dir.clone().or_else(|| path("PERIGEE_DATA_DIR"));
        let system = data_dir.is_none();
        let data_dir = data_dir.unwrap_or_else(|| PathBuf::from(SYSTEM_DATA_DIR));
        let absolute = std::path::absolute(&data_dir)
            .map_err(|e| Failure::io(format!("{} cannot be made absolute", data_dir.display()), &e))?;
        let no_color = globals.no_color || text("NO_COLOR").is_some() || text("TERM").as_deref() == Some("dumb");
        Ok(Self {
            system: system || absolute == Path::new(SYSTEM_DATA_DIR),
            data_dir: absolute,
            format: format(globals, text("PERIGEE_OUTPUT"))?,
            no_headers: globals.no_headers,
            quiet: globals.quiet,
            color: !no_color,
            stdin_terminal: std::io::stdin().is_terminal(),
            stdout_terminal: std::io::stdout().is_terminal(),
            stderr_terminal: std::io::stderr().is_terminal(),
            search_path: std::env::var_os("PATH").unwrap_or_default(),
            libvirt_socket: path("PERIGEE_LIBVIRT_SOCKET"),
            agent: globals.agent,
            url: globals.url.clone().or_else(|| text("PERIGEE_URL")),
            token_file: globals.token_file.clone().or_else(|| path("PERIGEE_TOKEN_FILE")),
            token: text("PERIGEE_TOKEN"),
        })
    }

    /// The same, about the instance in the data directory and no other.
    pub fn local(&self) -> Self {
        Self { url: None, token_file: None, token: None, ..self.clone() }
    }

    /// Address and token of the control plane.
    pub fn control_plane(&self) -> Result<(Address, Token), Failure> {
        let token = match (&self.token_file, &self.token) {
            (Some(file), _) => Some(token_file(file)?),
            (None, Some(token)) => Some(Token::new(token)),
            (None, None) => None,
        };
        let (url, token) = match (&self.url, token) {
            (Some(url), Some(token)) => (url.clone(), token),
            (Some(_), None) => {
                return Err(
                    Failure::usage("An address without a token").hint("give --token-file FILE, or PERIGEE_TOKEN_FILE")
                );
            }
            (None, given) => {
                let file = self.cli_file()?;
                (file.url, given.unwrap_or_else(|| Token::new(&file.token)))
            }
        };
        Ok((Address::parse(&url)?, token))
    }

    /// The socket of this machine's agent.
    pub fn agent_socket(&self) -> Result<Address, Failure> {
        let told = self.data_dir.join("agent/endpoints.json");
        let text = fs::read_to_string(&told).map_err(|fault| {
            Failure::new(Exit::UNREACHABLE, format!("No agent runs here: {} is not there ({fault})", told.display()))
                .hint("perigee up --detach")
        })?;
        let endpoints: AgentEndpoints = serde_json::from_str(&text)
            .map_err(|fault| Failure::new(Exit::FAILURE, format!("{} is damaged: {fault}", told.display())))?;
        Ok(Address::socket_at(endpoints.socket))
    }

    fn cli_file(&self) -> Result<CliFile, Failure> {
        let path = self.data_dir.join("cli.toml");
        let text = fs::read_to_string(&path).map_err(|fault| match fault.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::new(Exit::UNREACHABLE, format!("No control plane is known: {} is not there", path.display()))
                    .hint("perigee up --detach")
                    .hint("perigee --data-dir DIR …, or perigee --url URL --token-file FILE …")
            }
            _ => Failure::io(format!("{} cannot be read", path.display()), &fault),
        })?;
        closed_to_others(&path)?;
        toml::from_str(&text).map_err(|fault| {
            // The fault's own text would quote the line with the token.
            Failure::new(Exit::FAILURE, format!("{} is damaged", path.display()))
                .cause(fault.message().to_owned())
                .hint("perigee down; perigee up --detach")
        })
    }
}

fn format(globals: &Globals, env: Option<String>) -> Result<Format, Failure> {
    match (globals.output, env) {
        (Some(format), _) => Ok(format),
        (None, None) => Ok(Format::Table),
        (None, Some(name)) => Format::from_str(&name, true)
            .map_err(|_| Failure::usage(format!("PERIGEE_OUTPUT={name} is not a format")).hint("perigee --help")),
    }
}

fn token_file(path: &Path) -> Result<Token, Failure> {
    let fail = |fault: &std::io::Error| {
        let failure = Failure::io(format!("The token file {} cannot be read", path.display()), fault);
        failure.exiting(Exit::AUTHENTICATION)
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text)
    } else {
        closed_to_others(path)?;
        fs::File::open(path).and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|fault| fail(&fault))?;
    if text.trim().is_empty() || text.trim().chars().any(|c| c.is_control() || c == ' ') {
        return Err(Failure::new(Exit::AUTHENTICATION, format!("{} holds no token", path.display())));
    }
    Ok(Token::new(&text))
}

/// A secret that others may read is no secret.
fn closed_to_others(path: &Path) -> Result<(), Failure> {
    let Ok(found) = fs::metadata(path) else { return Ok(()) };
    let mode = found.permissions().mode() & 0o777;
    if found.is_file() && mode & 0o077 != 0 {
        return Err(Failure::new(Exit::AUTHENTICATION, format!("Others may read {}", path.display()))
            .cause(format!("its mode is {mode:04o}, it holds a token"))
            .hint(format!("chmod 600 {}", path.display())));
    }
    Ok(())
}
