//! A command of the operator's that announces and withdraws: run, watched, and killed when it takes too long.

use std::{
    net::IpAddr,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::{sleep, timeout};

use super::{
    switch::{Outcome, Step},
    words::{ANNOUNCE, WITHDRAW},
};

/// Runs the command for each step: the step's word and the VIPs are its last arguments.
pub(super) struct Hook {
    command: Vec<String>,
}

impl Hook {
    pub(super) fn new(command: Vec<String>) -> Self {
        Self { command }
    }

    /// Runs it; done if it ended with status 0 in time.
    pub(super) async fn carry_out(&self, step: &Step) -> Outcome {
        let (word, vips) = match step {
            Step::Announce(vips) => (ANNOUNCE, vips),
            Step::Withdraw(vips) => (WITHDRAW, vips),
        };
        let name = self.command.first().map_or("", String::as_str);
        let mut running = match Running::start(&self.command, word, vips.iter()) {
            Ok(running) => running,
            Err(error) => {
                return Outcome::Failed(format!("cannot run {name}: {error}: name an executable file in vip.command"));
            }
        };
        match timeout(COMMAND, running.ended()).await {
            Ok(Ok(status)) if status.success() => Outcome::Changed,
            Ok(Ok(status)) => Outcome::Failed(format!("{name} {word} ended with {status}")),
            Ok(Err(error)) => Outcome::Failed(format!("{name} {word} cannot be watched: {error}")),
            Err(_) => Outcome::Failed(format!("{name} {word} did not end within {COMMAND:?} and was killed")),
        }
    }
}

/// The command while it runs; dropped, it is killed with all that it started.
struct Running(Child);

impl Running {
    fn start<'v>(command: &[String], word: &str, vips: impl Iterator<Item = &'v IpAddr>) -> std::io::Result<Self> {
        let (program, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        // What it says on standard error is in the instance's log.
        let mut command = Command::new(program);
        command.args(arguments).arg(word).args(vips.map(IpAddr::to_string));
        command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
        Ok(Self(command.spawn()?))
    }

    async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            sleep(POLL).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // It may end by itself in between.
            kill_process_group(Pid::from_child(&self.0), Signal::KILL).ok();
            drop(self.0.wait());
        }
    }
}

/// How long the command may take. A withdrawal waits that long for an announcement that hangs.
const COMMAND: Duration = Duration::from_secs(5);
/// How often it is looked whether the command has ended.
const POLL: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script of the shell.
    async fn run(script: &str, step: Step) -> Outcome {
        Hook::new(["/bin/sh", "-c", script, "hook"].map(str::to_owned).to_vec()).carry_out(&step).await
    }

    #[tokio::test]
    async fn it_gets_the_word_and_the_vips_and_its_status_counts() {
        let vips = ["192.0.2.1", "2001:db8::1"].map(|vip| vip.parse().unwrap()).into();
        let script = "[ \"$*\" = \"announce 192.0.2.1 2001:db8::1\" ]";
        assert_eq!(run(script, Step::Announce(vips)).await, Outcome::Changed);
        let withdraw = Step::Withdraw(Default::default());
        assert_eq!(run("[ \"$*\" = withdraw ]", withdraw.clone()).await, Outcome::Changed);
        let failed = |text: &str| Outcome::Failed(text.to_owned());
        assert_eq!(run("exit 3", withdraw.clone()).await, failed("/bin/sh withdraw ended with exit status: 3"));
        assert_eq!(
            Hook::new(vec!["/nonexistent".to_owned()]).carry_out(&withdraw).await,
            failed(
                "cannot run /nonexistent: No such file or directory (os error 2): name an executable file in vip.command"
            )
        );
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_its_children() {
        let file = std::env::temp_dir().join(format!("rocinante-hook-{}", std::process::id()));
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let outcome = run(&script, Step::Withdraw(Default::default())).await;
        assert_eq!(outcome, Outcome::Failed("/bin/sh withdraw did not end within 5s and was killed".to_owned()));
        let child = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        // Gone, or dead and not yet buried by whoever adopted it.
        let stat = format!("/proc/{}/stat", child.trim());
        let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while lives() {
            assert!(std::time::Instant::now() < deadline, "{child} lives");
            sleep(POLL).await;
        }
    }
}
