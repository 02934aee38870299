//! What /proc says of one process, read.

use crate::scan::{number, words};

/// PF_KTHREAD.
const KERNEL_THREAD: i64 = 0x0020_0000;

/// One process, as its stat line has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process<'a> {
    pub comm: &'a [u8],
    pub state: u8,
    pub kernel: bool,
    pub ticks: i64,
    pub threads: i64,
    pub started: i64,
    pub resident_pages: i64,
}

impl<'a> Process<'a> {
    /// `None` for what is no stat line. A name may hold blanks and parentheses: the last `)` ends it.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let open = line.iter().position(|b| *b == b'(')?;
        let close = line.iter().rposition(|b| *b == b')')?;
        let comm = line.get(open + 1..close)?;
        let mut fields = words(line.get(close + 1..)?);
        let state = *fields.next()?.first()?;
        // From here on the fields of proc_pid_stat(5) less 4: flags is the 9th, utime the 14th.
        let kernel = number(fields.nth(5)?)? & KERNEL_THREAD != 0;
        let utime = number(fields.nth(4)?)?;
        let stime = number(fields.next()?)?;
        let threads = number(fields.nth(4)?)?;
        let started = number(fields.nth(1)?)?;
        let resident_pages = number(fields.nth(1)?)?;
        Some(Self { comm, state, kernel, ticks: utime.checked_add(stime)?, threads, started, resident_pages })
    }
}

/// What a schedstat line says was run, in ns; `None` where the kernel does not count: then how often it ran is 0, too.
pub fn ran(line: &[u8]) -> Option<i64> {
    let mut fields = words(line.trim_ascii_end());
    let nanos = number(fields.next()?)?;
    let times = number(fields.nth(1)?)?;
    (times > 0).then_some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = "4242 (a (b) c) R 1 4242 4242 0 -1 4194560 100 200 3 4 150 50 7 8 20 0 5 0 98765 1000000 321 \
                        18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 3 0 0 0 0 0\n";

    #[test]
    fn a_name_may_hold_anything() {
        let process = Process::parse(LINE.as_bytes()).unwrap();
        let expected = Process {
            comm: b"a (b) c",
            state: b'R',
            kernel: false,
            ticks: 200,
            threads: 5,
            started: 98765,
            resident_pages: 321,
        };
        assert_eq!(process, expected);
    }

    #[test]
    fn kernels_that_do_not_count_are_not_believed() {
        assert_eq!(ran(b"1234 5 6\n"), Some(1234));
        assert_eq!(ran(b"0 0 2\n"), Some(0), "made, and never asked for anything");
        assert_eq!([ran(b"0 0 0\n"), ran(b"12 0\n"), ran(b"")], [None; 3]);
    }

    proptest! {
        #[test]
        fn cut_and_broken_lines_are_no_panic(cut in 0usize..240, at in 0usize..240, byte: u8) {
            let mut line = LINE.as_bytes().to_vec();
            let length = line.len();
            line[at % length] = byte;
            line.truncate(cut);
            let _ = (Process::parse(&line), ran(&line));
        }
    }
}
