//! The bytes of the format, and what decoders do with others.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_of_a_segment_stay_as_they_are() {
    let disk = MemDisk::new();
    let (mut wal, _) = open(&disk).unwrap();
    wal.append(&[snapshot(7, 5, 2), hard(7, 3, 9, 5), entry(7, 6, 3, b"abc")], true).unwrap();
    wal.append(&[snapshot(7, 6, 3)], true).unwrap();
    let bytes = read_whole(&disk, "wal-0000000000000001.log", 1 << 20).unwrap();
    let got: Vec<String> = [0..64, 64..96, 96..128, 128..149, 149..178, 178..206, 206..238, 238..259]
        .into_iter()
        .map(|range| hex(&bytes[range]))
        .collect();
    let want = [
        "7261667477616c0a00000001486906f900000000000000014e08d6bdb05075230000000000000000000000000000000100000000000000600000000000000000",
        "5257667221607635000000000000000000000000000000010000000000000000",
        "525766727ca6ab46423985590000004e00000000000000020000006000000003",
        "040000000700000000000000050000000000000002",
        "0200000007000000000000000300000000000000090000000000000005",
        "01000000070000000000000006000000000000000300000003616263",
        "525766727990133c63186e6c000000150000000000000003000000ce00000001",
        "030000000700000000000000060000000000000003",
    ];
    assert_eq!(got, want);
    assert!(bytes[259..].iter().all(|byte| *byte == 0));
    assert_eq!(bytes.len(), 1024);
}

#[test]
fn a_record_that_is_cut_short_or_unknown_is_none() {
    let round = [
        Item::Entry { group: GroupId(1), index: Index(2), term: Term(3), data: b"xyz" },
        Item::HardState { group: GroupId(1), state: HardState::default() },
        Item::Snapshot { group: GroupId(1), index: Index(2), term: Term(3), log: format::Rest::Dead },
        Item::Checkpoint {
            group: GroupId(1),
            state: HardState { term: Term(1), vote: Some(NodeId(4)), commit: Index(2) },
            snapshot: (Index(1), Term(1)),
            last: Index(9),
        },
    ];
    for item in round {
        let mut bytes = Vec::new();
        item.encode(&mut bytes);
        let mut rest = bytes.as_slice();
        assert_eq!(Item::decode(&mut rest), Some(item));
        assert!(rest.is_empty());
        for length in 0..bytes.len() {
            assert_eq!(Item::decode(&mut &bytes[..length]), None);
        }
        for kind in [0, 6, 255] {
            bytes[0] = kind;
            assert_eq!(Item::decode(&mut bytes.as_slice()), None);
        }
    }
}

#[test]
fn a_length_beyond_the_bytes_allocates_nothing() {
    let mut bytes = Vec::new();
    Item::Entry { group: GroupId(1), index: Index(1), term: Term(1), data: b"" }.encode(&mut bytes);
    let length = bytes.len();
    bytes[length - 4..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(Item::decode(&mut bytes.as_slice()), None);
}

#[test]
fn random_bytes_are_never_a_log() {
    for seed in 0..300 {
        let mut random = SplitMix(seed);
        let disk = MemDisk::new();
        let length = random.below(600);
        let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        if seed % 2 == 0 && bytes.len() > 8 {
            bytes[..8].copy_from_slice(&format::SEGMENT_MAGIC);
        }
        disk.create("wal-0000000000000001.log").unwrap().write_at(0, &bytes).unwrap();
        let error = open(&disk).map(drop).unwrap_err();
        assert!(matches!(error, WalError::Corrupt(_) | WalError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("wal-0000000000000001.log"), "{error}");
    }
}

#[test]
fn other_versions_and_strangers_are_named() {
    let disk = MemDisk::new();
    drop(open(&disk).unwrap());
    let name = "wal-0000000000000001.log";
    let original = read_whole(&disk, name, 1 << 20).unwrap();
    let mut newer = original.clone();
    newer[11] = 2;
    let header: &[u8; 64] = newer[..64].try_into().unwrap();
    let checksum = format::header_checksum(header);
    newer[12..16].copy_from_slice(&checksum.to_be_bytes());
    disk.create(name).unwrap().write_at(0, &newer).unwrap();
    let error = open(&disk).map(drop).unwrap_err();
    assert!(matches!(error, WalError::UnknownVersion { version: 2, known: 1, .. }), "{error}");

    disk.remove(name).unwrap();
    disk.create("wal-0000000000000002.log").unwrap().write_at(0, &original).unwrap();
    let error = open(&disk).map(drop).unwrap_err().to_string();
    assert!(error.contains("wal-0000000000000002.log") && error.contains(name), "{error}");

    disk.remove("wal-0000000000000002.log").unwrap();
    disk.create("wal-copy.log").unwrap();
    let error = open(&disk).map(drop).unwrap_err();
    assert!(matches!(&error, WalError::Foreign { file, .. } if file == "wal-copy.log"), "{error}");
}
