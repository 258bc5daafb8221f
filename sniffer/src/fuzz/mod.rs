//! Entry points for fuzzing all that reads bytes of the wire and of other sniffers. `fuzz/` runs them under libFuzzer, the
//! tests here with seeded mutations. Each panics where it finds a defect.

mod classify;
mod flows;
mod packet;
mod pcapng;
#[cfg(test)]
mod tests;

pub use self::classify::classify;
pub use flows::flows;
pub use packet::packet;
pub use pcapng::pcapng;

use ::flow::app::{HOST_BYTES_MAX, Label};

/// What is fuzzed: its name, what takes the input, and inputs to start from.
pub struct Target {
    /// Also the name of its binary.
    pub name: &'static str,
    /// Takes any bytes.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets of this crate.
pub const TARGETS: [Target; 4] = [
    Target { name: "packet", run: packet, seeds: packet::seeds },
    Target { name: "classify", run: classify, seeds: classify::seeds },
    Target { name: "pcapng", run: pcapng, seeds: pcapng::seeds },
    Target { name: "flows", run: flows, seeds: flows::seeds },
];

/// The inputs to start from of one target.
#[must_use]
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    TARGETS.iter().find(|target| target.name == name).map(|target| (target.seeds)()).unwrap_or_default()
}

/// The next piece of an input: its length in two bytes, then as many, or what is left.
fn piece<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<2>()?;
    let (taken, behind) = behind.split_at(usize::from(u16::from_le_bytes(*length)).min(behind.len()));
    *rest = behind;
    Some(taken)
}

fn put_piece(input: &mut Vec<u8>, bytes: &[u8]) {
    input.extend((bytes.len() as u16).to_le_bytes());
    input.extend(bytes);
}

/// The next byte; 0 where there is none.
fn byte(rest: &mut &[u8]) -> u8 {
    match rest.split_first() {
        Some((first, behind)) => {
            *rest = behind;
            *first
        }
        None => 0,
    }
}

/// Whether each text of a label is one that may be stored and shown.
fn check_label(label: &Label) {
    for text in [&label.host, &label.alpn, &label.ja4].into_iter().flatten() {
        assert!((1..=HOST_BYTES_MAX).contains(&text.len()), "{label:?}");
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{label:?}");
    }
    let names = [&label.host, &label.alpn].into_iter().flatten();
    assert!(names.into_iter().all(|name| **name == *name.to_ascii_lowercase()), "{label:?}");
    assert!(label.ja4.as_ref().is_none_or(|ja4| ja4.len() == 36), "{label:?}");
}
