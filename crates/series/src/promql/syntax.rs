//! Reading a query: the grammar is promql-parser's; limits, and where an error is, are ours.
//!
//! The parser says that a text is no query, but not where. The place is found by asking it again
//! about beginnings of the text: the longest beginning that some ending would complete is fine.

use super::error::QueryError;
use super::functions::nearest;
use super::{QUERY_BYTES_MAX, QUERY_DEPTH_MAX, QUERY_OPERATORS_MAX};
use promql_parser::parser::{self, Expr};

/// What the parser says when the tokens do not make a query.
const NO_QUERY: &str = "invalid promql query";

/// Reads a query.
pub fn parse(query: &str) -> Result<Expr, QueryError> {
    check_size("bytes", query.len(), QUERY_BYTES_MAX)?;
    // Before the parser: what it builds it also tears down level by level, and it takes time in the
    // square of the operators in a row.
    let shape = Shape::of(query);
    check_size("brackets within brackets", shape.depth, QUERY_DEPTH_MAX)?;
    check_size("operators", shape.operators, QUERY_OPERATORS_MAX)?;
    match parser::parse(query) {
        Ok(expr) if is_within(&expr, QUERY_DEPTH_MAX * 2) => Ok(expr),
        Ok(_) => Err(QueryError::TooComplex {
            what: "operators within operators",
            found: QUERY_DEPTH_MAX * 2 + 1,
            max: QUERY_DEPTH_MAX * 2,
        }),
        Err(why) => Err(explain(query, why)),
    }
}

fn check_size(what: &'static str, found: usize, max: usize) -> Result<(), QueryError> {
    if found > max { Err(QueryError::TooComplex { what, found, max }) } else { Ok(()) }
}

/// What tokens alone tell.
#[derive(Default)]
struct Shape {
    /// Brackets within brackets.
    depth: usize,
    /// Operators, those between a label and its value not among them.
    operators: usize,
}

impl Shape {
    fn of(query: &str) -> Self {
        let (mut shape, mut depth, mut start, mut in_braces) = (Self::default(), 0_usize, 0, false);
        for end in tokens(query) {
            match query[start..end].trim_start() {
                open @ ("(" | "[" | "{") => {
                    depth += 1;
                    in_braces = open == "{";
                }
                ")" | "]" | "}" => {
                    depth = depth.saturating_sub(1);
                    in_braces = false;
                }
                "and" | "or" | "unless" | "atan2" => shape.operators += 1,
                other if !in_braces && other.starts_with(OPERATOR_STARTS) => shape.operators += 1,
                _ => {}
            }
            shape.depth = shape.depth.max(depth);
            start = end;
        }
        shape
    }
}

/// How the operators begin that are no words.
const OPERATOR_STARTS: [char; 10] = ['+', '-', '*', '/', '%', '^', '=', '!', '<', '>'];

fn is_within(expr: &Expr, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    match expr {
        Expr::Aggregate(ex) => is_within(&ex.expr, depth) && ex.param.as_ref().is_none_or(|p| is_within(p, depth)),
        Expr::Unary(ex) => is_within(&ex.expr, depth),
        Expr::Binary(ex) => is_within(&ex.lhs, depth) && is_within(&ex.rhs, depth),
        Expr::Paren(ex) => is_within(&ex.expr, depth),
        Expr::Subquery(ex) => is_within(&ex.expr, depth),
        Expr::Call(ex) => ex.args.args.iter().all(|arg| is_within(arg, depth)),
        Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::VectorSelector(_)
        | Expr::MatrixSelector(_)
        | Expr::Extension(_) => true,
    }
}

fn explain(query: &str, why: String) -> QueryError {
    if let Some(name) = why.strip_prefix("unknown function with name '").and_then(|rest| rest.strip_suffix('\'')) {
        return QueryError::Unsupported { name: name.to_owned(), nearest: nearest(name) };
    }
    let ends: Vec<usize> = tokens(query).collect();
    if is_type_error(&why) && ends.last().is_some_and(|end| is_beginning(&query[..*end])) {
        return QueryError::Type(why);
    }
    // Beginnings of a beginning are beginnings: the first bad token can be searched for.
    let good = ends.partition_point(|end| is_beginning(&query[..*end]));
    let start = if good == 0 { 0 } else { ends[good - 1] };
    let rest = query[start..].trim_start();
    let at = query.len() - rest.len();
    let near = ends.get(good).map_or(String::new(), |end| query[at.min(*end)..*end].to_owned());
    let why =
        if why == NO_QUERY { if near.is_empty() { "it ends too early" } else { "unexpected" }.to_owned() } else { why };
    QueryError::Syntax { at, near, why }
}

/// Whether the tokens were fine and the parts do not fit together.
fn is_type_error(why: &str) -> bool {
    why != NO_QUERY && !LEXER_SAYS.iter().any(|start| why.starts_with(start))
}

/// How the messages of the parser's lexer begin.
const LEXER_SAYS: &[&str] = &[
    "unexpected",
    "unclosed",
    "unterminated",
    "unknown escape",
    "escape sequence",
    "bad number",
    "bad duration",
    "too many left",
    "'!'",
    "expect duration",
    "missing unit",
    "no expression",
    "duration must",
    "empty duration",
    "not a valid duration",
];

/// Where each token ends, coarsely: words, texts, runs of operator characters.
fn tokens(query: &str) -> impl Iterator<Item = usize> {
    let bytes = query.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        let first = *bytes.get(at)?;
        let is_word = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':') || !b.is_ascii();
        at += match first {
            b'"' | b'\'' | b'`' => text_length(&bytes[at..], first),
            b'=' | b'!' | b'<' | b'>' if matches!(bytes.get(at + 1), Some(b'=' | b'~')) => 2,
            b if is_word(&b) => bytes[at..].iter().take_while(|b| is_word(b)).count(),
            _ => 1,
        };
        Some(at)
    })
}

fn text_length(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' && quote != b'`' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// What may be missing inside the innermost bracket, and after it.
const WITHIN: &[&str] = &[
    "", " x", " 1", " 1m", "\"a\"", " =\"a\"", "(x)", " (x)", "(a)(x)", "(a) x", "(a)", "()", "1m", "1m:1m", " (1)",
    "a=\"a\"",
];
const AFTER: &[&str] = &["", "(x)", " x"];

/// Whether some ending makes a query of it, be it one whose parts do not fit.
fn is_beginning(text: &str) -> bool {
    let mut open = Vec::new();
    let mut start = 0;
    for end in tokens(text) {
        match text[start..end].trim_start() {
            "(" => open.push(")"),
            "[" => open.push("]"),
            "{" => open.push("}"),
            ")" | "]" | "}" => drop(open.pop()),
            _ => {}
        }
        start = end;
    }
    let inner = open.pop().unwrap_or("");
    let outer: String = open.iter().rev().copied().collect();
    WITHIN.iter().any(|within| {
        AFTER.iter().any(|after| {
            let tried = format!("{text}{within}{inner}{after}{outer}");
            parser::parse(&tried).map_or_else(|why| is_type_error(&why), |_| true)
        })
    })
}
