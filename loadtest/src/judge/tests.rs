//! The rule, told as stories: each file in `stories/` says what was done and asked, and what the judge must say to it.

use super::*;
use crate::moment::Span;

/// Reads a story and compares what the judge says after every visit with what the story says.
///
/// `away s1 100..200`, `removed s1 100..`, `draining s1 100..200`, `outage i1 down 5..9`, `outage i1 cut 5..9` and
/// `event 5..9` state the ground truth (milliseconds); `c1: i1 s1 0-3, i2 no 1-4 => split` is a visit, in which `no` is a
/// refusal, `..` silence and `??` garbage.
fn check(story: &str) {
    let mut judge = Judge::default();
    for (number, line) in story.lines().enumerate() {
        let line = line.split('#').next().unwrap().trim();
        if line.is_empty() {
            continue;
        }
        if let Some((visit, expected)) = line.split_once("=>") {
            let before = judge.tally.clone();
            let (client, asks) = visit.split_once(':').unwrap();
            let asks: Vec<Ask> = asks.split(',').map(parse_ask).collect();
            judge.visit(ClientId(number_in(client)), 0, &asks);
            assert_eq!(difference(&before, &judge.tally), expected.trim(), "line {}: {line}", number + 1);
        } else {
            state(&mut judge.timeline, line);
        }
    }
}

fn state(timeline: &mut Timeline, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let span = parse_span(words.last().unwrap());
    let backend = || BackendId(u16::try_from(number_in(words[1])).unwrap());
    match words[0] {
        "away" => {
            timeline.backend_leaves(0, backend(), span.from);
            if let Some(until) = span.until {
                timeline.backend_is_back(0, backend(), until);
            }
        }
        "removed" => {
            timeline.removal_acknowledged(0, backend(), span.from);
            if let Some(until) = span.until {
                timeline.removal_revoked(0, backend(), until);
            }
        }
        "draining" => {
            timeline.drain_acknowledged(0, backend(), span.from);
            if let Some(until) = span.until {
                timeline.drain_revoked(0, backend(), until);
            }
        }
        "outage" => {
            let instance = InstanceId(u8::try_from(number_in(words[1])).unwrap());
            let outage = if words[2] == "down" { Outage::Down } else { Outage::CutOff };
            timeline.instance_leaves(instance, outage, span.from);
            if let Some(until) = span.until {
                timeline.instance_is_back(instance, until);
            }
        }
        "event" => {
            let event = timeline.event_begins(span.from);
            if let Some(until) = span.until {
                timeline.event_ends(event, until);
            }
        }
        other => panic!("no such statement: {other}"),
    }
}

fn parse_span(text: &str) -> Span {
    let (from, until) = text.split_once("..").unwrap();
    let until = (!until.is_empty()).then(|| ms(until));
    Span { from: ms(from), until }
}

fn parse_ask(text: &str) -> Ask {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (start, end) = words[2].split_once('-').unwrap();
    let outcome = match words[1] {
        "no" => Outcome::Refused,
        ".." => Outcome::Silent,
        "??" => Outcome::Garbled,
        name => Outcome::Answered(BackendId(u16::try_from(number_in(name)).unwrap())),
    };
    let instance = InstanceId(u8::try_from(number_in(words[0])).unwrap());
    Ask { instance, start: ms(start), end: ms(end), outcome }
}

fn ms(text: &str) -> Moment {
    Moment(text.parse::<u64>().unwrap() * 1000)
}

fn number_in(word: &str) -> u32 {
    word.trim().trim_start_matches(|letter: char| letter.is_alphabetic()).parse().unwrap()
}

/// What one visit added to the count, in words.
fn difference(before: &Tally, after: &Tally) -> String {
    let mut words = Vec::new();
    let columns = [
        ("split", before.split, after.split),
        ("moved", before.moved, after.moved),
        ("stray", before.stray, after.stray),
        ("lost-inside", before.lost_inside, after.lost_inside),
        ("lost-outside", before.lost_outside, after.lost_outside),
        ("down", before.down, after.down),
        ("refused", before.refused, after.refused),
    ];
    for (name, old, new) in columns {
        for _ in old..new {
            words.push(name);
        }
    }
    if words.is_empty() { "fine".to_owned() } else { words.join(" ") }
}

macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            check(include_str!(concat!("stories/", stringify!($name), ".txt")));
        })*
    };
}

stories!(steady, split, moved, death, removal, drain, lost, flap, tainted);

#[test]
fn a_verdict_needs_every_column() {
    let mut good = Tally { asks: 1000, answered: 1000, ..Tally::default() };
    good.by_instance = [(InstanceId(0), 400), (InstanceId(1), 600)].into();
    let budget = Budget { lost_inside: 5 };
    assert!(judge_tally(&good, budget, 2).passed());
    let check = |spoil: fn(&mut Tally)| {
        let mut tally = good.clone();
        spoil(&mut tally);
        assert!(!judge_tally(&tally, budget, 2).passed(), "{tally:?}");
    };
    check(|tally| tally.split = 1);
    check(|tally| tally.moved = 1);
    check(|tally| tally.stray = 1);
    check(|tally| tally.lost_outside = 1);
    check(|tally| tally.lost_inside = 6);
    check(|tally| tally.asks = 0);
    check(|tally| tally.down = 1000);
    check(|tally| tally.by_instance.retain(|instance, _| *instance != InstanceId(1)));
    let mut within = good.clone();
    within.lost_inside = 5;
    assert!(judge_tally(&within, budget, 2).passed());
}

#[test]
fn refusing_everybody_inside_a_wide_event_is_no_agreement() {
    let mut tally = Tally { asks: 1000, answered: 980, lost_inside: 20, ..Tally::default() };
    tally.by_instance = [(InstanceId(0), 980)].into();
    let verdict = judge_tally(&tally, Budget { lost_inside: 1000 }, 1);
    assert_eq!(verdict.reasons, ["only 98.00 % of the asks in service were answered"]);
}

#[test]
fn behind_a_vip_an_ask_is_excused_while_the_network_may_still_lead_to_who_left_and_when_nobody_is_left() {
    let second = |count: u64| Moment(count * 1_000_000);
    let mut timeline = Timeline::default();
    timeline.instances = 2;
    let outage = |timeline: &Timeline, at: Moment| timeline.outage(InstanceId::ANY, at, at);
    timeline.instance_leaves(InstanceId(0), Outage::Down, second(10));
    assert_eq!(outage(&timeline, second(9)), None);
    assert_eq!(outage(&timeline, second(11)), Some(Outage::Down));
    assert_eq!(outage(&timeline, second(12)), None, "the other one answers");
    timeline.instance_leaves(InstanceId(1), Outage::Down, second(20));
    assert_eq!(outage(&timeline, second(25)), Some(Outage::Down), "nobody is left");
    timeline.instance_is_back(InstanceId(0), second(30));
    assert_eq!(outage(&timeline, second(31)), None);
}
