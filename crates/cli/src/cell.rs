//! One value of a table, and how it looks to a person, to a pipe and in CSV.

use crate::units::{show_age, show_bytes, show_millis};
use perigee_model::Timestamp;

/// One value of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// As it is.
    Text(String),
    /// A count.
    Number(i64),
    /// A size.
    Bytes(u64),
    /// A duration.
    Millis(u64),
    /// RFC 3339.
    Time(String),
    /// Nothing there.
    Missing,
}

/// Who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A person at this moment: ages instead of times.
    Person(Timestamp),
    /// `cut` and `awk`: times in full, `-` for nothing.
    Pipe,
    /// CSV: plain numbers, nothing for nothing.
    Csv,
}

impl Cell {
    /// Of an optional text.
    pub fn text(text: Option<&String>) -> Self {
        text.map_or(Self::Missing, |t| Self::Text(t.clone()))
    }
    /// Of an optional time.
    pub fn time(time: Option<&String>) -> Self {
        time.map_or(Self::Missing, |t| Self::Time(t.clone()))
    }
    /// `k=v,k=v`.
    pub fn pairs(pairs: &std::collections::BTreeMap<String, String>) -> Self {
        if pairs.is_empty() {
            return Self::Missing;
        }
        Self::Text(pairs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","))
    }
    /// A command line that a shell would split the same way.
    pub fn command(argv: &[String]) -> Self {
        Self::Text(argv.iter().map(|a| quoted(a)).collect::<Vec<_>>().join(" "))
    }

    /// As this reader wants it, without control characters.
    pub fn show(&self, reader: Reader) -> String {
        match (self, reader) {
            (Self::Text(text), Reader::Person(_) | Reader::Pipe) if text.is_empty() => "-".to_owned(),
            (Self::Text(text), _) => plain(text),
            (Self::Number(number), _) => number.to_string(),
            (Self::Bytes(n) | Self::Millis(n), Reader::Csv) => n.to_string(),
            (Self::Bytes(bytes), _) => show_bytes(*bytes),
            (Self::Millis(millis), _) => show_millis(*millis),
            (Self::Time(text), Reader::Person(now)) => match Timestamp::parse(text) {
                Some(then) if then > now => format!("in {}", show_age(then.since(now))),
                Some(then) => format!("{} ago", show_age(now.since(then))),
                None => plain(text),
            },
            (Self::Time(text), _) => plain(text),
            (Self::Missing, Reader::Csv) => String::new(),
            (Self::Missing, _) => "-".to_owned(),
        }
    }
}

/// What a guest wrote must not move the cursor here: control characters are shown as escapes.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

fn quoted(word: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(safe) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_what_it_can_use() {
        let time = Cell::Time("2026-10-03T10:00:00Z".to_owned());
        let now = Timestamp::parse("2026-10-03T10:05:00Z").unwrap();
        assert_eq!(time.show(Reader::Person(now)), "5m ago");
        assert_eq!(time.show(Reader::Pipe), "2026-10-03T10:00:00Z");
        assert_eq!(Cell::Bytes(256 << 20).show(Reader::Pipe), "256MiB");
        assert_eq!(Cell::Bytes(256 << 20).show(Reader::Csv), "268435456");
        assert_eq!(Cell::Missing.show(Reader::Pipe), "-");
        assert_eq!(Cell::Missing.show(Reader::Csv), "");
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(Cell::Text("a\tb\u{1b}[31m\n".to_owned()).show(Reader::Pipe), "a\\tb\\u{1b}[31m\\n");
    }

    #[test]
    fn commands_are_shown_as_a_shell_reads_them() {
        let argv = ["sh", "-c", "echo 'a b'", ""].map(str::to_owned);
        assert_eq!(Cell::command(&argv), Cell::Text(r"sh -c 'echo '\''a b'\''' ''".to_owned()));
    }
}
