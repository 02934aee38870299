//! All printing. Standard output gets data and nothing else; standard error everything for people.

use crate::args::Format;
use crate::cell::{Reader, plain};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::table::{self, Shown};
use perigee_clock::Clock;
use serde::Serialize;
use std::io::{self, Write};

/// Where everything printed goes.
#[derive(Clone, Debug)]
pub struct Output {
    /// The format asked for.
    pub format: Format,
    /// Progress and hints are wanted.
    pub talkative: bool,
    /// Progress can be drawn.
    pub drawing: bool,
    no_headers: bool,
    terminal: bool,
    color_out: bool,
    color_err: bool,
    clock: Clock,
}

/// A list on its way out, page by page.
#[derive(Debug)]
pub struct Listing<'a, T> {
    out: &'a Output,
    kept: Vec<T>,
    any: bool,
}

/// How good something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// Something will not work, the rest does.
    Warn,
    /// Nothing will work.
    Fail,
}

impl Grade {
    /// `ok`, `warn`, `fail`.
    pub fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Output {
    /// By the settings; ages are seen from when they are printed.
    pub fn new(settings: &Settings, clock: Clock) -> Self {
        Self {
            format: settings.format,
            talkative: !settings.quiet,
            drawing: !settings.quiet && settings.stderr_terminal,
            no_headers: settings.no_headers,
            terminal: settings.stdout_terminal,
            color_out: settings.color && settings.stdout_terminal,
            color_err: settings.color && settings.stderr_terminal,
            clock,
        }
    }

    /// One object.
    pub fn object<T: Shown>(&self, object: &T) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table | Format::Wide => self.laid_out(&table::sheet(object, self.reader())),
            Format::Json => pretty(object)? + "\n",
            Format::Jsonl => compact(object)? + "\n",
            Format::Yaml => yaml(object)?,
            Format::Csv => {
                let mut rows = self.head::<T>();
                rows.push(table::texts(object, true, Reader::Csv));
                table::csv(&rows)
            }
            Format::Name => object.name() + "\n",
        };
        self.text(&text)
    }

    /// A list to be filled page by page.
    pub fn listing<T: Shown>(&self) -> Listing<'_, T> {
        Listing { out: self, kept: Vec::new(), any: false }
    }

    /// Data as it is.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Data as it is.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| Failure::from_output(&e))
    }

    /// `ok    name  finding`, in colour where there is some; names are padded to `width`.
    pub fn graded(&self, grade: Grade, name: &str, width: usize, finding: &str) -> Result<(), Failure> {
        let (on, off) = match (self.color_out, grade) {
            (false, _) => ("", ""),
            (true, Grade::Ok) => ("\x1b[32m", "\x1b[0m"),
            (true, Grade::Warn) => ("\x1b[33m", "\x1b[0m"),
            (true, Grade::Fail) => ("\x1b[31m", "\x1b[0m"),
        };
        self.text(&format!("{on}{:<4}{off}  {:<width$}  {}\n", grade.text(), plain(name), plain(finding)))
    }

    /// Something a person may want to know.
    pub fn note(&self, text: &str) {
        if self.talkative {
            self.warning(text);
        }
    }

    /// Something a person must know, quiet or not. What cannot be written to standard error is lost.
    pub fn warning(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// A question whose answer must be yes.
    pub fn confirmed(&self, question: &str) -> bool {
        let _ = write!(io::stderr().lock(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// Says why the command failed and gives its exit code.
    pub fn failure(&self, failure: &Failure) -> Exit {
        if failure.what.is_empty() {
            return failure.exit;
        }
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(&failure.document()).unwrap_or_default() + "\n",
            Format::Jsonl => failure.document().to_string() + "\n",
            Format::Table | Format::Wide | Format::Yaml | Format::Csv | Format::Name => told(failure, self.color_err),
        };
        let _ = io::stderr().lock().write_all(text.as_bytes());
        failure.exit
    }

    fn reader(&self) -> Reader {
        table::reader(self.terminal, self.clock.now())
    }

    fn laid_out(&self, rows: &[Vec<String>]) -> String {
        if self.terminal { table::aligned(rows) } else { table::tabbed(rows) }
    }

    fn head<T: Shown>(&self) -> Vec<Vec<String>> {
        if self.no_headers { Vec::new() } else { vec![table::heads::<T>(self.all_columns())] }
    }

    fn all_columns(&self) -> bool {
        matches!(self.format, Format::Wide | Format::Csv)
    }
}

impl<T: Shown> Listing<'_, T> {
    /// Prints a page, or keeps it where a format needs the whole list.
    pub fn page(&mut self, items: Vec<T>) -> Result<(), Failure> {
        let out = self.out;
        let first = !self.any && !items.is_empty();
        self.any |= !items.is_empty();
        let reader = if out.format == Format::Csv { Reader::Csv } else { out.reader() };
        let whole = match out.format {
            Format::Json | Format::Yaml => true,
            Format::Table | Format::Wide => out.terminal,
            Format::Jsonl | Format::Csv | Format::Name => false,
        };
        if whole {
            self.kept.extend(items);
            return Ok(());
        }
        let mut text = String::new();
        match out.format {
            Format::Name => items.iter().for_each(|i| text += &(i.name() + "\n")),
            Format::Jsonl => {
                for item in &items {
                    text += &(compact(item)? + "\n");
                }
            }
            Format::Csv | Format::Table | Format::Wide | Format::Json | Format::Yaml => {
                let mut rows = if first { out.head::<T>() } else { Vec::new() };
                rows.extend(items.iter().map(|i| table::texts(i, out.all_columns(), reader)));
                text = if out.format == Format::Csv { table::csv(&rows) } else { table::tabbed(&rows) };
            }
        }
        out.text(&text)
    }

    /// Prints what was kept. An empty list is no failure; the hint says what to do about it.
    pub fn end(self, hint: &str) -> Result<(), Failure> {
        let out = self.out;
        if !self.any && !hint.is_empty() {
            out.note(hint);
        }
        match out.format {
            Format::Json => out.text(&(pretty(&self.kept)? + "\n")),
            Format::Yaml => out.text(&yaml(&self.kept)?),
            Format::Table | Format::Wide if out.terminal && self.any => {
                let mut rows = out.head::<T>();
                rows.extend(self.kept.iter().map(|i| table::texts(i, out.all_columns(), out.reader())));
                out.text(&table::aligned(&rows))
            }
            // A reader of columns wants to see them even when there is nothing in them.
            Format::Csv if !self.any => out.text(&table::csv(&out.head::<T>())),
            Format::Table | Format::Wide if !self.any && !out.terminal => out.text(&table::tabbed(&out.head::<T>())),
            Format::Table | Format::Wide | Format::Jsonl | Format::Csv | Format::Name => Ok(()),
        }
    }
}

/// A failure before there are settings.
pub fn plain_failure(failure: &Failure) -> Exit {
    let _ = io::stderr().lock().write_all(told(failure, false).as_bytes());
    failure.exit
}

/// Help goes to standard output and is no failure; everything else is wrong usage.
pub fn usage(fault: &clap::Error) -> Exit {
    let _ = fault.print();
    if fault.use_stderr() { Exit::USAGE } else { Exit::OK }
}

fn told(failure: &Failure, color: bool) -> String {
    let (on, off) = if color { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    let mut text = format!("{on}error:{off} {}\n", plain(&failure.what));
    failure.causes.iter().for_each(|c| text += &format!("  cause: {}\n", plain(c)));
    failure.tries.iter().for_each(|t| text += &format!("  try: {}\n", plain(t)));
    match (&failure.code, failure.request_id()) {
        (Some(code), Some(id)) => text += &format!("  code: {}  request-id: {}\n", plain(code), plain(id)),
        (Some(code), None) => text += &format!("  code: {}\n", plain(code)),
        (None, Some(id)) => text += &format!("  request-id: {}\n", plain(id)),
        (None, None) => {}
    }
    text
}

/// JSON as people read it.
pub fn pretty<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|e| unprintable(&e))
}

fn compact<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|e| unprintable(&e))
}

fn yaml<T: Serialize + ?Sized>(value: &T) -> Result<String, Failure> {
    serde_yaml_ng::to_string(value).map_err(|e| unprintable(&e))
}

fn unprintable(fault: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::FAILURE, "The answer cannot be printed").cause(fault.to_string())
}
