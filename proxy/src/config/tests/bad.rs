//! Bad files: replays mistakes.txt, and the cases that a text file cannot hold.

use super::{super::parse, SMALL};

const STORY: &str = include_str!("mistakes.txt");

/// Replays every case. `PRINT=1` prints the story with the answers of today, to be reviewed and kept.
#[test]
fn mistakes_and_the_words_about_them() {
    let mut replayed = String::new();
    let mut cases = 0;
    for block in STORY.split_inclusive("\n\n") {
        let lines: Vec<&str> = block.lines().filter(|line| !line.is_empty()).collect();
        if !lines.iter().any(|line| line.starts_with(['<', '>'])) {
            replayed.push_str(block);
            continue;
        }
        cases += 1;
        let marked = |mark: char| {
            let text = lines.iter().filter_map(|line| line.strip_prefix(mark));
            text.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect::<String>()
        };
        let (from, to) = (marked('<'), marked('>'));
        for line in lines.iter().filter(|line| line.starts_with(['<', '>', '#'])) {
            replayed.push_str(line);
            replayed.push('\n');
        }
        for line in printed(&changed(&from, &to)) {
            replayed.push_str(&line);
            replayed.push('\n');
        }
        replayed.push('\n');
    }
    let replayed = replayed.trim_end();
    if std::env::var_os("PRINT").is_some() {
        println!("{replayed}");
    }
    let differs = STORY.trim_end().lines().zip(replayed.lines()).position(|(told, seen)| told != seen);
    if let Some(line) = differs {
        let line_of = |text: &str| text.lines().nth(line).unwrap_or_default().to_owned();
        panic!("mistakes.txt:{}\n  told: {}\n  seen: {}", line + 1, line_of(STORY), line_of(replayed));
    }
    assert_eq!(STORY.trim_end().lines().count(), replayed.lines().count());
    assert!(cases > 100, "{cases} cases");
}

/// The small file with a text replaced, or another file.
fn changed(from: &str, to: &str) -> String {
    if from.is_empty() {
        return to.to_owned();
    }
    let from = from.trim_end_matches('\n');
    assert!(SMALL.contains(from), "{from:?} is not in the small file");
    if to.is_empty() {
        return SMALL.replacen(&format!("{from}\n"), "", 1);
    }
    SMALL.replacen(from, to.trim_end_matches('\n'), 1)
}

/// What is printed about `text`, without the file's name.
fn printed(text: &str) -> Vec<String> {
    match parse("f", text.as_bytes()) {
        Ok(_) => vec!["nothing".to_owned()],
        Err(mistakes) => mistakes.iter().map(|mistake| mistake.to_string().replacen("f:", "", 1)).collect(),
    }
}

#[test]
fn not_utf8() {
    let mistakes = parse("f", b"[fleet]\nname = \"\xc3\xa9\xff\"").unwrap_err();
    assert_eq!(mistakes.to_string(), "f:2:10: this byte is not UTF-8; save the file as UTF-8\n1 mistake");
}

#[test]
fn too_many() {
    let more = |count: usize, one: fn(usize) -> String| (0..count).map(one).collect::<String>();
    let instance = |n| {
        format!("[[fleet.instance]]\nlabel = \"l{n}\"\naddress = \"10.0.0.{n}\"\ngrpc = 1\nrest = 2\nmetrics = 3\n")
    };
    let instances = format!("[fleet]\nname = \"f\"\n{}[[pool]]\nname = \"p\"\nbind = \":9\"\n", more(16, instance));
    assert_eq!(printed(&instances), ["93:1: fleet.instance: 16 instances; list at most 15"]);
    let server = |n| format!("[[pool.server]]\nname = \"n{n}\"\naddress = \"10.0.0.1\"\nport = {}\n", n + 1);
    let servers = format!("{SMALL}{}", more(256, server));
    assert_eq!(printed(&servers), ["1039:1: pool[web].server: 257 servers; write at most 256"]);
    let pool = |n| format!("[[pool]]\nname = \"p{n}\"\nbind = \":{}\"\n", n + 20_000);
    let pools = format!("{SMALL}{}", more(1_024, pool));
    assert_eq!(printed(&pools), ["3088:1: pool: 1025 pools; write at most 1024"]);
}
