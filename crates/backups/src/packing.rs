//! One zstd frame for each chunk (RFC 8878), its length written in it.

/// Quick beats small: a disk's zeros and text shrink at any level, and a host waits for it.
const LEVEL: i32 = 1;

pub fn pack(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(plain, LEVEL)
}

/// `None` for what is no such frame, or says that it holds more than `most` bytes.
pub fn unpack(frame: &[u8], most: usize) -> Option<Vec<u8>> {
    let length = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten()?;
    let length = usize::try_from(length).ok().filter(|length| *length <= most)?;
    zstd::bulk::decompress(frame, length).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_lies_about_its_length_is_refused() {
        let frame = pack(&[7; 1000]).unwrap();
        assert_eq!(unpack(&frame, 1000).unwrap(), [7; 1000]);
        assert_eq!(unpack(&frame, 999), None);
        assert_eq!(unpack(&frame[..frame.len() - 1], 1000), None);
        assert_eq!(unpack(&[], 1000), None);
        // A window that was never closed: the frame does not say how much it holds.
        let mut silent = zstd::stream::Encoder::new(Vec::new(), LEVEL).unwrap();
        std::io::Write::write_all(&mut silent, &[7; 1000]).unwrap();
        assert_eq!(unpack(&silent.finish().unwrap(), 1000), None);
    }
}
