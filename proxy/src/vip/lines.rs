//! Lines out of bytes as they come, none longer than allowed.

/// Collects bytes and gives out whole lines.
#[derive(Debug)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    line_bytes_max: usize,
}

/// A line is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), line_bytes_max }
    }

    /// Takes what was read; the next lines are asked for before more is read, so that no more than a line and what one
    /// read brought is ever kept.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line without its end; `None` until there is one. What is not UTF-8 in it is replaced.
    pub(super) fn next(&mut self) -> Result<Option<String>, TooLong> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n');
        if end.unwrap_or(self.buffer.len()) > self.line_bytes_max {
            return Err(TooLong);
        }
        Ok(end.map(|end| {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_bytes_come() {
        let mut lines = Lines::new(8);
        assert_eq!(lines.next(), Ok(None));
        for byte in b"one\r\ntw" {
            lines.push(&[*byte]);
        }
        assert_eq!(lines.next(), Ok(Some("one".to_owned())));
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"o\n\n\xff\n");
        assert_eq!(lines.next(), Ok(Some("two".to_owned())));
        assert_eq!(lines.next(), Ok(Some(String::new())));
        assert_eq!(lines.next(), Ok(Some("\u{fffd}".to_owned())));
        assert_eq!(lines.next(), Ok(None));
    }

    #[test]
    fn a_line_may_be_as_long_as_allowed_and_no_longer() {
        let mut lines = Lines::new(4);
        lines.push(b"1234");
        assert_eq!(lines.next(), Ok(None));
        lines.push(b"\n12345\n");
        assert_eq!(lines.next(), Ok(Some("1234".to_owned())));
        assert_eq!(lines.next(), Err(TooLong));
        let mut endless = Lines::new(4);
        endless.push(b"12345");
        assert_eq!(endless.next(), Err(TooLong), "also while its end has not come");
    }
}
