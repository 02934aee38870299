//! What is made from the grammar: completions, manual pages, help.

use crate::args::grammar;
use crate::exit::{Exit, TABLE};
use crate::failure::Failure;
use crate::session::Session;
use clap_complete::Shell;
use std::path::Path;

/// Completions for a shell, on standard output.
pub fn completion(shell: Shell, session: &Session) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut grammar(), "perigee", &mut script);
    session.out.bytes(&script)?;
    Ok(Exit::OK)
}

/// Manual pages, one for each command, into a directory.
pub fn man(dir: &Path, session: &Session) -> Result<Exit, Failure> {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(grammar(), dir))
        .map_err(|e| Failure::io(format!("The manual pages cannot be written to {}", dir.display()), &e))?;
    session.out.note(&format!("man -l {}/perigee.1", dir.display()));
    Ok(Exit::OK)
}

/// Help on a command or a topic.
pub fn help(words: &[String], session: &Session) -> Result<Exit, Failure> {
    if words.first().is_some_and(|w| w == "exit-codes") {
        session.out.text(TABLE)?;
        return Ok(Exit::OK);
    }
    let mut command = grammar();
    command.build();
    for word in words {
        let found = command.find_subcommand(word).cloned();
        command =
            found.ok_or_else(|| Failure::usage(format!("There is no help on {word:?}")).hint("perigee --help"))?;
    }
    session.out.text(&format!("{}\n", command.render_long_help().to_string().trim_end()))?;
    Ok(Exit::OK)
}
