//! The instance's end of the pipes to its keeper, and the keeper's process.

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    time::timeout,
};

use super::{
    lines::Lines,
    words::{REPORT_BYTES_MAX, Report, Said},
};
use crate::config::{Announcer, VipConfig};

/// A keeper that runs. Dropped, it hears the end of its pipe, as when the instance dies.
pub(super) struct Link {
    keeper: Child,
    said: pipe::Sender,
    reports: pipe::Receiver,
    lines: Lines,
}

impl Link {
    /// Starts a keeper.
    pub(super) fn start(arguments: &[OsString]) -> io::Result<Self> {
        // The very program that runs, also when its file has been replaced meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("rocinante").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A group of its own: what a terminal sends to the instance is not for it.
        let mut keeper = command.process_group(0).spawn()?;
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let (said, reports) = (keeper.stdin.take().ok_or_else(gone)?, keeper.stdout.take().ok_or_else(gone)?);
        Ok(Self {
            keeper,
            said: pipe::Sender::from_owned_fd(OwnedFd::from(said))?,
            reports: pipe::Receiver::from_owned_fd(OwnedFd::from(reports))?,
            lines: Lines::new(REPORT_BYTES_MAX),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// Says something; an error says that the keeper does not listen.
    pub(super) async fn say(&mut self, said: &Said) -> Result<(), String> {
        match timeout(TAKES, self.said.write_all(said.line().as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("does not listen: {error}")),
            Err(_) => Err(format!("took nothing for {TAKES:?}")),
        }
    }

    /// The next report; an error says that there will be none. May be dropped and called again.
    pub(super) async fn report(&mut self) -> Result<Report, String> {
        let mut buffer = [0; 4096];
        loop {
            match self.lines.next() {
                Ok(Some(line)) => return Report::parse(&line).ok_or_else(|| format!("said {line:?}")),
                Ok(None) => match self.reports.read(&mut buffer).await {
                    Ok(0) => return Err("ended".to_owned()),
                    Ok(count) => self.lines.push(buffer.get(..count).unwrap_or_default()),
                    Err(error) => return Err(format!("cannot be heard: {error}")),
                },
                Err(_) => return Err("sends endless lines".to_owned()),
            }
        }
    }

    /// Ends the process at once, whatever it does, and buries it; gives how it ended.
    pub(super) async fn kill(mut self) -> String {
        let buried = tokio::task::spawn_blocking(move || {
            // It may have ended by itself.
            self.keeper.kill().ok();
            self.keeper.wait()
        });
        match buried.await {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

/// The keeper's command line.
pub(super) fn arguments(config: &VipConfig, label: &str) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["vip-keeper".into(), "--hold-ms".into()];
    arguments.push(config.hold.as_millis().to_string().into());
    match config.announcer(label) {
        Announcer::Bird { socket, protocol } => {
            arguments.extend(["--bird-socket".into(), socket.into(), "--bird-protocol".into(), protocol.into()]);
        }
        Announcer::Command(command) => {
            arguments.push("--".into());
            arguments.extend(command.into_iter().map(Into::into));
        }
    }
    arguments
}

/// How long a keeper may leave a word in its pipe, once that is full.
const TAKES: Duration = Duration::from_secs(5);
