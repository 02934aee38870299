//! `label_replace` and `label_join`: new labels out of old ones.

use super::error::QueryError;
use super::functions::Arguments;
use super::rows::{Row, merged};
use regex::Regex;

/// `label_replace(v, into, replacement, from, pattern)`.
pub fn label_replace(args: &Arguments<'_>) -> Result<Vec<Row>, QueryError> {
    let text = |at: usize| args.evaluation.text(args.get(at)?);
    let (into, replacement, from, pattern) = (checked(text(1)?)?, text(2)?, text(3)?, text(4)?);
    let regex = Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|_| QueryError::Type(format!("invalid regular expression in label_replace(): {pattern}")))?;
    let mut rows = args.evaluation.rows(args.get(0)?)?;
    for row in &mut rows {
        let Some(found) = regex.captures(row.labels.get(&from)) else { continue };
        let mut value = String::new();
        found.expand(&replacement, &mut value);
        row.labels.set(&into, &value);
    }
    merged(rows)
}

/// `label_join(v, into, separator, from…)`.
pub fn label_join(args: &Arguments<'_>) -> Result<Vec<Row>, QueryError> {
    let text = |at: usize| args.evaluation.text(args.get(at)?);
    let (into, separator) = (checked(text(1)?)?, text(2)?);
    let sources = (3..args.len()).map(text).collect::<Result<Vec<_>, _>>()?;
    let mut rows = args.evaluation.rows(args.get(0)?)?;
    for row in &mut rows {
        let value = sources.iter().map(|from| row.labels.get(from)).collect::<Vec<_>>().join(&separator);
        row.labels.set(&into, &value);
    }
    merged(rows)
}

fn checked(label: String) -> Result<String, QueryError> {
    let is_first = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    let fits = label.bytes().next().is_some_and(is_first) && label.bytes().all(|b| is_first(b) || b.is_ascii_digit());
    if fits { Ok(label) } else { Err(QueryError::Type(format!("invalid destination label name: {label:?}"))) }
}
