//! The only place that prints: the table on stdout, everything else on stderr.

#[allow(clippy::print_stdout, reason = "the table is what the program is for")]
pub fn line(text: &str) {
    println!("{text}");
}

#[allow(clippy::print_stderr, reason = "for whoever waits")]
pub fn progress(text: &str) {
    eprintln!("bench: {text}");
}

#[allow(clippy::print_stderr, reason = "why it ended badly")]
pub fn failure(text: &str) {
    eprintln!("{text}");
}
