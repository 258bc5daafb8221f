//! CPU time as the kernel counts it, for a process and its children.

use std::time::Duration;

use crate::error::{Error, Result};

/// The CPU time so far of every process in a process group: user and system time of all their threads, ended ones included.
/// In steps of a clock tick, usually 10 ms.
pub fn of_group(group: i32) -> Result<Duration> {
    let mut ticks = 0;
    let mut found = false;
    for entry in std::fs::read_dir("/proc").map_err(Error::io("reading /proc"))? {
        let entry = entry.map_err(Error::io("reading /proc"))?;
        if entry.file_name().to_string_lossy().parse::<u32>().is_err() {
            continue;
        }
        // A process that ended meanwhile has no file any more, and is none of the group's that are measured.
        let Ok(text) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let stat = Stat::parse(&text)
            .ok_or_else(|| Error::Fleet(format!("{} is not as expected", entry.path().join("stat").display())))?;
        if stat.group == group {
            ticks += stat.ticks;
            found = true;
        }
    }
    if !found {
        return Err(Error::Fleet(format!("no process is left in group {group}")));
    }
    Ok(Duration::from_secs_f64(ticks as f64 / ticks_per_second()))
}

/// The CPU time so far of this process.
pub fn of_this_process() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat").map_err(Error::io("reading /proc/self/stat"))?;
    let stat = Stat::parse(&text).ok_or_else(|| Error::Fleet("/proc/self/stat is not as expected".to_owned()))?;
    Ok(Duration::from_secs_f64(stat.ticks as f64 / ticks_per_second()))
}

/// The CPU time so far of everything that runs on the machine, kernel included, over all cores.
pub fn of_machine() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat").map_err(Error::io("reading /proc/stat"))?;
    let ticks = busy_ticks(&text).ok_or_else(|| Error::Fleet("/proc/stat is not as expected".to_owned()))?;
    Ok(Duration::from_secs_f64(ticks as f64 / ticks_per_second()))
}

/// User, nice, system, interrupts: all of the first line of /proc/stat but idle, waiting, stolen, and guests, which are in
/// user time already.
fn busy_ticks(text: &str) -> Option<u64> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    let &[user, nice, system, _idle, _waiting, hard, soft, ..] = fields.as_slice() else { return None };
    Some(user + nice + system + hard + soft)
}

/// How much of `now` came after `before`.
pub fn since(before: Duration, now: Duration) -> Duration {
    now.saturating_sub(before)
}

/// What /proc/PID/stat says that is of use here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    group: i32,
    /// User and system time.
    ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Stat> {
        // The name in parentheses may hold anything, spaces and parentheses included; what follows the last is plain.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let group = fields.get(STATE_TO_GROUP)?.parse().ok()?;
        Some(Stat { group, ticks: number(STATE_TO_USER_TIME)? + number(STATE_TO_USER_TIME + 1)? })
    }
}

fn ticks_per_second() -> f64 {
    // SAFETY: takes and returns plain numbers.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { ticks as f64 } else { USUAL_TICKS_PER_SECOND }
}

/// Places of fields behind the name, counted from the state (field 3 of proc_pid_stat(5)).
const STATE_TO_GROUP: usize = 2;
const STATE_TO_USER_TIME: usize = 11;
const USUAL_TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_what_it_likes() {
        let text = "4711 (a) b (x)) S 1 42 42 0 -1 4194560 1 0 0 0 120 34 9 9 20 0 5 0 613055 0 0\n";
        assert_eq!(Stat::parse(text), Some(Stat { group: 42, ticks: 154 }));
        for bad in ["", "1 (x) S 1 42", "1 x S 1 2 3", "1 (x) S 1 42 42 0 -1 0 1 0 0 0 many 34"] {
            assert_eq!(Stat::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn waiting_is_not_work() {
        assert_eq!(busy_ticks("cpu  1 20 300 9999 9999 4000 50000 9999 7 0\ncpu0 1 2 3\n"), Some(54_321));
        assert_eq!(busy_ticks("cpu0 1 20 300 9999 9999 4000 50000\n"), None);
        assert_eq!(busy_ticks("cpu  1 20 300\n"), None);
        assert!(of_machine().unwrap() > of_this_process().unwrap());
    }

    #[test]
    fn busy_work_shows_in_the_time_of_ones_own_group() {
        // SAFETY: reads a number of this process.
        let group = unsafe { libc::getpgrp() };
        let before = of_group(group).unwrap();
        let mut number = 1_u64;
        while since(before, of_group(group).unwrap()) < Duration::from_millis(30) {
            for _ in 0..1_000_000 {
                number = std::hint::black_box(number.wrapping_mul(3));
            }
        }
        assert!(of_group(i32::MAX).is_err());
    }
}
