//! What the process uses, read from /proc (proc_pid_status(5), proc_pid_stat(5)) at each scrape.

use std::{
    fs,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus::{
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::runtime::Handle;

use super::family::{Family, descs};
use crate::metric_names as names;

type Runtimes = Arc<Mutex<Vec<(&'static str, Handle)>>>;

/// Shows the process to the registry. What cannot be read is left out.
pub struct ProcessCollector {
    label: String,
    runtimes: Runtimes,
    descs: Vec<Desc>,
}

impl ProcessCollector {
    /// Of the instance called `label`, with the tasks of `runtimes`.
    pub fn new(label: &str, runtimes: Runtimes) -> prometheus::Result<Self> {
        let descs = descs(&[BUILD_INFO, MEMORY, CPU, THREADS, DESCRIPTORS, TASKS])?;
        Ok(Self { label: label.to_owned(), runtimes, descs })
    }

    fn tasks(&self) -> Vec<(Vec<String>, f64)> {
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        let alive =
            |(name, runtime): &(&str, Handle)| (vec![(*name).to_owned()], runtime.metrics().num_alive_tasks() as f64);
        runtimes.iter().map(alive).collect()
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let build = vec![self.label.clone(), env!("CARGO_PKG_VERSION").to_owned()];
        let mut families = vec![BUILD_INFO.with([(build, 1.0)])];
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            let memory = field(&status, "VmRSS:").map(|kibibytes| MEMORY.single(kibibytes * 1_024.0));
            let threads = field(&status, "Threads:").map(|threads| THREADS.single(threads));
            families.extend(memory.into_iter().chain(threads));
        }
        if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat)) {
            families.push(CPU.single(seconds));
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            families.push(DESCRIPTORS.single(entries.count() as f64));
        }
        let tasks = self.tasks();
        if !tasks.is_empty() {
            families.push(TASKS.with(tasks));
        }
        families
    }
}

/// The number after `name` in /proc/self/status.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time in /proc/self/stat: the 14th and 15th field, counted past the name, which may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The unit of times in /proc on every Linux (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

const BUILD_INFO: Family = Family::gauge(names::BUILD_INFO, "Always 1.", &["label", "version"]);
const MEMORY: Family = Family::gauge(names::PROCESS_MEMORY_BYTES, "Memory that is resident.", &[]);
const CPU: Family = Family::counter(names::PROCESS_CPU_SECONDS, "CPU time used.", &[]);
const THREADS: Family = Family::gauge(names::PROCESS_THREADS, "Threads.", &[]);
const DESCRIPTORS: Family = Family::gauge(names::PROCESS_DESCRIPTORS, "Open file descriptors.", &[]);
const TASKS: Family = Family::gauge(names::PROCESS_TASKS, "Tasks that are alive, by runtime.", &["runtime"]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_hides_nothing() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 10 0 0 0 250 50 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
        assert_eq!(field("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12.0));
    }
}
