//! The binary, run by a test and ended with it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::Value;

/// The binary.
pub const SNIFFER: &str = env!("CARGO_BIN_EXE_sniffer");

/// A capture that runs.
pub struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    lines: Receiver<String>,
}

/// How a capture ended.
#[derive(Debug)]
pub struct Done {
    pub success: bool,
    pub lines: Vec<Value>,
    pub stderr: String,
}

/// The sniffer in that namespace, which runs to its end by itself.
pub fn in_namespace(name: &str, words: &[&str]) -> Output {
    Command::new("ip").args(["netns", "exec", name, SNIFFER]).args(words).output().unwrap()
}

impl Running {
    /// `sniffer capture --json` in that namespace, behind some words (`setpriv ...`); returns once packets count.
    pub fn start(namespace: &str, before: &[&str], words: &[&str]) -> Self {
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace])
            .args(before)
            .args([SNIFFER, "capture", "--json"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut first = String::new();
        stderr.read_line(&mut first).unwrap();
        assert!(first.starts_with("sniffer: capturing on "), "{first}");
        Self { child, stderr, lines }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line, which comes in time.
    pub fn line(&self) -> Value {
        serde_json::from_str(&self.lines.recv_timeout(DEADLINE).expect("a line in time")).unwrap()
    }

    /// Ends it as `timeout` does: with two signals at once.
    pub fn terminate(self) -> Done {
        for _ in 0..2 {
            // SAFETY: only sends a signal to a child that was not waited for.
            assert_eq!(unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) }, 0);
        }
        self.wait()
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self) -> Done {
        let mut lines = Vec::new();
        // The channel ends with the child's output; a child that does not end is killed when this panics.
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            lines.push(serde_json::from_str(&line).unwrap());
        }
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).unwrap();
        let success = self.child.wait().unwrap().success();
        Done { success, lines, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Where it has ended already there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Done {
    /// The last line, whose sums add up.
    pub fn summary(&self) -> &Value {
        let summary = self.lines.last().expect("a summary");
        assert_eq!(summary["event"], "summary");
        let workers = summary["workers"].as_array().unwrap();
        for tally in workers.iter().chain([summary]) {
            let of = |names: &[&str]| names.iter().map(|name| tally[*name].as_u64().unwrap()).sum::<u64>();
            assert_eq!(of(&["received"]), of(&["handled", "kernel_dropped", "withheld"]), "{tally}");
            let parts =
                ["tracked", "unsampled", "over_count", "not_ip", "nonfirst_fragments", "malformed", "unknown_link"];
            assert_eq!(of(&["handled"]), of(&parts), "{tally}");
        }
        summary
    }

    /// The flows that ended.
    pub fn ended(&self) -> impl Iterator<Item = &Value> {
        self.lines.iter().filter(|line| line["event"] == "end" || line["event"] == "short")
    }
}

/// What comes, comes within this time also on a machine that is busy with other things.
pub const DEADLINE: Duration = Duration::from_secs(60);
