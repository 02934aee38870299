//! The grammar: `perigee [options] NOUN VERB [NAME…] [options]`. Verbs are with their nouns.

use crate::{api, down, event, execution, host, image, metrics, network, sandbox, task, up, vm, volume};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Guests that run commands, from the command line.
#[derive(Debug, Parser)]
#[command(
    name = "perigee",
    version,
    disable_help_subcommand = true,
    after_help = "Example:\n  perigee up --detach\n  perigee image build base\n  perigee sandbox run --image base -- uname -r\n\nExit codes: perigee help exit-codes"
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub globals: Globals,
    /// What it is about.
    #[command(subcommand)]
    pub noun: Noun,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct Globals {
    /// Data directory of the instance; its cli.toml says where the control plane is
    /// [env: PERIGEE_DATA_DIR] [default: /var/lib/perigee]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub data_dir: Option<PathBuf>,
    /// Address of the control plane, instead of the data directory's [env: PERIGEE_URL]
    #[arg(long, global = true, value_name = "URL", help_heading = "Global options")]
    pub url: Option<String>,
    /// File that holds the token, or - for standard input [env: PERIGEE_TOKEN_FILE, or the token
    /// itself in PERIGEE_TOKEN]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub token_file: Option<PathBuf>,
    /// Ask this machine's agent itself, with or without a control plane: vm list, get, create, start,
    /// stop, restart, pause, resume, delete
    #[arg(long, global = true, conflicts_with_all = ["url", "token_file"], help_heading = "Global options")]
    pub agent: bool,
    /// How data is printed; table is tab-separated when standard output is not a terminal
    /// [env: PERIGEE_OUTPUT] [default: table]
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", help_heading = "Global options")]
    pub output: Option<Format>,
    /// No header line in table, wide and csv
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_headers: bool,
    /// No colours [env: NO_COLOR]
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_color: bool,
    /// Neither progress nor hints on standard error
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
}

/// How data is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// Columns; tab-separated when piped
    Table,
    /// More columns
    Wide,
    /// The API's objects, unchanged; a list is an array
    Json,
    /// One JSON object a line
    Jsonl,
    /// The API's objects as YAML
    Yaml,
    /// All columns, machine-readable values, RFC 4180
    Csv,
    /// Only the name, or the id of what has none
    Name,
}

/// What a command is about.
#[derive(Debug, Subcommand)]
pub enum Noun {
    /// Guests made to run commands
    #[command(
        visible_alias = "sb",
        after_help = "Example:\n  perigee sandbox run --image base -- uname -r\n  perigee sandbox list"
    )]
    Sandbox {
        /// What to do.
        #[command(subcommand)]
        verb: sandbox::Verb,
    },
    /// Machines that run guests
    #[command(after_help = "Example:\n  perigee host list -o wide")]
    Host {
        /// What to do.
        #[command(subcommand)]
        verb: host::Verb,
    },
    /// Full virtual machines
    #[command(after_help = "Example:\n  perigee vm list -o wide")]
    Vm {
        /// What to do.
        #[command(subcommand)]
        verb: vm::Verb,
    },
    /// Disks that outlive the virtual machines they are attached to
    #[command(
        visible_alias = "vol",
        after_help = "Example:\n  perigee volume create data --size 10GiB\n  perigee volume attach data db"
    )]
    Volume {
        /// What to do.
        #[command(subcommand)]
        verb: volume::Verb,
    },
    /// What guests start from
    #[command(after_help = "Example:\n  perigee image build base")]
    Image {
        /// What to do.
        #[command(subcommand)]
        verb: image::Verb,
    },
    /// Networks that virtual machines are on, and how sandboxes are reached
    #[command(
        visible_alias = "net",
        after_help = "Example:\n  perigee network create lab --subnet 10.20.0.0/24\n  perigee network forward add web 8080:80"
    )]
    Network {
        /// What to do.
        #[command(subcommand)]
        verb: network::Verb,
    },
    /// Units of work in the queue
    #[command(after_help = "Example:\n  perigee task list --state running")]
    Task {
        /// What to do.
        #[command(subcommand)]
        verb: task::Verb,
    },
    /// Commands that ran in guests, and their output
    #[command(after_help = "Example:\n  perigee execution list")]
    Execution {
        /// What to do.
        #[command(subcommand)]
        verb: execution::Verb,
    },
    /// What was measured
    #[command(after_help = "Example:\n  perigee metrics query node_load1 --from -1h")]
    Metrics {
        /// What to do.
        #[command(subcommand)]
        verb: metrics::Verb,
    },
    /// Who did what: the audit log
    #[command(after_help = "Example:\n  perigee event list --limit 20")]
    Event {
        /// What to do.
        #[command(subcommand)]
        verb: event::Verb,
    },
    /// Start a control plane and an agent on this machine, or the missing half
    #[command(
        after_help = "Example:\n  perigee up --detach --data-dir ./trial\n  sudo perigee up\n\nWithout --detach it stays; Ctrl-C then ends both, guests live on."
    )]
    Up(up::Options),
    /// End control plane and agent on this machine
    #[command(after_help = "Example:\n  perigee down --guests stop")]
    Down(down::Options),
    /// Check this machine, and say how to mend what is missing
    #[command(after_help = "Example:\n  perigee doctor\n  perigee doctor -o json")]
    Doctor,
    /// Versions of this program and of the control plane
    #[command(after_help = "Example:\n  perigee version -o json")]
    Version,
    /// Call any route of the API and print the answer as it came
    #[command(
        after_help = "Example:\n  perigee api GET /api/v1/hosts\n  perigee api POST /api/v1/images --data @image.json"
    )]
    Api(api::Options),
    /// Print the completions for a shell
    #[command(
        after_help = "Example:\n  perigee completion bash > /etc/bash_completion.d/perigee\n  perigee completion fish | source"
    )]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    #[command(after_help = "Example:\n  perigee man /usr/local/share/man/man1")]
    Man {
        /// Made when it is not there
        dir: PathBuf,
    },
    /// Help on a command or a topic (exit-codes)
    #[command(after_help = "Example:\n  perigee help exit-codes\n  perigee help sandbox run")]
    Help {
        /// The command, or exit-codes
        words: Vec<String>,
    },
}

/// The whole grammar, to walk or to render.
pub fn grammar() -> clap::Command {
    Cli::command()
}
