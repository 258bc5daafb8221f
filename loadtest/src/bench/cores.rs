//! Which cores do what: what is measured has one to itself, clients and backends have the others.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::error::{Error, Result};

/// A set of cores that a thread or process may run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores(Vec<usize>);

/// How the cores of this machine are shared out.
#[derive(Clone, Debug)]
pub struct Shares {
    /// All that this process may use.
    pub all: Cores,
    /// The one of what is measured.
    pub tested: Cores,
    /// Those of clients and backends.
    pub load: Cores,
}

impl Shares {
    /// Shares out the cores that this process may use: the last one is for what is measured. Where there is only one,
    /// everything is on it, and [`Shares::apart`] is false.
    pub fn find() -> Result<Shares> {
        let all = Cores::allowed().map_err(Error::io("asking for the cores of this process"))?;
        Shares::of(&all.0).ok_or_else(|| Error::Usage("this process may use no core".to_owned()))
    }

    fn of(cores: &[usize]) -> Option<Shares> {
        let (last, others) = cores.split_last()?;
        let load = if others.is_empty() { cores } else { others };
        Some(Shares { all: Cores(cores.to_vec()), tested: Cores(vec![*last]), load: Cores(load.to_vec()) })
    }

    /// Whether what is measured has its core to itself.
    pub fn apart(&self) -> bool {
        self.tested != self.load
    }
}

impl Cores {
    fn allowed() -> io::Result<Cores> {
        // SAFETY: an all-zero set is the empty set, and the kernel writes no more than the size it is told.
        let set = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
                return Err(io::Error::last_os_error());
            }
            set
        };
        // SAFETY: the index is below the size of the set.
        let allowed = (0..libc::CPU_SETSIZE as usize).filter(|core| unsafe { libc::CPU_ISSET(*core, &set) });
        Ok(Cores(allowed.collect()))
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    fn set(&self) -> libc::cpu_set_t {
        // SAFETY: an all-zero set is the empty set, and every index came from a set of the same size.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            for core in &self.0 {
                libc::CPU_SET(*core, &mut set);
            }
            set
        }
    }

    /// Moves the calling thread there, and with it every thread and process it starts from now on.
    pub fn enter(&self) -> Result<()> {
        pin(&self.set()).map_err(Error::io(format!("moving to the cores {self}")))
    }

    /// Has a command run there.
    pub fn hold(&self, command: &mut Command) {
        let set = self.set();
        // SAFETY: between fork and exec only one system call is made, which is safe there.
        unsafe {
            command.pre_exec(move || pin(&set));
        }
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        out.write_str(&numbers.join(","))
    }
}

fn pin(set: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the set outlives the call, and its size is told.
    let outcome = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), std::ptr::from_ref(set)) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_core_is_for_what_is_measured_and_a_single_one_for_everything() {
        let shares = Shares::of(&[1, 4, 6]).unwrap();
        assert_eq!(
            (shares.tested.to_string(), shares.load.to_string(), shares.apart()),
            ("6".into(), "1,4".into(), true)
        );
        let single = Shares::of(&[3]).unwrap();
        assert_eq!(
            (single.tested.to_string(), single.load.to_string(), single.apart()),
            ("3".into(), "3".into(), false)
        );
        assert!(Shares::of(&[]).is_none());
    }

    #[test]
    fn a_thread_goes_where_it_is_sent() {
        let shares = Shares::find().unwrap();
        // A thread of its own, as the others of the test program stay where they are.
        let seen = std::thread::spawn(move || {
            shares.tested.enter().unwrap();
            (Cores::allowed().unwrap(), shares.tested)
        });
        let (now, wanted) = seen.join().unwrap();
        assert_eq!(now, wanted);
    }
}
