//! Files in the format whose reader is our own.

use crate::pcapng::Blocks;

/// All of a file.
pub fn pcapng(input: &[u8]) {
    let mut blocks = Blocks::new(input);
    let mut bytes = 0;
    while let Ok(true) = blocks.advance() {
        let (_, captured) = blocks.packet();
        // A packet's block has twelve bytes besides.
        bytes += captured.bytes.len() + 12;
        assert!(bytes <= input.len(), "nothing is read twice");
    }
}

/// Interfaces of different links and clocks, each kind of block, both orders of bytes.
pub fn seeds() -> Vec<Vec<u8>> {
    let file = |number: fn(u32) -> [u8; 4], half: fn(u16) -> [u8; 2]| {
        let block = |kind: u32, body: &[u8]| {
            let length = number(12 + body.len() as u32);
            [&number(kind)[..], &length, body, &length].concat()
        };
        let words = |numbers: &[u32]| numbers.iter().flat_map(|word| number(*word)).collect::<Vec<u8>>();
        let interface = |link, options: &[u8]| {
            block(1, &[&half(link)[..], &[0, 0], &number(u32::from(link) + 60), options].concat())
        };
        let nanos = [&half(9)[..], &half(1), &[9, 0, 0, 0], &half(14), &half(8), &[0; 8], &half(0), &half(0)].concat();
        [
            block(0x0a0d_0d0a, &[&number(0x1a2b_3c4d)[..], &half(1), &half(0), &[0xff; 8]].concat()),
            interface(1, &[]),
            interface(101, &nanos),
            block(6, &[&words(&[0, 400_000, 7, 8, 60]), &b"12345678"[..]].concat()),
            block(6, &[&words(&[1, 1, 2, 3, 3]), &b"123\0"[..]].concat()),
            block(5, &words(&[0, 1, 2])),
            block(3, &[&words(&[4]), &b"1234"[..]].concat()),
            block(2, &[&half(1)[..], &half(9), &words(&[1, 2, 4, 9]), b"1234"].concat()),
        ]
        .concat()
    };
    let (little, big) = (file(u32::to_le_bytes, u16::to_le_bytes), file(u32::to_be_bytes, u16::to_be_bytes));
    vec![[&little[..], &big].concat(), little, big]
}
