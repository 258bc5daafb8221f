//! A BIRD that answers as each test says, on a socket of its own.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use tokio::{io::BufReader, net::UnixListener, task::JoinHandle};

use super::*;

const GREETING: &str = "0001 BIRD 2.0.12 ready.\n";

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a BIRD listens; gone with this.
struct Socket(PathBuf);

impl Socket {
    fn new() -> Self {
        static SOCKETS: AtomicU32 = AtomicU32::new(0);
        let number = SOCKETS.fetch_add(1, Ordering::Relaxed);
        let socket = Self(std::env::temp_dir().join(format!("rocinante-bird-{}-{number}.ctl", std::process::id())));
        socket.remove();
        socket
    }

    fn remove(&self) {
        // It may not be there.
        drop(std::fs::remove_file(&self.0));
    }

    /// Greets each connection, one after the other, and answers each line by `answer`, in pieces of `piece` bytes.
    fn serve(
        &self,
        greeting: &str,
        piece: usize,
        mut answer: impl FnMut(&str) -> String + Send + 'static,
    ) -> JoinHandle<()> {
        let listener = UnixListener::bind(&self.0).unwrap();
        let greeting = greeting.to_owned();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                let mut say = greeting.clone();
                loop {
                    for piece in say.as_bytes().chunks(piece) {
                        // Who asked may be gone.
                        drop(stream.get_mut().write_all(piece).await);
                        tokio::task::yield_now().await;
                    }
                    let mut line = String::new();
                    match tokio::io::AsyncBufReadExt::read_line(&mut stream, &mut line).await {
                        Ok(count) if count > 0 => say = answer(line.trim_end()),
                        _ => break,
                    }
                    if say == "hang up" {
                        break;
                    }
                }
            }
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

fn bird(socket: &Path) -> Bird {
    Bird::new(socket.to_owned(), "rocinante".to_owned())
}

fn up() -> Step {
    Step::Announce(Default::default())
}

fn down() -> Step {
    Step::Withdraw(Default::default())
}

async fn asked(bird: &mut Bird, step: Step) -> Outcome {
    timeout(PATIENCE, bird.carry_out(&step)).await.expect("an outcome in time")
}

fn failed(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failed(text) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_asks_over_one_connection_however_the_answers_come_in_pieces() {
    for piece in [1, 3, 4096] {
        let socket = Socket::new();
        let mut is_up = false;
        socket.serve(GREETING, piece, move |line| {
            let wanted = line == "enable \"rocinante\"";
            assert!(wanted || line == "disable \"rocinante\"", "{line}");
            let changed = std::mem::replace(&mut is_up, wanted) != wanted;
            let (code, word) = match (wanted, changed) {
                (true, true) => ("0011", "enabled"),
                (true, false) => ("0010", "already enabled"),
                (false, true) => ("0009", "disabled"),
                (false, false) => ("0008", "already disabled"),
            };
            format!("{code}-rocinante: {word}\n0000 \n")
        });
        let mut bird = bird(&socket.0);
        for (step, outcome) in
            [(down(), Outcome::Already), (up(), Outcome::Changed), (up(), Outcome::Already), (down(), Outcome::Changed)]
        {
            assert_eq!(asked(&mut bird, step).await, outcome);
        }
    }
}

#[tokio::test]
async fn a_bird_that_does_not_run_announces_nothing_and_one_that_comes_is_found() {
    let socket = Socket::new();
    let mut bird = bird(&socket.0);
    let Outcome::Absent(text) = asked(&mut bird, down()).await else { panic!("it is not there") };
    assert!(text.contains("does BIRD run") && text.contains("vip.bird_socket"), "{text}");
    let served = socket.serve(GREETING, 4096, |_| "0008-rocinante: already disabled\n0000 \n".to_owned());
    assert_eq!(asked(&mut bird, down()).await, Outcome::Already);
    // It ends: that is seen without a question, and its socket's file stays behind.
    served.abort();
    drop(served.await);
    timeout(PATIENCE, bird.lost()).await.expect("the loss is seen");
    let Outcome::Absent(text) = asked(&mut bird, down()).await else { panic!("it is gone") };
    assert!(text.contains("does not run"), "{text}");
}

#[tokio::test]
async fn what_is_no_bird_is_told() {
    for (greeting, problem) in [
        ("hello\n", "is no reply of BIRD"),
        ("0013 Daemon is up\n", "does not greet as BIRD does"),
        ("\u{0}\u{0}\n", "is no reply of BIRD"),
    ] {
        let socket = Socket::new();
        socket.serve(greeting, 4096, |_| String::new());
        let text = failed(asked(&mut bird(&socket.0), up()).await);
        assert!(text.contains(problem), "{text}");
    }
    let socket = Socket::new();
    socket.serve(&"x".repeat(1 << 20), 4096, |_| String::new());
    let text = failed(asked(&mut bird(&socket.0), up()).await);
    assert!(text.contains("endless lines"), "{text}");
    let socket = Socket::new();
    let endless = GREETING.replacen(' ', "-", 1) + &" more\n".repeat(1000);
    socket.serve(&endless, 4096, |_| String::new());
    assert!(failed(asked(&mut bird(&socket.0), up()).await).contains("more than 64 lines"));
}

#[tokio::test]
async fn answers_that_do_not_come_or_break_off_are_failures_and_the_next_question_has_a_new_connection() {
    let socket = Socket::new();
    let mut answers = ["", "0011-rocinante: ena", "hang up", "0011-rocinante: enabled\n0000 \n"].into_iter();
    socket.serve(GREETING, 4096, move |_| answers.next().unwrap_or_default().to_owned());
    let mut bird = bird(&socket.0);
    for problem in ["did not answer within 1s: does it hang?", "did not answer within 1s", "broke off"] {
        let text = failed(asked(&mut bird, up()).await);
        assert!(text.contains(problem), "{text}");
    }
    assert_eq!(asked(&mut bird, up()).await, Outcome::Changed);
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let socket = Socket::new();
    socket.serve(GREETING, 4096, |_| "8003 No protocols match\n".to_owned());
    let text = failed(asked(&mut bird(&socket.0), up()).await);
    assert!(text.contains("add it to bird.conf") && text.contains("vip.bird_protocol"), "{text}");
}
