//! The keeper: a process of its own that holds an instance's announcement, and lets go when the instance does not say any
//! more that it should be held.
//!
//! It is the same program under another word (`rocinante vip-keeper`), with one thread, no replica and no configuration. The
//! instance talks to its standard input and reads its standard output; however the instance ends, that pipe ends with it.

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::ExitCode,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use super::{
    bird::Bird,
    hook::Hook,
    lines::Lines,
    switch::{Outcome, Settings, Step, Switch},
    words::{Report, SAID_BYTES_MAX, Said, State},
};
use crate::cli::KeeperArgs;

/// Keeps until the instance is gone and all is withdrawn.
#[must_use]
pub fn run(args: KeeperArgs) -> ExitCode {
    let kept = Builder::new_current_thread().enable_all().build().and_then(|runtime| runtime.block_on(keep(args)));
    let (word, code) = match kept {
        Ok(Left::InOrder) => return ExitCode::SUCCESS,
        Ok(Left::Withdrawn { after }) => {
            (format!("the instance is gone: withdrew its VIPs within {after:?}"), ExitCode::SUCCESS)
        }
        Ok(Left::Announced { after, error }) => {
            let why = error.unwrap_or_default();
            (
                format!("the instance is gone, and its VIPs could not be withdrawn within {after:?}: {why}"),
                ExitCode::FAILURE,
            )
        }
        Err(error) => {
            (format!("{error}: only an instance with [vip] in its configuration starts it"), ExitCode::FAILURE)
        }
    };
    // The log it goes to may have ended with the instance.
    drop(writeln!(io::stderr(), "the VIP keeper: {word}"));
    code
}

/// How the instance left its VIPs.
enum Left {
    /// Withdrawn by itself.
    InOrder,
    /// As they were, and the keeper withdrew them.
    Withdrawn { after: Duration },
    /// They may be announced.
    Announced { after: Duration, error: Option<String> },
}

async fn keep(args: KeeperArgs) -> io::Result<Left> {
    // Who wants it to end ends its instance: a signal to all must not leave VIPs announced. Handlers, unlike signals that
    // are ignored, are not handed on to a hook.
    let _deaf = deaf()?;
    let mut words = Words::open()?;
    let began = Instant::now();
    let now_ms = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut announcer = Announcer::of(&args);
    let one_switch = matches!(announcer, Announcer::Bird(_));
    let mut switch = Switch::new(Settings { hold_ms: args.hold_ms, one_switch }, now_ms());
    let mut ended = None;
    while !switch.is_over(now_ms()) {
        switch.handle_time(now_ms());
        let step = switch.poll_step(now_ms());
        let mut outcome = None;
        if let Some(step) = step {
            let mut doing = std::pin::pin!(announcer.carry_out(&step));
            while outcome.is_none() {
                tokio::select! {
                    done = &mut doing => outcome = Some(done),
                    said = words.next() => switch.hear(said, now_ms(), &mut ended),
                }
            }
        } else {
            let wake = Duration::from_millis(switch.poll_wake(now_ms()).saturating_sub(now_ms()));
            tokio::select! {
                said = words.next() => switch.hear(said, now_ms(), &mut ended),
                () = announcer.lost() => switch.handle_lost(),
                () = sleep(wake) => {}
            }
        }
        if let Some(outcome) = outcome {
            switch.handle_outcome(now_ms(), outcome);
        }
        words.tell(&switch.report());
    }
    let report = switch.report();
    let (at, changes) = ended.unwrap_or((Instant::now(), report.changes));
    Ok(match report.state {
        State::Withdrawn if report.changes == changes => Left::InOrder,
        State::Withdrawn => Left::Withdrawn { after: at.elapsed() },
        State::Unknown | State::Announced => Left::Announced { after: at.elapsed(), error: report.error },
    })
}

impl Switch {
    /// Hears the instance, or notes when it ended and how many changes there were by then.
    fn hear(&mut self, said: Option<Said>, now_ms: u64, ended: &mut Option<(Instant, u64)>) {
        match said {
            Some(said) => self.handle_said(now_ms, said),
            None => {
                *ended = Some((Instant::now(), self.report().changes));
                self.handle_end(now_ms);
            }
        }
    }
}

/// Who announces.
enum Announcer {
    Bird(Bird),
    Hook(Hook),
}

impl Announcer {
    fn of(args: &KeeperArgs) -> Self {
        match &args.bird_socket {
            Some(socket) => Self::Bird(Bird::new(socket.clone(), args.bird_protocol.clone())),
            None => Self::Hook(Hook::new(args.command.clone())),
        }
    }

    async fn carry_out(&mut self, step: &Step) -> Outcome {
        match self {
            Self::Bird(bird) => bird.carry_out(step).await,
            Self::Hook(hook) => hook.carry_out(step).await,
        }
    }

    async fn lost(&mut self) {
        match self {
            Self::Bird(bird) => bird.lost().await,
            Self::Hook(_) => std::future::pending().await,
        }
    }
}

/// The pipes from and to the instance.
struct Words {
    said: pipe::Receiver,
    lines: Lines,
    ended: bool,
    reports: pipe::Sender,
    told: Option<Report>,
}

impl Words {
    fn open() -> io::Result<Self> {
        let pipe = |end: BorrowedFd<'_>| end.try_clone_to_owned();
        let (said, reports): (OwnedFd, OwnedFd) = (pipe(io::stdin().as_fd())?, pipe(io::stdout().as_fd())?);
        Ok(Self {
            said: pipe::Receiver::from_owned_fd(said)?,
            lines: Lines::new(SAID_BYTES_MAX),
            ended: false,
            reports: pipe::Sender::from_owned_fd(reports)?,
            told: None,
        })
    }

    /// What the instance says next; `None`, once, when it is gone or does not make sense. May be dropped and called again.
    async fn next(&mut self) -> Option<Said> {
        if self.ended {
            return std::future::pending().await;
        }
        let mut buffer = [0; 4096];
        loop {
            let said = match self.lines.next() {
                Ok(Some(line)) => Said::parse(&line),
                Ok(None) => match self.said.read(&mut buffer).await {
                    Ok(count) if count > 0 => {
                        self.lines.push(buffer.get(..count).unwrap_or_default());
                        continue;
                    }
                    Ok(_) | Err(_) => None,
                },
                Err(_) => None,
            };
            self.ended = said.is_none();
            return said;
        }
    }

    /// Tells what changed; at least that something was heard.
    fn tell(&mut self, report: &Report) {
        if self.told.as_ref() == Some(report) {
            return;
        }
        // A pipe that is full, as its reader is stopped, or broken takes nothing; the next turn tries again.
        let line = report.line();
        if self.reports.try_write(line.as_bytes()).is_ok_and(|count| count == line.len()) {
            self.told = Some(report.clone());
        }
    }
}

/// Handlers for what a terminal or an init system sends to all processes of an instance.
fn deaf() -> io::Result<[Signal; 4]> {
    Ok([
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::quit())?,
    ])
}
