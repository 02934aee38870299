//! A function fits a screen, a file stays readable. Longer is split by noun or by verb.

use super::{Finding, Tree, finding};
use crate::source::Code;

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

pub fn files(tree: &Tree) -> Vec<Finding> {
    let length = |(path, text): (&str, &str)| {
        let lines = text.lines().count();
        let what = format!("{lines} lines, {FILE_LINES_MAX} at most: split it by noun or by verb");
        (lines > FILE_LINES_MAX).then(|| finding(path, what))
    };
    tree.rust().filter_map(length).collect()
}

pub fn functions(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        for function in Code::of(text).functions() {
            if function.lines > FUNCTION_LINES_MAX {
                let what = format!("fn {} has {} lines, {FUNCTION_LINES_MAX} at most", function.name, function.lines);
                findings.push(finding(format!("{path}:{}", function.line), what));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::places;
    use super::*;

    #[test]
    fn a_file_may_have_800_lines() {
        let lines = |count: usize| "x\n".repeat(count);
        let (fits, long) = (lines(800), lines(801));
        let generated = format!("// @generated\n{long}");
        let found = places(files, &[("a.rs", &fits), ("b.rs", &long), ("c.md", &long), ("d.rs", &generated)]);
        assert_eq!(found, ["b.rs"]);
    }

    #[test]
    fn a_function_may_have_70_lines() {
        let function = |lines: usize| format!("\nfn f() {{\n{}}}\n", "x;\n".repeat(lines - 2));
        assert!(places(functions, &[("a.rs", &function(70))]).is_empty());
        assert_eq!(places(functions, &[("a.rs", &function(71))]), ["a.rs:2"]);
    }
}
