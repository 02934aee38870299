//! Rust source, read just well enough for tidy: what is code and what is comment or text, and
//! where functions begin and end. A parser would be exact, and cost more to build than all of xtask.

/// Source whose comments, strings and characters are blanked; lines and columns stay.
#[derive(Debug)]
pub struct Code {
    text: String,
    /// The first line (from 0) of a test module at the end of the file.
    tests_from: Option<usize>,
}

/// One function.
#[derive(PartialEq, Eq, Debug)]
pub struct Function {
    pub name: String,
    /// Its first line, from 1.
    pub line: usize,
    pub lines: usize,
}

impl Code {
    pub fn of(source: &str) -> Self {
        let text = blank(source);
        let lines: Vec<_> = text.lines().collect();
        let is_tests = |pair: &[&str]| {
            let module = pair[1].trim_start().trim_start_matches("pub ");
            pair[0].trim() == "#[cfg(test)]" && module.starts_with("mod ") && module.trim_end().ends_with('{')
        };
        let tests_from = lines.windows(2).position(is_tests);
        Self { text, tests_from }
    }

    /// Lines that are not in the test module, numbered from 1.
    pub fn lines_outside_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines()).take(self.tests_from.unwrap_or(usize::MAX))
    }

    pub fn has(&self, code: &str) -> bool {
        self.text.contains(code)
    }

    /// Every function with a body, tests included.
    pub fn functions(&self) -> Vec<Function> {
        let bytes = self.text.as_bytes();
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(step) = self.text[at..].find("fn ") {
            let start = at + step;
            at = start + 3;
            let starts_a_word = start == 0 || !is_word(bytes[start - 1]);
            let name: String = self.text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !starts_a_word || name.is_empty() {
                continue;
            }
            if let Some(end) = body_end(bytes, at) {
                let line = count_lines(&bytes[..start]) + 1;
                found.push(Function { name, line, lines: count_lines(&bytes[start..end]) + 1 });
            }
        }
        found
    }
}

/// Where the body that follows a signature ends; nothing for a declaration.
fn body_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return block_end(bytes, at),
            _ => {}
        }
    }
    None
}

fn block_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Replaces what is no code by spaces, byte for byte.
fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = not_code(&bytes[at..], at.checked_sub(1).map(|before| bytes[before]));
        if length == 0 {
            out.push(bytes[at]);
            at += 1;
        } else {
            let end = (at + length).min(bytes.len());
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8(out).unwrap_or_default()
}

/// The length of the comment, string or character that begins here, or 0.
fn not_code(bytes: &[u8], before: Option<u8>) -> usize {
    let inside_a_word = before.is_some_and(is_word);
    match bytes {
        [b'/', b'/', ..] => bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()),
        [b'/', b'*', ..] => block_comment(bytes),
        [b'"', ..] => string(bytes),
        [b'b' | b'c', b'"', ..] if !inside_a_word => 1 + string(&bytes[1..]),
        [b'r', b'"' | b'#', ..] if !inside_a_word => raw_string(bytes, 1),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !inside_a_word => raw_string(bytes, 2),
        [b'\'', ..] => character(bytes),
        [byte, ..] if *byte >= 0x80 => 1, // letters beyond ASCII occur only in comments and strings
        _ => 0,
    }
}

fn block_comment(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < bytes.len() {
        match &bytes[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// `r"…"`, `r#"…"#`; 0 for a raw identifier (`r#type`).
fn raw_string(bytes: &[u8], prefix: usize) -> usize {
    let hashes = bytes[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + hashes;
    if bytes.get(open) != Some(&b'"') {
        return 0;
    }
    let mut close = vec![b'"'];
    close.resize(1 + hashes, b'#');
    let end = bytes[open + 1..].windows(close.len()).position(|window| window == close);
    end.map_or(bytes.len(), |end| open + 1 + end + close.len())
}

/// `'x'`, `'\n'`, `'\u{1f600}'`; 0 for a lifetime.
fn character(bytes: &[u8]) -> usize {
    let end = match bytes.get(1) {
        Some(b'\\') => bytes.iter().skip(3).position(|byte| *byte == b'\'').map(|end| end + 4),
        Some(_) => bytes.iter().skip(1).take(5).position(|byte| *byte == b'\'').map(|end| end + 2),
        None => None,
    };
    match end {
        Some(3) => 3,
        // Longer than one byte: one letter beyond ASCII, or an escape; else two lifetimes.
        Some(end) if bytes[1] == b'\\' || bytes[1] >= 0x80 => end,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &str) {
        assert_eq!(blank(source), expected, "{source}");
    }

    #[test]
    fn what_is_no_code_is_blank() {
        check("a // { b\nc", "a       \nc");
        check("a /* { /* } */ \n */ b", "a              \n    b");
        check(r#"f("{ \" }") g"#, r"f(        ) g");
        check(r##"r#"{ " }"# g"##, "           g");
        check(r##"br"{" r#type"##, "      r#type");
        check(r"'{' '\'' '\u{7d}' &'a str 'b: loop", "                  &'a str 'b: loop");
        check("'é' x", "     x");
    }

    #[test]
    fn functions_are_measured() {
        let source = "fn one() {}\nimpl X {\n    async fn two<'a>(x: [u8; 3]) -> Y<'a>\n    where\n        Z: W,\n    {\n        \
                      if '{' == x { \"}\" }\n    }\n    fn declared(&self);\n}\n// fn no() {}\nlet fn_three = 1;\n";
        let found = Code::of(source).functions();
        let function = |name: &str, line, lines| Function { name: name.to_owned(), line, lines };
        assert_eq!(found, [function("one", 1, 1), function("two", 3, 6)]);
    }

    #[test]
    fn a_test_module_at_the_end_is_told_apart() {
        let code = Code::of("fn a() {}\n#[cfg(test)]\nmod tests {\n    now();\n}\n");
        assert_eq!(code.lines_outside_tests().count(), 1);
        let code = Code::of("#[cfg(test)]\nmod tests;\nfn a() {}\n");
        assert_eq!(code.lines_outside_tests().count(), 3);
    }
}
