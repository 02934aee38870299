//! Lists of checksums, as they lie beside the images that they are about.

use crate::import::ImportError;
use perigee_model::Checksum;
use perigee_outbound::{Outbound, OutboundError, place};

/// Longest list that is read.
const LIST_BYTES_MAX: usize = 1 << 20;

/// What a list says of the file at an address.
///
/// # Errors
/// `Source` when the list cannot be had, `NotListed` when the file is not in it.
pub async fn listed(outbound: &Outbound, list: &str, address: &str) -> Result<Checksum, ImportError> {
    let mut answer = outbound.get(list).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = answer.next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > LIST_BYTES_MAX {
            return Err(OutboundError::TooLarge { limit: LIST_BYTES_MAX as u64 }.into());
        }
    }
    let name = name(address)?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines()
        .find_map(|line| entry(line, &name))
        .ok_or_else(|| ImportError::NotListed { list: list.to_owned(), name })
}

/// The file's name, as the last step of the path has it.
fn name(address: &str) -> Result<String, ImportError> {
    let url = place(address)?;
    Ok(url.path_segments().and_then(Iterator::last).unwrap_or_default().to_owned())
}

/// `HEX  NAME`, `HEX *NAME`, or BSD's `SHA256 (NAME) = HEX`.
fn entry(line: &str, name: &str) -> Option<Checksum> {
    if let Some((first, rest)) = line.split_once(") = ") {
        let (_, listed) = first.split_once(" (")?;
        return (listed == name).then(|| Checksum::parse(rest.trim()))?;
    }
    let (digits, listed) = line.split_once([' ', '\t'])?;
    let listed = listed.trim_start_matches([' ', '\t', '*']).trim_end();
    (listed.trim_start_matches("./") == name).then(|| Checksum::parse(digits))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_each_tool_writes_it() {
        let hex = "0a".repeat(32);
        let expected = Checksum::parse(&hex);
        for line in [
            format!("{hex}  disk.qcow2"),
            format!("{hex} *disk.qcow2"),
            format!("{hex}  ./disk.qcow2"),
            format!("SHA256 (disk.qcow2) = {hex}"),
        ] {
            assert_eq!(entry(&line, "disk.qcow2"), expected, "{line}");
        }
        for line in [
            format!("{hex}  other-disk.qcow2"),
            format!("{hex}  disk.qcow2.old"),
            format!("SHA256 (disk.qcow2.old) = {hex}"),
            format!("{}  disk.qcow2", &hex[2..]),
            "disk.qcow2".to_owned(),
            String::new(),
        ] {
            assert_eq!(entry(&line, "disk.qcow2"), None, "{line}");
        }
    }

    #[test]
    fn a_name_is_the_last_step_of_the_path() {
        assert_eq!(name("https://example.org/a/disk.img?x=/y").unwrap(), "disk.img");
    }
}
