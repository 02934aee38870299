//! The mark on our domains: an element of our own namespace in their metadata.
//!
//! ```xml
//! <guest xmlns="urn:perigee:guest:1" instance="0000abcd" id="0190…">the memo</guest>
//! ```
//! Owns: writing and reading it. A domain without one is nobody's of ours, one with another
//! instance's is that one's. Refuses: text that XML cannot hold.

use crate::HypervisorError;
use perigee_model::{GuestId, InstanceId};
use quick_xml::Writer;
use quick_xml::events::BytesText;
use roxmltree::Document;
use std::io;

/// The namespace of our elements.
pub const NAMESPACE: &str = "urn:perigee:guest:1";
/// Its prefix in definitions.
pub const PREFIX: &str = "perigee";
/// The longest memo, in bytes.
pub const MEMO_BYTES_MAX: usize = 64 << 10;

/// Whose a domain is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The instance that made it or took it over.
    pub instance: InstanceId,
    /// The guest.
    pub guest: GuestId,
    /// As of the newest start.
    pub memo: Option<String>,
}

impl Mark {
    /// The element; `prefix` is that of the namespace where it is declared outside.
    pub fn write(&self, writer: &mut Writer<Vec<u8>>, prefix: Option<&str>) -> io::Result<()> {
        let name = prefix.map_or("guest".to_owned(), |prefix| format!("{prefix}:guest"));
        let declared = prefix.map_or("xmlns".to_owned(), |prefix| format!("xmlns:{prefix}"));
        let id = self.guest.to_string();
        let element = writer.create_element(name.as_str()).with_attributes([
            (declared.as_str(), NAMESPACE),
            ("instance", self.instance.as_str()),
            ("id", id.as_str()),
        ]);
        match &self.memo {
            Some(memo) => element.write_text_content(BytesText::new(memo))?,
            None => element.write_empty()?,
        };
        Ok(())
    }

    /// The element by itself, as libvirt's metadata calls take it.
    pub fn element(&self) -> Result<String, HypervisorError> {
        let mut writer = Writer::new(Vec::new());
        let written = self.write(&mut writer, None);
        let text = written.and_then(|()| String::from_utf8(writer.into_inner()).map_err(io::Error::other));
        text.map_err(|error| HypervisorError::BadPlan(format!("a mark that cannot be written: {error}")))
    }

    /// Reads what [`Mark::element`] wrote; `None` for anything else.
    pub fn read(element: &str) -> Option<Self> {
        let document = Document::parse(element).ok()?;
        let root = document.root_element();
        // libvirt gives the element back without the namespace it was asked for.
        if root.tag_name().name() != "guest" {
            return None;
        }
        let instance = InstanceId::parse(root.attribute("instance")?)?;
        let guest = root.attribute("id")?.parse().ok()?;
        let memo: String = root.children().filter_map(|child| child.text()).collect();
        Some(Self { instance, guest, memo: Some(memo).filter(|memo| !memo.is_empty()) })
    }
}

/// Says what is wrong with a text that is to be in a definition (XML 1.0, 2.2).
pub fn text_fault(text: &str) -> Option<String> {
    let bad = |c: char| c.is_control() && !matches!(c, '\n' | '\t') || matches!(c, '\u{fffe}' | '\u{ffff}');
    text.chars().find(|c| bad(*c)).map(|c| format!("U+{:04X} cannot be in a definition", u32::from(c)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn mark(memo: Option<&str>) -> Mark {
        let guest = GuestId::new(Uuid::from_u128(7));
        Mark { instance: InstanceId::from_bits(0xabc), guest, memo: memo.map(str::to_owned) }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(memo in "[ -~\u{80}-\u{d7ff}\u{e000}-\u{fffd}\u{10000}-\u{10ffff}]{1,200}") {
            prop_assume!(text_fault(&memo).is_none());
            let mark = mark(Some(&memo));
            prop_assert_eq!(Mark::read(&mark.element().unwrap()), Some(mark));
        }

        #[test]
        fn anything_else_is_nobodys(text in ".{0,80}") {
            prop_assert_eq!(Mark::read(&text), None);
        }
    }

    #[test]
    fn markup_is_text() {
        for memo in ["</guest><guest instance='0'>", "&amp;", "]]>", "<!-- -->", "{\"a\":1}", " x "] {
            assert_eq!(Mark::read(&mark(Some(memo)).element().unwrap()).unwrap().memo.as_deref(), Some(memo));
        }
        assert_eq!(Mark::read(&mark(None).element().unwrap()), Some(mark(None)));
        assert!(text_fault("\u{0}").is_some() && text_fault("\u{ffff}").is_some() && text_fault("ä\n").is_none());
    }

    #[test]
    fn others_and_broken_marks_are_none() {
        for text in ["<guest/>", "<guest instance='0000abcd' id='x'/>", "<guest instance='x' id='0'/>", "<other/>"] {
            assert_eq!(Mark::read(text), None, "{text}");
        }
    }
}
