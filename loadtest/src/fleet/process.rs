//! Child processes that never outlive the judge, and commands that end within a deadline.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

use crate::error::{Error, Result};

/// A child in a process group of its own. It is killed when this is dropped, and by the kernel when the judge dies.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts it with its output appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> Result<Process> {
        let out = open(log)?;
        let both = out.try_clone().map_err(Error::io(format!("opening {}", log.display())))?;
        command.stdin(Stdio::null()).stdout(out).stderr(both);
        Process::spawn(command, log)
    }

    /// Starts one that is talked to; what it says on standard error is appended to `log`.
    pub fn start_talking(mut command: Command, log: &Path) -> Result<(Process, ChildStdin, ChildStdout)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(open(log)?);
        let mut process = Process::spawn(command, log)?;
        match (process.child.stdin.take(), process.child.stdout.take()) {
            (Some(to), Some(from)) => Ok((process, to, from)),
            _ => Err(Error::Fleet("a process that is talked to has no pipes".to_owned())),
        }
    }

    fn spawn(mut command: Command, log: &Path) -> Result<Process> {
        let what = format!("starting {}", command.get_program().to_string_lossy());
        command.process_group(0);
        die_with_parent(&mut command);
        let child = command.spawn().map_err(Error::io(what.clone()))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let group = group.ok_or_else(|| Error::Fleet(format!("{what}: no process id")))?;
        Ok(Process { child, group, log: log.to_path_buf() })
    }

    /// Sends a signal to the whole group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process_group(self.group, signal).map_err(|errno| Error::Io("signalling a process".into(), errno.into()))
    }

    /// The number of its process group, which its children share.
    pub fn group(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // An error means that it was reaped already, which is an end as well.
        self.child.try_wait().unwrap_or_else(|_| Some(ExitStatus::from_raw(0)))
    }

    /// How it ended and the last it said, if it ended.
    pub fn obituary(&mut self) -> Option<String> {
        let status = self.ended()?;
        let said = std::fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).lines().rev().take(LAST_LINES).collect::<Vec<_>>().join(" | ");
        Some(format!("{status}; last lines: {said}"))
    }

    /// Waits for its end; `None` when it takes longer than `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if start.elapsed() > deadline {
                return None;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGTERM; it must leave with success within `deadline`. `who` is its name, for people.
    pub async fn terminate(mut self, who: &str, deadline: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        match self.wait(deadline).await {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Error::Fleet(format!("{who} left on SIGTERM with {status}"))),
            None => {
                self.kill().await?;
                Err(Error::Fleet(format!("{who} did not leave within {deadline:?} of SIGTERM")))
            }
        }
    }

    /// Kills it and waits until it is gone.
    pub async fn kill(&mut self) -> Result<()> {
        if self.ended().is_none() {
            self.signal(Signal::KILL)?;
        }
        match self.wait(KILL_DEADLINE).await {
            Some(_) => Ok(()),
            None => Err(Error::Fleet("a killed process did not end".to_owned())),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // It can only be gone already.
            kill_process_group(self.group, Signal::KILL).ok();
            self.child.wait().ok();
        }
    }
}

fn open(log: &Path) -> Result<File> {
    File::options().create(true).append(true).open(log).map_err(Error::io(format!("opening {}", log.display())))
}

/// Runs a command to its end and returns what it printed; a failure carries what it said on standard error.
pub async fn run(mut command: Command, deadline: Duration) -> Result<String> {
    let shown = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = command.spawn().map_err(Error::io(format!("running {shown}")))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let mut waiting = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = match tokio::time::timeout(deadline, &mut waiting).await {
        Ok(output) => output,
        Err(_) => {
            if let Some(pid) = pid {
                // It can only be gone already.
                kill_process_group(pid, Signal::KILL).ok();
            }
            return Err(Error::Fleet(format!("`{shown}` did not end within {deadline:?}")));
        }
    };
    let output = output.map_err(|_| Error::Fleet(format!("`{shown}` was not waited for")))?;
    let output = output.map_err(Error::io(format!("running {shown}")))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::Fleet(format!("`{shown}` failed ({}): {}", output.status, said.trim())))
    }
}

/// A program in PATH or where system programs are, which not every user's PATH names.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = SYSTEM_FOLDERS.map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Has the kernel kill the child when the thread that started it ends, so that not even kill -9 of the judge leaves one.
fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only one system call is made, which is safe there.
    unsafe {
        command.pre_exec(|| set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into));
    }
}

const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
const LAST_LINES: usize = 3;
const POLL: Duration = Duration::from_millis(2);
const KILL_DEADLINE: Duration = Duration::from_secs(10);
