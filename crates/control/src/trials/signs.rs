//! What a machine's serial port says, as far as it tells whether its system is up.

/// So much of what was heard is kept.
const HEARD_MAX: usize = 4096;
/// Of that, so many lines are told, and so much of each.
const LINES_TOLD: usize = 3;
const LINE_CHARS_MAX: usize = 160;

/// The end of what was heard.
#[derive(Default)]
pub(super) struct Heard {
    bytes: Vec<u8>,
}

impl Heard {
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let over = self.bytes.len().saturating_sub(HEARD_MAX);
        self.bytes.drain(..over);
    }

    /// Somebody is asked to log in, as getty and its like do: `web-1 login:`.
    pub(super) fn asks_login(&self) -> bool {
        let asks = |line: &String| {
            let line = line.to_ascii_lowercase();
            line.strip_suffix("login:").is_some_and(|before| before.is_empty() || before.ends_with(' '))
        };
        self.lines().iter().any(asks)
    }

    /// What it said last, for people; empty when it said nothing.
    pub(super) fn last_words(&self) -> String {
        let lines = self.lines();
        let last = lines[lines.len().saturating_sub(LINES_TOLD)..].iter();
        last.map(|line| line.chars().take(LINE_CHARS_MAX).collect::<String>()).collect::<Vec<_>>().join(" / ")
    }

    /// Lines with something on them, without what moves a terminal's cursor and colours its words.
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.bytes);
        let mut plain = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                // ECMA-48: `ESC [`, parameters, and one letter; of the others one sign follows.
                '\u{1b}' => {
                    if chars.next() == Some('[') {
                        chars.by_ref().find(|c| ('@'..='~').contains(c));
                    }
                }
                '\n' | '\r' => plain.push('\n'),
                c if c.is_control() => {}
                c => plain.push(c),
            }
        }
        plain.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(pieces: &[&str]) -> Heard {
        let mut heard = Heard::default();
        pieces.iter().for_each(|piece| heard.hear(piece.as_bytes()));
        heard
    }

    #[test]
    fn a_login_prompt_is_known_from_other_words() {
        for asks in [
            &["\r\nDebian GNU/Linux 12 db ttyS0\r\n\r\ndb log", "in: "][..],
            &["\u{1b}[0m\u{1b}[1;32mdb login: \u{1b}[0m"],
            &["Login:"],
            &["db login: \r\n[   9.1] random: crng init done\r\n"],
        ] {
            assert!(heard(asks).asks_login(), "{asks:?}");
        }
        for other in [
            &["systemd-logind: New seat"][..],
            &["Last login: Mon Nov 2 on ttyS0"],
            &["pam_login:"],
            &["db login: root"],
            &["~ # "],
            &[],
        ] {
            assert!(!heard(other).asks_login(), "{other:?}");
        }
    }

    #[test]
    fn the_last_words_are_few_and_plain() {
        assert_eq!(heard(&[]).last_words(), "");
        let panic = heard(&["one\r\ntwo\r\n\u{1b}[31mVFS: Unable to mount root fs\u{1b}[0m\r\n\u{7}---[ end ]---"]);
        assert_eq!(panic.last_words(), "two / VFS: Unable to mount root fs / ---[ end ]---");
        let long = "x".repeat(100_000);
        assert_eq!(heard(&[&long]).last_words().len(), LINE_CHARS_MAX);
        let mut cut = Heard::default();
        cut.hear(&[0xff, 0x1b]);
        assert_eq!(cut.last_words(), "\u{fffd}");
    }
}
