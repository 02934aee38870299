//! `perigee`, the command line. Everything is in the library, so that tests can walk its grammar.
#![forbid(unsafe_code)]

fn main() {
    std::process::exit(perigee_cli::run(std::env::args_os()));
}
